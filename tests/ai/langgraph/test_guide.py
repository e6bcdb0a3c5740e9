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
    asked: list[str] = []
    there = asyncio.Event()

    async def main() -> bool:
        def tell(id: str, question: str) -> None:
            asked.extend([id, question])
            loop.call_soon_threadsafe(there.set)

        loop = asyncio.get_running_loop()
        names["print"] = tell
        async with TestEngine(App(names["shop"], *memory), replay=True) as engine:
            running = asyncio.ensure_future(engine.call(names["buy"], "figs"))
            await there.wait()
            assert asked[1] == "ship figs?"
            await engine.resolve_awakeable(asked[0], True)
            answer = bool(await running)
        await names["elsewhere"].checkpointer._client.close()
        names["blocking"]._client.close()
        return answer

    assert asyncio.run(main()) is True


def test_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(quickstart.main())
    assert capsys.readouterr().out == "It is sunny in Oslo. It is sunny in Rome.\n"
