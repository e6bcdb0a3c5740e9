"""Rung 1: LangChain's fake model, on an engine that replays at every await."""

import asyncio
import threading
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
    before_model,
)
from langchain.agents.structured_output import ToolStrategy
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.types import Command
from pydantic import BaseModel

from perdure import Context, RetryableError, RetryPolicy, TerminalError, current_context, current_step
from perdure.ai.langchain import DurableMiddleware, in_handler
from perdure.testing import InvocationPaused
from tests.ai.harness import run
from tests.ai.langchain.fakes import Fake, call, fake, says


def user(text: str) -> Any:
    return {"messages": [("user", text)]}


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.mark.pattern("agent with tools")
@pytest.mark.pattern("parallel tools")
def test_models_and_parallel_tools_are_steps() -> None:
    together = threading.Barrier(2)
    tokens: list[str] = []

    @tool
    def weather(city: str) -> str:
        """The weather."""
        together.wait(10)
        tokens.append(current_step().token)
        return f"sun in {city}"

    model = fake(says("", call("weather", "a", city="Rome"), call("weather", "b", city="Oslo")), says("sunny"))
    agent = create_agent(model, [weather], middleware=[DurableMiddleware()])
    steps: list[str] = []

    async def handler(ctx: Context, question: str) -> Any:
        state = await agent.ainvoke(user(question))
        messages = state["messages"]
        ids = [message.id for message in messages]
        await ctx.run(f"see {ids}", lambda: None)  # ids replay, or else this step is another one
        last = messages[-1]
        assert isinstance(last, AIMessage)
        assert last.usage_metadata is not None
        assert last.usage_metadata["input_token_details"]["cache_read"] == 2
        assert last.response_metadata["finish_reason"] == "stop"
        assert len(set(ids)) == 5
        return [[type(message).__name__ for message in messages], last.text, messages[2].text, messages[3].text]

    kinds = ["HumanMessage", "AIMessage", "ToolMessage", "ToolMessage", "AIMessage"]
    assert run(handler, "how?", steps=steps) == [kinds, "sunny", "sun in Rome", "sun in Oslo"]
    assert steps[0] == "model Fake"
    assert sorted(steps[1:3]) == ["tool weather a", "tool weather b"]
    assert len(steps) == 5
    assert len(set(tokens)) == 2
    assert len(model.asked) == 2


def test_a_plain_handler_with_invoke() -> None:
    @tool
    def double(n: int) -> int:
        """Doubles."""
        return 2 * n

    model = fake(says("", call("double", "a", n=2), call("double", "b", n=3)), says("done"))
    agent = create_agent(model, [double], middleware=[DurableMiddleware()])
    steps: list[str] = []

    def handler(ctx: Any) -> Any:
        return [message.text for message in agent.invoke(user("x"))["messages"]]

    assert run(handler, steps=steps) == ["x", "", "4", "6", "done"]
    assert steps == ["model Fake", "tool double a", "tool double b", "model Fake"]


def test_blocking_in_an_async_handler_is_refused() -> None:
    agent = create_agent(fake(says("x")), [], middleware=[DurableMiddleware()])

    async def handler(ctx: Context) -> Any:
        agent.invoke(user("x"))

    with pytest.raises(Exception, match="blocking call"):
        run(handler)


def test_outside_of_handlers_nothing_changes() -> None:
    @tool
    def double(n: int) -> int:
        """Doubles."""
        return 2 * n

    def agent() -> Any:
        model = fake(says("", call("double", "a", n=2)), says("done"))
        return create_agent(model, [double], middleware=[DurableMiddleware()])

    assert agent().invoke(user("x"))["messages"][-1].text == "done"
    assert asyncio.run(agent().ainvoke(user("x")))["messages"][-1].text == "done"
    assert len(list(agent().stream(user("x"), stream_mode="messages"))) >= 3


@pytest.mark.pattern("structured output")
def test_structured_output() -> None:
    model = fake(says("", call("Weather", "a", city="Rome", degrees=3)))
    agent = create_agent(model, [], response_format=ToolStrategy(Weather), middleware=[DurableMiddleware()])

    async def handler(ctx: Context) -> Any:
        answer = (await agent.ainvoke(user("x")))["structured_response"]
        assert isinstance(answer, Weather)
        return answer.degrees

    assert run(handler) == 3


@pytest.mark.pattern("control flow")
def test_what_tools_return_and_raise() -> None:
    tries: list[int] = []

    @tool(response_format="content_and_artifact")
    def rich() -> tuple[str, Weather]:
        """With an artifact."""
        return "rich", Weather(city="Rome", degrees=1)

    @tool
    def turn(runtime: ToolRuntime) -> Command[Any]:
        """A command."""
        return Command(update={"messages": [ToolMessage("turned", tool_call_id=runtime.tool_call_id)]})

    @tool
    async def again() -> str:
        """Is tried again."""
        tries.append(1)
        if len(tries) < 3:
            raise RetryableError("busy")
        return "at last"

    @tool
    def typed(n: int) -> str:
        """Wants a number."""
        return str(n)

    model = fake(
        says("", call("rich", "a"), call("turn", "b"), call("again", "c"), call("typed", "d", n="x")), says("done")
    )
    agent = create_agent(model, [rich, turn, again, typed], middleware=[DurableMiddleware()])

    async def handler(ctx: Context) -> Any:
        messages = (await agent.ainvoke(user("x")))["messages"]
        artifact = messages[2].artifact
        assert isinstance(artifact, Weather)
        return {message.tool_call_id: message.text for message in messages if isinstance(message, ToolMessage)}

    outputs = run(handler)
    assert outputs["d"].startswith("Error")
    assert {name: outputs[name] for name in "abc"} == {"a": "rich", "b": "turned", "c": "at last"}


def test_a_terminal_error_of_a_tool_ends_the_run() -> None:
    @tool
    def ends() -> str:
        """Ends."""
        raise TerminalError("over", 418)

    agent = create_agent(fake(says("", call("ends", "a"))), [ends], middleware=[DurableMiddleware()])

    async def handler(ctx: Context) -> Any:
        await agent.ainvoke(user("x"))

    with pytest.raises(TerminalError, match="over") as caught:
        run(handler)
    assert caught.value.code == 418


@pytest.mark.pattern("agent as tool")
def test_a_tool_in_the_handler_with_an_agent_of_its_own() -> None:
    expert = create_agent(fake(says("42")), [], middleware=[DurableMiddleware()])

    @tool
    @in_handler
    async def ask(question: str) -> str:
        """Asks."""
        await asyncio.sleep(3600)
        await current_context().run("look", lambda: None)
        return str((await expert.ainvoke(user(question)))["messages"][-1].text)

    agent = create_agent(
        fake(says("", call("ask", "a", question="q")), says("ok")), [ask], middleware=[DurableMiddleware()]
    )
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        return (await agent.ainvoke(user("x")))["messages"][2].text

    assert run(handler, steps=steps) == "42"
    assert steps == ["model Fake", "look", "model Fake", "model Fake"]


def test_streams_replay() -> None:
    @tool
    def double(n: int) -> int:
        """Doubles."""
        return 2 * n

    model = fake(says("let me see: ", call("double", "a", n=2)), says("the answer is four"))
    agent = create_agent(model, [double], middleware=[DurableMiddleware()])
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        text, updates = "", []
        async for mode, event in agent.astream(user("x"), stream_mode=["messages", "updates"]):
            if mode == "messages":
                message: Any = event[0]
                text += message.text if isinstance(message, AIMessage) else ""
            else:
                updates += list(event)
        return [text, updates]

    assert run(handler, steps=steps) == ["let me see: the answer is four", ["model", "tools", "model"]]
    assert steps == ["model Fake", "tool double a", "model Fake"]


def test_a_model_alone() -> None:
    model = fake(says("one two three"), says("four"))

    async def handler(ctx: Context) -> Any:
        chunks = [chunk.text async for chunk in model.astream("x")]
        return ["".join(chunks), (await model.ainvoke("x")).text]

    steps: list[str] = []
    assert run(handler, steps=steps) == ["one two three", "four"]
    assert steps == ["model Fake", "model Fake"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.pattern("control flow")
def test_other_middlewares_keep_working(first: bool) -> None:
    failed: list[int] = []

    @tool
    def flaky(n: int) -> str:
        """Fails once."""
        failed.append(n)
        if len(failed) == 1:
            raise ValueError("once")
        return f"ok {n}"

    class Down(type(fake())):  # type: ignore[misc]
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            raise TerminalError("down", 400)

    summary = fake(says("in short"))
    model = fake(says("", call("flaky", "a", n=1)), says("", call("flaky", "b", n=2)), says("end"))
    durable = DurableMiddleware(tool_retry=RetryPolicy(max_attempts=1))
    others: list[Any] = [
        ModelFallbackMiddleware(model),
        ModelCallLimitMiddleware(run_limit=10),
        ToolCallLimitMiddleware(run_limit=10),
        ToolRetryMiddleware(max_retries=2, initial_delay=0.01, jitter=False),
        SummarizationMiddleware(summary, trigger=("messages", 4), keep=("messages", 2)),
    ]
    middleware = [durable, *others] if first else [*others, durable]
    agent = create_agent(Down(messages=iter(()), asked=[]), [flaky], middleware=middleware)
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        messages = (await agent.ainvoke({"messages": [HumanMessage("x")]}))["messages"]
        return [message.text for message in messages]

    texts = run(handler, steps=steps)
    assert "in short" in texts[0]
    assert texts[-1] == "end"
    assert failed == [1, 1, 2]
    assert steps.count("model Fake") == 4
    assert steps.count("model Down") == 3


def test_a_fallback_takes_over_when_attempts_are_used_up() -> None:
    class Busy(type(fake())):  # type: ignore[misc]
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            raise ConnectionError("busy")

    middleware: list[Any] = [
        ModelFallbackMiddleware(fake(says("second"))),
        DurableMiddleware(retry=RetryPolicy(initial_interval=0.01, max_attempts=3)),
    ]
    agent = create_agent(Busy(messages=iter(()), asked=[]), [], middleware=middleware)
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        return (await agent.ainvoke(user("x")))["messages"][-1].text

    assert run(handler, steps=steps) == "second"
    assert steps == ["model Busy"] * 3 + ["model Fake"]


def test_a_checkpointer_that_outlives_the_handler_is_refused() -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    outside = create_agent(fake(says("x")), [], middleware=[DurableMiddleware()], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "t"}}

    async def refused(ctx: Context) -> None:
        await outside.ainvoke(user("x"), thread)

    async def fine(ctx: Context) -> Any:
        model = fake(says("one"), says("two"))
        agent = create_agent(model, [], middleware=[DurableMiddleware()], checkpointer=InMemorySaver())
        await agent.ainvoke(user("x"), thread)
        return len((await agent.ainvoke(user("y"), thread))["messages"])

    with pytest.raises(InvocationPaused, match="InMemorySaver"):
        run(refused)
    assert run(fine) == 4


@pytest.mark.pattern("guardrails")
def test_guardrails() -> None:
    asked: list[Any] = []

    class Checked(Fake):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
            asked.append(messages[-1].text)
            return ChatResult(generations=[ChatGeneration(message=says("fine"))])

    @before_model(can_jump_to=["end"])
    def refuse(state: Any, runtime: Any) -> Any:
        if "bomb" in state["messages"][-1].text:
            return {"messages": [AIMessage("I do not talk of that.")], "jump_to": "end"}
        return None

    middleware: list[Any] = [PIIMiddleware("email"), refuse, DurableMiddleware()]
    agent = create_agent(Checked(messages=iter(())), [], middleware=middleware)

    async def handler(ctx: Context) -> Any:
        texts = ("write to ann@shop.example", "a bomb")
        return [(await agent.ainvoke(user(text)))["messages"][-1].text for text in texts]

    steps: list[str] = []
    assert run(handler, steps=steps) == ["fine", "I do not talk of that."]
    assert steps == ["model Checked"] and asked == ["write to [REDACTED_EMAIL]"]
