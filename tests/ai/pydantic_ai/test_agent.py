"""pydantic-ai agents with pydantic-ai's own test models, dropped and replayed at every await."""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    ApprovalRequired,
    CallDeferred,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    RunContext,
    TextOutput,
    Tool,
    UsageLimitExceeded,
    UsageLimits,
)
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.toolsets import DynamicToolset, FunctionToolset, WrapperToolset

from perdure import Context, RetryPolicy, SyncContext, TerminalError, current_context, current_step
from perdure.ai import in_handler
from perdure.ai.pydantic_ai import PerdureDurability
from perdure.testing import InvocationPaused
from tests.ai.harness import run


def calls(*tools: ToolCallPart) -> ModelResponse:
    return ModelResponse(parts=list(tools))


def last_returns(messages: list[ModelMessage]) -> list[Any]:
    """What the tools of the last turn said."""
    return [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]


def two_turns(*tools: ToolCallPart) -> FunctionModel:
    """A model that calls these tools, then says what they returned."""

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return calls(*tools)
        return ModelResponse(parts=[TextPart(f"{last_returns(messages)}")])

    return FunctionModel(model)


@pytest.mark.pattern("agent with tools")
def test_one_line_makes_model_and_tools_steps() -> None:
    tokens: list[str] = []

    async def square(n: int) -> int:
        tokens.append(current_step().token)
        return n * n

    agent = Agent(TestModel(), tools=[square], capabilities=[PerdureDurability()])

    async def handler(ctx: Context) -> Any:
        result = await agent.run("go")
        await asyncio.sleep(60)
        assert result.usage.requests == 2
        return result.output

    steps: list[str] = []
    assert run(handler, steps=steps) == '{"square":0}'
    assert steps == ["model test", "tool square pyd_ai_tool_call_id__square", "model test"]
    assert len(tokens) == 1


@pytest.fixture
def collected() -> Iterator[None]:
    """`run_sync` leaves the event loop that it makes to the garbage collector: here, where the warning is expected."""
    yield
    gc.collect()


run_sync = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <(socket|function BaseEventLoop):pytest.PytestUnraisableExceptionWarning"
)


@run_sync
@pytest.mark.usefixtures("collected")
def test_outside_of_handlers_it_is_the_agent_alone() -> None:
    agent = Agent(TestModel(), tools=[lambda: 1], capabilities=[PerdureDurability()])
    assert asyncio.run(agent.run("go")).output == agent.run_sync("go").output


@pytest.mark.pattern("parallel tools")
def test_parallel_tools_are_parallel() -> None:
    together = threading.Barrier(3)

    def meet(name: str) -> str:
        together.wait(10)
        return name

    model = two_turns(*(ToolCallPart("meet", {"name": n}, f"call_{n}") for n in "abc"))
    agent = Agent(model, tools=[meet], capabilities=[PerdureDurability()])

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go")).output

    steps: list[str] = []
    assert run(handler, steps=steps) == "['a', 'b', 'c']"
    assert sorted(steps[1:-1]) == ["tool meet call_a", "tool meet call_b", "tool meet call_c"]


@pytest.mark.pattern("control flow")
def test_a_retry_in_a_parallel_batch_is_a_value() -> None:
    ran: list[str] = []

    async def pick(n: int) -> int:
        ran.append(f"pick {n}")
        if n < 0:
            raise ModelRetry("must not be negative")
        return n

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return calls(ToolCallPart("pick", {"n": 1}, "a"), ToolCallPart("pick", {"n": -1}, "b"))
        if any("must not be negative" in str(part) for part in messages[-1].parts):
            return calls(ToolCallPart("pick", {"n": 2}, "c"))
        return ModelResponse(parts=[TextPart(f"{last_returns(messages)}")])

    agent = Agent(FunctionModel(model), tools=[pick], capabilities=[PerdureDurability()])

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go")).output

    assert run(handler, crash=True) == "[2]"
    assert set(ran) == {"pick 1", "pick -1", "pick 2"}


@pytest.mark.pattern("control flow")
def test_deferred_and_unapproved_calls_end_the_run_and_go_on() -> None:
    async def delete(ctx: RunContext[None], path: str) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"why": "it is gone then"})
        return f"deleted {path}"

    async def survey(question: str) -> str:
        raise CallDeferred(metadata={"ticket": 7})

    model = two_turns(ToolCallPart("delete", {"path": "/x"}, "d"), ToolCallPart("survey", {"question": "?"}, "s"))
    agent = Agent(
        model,
        tools=[delete, survey],
        output_type=[str, DeferredToolRequests],
        capabilities=[PerdureDurability()],
    )

    async def handler(ctx: Context) -> Any:
        result = await agent.run("go")
        asked = result.output
        assert isinstance(asked, DeferredToolRequests)
        approval, answer = ctx.awakeable(bool), ctx.awakeable(str)
        await ctx.resolve_awakeable(approval.id, True)
        await ctx.resolve_awakeable(answer.id, "forty-two")
        results = DeferredToolResults(approvals={"d": await approval}, calls={"s": await answer})
        final = await agent.run(message_history=result.all_messages(), deferred_tool_results=results)
        return [asked.metadata, final.output]

    metadata = {"d": {"why": "it is gone then"}, "s": {"ticket": 7}}
    assert run(handler) == [metadata, "['deleted /x', 'forty-two']"]


class City(BaseModel):
    name: str
    people: int


@pytest.mark.pattern("structured output")
def test_structured_output_and_dependencies() -> None:
    agent = Agent(
        TestModel(custom_output_args={"name": "Paris", "people": 3}),
        output_type=City,
        deps_type=dict,
        capabilities=[PerdureDurability()],
    )

    @agent.tool
    async def mayor(ctx: RunContext[dict[str, str]]) -> str:
        return ctx.deps["mayor"]

    @agent.instructions
    def instructions(ctx: RunContext[dict[str, str]]) -> str:
        return f"The mayor is {ctx.deps['mayor']}"

    async def handler(ctx: Context) -> Any:
        result = await agent.run("go", deps={"mayor": "Anne"})
        assert isinstance(result.output, City)
        returned = [p.content for m in result.all_messages() for p in m.parts if isinstance(p, ToolReturnPart)]
        return [result.output.model_dump(), returned[0]]

    assert run(handler) == [{"name": "Paris", "people": 3}, "Anne"]


@pytest.mark.pattern("agent as tool")
def test_a_tool_in_the_handler_uses_the_context_and_an_agent_of_its_own() -> None:
    inner = Agent(TestModel(), name="inner", tools=[lambda: "x"], capabilities=[PerdureDurability()])
    outer = Agent(
        two_turns(ToolCallPart("delegate", {"task": "t"}, "d"), ToolCallPart("wait", {}, "w")),
        capabilities=[PerdureDurability()],
    )

    @outer.tool
    @in_handler
    async def delegate(ctx: RunContext[Any], task: str) -> str:
        return (await inner.run(task, usage=ctx.usage)).output

    @outer.tool_plain(metadata={"perdure": False})
    async def wait() -> str:
        await asyncio.sleep(86400)
        return await current_context().run("after a day", lambda: "rested", type=str)

    async def handler(ctx: Context) -> Any:
        result = await outer.run("go")
        return [result.output, result.usage.requests]

    steps: list[str] = []
    assert run(handler, steps=steps) == ["""['{"<lambda>":"x"}', 'rested']""", 4]
    assert "after a day" in steps
    assert "tool <lambda> pyd_ai_tool_call_id__<lambda>" in steps
    assert not any(step.startswith("tool delegate") for step in steps)


def test_an_agent_within_a_tools_step_is_part_of_it() -> None:
    inner = Agent(TestModel(), capabilities=[PerdureDurability()])
    outer = Agent(two_turns(ToolCallPart("delegate", {}, "d")), capabilities=[PerdureDurability()])

    @outer.tool_plain
    async def delegate() -> str:
        return (await inner.run("x")).output

    async def handler(ctx: Context) -> Any:
        return (await outer.run("go")).output

    steps: list[str] = []
    assert run(handler, steps=steps) == "['success (no tool calls)']"
    assert len(steps) == 3


async def streamed(messages: list[ModelMessage], info: AgentInfo) -> Any:
    if len(messages) == 1:
        yield {0: DeltaToolCall("hello", '{"name": ', tool_call_id="h")}
        yield {0: DeltaToolCall(None, '"you"}')}
    else:
        yield "well, "
        yield f"{last_returns(messages)[0]}"


async def hello(name: str) -> str:
    return f"hello {name}"


def test_every_way_to_run_is_durable() -> None:
    agent = Agent(FunctionModel(stream_function=streamed), tools=[hello], capabilities=[PerdureDurability()])

    async def handler(ctx: Context) -> Any:
        async with agent.run_stream("go") as stream:
            texts = [text async for text in stream.stream_text(delta=True, debounce_by=None)]
        kinds = set()
        async with agent.run_stream_events("go") as events:
            async for event in events:
                kinds.add(event.event_kind)
        async with agent.iter("go") as nodes:
            async for node in nodes:
                if Agent.is_model_request_node(node):
                    async with node.stream(nodes.ctx) as parts:
                        async for _ in parts:
                            pass
            assert nodes.result is not None
            output = nodes.result.output
        return ["".join(texts), sorted(kinds), output]

    steps: list[str] = []
    text, kinds, output = run(handler, steps=steps)
    assert text == output == "well, hello you"
    assert {"part_start", "function_tool_call", "function_tool_result", "agent_run_result"} <= set(kinds)
    assert [step.split()[0] for step in steps] == ["model", "tool", "model"] * 3


def test_an_event_handler_sees_the_models_events_as_they_come() -> None:
    seen: list[str] = []

    async def on_events(ctx: RunContext[None], events: AsyncIterable[AgentStreamEvent]) -> None:
        async for event in events:
            seen.append(f"{current_step().name.split()[0]} {event.event_kind}")

    durability = PerdureDurability[None](event_stream_handler=on_events)
    agent = Agent(FunctionModel(stream_function=streamed), tools=[hello], capabilities=[durability])

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go")).output

    assert run(handler) == "well, hello you"
    assert "model part_delta" in seen
    assert seen.count("event function_tool_result") == 1


@run_sync
@pytest.mark.usefixtures("collected")
def test_a_plain_handler_runs_it_too() -> None:
    agent = Agent(TestModel(), tools=[hello], capabilities=[PerdureDurability()])

    def handler(ctx: SyncContext) -> Any:
        return agent.run_sync("go").output

    steps: list[str] = []
    assert run(handler, steps=steps) == '{"hello":"hello a"}'
    assert [step.split()[0] for step in steps] == ["model", "tool", "model"]


def test_limits_end_the_invocation_and_can_be_caught() -> None:
    agent = Agent(TestModel(), tools=[hello], capabilities=[PerdureDurability()])

    async def handler(ctx: Context, caught: bool) -> Any:
        try:
            await agent.run("go", usage_limits=UsageLimits(request_limit=1))
        except UsageLimitExceeded:
            if not caught:
                raise
            return "caught"

    assert run(handler, True) == "caught"
    with pytest.raises(TerminalError, match="UsageLimitExceeded: The next request would exceed the request_limit of 1"):
        run(handler, False)


def test_a_tool_that_fails_is_tried_again_under_its_own_policy() -> None:
    attempts: list[int] = []

    async def flaky() -> str:
        attempts.append(current_step().attempt)
        if len(attempts) < 3:
            raise ConnectionError("no route")
        raise TerminalError("it is broken", 418)

    tool = Tool(flaky, metadata={"perdure": {"retry": RetryPolicy(initial_interval=0.01)}})
    agent = Agent(TestModel(), tools=[tool], capabilities=[PerdureDurability()])

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go")).output

    with pytest.raises(TerminalError, match="it is broken") as caught:
        run(handler)
    assert caught.value.code == 418
    assert attempts == [1, 2, 3]


def test_what_would_go_around_the_journal_is_refused() -> None:
    agent = Agent(TestModel(), capabilities=[PerdureDurability()])

    async def toolset(ctx: Context) -> Any:
        return (await agent.run("go", toolsets=[FunctionToolset([hello], id="late")])).output

    async def model(ctx: Context) -> Any:
        return (await agent.run("go", model=TestModel(model_name="other"))).output

    with pytest.raises(InvocationPaused, match="cannot be added at runtime with perdure"):
        run(toolset)
    with pytest.raises(InvocationPaused, match="was not registered with `PerdureDurability`"):
        run(model)


def test_a_named_model_is_known() -> None:
    other = TestModel(custom_output_text="from the other", model_name="other")
    agent = Agent(TestModel(), capabilities=[PerdureDurability(models={"other": other})])

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go", model="other")).output

    steps: list[str] = []
    assert run(handler, steps=steps) == "from the other"
    assert steps == ["model other"]


def test_tools_of_every_toolset_are_steps() -> None:
    async def where() -> str:
        return current_step().name

    class Own(WrapperToolset[Any]):
        """A class of the user's own, of which the integration knows nothing."""

        @property
        def id(self) -> str:
            return "own"

        def visit_and_replace(self, visitor: Any) -> Any:
            return visitor(self)

    agent = Agent(
        TestModel(),
        toolsets=[
            FunctionToolset([where], id="tools").prefixed("my"),
            DynamicToolset(lambda ctx: FunctionToolset([Tool(where, name="dynamic")]), id="dynamic"),
            Own(FunctionToolset([Tool(where, name="own")])),
        ],
        capabilities=[PerdureDurability()],
    )

    @agent.tool_plain
    def late() -> str:
        return current_step().name

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go")).output

    output = json.loads(run(handler))
    assert {name: step.split()[:2] for name, step in output.items()} == {
        "my_where": ["tool", "where"],
        "dynamic": ["tool", "dynamic"],
        "own": ["tool", "own"],
        "late": ["tool", "late"],
    }


@pytest.mark.pattern("guardrails")
def test_output_functions_and_validators() -> None:
    def shout(text: str) -> str:
        return text.upper()

    agent = Agent(
        FunctionModel(stream_function=streamed),
        tools=[hello],
        output_type=TextOutput(shout),
        capabilities=[PerdureDurability()],
    )
    tries: list[str] = []

    @agent.output_validator
    def validate(output: str) -> str:
        tries.append(output)
        return output + "!"

    async def handler(ctx: Context) -> Any:
        async with agent.run_stream("go") as stream:
            return await stream.get_output()

    assert run(handler) == "WELL, HELLO YOU!"


def test_a_bad_config_is_an_error() -> None:
    tool = Tool(hello, metadata={"perdure": {"retries": 3}})
    agent = Agent(TestModel(), tools=[tool], capabilities=[PerdureDurability()])

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go")).output

    with pytest.raises(InvocationPaused, match="must be False or"):
        run(handler)
