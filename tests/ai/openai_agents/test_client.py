"""Rung 2: the framework's real client against a provider on loopback, with faults."""

from typing import Any

import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, RunConfig, function_tool
from agents.models.openai_provider import OpenAIProvider
from openai import AsyncOpenAI

from perdure import Context, TerminalError
from perdure.ai.openai_agents import DurableRunner
from perdure.testing.model_server import Fault, ModelServer, Reply, ToolCall, script
from tests.ai.harness import closed_by_run, run

POLICY = script(
    Reply(tool_calls=(ToolCall("double", {"n": 2}), ToolCall("double", {"n": 3}))), Reply("four and six, my friend")
)
APIS = pytest.mark.parametrize("api", [OpenAIChatCompletionsModel, OpenAIResponsesModel])


@function_tool
def double(n: int) -> int:
    """Doubles."""
    return 2 * n


def agent(server: ModelServer, api: Any, **options: Any) -> Agent[Any]:
    client = closed_by_run(AsyncOpenAI(base_url=server.base_url, api_key="loopback", **options))
    return Agent(name="A", model=api("loopback", openai_client=client), tools=[double])


@APIS
def test_one_request_for_each_model_call(api: Any) -> None:
    steps: list[str] = []
    with ModelServer(POLICY) as server:
        subject = agent(server, api)

        async def handler(ctx: Context) -> Any:
            result = await DurableRunner.run(subject, "x")
            usage = result.context_wrapper.usage
            return [result.final_output, usage.requests, usage.input_tokens > 0, len(result.raw_responses)]

        assert run(handler, steps=steps) == ["four and six, my friend", 2, True, 2]
        assert len(server.requests) == 2
        assert len({seen.key for seen in server.requests}) == 2
        assert None not in {seen.key for seen in server.requests}
    assert steps[0] == "model loopback"
    assert [step.startswith("tool double ") for step in steps] == [False, True, True, False]


@APIS
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, retry_after=2.0),
        Fault(status=500, times=2),
        Fault(cut_after=0),
        Fault(cut_after=30, at=2),
        Fault(status=503, at=2),
    ],
)
@pytest.mark.pattern("provider errors")
def test_faults_are_ridden_out(api: Any, fault: Fault) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, api)
        server.inject(fault)

        async def handler(ctx: Context) -> Any:
            began = ctx.now()
            result = await DurableRunner.run(subject, "x")
            return [result.final_output, (ctx.now() - began).total_seconds() >= (fault.retry_after or 0)]

        assert run(handler) == ["four and six, my friend", True]
        assert len(server.requests) == 2 + fault.times
        assert len({seen.key for seen in server.requests}) == 2


@APIS
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_cut_stream_is_asked_for_again(api: Any, cut: int) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, api)
        server.inject(Fault(cut_after=cut, at=2))

        async def handler(ctx: Context) -> Any:
            result = DurableRunner.run_streamed(subject, "x")
            deltas = [
                event.data.delta
                async for event in result.stream_events()
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
            ]
            return ["".join(deltas), result.final_output]

        assert run(handler) == ["four and six, my friend"] * 2
        assert len(server.requests) == 3


@APIS
def test_a_time_out_is_tried_again(api: Any) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, api, timeout=0.2)
        server.inject(Fault(delay=5))

        async def handler(ctx: Context) -> Any:
            return (await DurableRunner.run(subject, "x")).final_output

        assert run(handler) == "four and six, my friend"
        assert len(server.requests) == 3


@APIS
def test_what_is_final_is_final(api: Any) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, api)
        server.inject(Fault(status=401))

        async def handler(ctx: Context) -> Any:
            return (await DurableRunner.run(subject, "x")).final_output

        with pytest.raises(TerminalError) as caught:
            run(handler)
        assert caught.value.code == 401
        assert len(server.requests) == 1


def test_a_provider_of_names() -> None:
    with ModelServer(POLICY) as server:
        client = closed_by_run(AsyncOpenAI(base_url=server.base_url, api_key="loopback"))
        provider = OpenAIProvider(openai_client=client)

        async def handler(ctx: Context) -> Any:
            subject = Agent[Any](name="A", model="loopback", tools=[double])
            return (await DurableRunner.run(subject, "x", run_config=RunConfig(model_provider=provider))).final_output

        assert run(handler) == "four and six, my friend"
        assert len(server.requests) == 2


def joined(chunks: list[Any]) -> list[Any]:
    """The parts of a message: neighbouring texts, and the pieces of a tool's input, put together."""
    parts: list[Any] = []
    for chunk in chunks:
        if isinstance(chunk, str) and parts and isinstance(parts[-1], str):
            parts[-1] += chunk
        elif isinstance(chunk, str) or chunk["type"] != "tool-call-delta":
            parts.append(chunk)
    return parts


@APIS
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.pattern("token streaming")
def test_readers_see_tokens_tool_calls_and_results(api: Any, streamed: bool) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, api)
        if streamed:
            server.inject(Fault(cut_after=2, at=2))

        async def handler(ctx: Context) -> Any:
            with ctx.stream("answer").default():
                if not streamed:
                    return (await DurableRunner.run(subject, "x")).final_output
                result = DurableRunner.run_streamed(subject, "x")
                async for _ in result.stream_events():
                    pass
                return result.final_output

        chunks: list[Any] = []
        assert run(handler, shown=chunks) == "four and six, my friend"
    first, second, *results, text = joined(chunks)
    assert [(call["type"], call["name"], call["input"]) for call in (first, second)] == [
        ("tool-call", "double", {"n": 2}),
        ("tool-call", "double", {"n": 3}),
    ]
    assert {result["id"]: result["output"] for result in results} == {first["id"]: 4, second["id"]: 6}
    assert text == "four and six, my friend"
    texts = [chunk for chunk in chunks if isinstance(chunk, str)]
    assert (len(texts) > 1) is streamed
    assert any(chunk["type"] == "tool-call-delta" for chunk in chunks if isinstance(chunk, dict)) is streamed
