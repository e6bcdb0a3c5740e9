"""The guide and the quickstart do what they say."""

import asyncio
from typing import Any

import pytest

from examples.quickstarts import langchain as quickstart
from perdure import App
from perdure.ai.langgraph import memory
from perdure.testing import TestEngine
from perdure.testing.model_server import ModelServer, Reply, ToolCall
from perdure.testing.openai_server import ChatRequest
from tests.ai.guides import code_of


def policy(request: ChatRequest) -> Reply:
    """A tool, if there is one, and then the answer."""
    names = request.tool_names
    if request.turn or not names:
        return Reply("It is sunny in Rome.")
    refund = ToolCall("refund", {"order": "A-17", "amount": 3})
    return Reply(tool_calls=(refund if "refund" in names else ToolCall("weather", {"city": "Rome"}),))


def test_the_guide(monkeypatch: pytest.MonkeyPatch, made_clients: list[Any]) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ModelServer(policy) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "loopback")
        names = code_of("langchain.md")

        async def main() -> str:
            async with TestEngine(App(names["travel"], names["desk"], *memory), replay=True, skip=False) as engine:
                answer = await engine.call(names["ask"], "x")
                assert await engine.call(names["tell"], "x") == await engine.call(names["chat"], "x") == answer
                sent = await engine.send(names["serve"], "x")
                await engine.settle()
                (waiting,) = await engine.approvals().list()
                assert waiting.title == "Call refund?" and waiting.context["arguments"]["amount"] == 3
                await engine.approvals().reject(waiting.id, comment="no")
                assert await sent.attach() == answer
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
