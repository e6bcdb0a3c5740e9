"""pydantic-ai agents with the real clients of OpenAI and Anthropic, against the loopback provider and its faults."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from perdure import Context, TerminalError
from perdure.ai.pydantic_ai import PerdureDurability
from perdure.testing.model_server import ChatRequest, Fault, ModelServer, Reply, ToolCall
from tests.ai.harness import closed_by_run, run


def policy(request: ChatRequest) -> Reply:
    if request.turn == 0:
        return Reply(tool_calls=(ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": 4})))
    return Reply("the sums are " + " and ".join(str(m["content"]) for m in request.messages if m["role"] == "tool"))


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(policy) as server:
        yield server


@pytest.fixture(params=["chat", "responses", "anthropic"])
def model(request: pytest.FixtureRequest, server: ModelServer) -> Model:
    if request.param == "anthropic":
        from anthropic import AsyncAnthropic

        client = closed_by_run(AsyncAnthropic(api_key="k", base_url=server.url, max_retries=2))
        return AnthropicModel("loopback", provider=AnthropicProvider(anthropic_client=client))
    openai = closed_by_run(AsyncOpenAI(api_key="k", base_url=server.base_url, max_retries=2))
    kind = OpenAIChatModel if request.param == "chat" else OpenAIResponsesModel
    return kind("loopback", provider=OpenAIProvider(openai_client=openai))


def agent_of(model: Model) -> Agent[None, str]:
    agent: Agent[None, str] = Agent(model, capabilities=[PerdureDurability()])

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        return a + b

    return agent


def test_an_agent_over_http(server: ModelServer, model: Model) -> None:
    agent = agent_of(model)

    async def handler(ctx: Context) -> Any:
        result = await agent.run("add")
        await asyncio.sleep(1)
        return [result.output, result.usage.requests, result.usage.output_tokens > 0]

    assert run(handler) == ["the sums are 3 and 7", 2, True]
    assert server.count() == 2
    assert len({request.key for request in server.requests} - {None}) == 2


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (Fault(status=429, retry_after=20, times=2), 4),
        (Fault(status=500, times=3), 5),
        (Fault(cut_after=30), 3),
    ],
)
def test_errors_of_the_moment_are_tried_again(server: ModelServer, model: Model, fault: Fault, requests: int) -> None:
    server.inject(fault)
    agent = agent_of(model)

    async def handler(ctx: Context) -> Any:
        started = ctx.now()
        result = await agent.run("add")
        return [result.output, (ctx.now() - started).total_seconds() >= 20 * fault.times]

    assert run(handler) == ["the sums are 3 and 7", bool(fault.retry_after)]
    assert server.count() == requests, "the client's own retries are off"
    assert len({request.key for request in server.requests}) == 2


def test_a_stream_over_http_that_is_cut(server: ModelServer, model: Model) -> None:
    server.inject(Fault(cut_after=3))
    agent = agent_of(model)

    async def handler(ctx: Context) -> Any:
        async with agent.run_stream("add") as stream:
            return await stream.get_output()

    assert run(handler) == "the sums are 3 and 7"
    assert server.count() == 3


def test_a_refusal_ends_the_invocation(server: ModelServer, model: Model) -> None:
    server.inject(Fault(status=401))
    agent = agent_of(model)

    async def handler(ctx: Context) -> Any:
        return (await agent.run("add")).output

    with pytest.raises(TerminalError, match="injected by the test") as caught:
        run(handler)
    assert caught.value.code == 401
    assert server.count() == 1
