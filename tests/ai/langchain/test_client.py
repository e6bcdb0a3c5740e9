"""Rung 2: ChatOpenAI against a provider on loopback, with faults."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from perdure import Context, TerminalError
from perdure.ai.langchain import DurableMiddleware
from perdure.testing.model_server import Fault, ModelServer, Reply, ToolCall, script
from tests.ai.harness import closed_by_run, run

POLICY = script(
    Reply(tool_calls=(ToolCall("double", {"n": 2}), ToolCall("double", {"n": 3}))), Reply("four and six, my friend")
)
APIS = pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])


@tool
def double(n: int) -> int:
    """Doubles."""
    return 2 * n


def agent(server: ModelServer, responses: bool, **options: Any) -> Any:
    model = ChatOpenAI(
        model="loopback",
        base_url=server.base_url,
        api_key=lambda: "loopback",
        use_responses_api=responses,
        **options,
    )
    closed_by_run(model.root_async_client)
    return create_agent(model, [double], middleware=[DurableMiddleware()])


QUESTION: Any = {"messages": [("user", "x")]}


@APIS
def test_one_request_for_each_model_call(responses: bool) -> None:
    steps: list[str] = []
    with ModelServer(POLICY) as server:
        subject = agent(server, responses)

        async def handler(ctx: Context) -> Any:
            messages = (await subject.ainvoke(QUESTION))["messages"]
            last = messages[-1]
            assert isinstance(last, AIMessage)
            assert last.usage_metadata is not None
            return [messages[2].text, messages[3].text, last.text, last.usage_metadata["input_tokens"] > 0]

        assert run(handler, steps=steps) == ["4", "6", "four and six, my friend", True]
        assert len(server.requests) == 2
        assert len({seen.key for seen in server.requests} - {None}) == 2
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
def test_faults_are_ridden_out(responses: bool, fault: Fault) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, responses)
        server.inject(fault)

        async def handler(ctx: Context) -> Any:
            began = ctx.now()
            state = await subject.ainvoke(QUESTION)
            return [state["messages"][-1].text, (ctx.now() - began).total_seconds() >= (fault.retry_after or 0)]

        assert run(handler) == ["four and six, my friend", True]
        assert len(server.requests) == 2 + fault.times
        assert len({seen.key for seen in server.requests} - {None}) == 2


@APIS
@pytest.mark.parametrize("cut", [None, 0, 1, 3])
def test_streams_also_those_that_are_cut(responses: bool, cut: int | None) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, responses, stream_usage=True)
        if cut is not None:
            server.inject(Fault(cut_after=cut, at=2))

        async def handler(ctx: Context) -> Any:
            texts = [
                event[0].text
                async for event in subject.astream(QUESTION, stream_mode="messages")
                if isinstance(event[0], AIMessage)
            ]
            return ["".join(texts), len(texts) > 3]

        assert run(handler) == ["four and six, my friend", True]
        assert len(server.requests) == (2 if cut is None else 3)
        assert all(seen.stream for seen in server.requests)


@APIS
def test_a_time_out_is_tried_again(responses: bool) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, responses, timeout=0.2)
        server.inject(Fault(delay=5))

        async def handler(ctx: Context) -> Any:
            return (await subject.ainvoke(QUESTION))["messages"][-1].text

        assert run(handler) == "four and six, my friend"
        assert len(server.requests) == 3


@APIS
def test_what_is_final_is_final(responses: bool) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, responses)
        server.inject(Fault(status=401))

        async def handler(ctx: Context) -> Any:
            await subject.ainvoke(QUESTION)

        with pytest.raises(TerminalError) as caught:
            run(handler)
        assert caught.value.code == 401
        assert len(server.requests) == 1


def test_a_plain_handler() -> None:
    with ModelServer(POLICY) as server:
        model = ChatOpenAI(model="loopback", base_url=server.base_url, api_key=lambda: "loopback")
        subject = create_agent(model, [double], middleware=[DurableMiddleware()])
        server.inject(Fault(status=500))

        def handler(ctx: Any) -> Any:
            return subject.invoke(QUESTION)["messages"][-1].text

        assert run(handler) == "four and six, my friend"
        assert len(server.requests) == 3
        model.root_client.close()


@APIS
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.pattern("token streaming")
def test_readers_see_tokens_tool_calls_and_results(responses: bool, streamed: bool) -> None:
    with ModelServer(POLICY) as server:
        subject = agent(server, responses)
        if streamed:
            server.inject(Fault(cut_after=3, at=2))

        async def handler(ctx: Context) -> Any:
            with ctx.stream("answer").default():
                if not streamed:
                    return (await subject.ainvoke(QUESTION))["messages"][-1].text
                texts = [
                    message.text
                    async for message, about in subject.astream(QUESTION, stream_mode="messages")
                    if about["langgraph_node"] == "model"
                ]
                return "".join(texts)

        chunks: list[Any] = []
        assert run(handler, shown=chunks) == "four and six, my friend"
    whole = [chunk for chunk in chunks if isinstance(chunk, dict) and chunk["type"] != "tool-call-delta"]
    calls, results = whole[:2], whole[2:]
    assert [(call["type"], call["name"], call["input"]) for call in calls] == [
        ("tool-call", "double", {"n": 2}),
        ("tool-call", "double", {"n": 3}),
    ]
    assert {result["id"]: result["output"] for result in results} == {calls[0]["id"]: "4", calls[1]["id"]: "6"}
    texts = [chunk for chunk in chunks if isinstance(chunk, str)]
    assert "".join(texts) == "four and six, my friend"
    assert (len(texts) > 1) is streamed
