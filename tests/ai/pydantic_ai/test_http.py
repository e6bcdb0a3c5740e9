"""pydantic-ai agents with the real clients of OpenAI and Anthropic, against the loopback provider and its faults."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from perdure import App, Context, Service, TerminalError
from perdure.ai.pydantic_ai import MessageHistory, PerdureApprovals, PerdureDurability
from perdure.ai.sessions import Session
from perdure.testing import TestEngine
from perdure.testing.model_server import ChatRequest, Fault, ModelServer, Reply, ToolCall
from tests.ai.harness import FAST, closed_by_run, run


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
@pytest.mark.pattern("provider errors")
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


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.pattern("token streaming")
def test_readers_see_tokens_tool_calls_and_results(server: ModelServer, model: Model, streamed: bool) -> None:
    if streamed:
        server.inject(Fault(cut_after=3, at=2))
    agent = agent_of(model)

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            if not streamed:
                return (await agent.run("add")).output
            async with agent.run_stream("add") as stream:
                return await stream.get_output()

    chunks: list[Any] = []
    assert run(handler, shown=chunks) == "the sums are 3 and 7"
    whole = [chunk for chunk in chunks if isinstance(chunk, dict) and chunk["type"] != "tool-call-delta"]
    calls, results = whole[:2], whole[2:]
    assert [(call["type"], call["name"], sorted(call["input"])) for call in calls] == [
        ("tool-call", "add", ["a", "b"])
    ] * 2
    assert {result["id"]: result["output"] for result in results} == {
        call["id"]: call["input"]["a"] + call["input"]["b"] for call in calls
    }
    texts = [chunk for chunk in chunks if isinstance(chunk, str)]
    assert "".join(texts) == "the sums are 3 and 7"
    assert (len(texts) > 1) is streamed


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.pattern("human approval")
def test_people_decide_about_tools(crash: bool) -> None:
    done: list[int] = []

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) > 1:
            returned = [str(part.content) for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
            return ModelResponse([TextPart("; ".join(returned))])
        return ModelResponse([ToolCallPart("pay", {"amount": amount}, f"c{amount}") for amount in (1, 2, 3)])

    agent: Agent[None, str] = Agent(
        FunctionModel(respond), capabilities=[PerdureDurability(), PerdureApprovals(timeout=3600, to=["ann"])]
    )

    @agent.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        done.append(amount)
        return f"paid {amount}"

    service = Service("Desk", retry_policy=FAST)

    @service.handler()
    async def handler(ctx: Context) -> Any:
        return (await agent.run("pay")).output

    async def main() -> Any:
        async with TestEngine(App(service), replay=True, crash=crash, skip=False) as engine:
            sent = await engine.send(handler)
            await engine.settle()
            waiting = {each.context["arguments"]["amount"]: each for each in await engine.approvals().list()}
            assert {each.title for each in waiting.values()} == {"Call pay?"} and not done
            await engine.approvals().approve(waiting[1].id)
            await engine.approvals().reject(waiting[2].id, comment="too much")
            await engine.advance(3700)
            return await sent.attach()

    assert asyncio.run(main()) == "paid 1; too much; Nobody answered in time."
    assert set(done) == {1}


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.pattern("session memory")
def test_a_history_is_kept_and_its_window_begins_with_a_turn(crash: bool) -> None:
    seen: list[int] = []

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append(len(messages))
        if isinstance(messages[-1].parts[-1], ToolReturnPart):
            return ModelResponse([TextPart("done")])
        return ModelResponse([ToolCallPart("look", {}, f"c{len(messages)}")])

    agent: Agent[None, str] = Agent(FunctionModel(respond), capabilities=[PerdureDurability()])

    @agent.tool_plain
    def look() -> str:
        return "seen"

    async def handler(ctx: Context) -> Any:
        history = MessageHistory(Session("chat"))
        for text in ("one", "two"):
            result = await agent.run(text, message_history=await history.messages())
            await history.add(result.new_messages())
        window = await history.messages(3)
        kept = await history.messages(2, keep_first=1)
        return [len(await history.messages()), len(window), len(kept), len(await history.messages(5)), result.output]

    assert run(handler, crash=crash) == [8, 0, 1, 4, "done"]
    if not crash:
        assert seen == [1, 3, 5, 7]
