"""The guide and the quickstart do what they say."""

import asyncio

import pytest

from examples.quickstarts import langgraph as quickstart
from perdure import App
from perdure.ai.langgraph import memory
from perdure.testing import TestEngine
from tests.ai.guides import code_of


def test_the_guide() -> None:
    names = code_of("langgraph.md")

    async def main() -> bool:
        async with TestEngine(App(names["shop"], *memory), replay=True, skip=False) as engine:
            sent = await engine.send(names["buy"], "figs")
            await engine.settle()
            (waiting,) = await engine.approvals().list()
            assert waiting.title == waiting.context == "ship figs?"
            await engine.approvals().approve(waiting.id)
            answer = bool(await sent.attach())
        await names["elsewhere"].checkpointer._client.close()
        names["blocking"]._client.close()
        return answer

    assert asyncio.run(main()) is True


def test_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(quickstart.main())
    assert capsys.readouterr().out == "It is sunny in Oslo. It is sunny in Rome.\n"
