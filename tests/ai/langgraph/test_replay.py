"""Graphs, tasks, interrupts, checkpoints and stores, on an engine that replays at every await."""

import asyncio
import operator
import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel

from perdure import App, Context, RetryableError, Service, current_context, current_step, current_stream
from perdure.ai.langchain import DurableMiddleware
from perdure.ai.langgraph import PerdureSaver, PerdureStore, durable, in_handler, memory
from perdure.testing import InvocationPaused, TestEngine
from tests.ai.harness import FAST, run
from tests.ai.langchain.fakes import call, fake, says


class State(TypedDict, total=False):
    name: str
    seen: Annotated[list[str], operator.add]


def run_with_memory(handler: Callable[[Context], Awaitable[Any]], steps: list[str] | None = None) -> Any:
    service = Service("S", retry_policy=FAST)

    @service.handler(name="handler")
    async def handle(ctx: Context) -> Any:
        return await handler(ctx)

    async def main() -> Any:
        async with TestEngine(App(service, *memory), replay=True) as engine:
            try:
                return await engine.call("S/handler", type=Any)
            finally:
                if steps is not None:
                    steps.extend(step.name for step in engine.steps)

    return asyncio.run(main())


def diamond(*, marked: bool = False) -> Any:
    """A node, two side by side, and one more."""
    together = threading.Barrier(2)

    def first(state: State) -> State:
        return {"seen": ["first"]}

    def left(state: State) -> State:
        together.wait(10)
        return {"seen": [f"left {bool(current_step().token)}"]}

    def right(state: State) -> State:
        together.wait(10)
        return {"seen": ["right"]}

    async def last(state: State) -> State:
        if marked:
            await asyncio.sleep(3600)
            return {"seen": [await current_context().run("inside", lambda: "last")]}
        return {"seen": ["last"]}

    builder = StateGraph(State)
    builder.add_node("first", first)
    builder.add_node("left", left)
    builder.add_node("right", right)
    builder.add_node("last", in_handler(last) if marked else last)
    builder.add_edge(START, "first")
    builder.add_edge("first", "left")
    builder.add_edge("first", "right")
    builder.add_edge(["left", "right"], "last")
    builder.add_edge("last", END)
    return builder


@pytest.mark.parametrize("marked", [False, True])
def test_nodes_are_steps_side_by_side(marked: bool) -> None:
    graph = durable(diamond(marked=marked).compile())
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        return (await graph.ainvoke({"name": "x"}))["seen"]

    assert run(handler, steps=steps) == ["first", "left True", "right", "last"]
    assert [steps[0], *sorted(steps[1:3]), steps[3]] == [
        "node first",
        "node left",
        "node right",
        "inside" if marked else "node last",
    ]


def test_a_plain_handler() -> None:
    builder = StateGraph(State)
    builder.add_node("one", lambda state: {"seen": ["one"]})
    builder.add_node("two", lambda state: {"seen": ["two"]})
    builder.add_edge(START, "one")
    builder.add_edge(START, "two")
    graph: Any = durable(builder.compile())
    steps: list[str] = []

    def handler(ctx: Any) -> Any:
        return graph.invoke({"name": "x"})["seen"]

    assert run(handler, steps=steps) == ["one", "two"]
    assert steps == ["node one", "node two"]


def test_outside_of_handlers_nothing_changes() -> None:
    builder = StateGraph(State)
    builder.add_node("one", lambda state: {"seen": ["one"]})
    builder.add_edge(START, "one")
    graph: Any = durable(builder.compile())
    assert graph.invoke({"name": "x"})["seen"] == ["one"]
    assert asyncio.run(graph.ainvoke({"name": "x"}))["seen"] == ["one"]
    with pytest.raises(TypeError, match="compile"):
        durable(builder)  # type: ignore[type-var]


class Typed(BaseModel):
    n: int


@pytest.mark.pattern("control flow")
def test_commands_sends_types_retries_and_streams() -> None:
    tries: list[int] = []

    class Out(TypedDict, total=False):
        typed: Typed
        parts: Annotated[list[int], operator.add]

    def plan(state: Out) -> Command[Any]:
        get_stream_writer()("planning")
        return Command(update={"typed": Typed(n=7)}, goto=[Send("part", {"n": n}) for n in range(3)])

    def part(state: Any) -> Out:
        tries.append(1)
        if len(tries) == 1:
            raise RetryableError("busy")
        return {"parts": [state["n"]]}

    builder = StateGraph(Out)
    builder.add_node("plan", plan)
    builder.add_node("part", part)
    builder.add_edge(START, "plan")
    graph: Any = durable(builder.compile())

    async def handler(ctx: Context) -> Any:
        heard: list[Any] = []
        final: Any = None
        async for mode, event in graph.astream({}, stream_mode=["custom", "values"]):
            if mode == "custom":
                heard.append(event)
            else:
                final = event
        assert isinstance(final["typed"], Typed)
        return [heard, final["parts"], final["typed"].n]

    steps: list[str] = []
    assert run(handler, steps=steps) == [["planning"], [0, 1, 2], 7]
    assert sorted(steps) == ["node part"] * 4 + ["node plan"]


@pytest.mark.pattern("agent with tools")
@pytest.mark.pattern("multi-agent")
def test_subgraphs_agents_and_tool_nodes() -> None:
    inner = StateGraph(State)
    inner.add_node("inner", lambda state: {"seen": ["inner"]})
    inner.add_edge(START, "inner")

    @tool
    def double(n: int) -> int:
        """Doubles."""
        return 2 * n

    agent = create_agent(
        fake(says("", call("double", "a", n=2)), says("agent")), [double], middleware=[DurableMiddleware()]
    )

    class Both(MessagesState):
        seen: Annotated[list[str], operator.add]

    def ask(state: Both) -> Any:
        return {"messages": [AIMessage("", tool_calls=[call("double", "b", n=4)])]}

    builder = StateGraph(Both)
    builder.add_node("sub", inner.compile())
    builder.add_node("agent", agent)
    builder.add_node("ask", ask)
    builder.add_node("tools", ToolNode([double]))
    for edge in ((START, "sub"), ("sub", "agent"), ("agent", "ask"), ("ask", "tools")):
        builder.add_edge(*edge)
    graph: Any = durable(builder.compile())
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        state = await graph.ainvoke({"messages": [("user", "x")]})
        return [state["seen"], [message.text for message in state["messages"]]]

    assert run(handler, steps=steps) == [["inner"], ["x", "", "4", "agent", "", "8"]]
    assert steps == ["node inner", "model Fake", "tool double a", "model Fake", "node ask", "tool double b"]


def test_tasks_are_steps() -> None:
    @task
    async def square(n: int) -> int:
        return n * n

    @task
    def add(a: int, b: int) -> Typed:
        return Typed(n=a + b)

    @task
    @in_handler
    async def wait(n: int) -> int:
        await asyncio.sleep(n)
        return n

    @entrypoint()
    async def flow(n: int) -> int:
        a, b = await asyncio.gather(square(n), square(n + 1))
        await wait(60)
        return (await add(a, b)).n

    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        return await durable(flow).ainvoke(2)

    assert run(handler, steps=steps) == 13
    assert steps == ["task square", "task square", "task add"]


@pytest.mark.pattern("control flow")
@pytest.mark.pattern("session memory")
def test_an_interrupt_in_a_step_and_time_travel_with_the_saver() -> None:
    def greet(state: State) -> State:
        return {"seen": ["greet"]}

    def ask(state: State) -> State:
        return {"name": interrupt({"question": "your name?"}), "seen": ["ask"]}

    builder = StateGraph(State)
    builder.add_node("greet", greet)
    builder.add_node("ask", ask)
    builder.add_edge(START, "greet")
    builder.add_edge("greet", "ask")
    graph: Any = durable(builder.compile(checkpointer=PerdureSaver()))
    thread: Any = {"configurable": {"thread_id": "t"}}
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        state = await graph.ainvoke({"seen": []}, thread)
        (asked,) = state["__interrupt__"]
        await asyncio.sleep(86400)
        state = await graph.ainvoke(Command(resume="Ann"), thread)
        history = [snapshot async for snapshot in graph.aget_state_history(thread)]
        before = next(snapshot for snapshot in history if snapshot.next == ("ask",))
        again = await graph.ainvoke(None, before.config)
        after = await graph.aget_state(thread)
        return [
            asked.value,
            state["name"],
            state["seen"],
            len(history),
            "__interrupt__" in again,
            len(after.interrupts),
        ]

    answer = run_with_memory(handler, steps)
    assert answer[:4] == [{"question": "your name?"}, "Ann", ["greet", "ask"], 4]
    assert steps[:3] == ["node greet", "node ask", "node ask"]


def test_a_human_in_the_loop_of_an_agent() -> None:
    sent: list[str] = []

    @tool
    def send(to: str) -> str:
        """Sends."""
        sent.append(to)
        return f"sent to {to}"

    model = fake(says("", call("send", "a", to="ann")), says("", call("send", "b", to="bob")), says("done"))
    human = HumanInTheLoopMiddleware(interrupt_on={"send": True})
    agent: Any = create_agent(model, [send], middleware=[human, DurableMiddleware()], checkpointer=PerdureSaver())
    thread: Any = {"configurable": {"thread_id": "t"}}

    async def handler(ctx: Context) -> Any:
        state = await agent.ainvoke({"messages": [("user", "x")]}, thread)
        decisions: list[Any] = [{"type": "approve"}, {"type": "reject", "message": "not him"}]
        for decision in decisions:
            assert state["__interrupt__"]
            await asyncio.sleep(3600)
            state = await agent.ainvoke(Command(resume={"decisions": [decision]}), thread)
        return [message.text for message in state["messages"]]

    assert run_with_memory(handler) == [
        "x",
        "",
        "sent to ann",
        "",
        "User rejected the tool call for `send` with reason: not him",
        "done",
    ]
    assert sent == ["ann"]


@pytest.mark.pattern("session memory")
def test_a_store_in_nodes() -> None:
    class Answer(TypedDict, total=False):
        found: list[str]

    @in_handler
    async def remember(state: Answer, runtime: Any) -> Answer:
        await runtime.store.aput(("people", "ann"), "likes", {"food": "figs", "n": 1})
        await runtime.store.aput(("people", "bob"), "likes", {"food": "nuts", "n": 2})
        return {}

    @in_handler
    async def recall(state: Answer, runtime: Any) -> Answer:
        found = await runtime.store.asearch(("people",), filter={"n": {"$gt": 1}})
        return {"found": [item.value["food"] for item in found]}

    from langgraph.runtime import Runtime

    remember.__annotations__["runtime"] = recall.__annotations__["runtime"] = Runtime
    builder = StateGraph(Answer)
    builder.add_node("remember", remember)
    builder.add_node("recall", recall)
    builder.add_edge(START, "remember")
    builder.add_edge("remember", "recall")
    graph: Any = durable(builder.compile(store=PerdureStore()))

    async def handler(ctx: Context) -> Any:
        return (await graph.ainvoke({}))["found"]

    assert run_with_memory(handler) == ["nuts"]


def test_a_task_from_within_a_node_that_is_a_step_is_refused() -> None:
    @task
    async def inner() -> int:
        return 1

    async def node(state: State) -> State:
        return {"seen": [str(await inner())]}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph: Any = durable(builder.compile())

    async def handler(ctx: Context) -> Any:
        return await graph.ainvoke({"seen": []})

    with pytest.raises(InvocationPaused, match="not durable"):
        run(handler)


def test_the_order_of_edges_is_none_of_the_journals_business() -> None:
    """Edges are a set of names: in another process they are attached, and written, in another order."""
    graphs: list[Any] = []
    for names in (["a", "b", "c"], ["c", "b", "a"]):
        builder = StateGraph(State)
        builder.add_node("start", lambda state: {"seen": ["start"]})
        for name in names:
            builder.add_node(name, lambda state: {"seen": ["x"]})
        builder.add_edge(START, "start")
        edges = [(START, "start"), *(("start", name) for name in names)]
        builder.edges = type("Ordered", (set,), {"__iter__": lambda self, edges=edges: iter(edges)})(edges)
        graphs.append(durable(builder.compile(checkpointer=PerdureSaver())))
    attempts: list[int] = []

    async def handler(ctx: Context) -> Any:
        attempts.append(1)
        graph = graphs[len(attempts) % 2]
        return len((await graph.ainvoke({"seen": []}, {"configurable": {"thread_id": "t"}}))["seen"])

    assert run_with_memory(handler) == 4
    assert len(attempts) > 5


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.pattern("control flow")
def test_two_interrupts_in_one_step(replay: bool) -> None:
    """Live and on replay the graph learns that the answers were taken, and writes the same checkpoints."""

    def ask(state: State) -> State:
        return {"seen": [interrupt("one?"), interrupt("two?")]}

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    graph: Any = durable(builder.compile(checkpointer=PerdureSaver()))
    service = Service("S", retry_policy=FAST)
    thread: Any = {"configurable": {"thread_id": "t"}}

    @service.handler()
    async def handler(ctx: Context) -> Any:
        state = await graph.ainvoke({"seen": []}, thread)
        for answer in ("1", "2"):
            assert len(state["__interrupt__"]) == 1
            await ctx.sleep(60)
            state = await graph.ainvoke(Command(resume=answer), thread)
        return state["seen"]

    async def main() -> Any:
        async with TestEngine(App(service, *memory), replay=replay, suspend=True) as engine:
            return await engine.call(handler)

    assert asyncio.run(main()) == ["1", "2"]


@pytest.mark.parametrize("marked", [False, True])
def test_an_interrupt_in_a_tool(marked: bool) -> None:
    async def sure(what: str) -> str:
        """Asks."""
        return f"{what}: {interrupt('sure?')}"

    asks = tool(in_handler(sure) if marked else sure)
    model = fake(says("", call("sure", "a", what="really")), says("done"))
    agent: Any = create_agent(model, [asks], middleware=[DurableMiddleware()], checkpointer=PerdureSaver())
    thread: Any = {"configurable": {"thread_id": "t"}}

    async def handler(ctx: Context) -> Any:
        state = await agent.ainvoke({"messages": [("user", "x")]}, thread)
        assert state["__interrupt__"][0].value == "sure?"
        return [m.text for m in (await agent.ainvoke(Command(resume="yes"), thread))["messages"]]

    if marked:
        assert run_with_memory(handler) == ["x", "", "really: yes", "done"]
    else:
        with pytest.raises(InvocationPaused, match="in_handler"):
            run_with_memory(handler)


@pytest.mark.pattern("token streaming")
def test_readers_see_what_the_models_of_nodes_say() -> None:
    first, second = fake(says("one two")), fake(says("three", call("look", "c", n=1)))

    @in_handler
    async def draft(state: State) -> State:
        return {"seen": ["".join([chunk.text async for chunk in first.astream("x")])]}

    @in_handler
    async def check(state: State) -> State:
        return {"seen": [(await second.ainvoke("x")).text]}

    async def end(state: State) -> State:
        current_stream().write("the end")
        return {"seen": []}

    builder = StateGraph(State)
    for node in (draft, check, end):
        builder.add_node(node)
    for edge in ((START, "draft"), ("draft", "check"), ("check", "end")):
        builder.add_edge(*edge)
    graph: Any = durable(builder.compile())

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            return (await graph.ainvoke({"seen": []}))["seen"]

    chunks: list[Any] = []
    assert run(handler, shown=chunks) == ["one two", "three"]
    assert chunks[:3] == ["one ", "two", "three"]
    assert (chunks[3]["type"], chunks[3]["name"], chunks[3]["input"]) == ("tool-call", "look", {"n": 1})
    assert chunks[4] == "the end"
