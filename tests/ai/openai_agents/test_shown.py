"""What readers of the handler's stream see of a run, replayed at every await, and through the loopback provider."""

from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    UserError,
    function_tool,
    handoff,
    input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from openai import AsyncOpenAI
from openai.types.responses import ResponseReasoningItem
from openai.types.responses.response_reasoning_item import Summary

from perdure import Context, SyncContext, TerminalError
from perdure.ai.openai_agents import DurableRunner, in_handler
from perdure.testing.model_server import Fault, ModelServer, Reply, ToolCall, script
from tests.ai.harness import closed_by_run, run
from tests.ai.openai_agents.test_replay import event_loop

pytestmark = pytest.mark.pattern("token streaming")


def call(tool: str, arguments: dict[str, Any], call_id: str) -> Any:
    return function_call(tool, arguments, call_id=call_id)


def scripted(*steps: Any) -> ScriptedModel:
    return ScriptedModel(steps)


def tool_parts(id: str, name: str, input: Any, output: Any) -> list[Any]:
    return [
        {"type": "tool-call", "id": id, "name": name, "input": input},
        {"type": "tool-result", "id": id, "output": output},
    ]


def joined(chunks: list[Any]) -> list[Any]:
    """Text in one piece, and no pieces of tool calls: what streaming and whole answers have in common."""
    parts: list[Any] = []
    for chunk in chunks:
        if isinstance(chunk, dict) and chunk["type"] == "tool-call-delta":
            continue
        if isinstance(chunk, str) and parts and isinstance(parts[-1], str):
            parts[-1] += chunk
        else:
            parts.append(chunk)
    return parts


async def finished(agent: Agent[Any], streamed: bool, **options: Any) -> Any:
    if not streamed:
        return await DurableRunner.run(agent, "x", **options)
    result = DurableRunner.run_streamed(agent, "x", **options)
    async for _ in result.stream_events():
        pass
    return result


def thought(*texts: str) -> Any:
    summaries = [Summary(text=text, type="summary_text") for text in texts]
    return ResponseReasoningItem(id="r", summary=summaries, type="reasoning")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_text_reasoning_and_tools_are_shown_once(streamed: bool, crash: bool) -> None:
    @function_tool
    def double(n: int) -> dict[str, int]:
        """Doubles."""
        return {"doubled": 2 * n}

    @function_tool
    @in_handler
    async def half(n: int) -> float:
        """Halves."""
        return n / 2

    @function_tool
    def fails() -> str:
        """Fails."""
        raise ValueError("no luck")

    model = scripted(
        [thought("hm", "so"), call("double", {"n": 2}, "a"), call("half", {"n": 1}, "b"), call("fails", {}, "c")],
        [assistant_message("four, and a half")],
    )
    agent = Agent[Any](name="A", model=model, tools=[double, half, fails])

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            return (await finished(agent, streamed)).final_output

    chunks: list[Any] = []
    assert run(handler, shown=chunks, crash=crash) == "four, and a half"
    parts = joined(chunks)
    results = {part["id"]: part for part in parts if isinstance(part, dict) and part["type"] == "tool-result"}
    assert results["a"]["output"] == {"doubled": 4}
    assert results["b"]["output"] == 0.5
    assert "error occurred" in results["c"]["error"]
    calls = [part for part in parts if isinstance(part, dict) and part["type"] == "tool-call"]
    assert [(part["id"], part["name"], part["input"]) for part in calls] == [
        ("a", "double", {"n": 2}),
        ("b", "half", {"n": 1}),
        ("c", "fails", {}),
    ]
    thoughts = [part["text"] for part in parts if isinstance(part, dict) and part["type"] == "reasoning"]
    assert "".join(thoughts) == "hm\n\nso"
    assert parts[-1] == "four, and a half"
    assert len(parts) == 3 + 3 + len(thoughts) + 1
    assert len(model.calls) == 2


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.pattern("multi-agent")
@pytest.mark.pattern("agent as tool")
def test_agents_that_are_tools_and_agents_that_take_over_are_shown(streamed: bool) -> None:
    expert = Agent[Any](name="Expert", model=scripted([assistant_message("42")]))
    two = Agent[Any](name="Two", model=scripted([assistant_message("it is 42")]))
    model = scripted(
        [call("ask", {"input": "?"}, "a")], [call("transfer_to_two", {}, "h"), call("transfer_to_two", {}, "i")]
    )
    one = Agent[Any](name="One", model=model, tools=[expert.as_tool("ask", "asks")], handoffs=[handoff(two)])

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            return (await finished(one, streamed)).final_output

    chunks: list[Any] = []
    assert run(handler, shown=chunks) == "it is 42"
    asked, inner, answered, *calls, over, refused, text = joined(chunks)
    assert [asked, answered] == tool_parts("a", "ask", {"input": "?"}, "42")
    assert inner == "42"
    assert [each["id"] for each in calls] == ["h", "i"]
    results = {over["id"]: over["output"], refused["id"]: refused["output"]}
    assert results == {"h": '{"assistant": "Two"}', "i": "Multiple handoffs detected, ignoring this one."}
    assert text == "it is 42"


def test_a_plain_handler_shows_too() -> None:
    checker = Agent[Any](name="Checker", model=scripted([assistant_message("fine")]))

    @input_guardrail(run_in_parallel=False)
    async def check(context: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, (await Runner.run(checker, input)).final_output != "fine")

    model = scripted([call("double", {"n": 2}, "d")], [assistant_message("four")])
    agent = Agent[Any](name="A", model=model, tools=[double], input_guardrails=[check])

    def handler(ctx: SyncContext) -> Any:
        with ctx.stream("answer").default(), event_loop():
            return DurableRunner.run_sync(agent, "x").final_output

    chunks: list[Any] = []
    assert run(handler, shown=chunks) == "four"
    assert chunks == [*tool_parts("d", "double", {"n": 2}, 4), "four"]


@pytest.mark.pattern("guardrails")
def test_of_a_guardrail_readers_see_nothing() -> None:
    checker = Agent[Any](name="Checker", model=scripted([assistant_message("fine")]))

    @input_guardrail(run_in_parallel=False)
    async def check(context: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, (await Runner.run(checker, input)).final_output != "fine")

    agent = Agent[Any](name="A", model=scripted([assistant_message("hello")]), input_guardrails=[check])
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            return (await finished(agent, False)).final_output

    chunks: list[Any] = []
    assert run(handler, shown=chunks, steps=steps) == "hello"
    assert chunks == ["hello"]
    assert len(steps) == 2


def test_a_run_that_fails_and_one_that_nobody_watches() -> None:
    @function_tool
    def ends() -> str:
        """Ends."""
        raise TerminalError("over", 418)

    def agent() -> Agent[Any]:
        return Agent(name="A", model=scripted([call("ends", {}, "e")]), tools=[ends])

    watched, alone = agent(), agent()

    async def handler(ctx: Context) -> Any:
        for each, name in ((watched, "answer"), (alone, None)):
            with pytest.raises(UserError, match="over"):
                if name is None:
                    await finished(each, True)
                else:
                    with ctx.stream(name).default():
                        await finished(each, True)

    chunks: list[Any] = []
    run(handler, shown=chunks)
    assert joined(chunks) == [
        {"type": "tool-call", "id": "e", "name": "ends", "input": {}},
        {"type": "tool-result", "id": "e", "error": "over"},
    ]


@function_tool
def double(n: int) -> int:
    """Doubles."""
    return 2 * n


@pytest.mark.parametrize("api", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
@pytest.mark.parametrize("fault", [None, Fault(cut_after=2), Fault(cut_after=3, at=2)])
def test_tokens_of_a_provider_are_shown_once_though_its_stream_is_cut(api: Any, fault: Fault | None) -> None:
    policy = script(
        Reply("Let me see: ", (ToolCall("double", {"n": 2}, "a"), ToolCall("double", {"n": 3}, "b"))),
        Reply("four and six, my friend"),
    )
    with ModelServer(policy) as server:
        client = closed_by_run(AsyncOpenAI(base_url=server.base_url, api_key="loopback"))
        agent = Agent[Any](name="A", model=api("loopback", openai_client=client), tools=[double])
        if fault is not None:
            server.inject(fault)

        async def handler(ctx: Context) -> Any:
            with ctx.stream("answer").default():
                return (await finished(agent, True)).final_output

        chunks: list[Any] = []
        assert run(handler, shown=chunks) == "four and six, my friend"
        assert len(server.requests) == 2 + (fault is not None)
    assert sum(isinstance(chunk, str) for chunk in chunks) > 6, "word by word"
    deltas = [chunk for chunk in chunks if isinstance(chunk, dict) and chunk["type"] == "tool-call-delta"]
    assert "".join(part["delta"] for part in deltas if part["id"] == "b") == '{"n": 3}'
    before, first, second, *results, text = joined(chunks)
    assert (before.strip(), text) == ("Let me see:", "four and six, my friend")
    assert [first, *sorted(results, key=lambda part: str(part["id"]))[:1]] == tool_parts("a", "double", {"n": 2}, 4)
    assert [second, *sorted(results, key=lambda part: str(part["id"]))[1:]] == tool_parts("b", "double", {"n": 3}, 6)
