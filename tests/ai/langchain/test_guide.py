"""The guide and the quickstart do what they say."""

import asyncio
from typing import Any

import pytest

from examples.quickstarts import langchain as quickstart
from perdure import App
from perdure.testing import TestEngine
from perdure.testing.model_server import ModelServer, Reply, ToolCall, script
from tests.ai.guides import code_of

POLICY = script(Reply(tool_calls=(ToolCall("weather", {"city": "Rome"}),)), Reply("It is sunny in Rome."))


def test_the_guide(monkeypatch: pytest.MonkeyPatch, made_clients: list[Any]) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ModelServer(POLICY) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "loopback")
        names = code_of("langchain.md")

        async def main() -> str:
            async with TestEngine(App(names["travel"]), replay=True) as engine:
                answer = await engine.call(names["ask"], "x")
            for client in made_clients:
                await client.aclose()
            return str(answer)

        assert asyncio.run(main()) == "It is sunny in Rome."


def test_the_quickstart(
    made_clients: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def main() -> None:
        await quickstart.main()
        for client in made_clients:
            await client.aclose()

    asyncio.run(main())
    assert capsys.readouterr().out == "It is sunny in Rome. It is sunny in Oslo.\n"
