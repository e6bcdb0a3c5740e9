"""The guide and the quickstart do what they say."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents.models import openai_provider

from examples.quickstarts import openai_agents, provider
from perdure import App
from perdure.testing import TestEngine
from perdure.testing.model_server import ChatRequest, ModelServer, Reply, ToolCall
from tests.ai.guides import code_of


@contextlib.asynccontextmanager
async def shared_client_closed() -> AsyncIterator[None]:
    """The framework keeps one HTTP client for as long as the process lives; a test's loop does not live that long."""
    yield
    await openai_provider.shared_http_client().aclose()
    openai_provider._http_client = None


def policy(request: ChatRequest) -> Reply:
    found = [str(message["content"]) for message in request.messages if message.get("role") == "tool"]
    arguments: dict[str, Any] = {"weather": {"city": "Rome"}, "pay": {"amount": 3}}
    (tool,) = request.tool_names
    return Reply("; ".join(found)) if found else Reply(tool_calls=(ToolCall(tool, arguments[tool]),))


def test_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names = code_of("openai-agents.md")

    async def main() -> list[Any]:
        async with TestEngine(App(names["travel"], names["chat"]), replay=True) as engine, shared_client_closed():
            return [
                await engine.call(names["ask"], "x"),
                await engine.call(names["say"], "x", key="k"),
                await engine.call(names["purchase"], "x"),
                await engine.call(names["advise"], "x"),
                await engine.call(names["guide"], "x"),
            ]

    with ModelServer(policy) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "loopback")
        sunny = "It is sunny in Rome."
        assert asyncio.run(main()) == [sunny, sunny, "Nobody answered in time.", sunny, sunny]


def test_the_quickstart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def main() -> None:
        async with shared_client_closed():
            await openai_agents.main()

    asyncio.run(main())
    assert capsys.readouterr().out == "It is sunny in Rome. It is sunny in Oslo.\n"
    assert provider.MODEL
