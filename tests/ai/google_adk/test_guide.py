"""The guide and the quickstart do what they say."""

import asyncio

import pytest

pytest.importorskip("google.adk", reason="google-adk wants an older opentelemetry than the rest: its own environment")

from examples.quickstarts import google_adk as quickstart
from perdure import App
from perdure.testing import TestEngine
from tests.ai.guides import code_of


def test_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    names = code_of("google-adk.md")
    names["root"].model = quickstart.Stand(model="stand-in")

    async def main() -> str:
        async with TestEngine(App(names["travel"]), replay=True) as engine:
            return str(await engine.call(names["ask"], "x"))

    assert asyncio.run(main()) == "It is sunny in Rome. It is sunny in Oslo."


def test_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(quickstart.main())
    assert capsys.readouterr().out == "It is sunny in Rome. It is sunny in Oslo.\n"
