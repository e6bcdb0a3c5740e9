"""People answer what interrupts a graph: `decide`."""

import asyncio
import inspect
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, interrupt
from pydantic import BaseModel

from perdure import Context, SyncContext, TerminalError
from perdure.ai.langgraph import PerdureSaver, decide, decide_sync, durable, in_handler
from tests.ai.langchain.people import run_with_people

TYPED = "response_schema" in inspect.signature(interrupt).parameters
THREAD: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    seen: Annotated[list[str], operator.add]


class Price(BaseModel):
    amount: int


def asking(*names: str, marked: bool = False, **options: Any) -> Any:
    """Nodes side by side, each of which asks."""
    builder = StateGraph(State)
    for name in names:

        def ask(state: State, name: str = name) -> State:
            return {"seen": [f"{name}: {interrupt(f'{name}?', **options)}"]}

        async def aask(state: State, name: str = name) -> State:
            return {"seen": [f"{name}: {interrupt(f'{name}?', **options)}"]}

        builder.add_node(name, in_handler(aask) if marked else ask)
        builder.add_edge(START, name)
    return durable(builder.compile(checkpointer=PerdureSaver()))


async def by_name(approvals: Any, waiting: list[Any]) -> None:
    assert [each.title for each in sorted(waiting, key=lambda each: each.title)] == ["a?", "b?", "c?"]
    for each in waiting:
        assert each.context == each.title
        if each.title == "a?":
            await approvals.approve(each.id)
        if each.title == "b?":
            await approvals.reject(each.id, comment="no!")


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.pattern("human approval")
@pytest.mark.pattern("control flow")
def test_interrupts_of_nodes_side_by_side(marked: bool) -> None:
    graph = asking("a", "b", "c", marked=marked)

    async def handler(ctx: Context) -> Any:
        state = await graph.ainvoke({"seen": []}, THREAD)
        assert len(state["__interrupt__"]) == 3
        return (await graph.ainvoke(await decide(state, timeout=3600), THREAD))["seen"]

    assert run_with_people(handler, by_name) == ["a: True", "b: False", "c: False"]


def test_the_nodes_answer_is_made_of_the_decision() -> None:
    graph = asking("a", "b", "c")

    async def handler(ctx: Context) -> Any:
        await graph.ainvoke({"seen": []}, THREAD)
        snapshot = await graph.aget_state(THREAD)

        def answer(value: Any, decision: Any) -> Any:
            return "late" if decision is None else decision.comment or value

        return (await graph.ainvoke(await decide(snapshot, answer=answer, timeout=3600), THREAD))["seen"]

    assert run_with_people(handler, by_name) == ["a: a?", "b: no!", "c: late"]


@pytest.mark.parametrize("own", [False, pytest.param(True, marks=pytest.mark.skipif(not TYPED, reason="new"))])
@pytest.mark.parametrize("said", ["approve", "reject", "nothing"])
def test_a_value_is_asked_for(own: bool, said: str) -> None:
    options: dict[str, Any] = {"response_schema": Price} if own else {}
    graph = asking("a", **options)

    async def handler(ctx: Context) -> Any:
        state = await graph.ainvoke({"seen": []}, THREAD)
        command = await decide(state, schema=None if own else Price, title=lambda of: f"what is {of}", timeout=3600)
        return (await graph.ainvoke(command, THREAD))["seen"]

    async def answer(approvals: Any, waiting: list[Any]) -> None:
        assert waiting[0].title == "what is a?"
        if said == "approve":
            with pytest.raises(Exception, match="amount"):
                await approvals.approve(waiting[0].id, {"amount": "x"})
            await approvals.approve(waiting[0].id, {"amount": 3})
        elif said == "reject":
            await approvals.reject(waiting[0].id)

    if said == "approve":
        assert run_with_people(handler, answer) == ["a: amount=3" if own else "a: {'amount': 3}"]
        return
    with pytest.raises(TerminalError) as caught:
        run_with_people(handler, answer)
    assert caught.value.code == (403 if said == "reject" else 408)


def test_a_plain_handler() -> None:
    graph = asking("a", "b")

    def handler(ctx: SyncContext) -> Any:
        state = graph.invoke({"seen": []}, THREAD)
        return graph.invoke(decide_sync(state, timeout=3600), THREAD)["seen"]

    async def answer(approvals: Any, waiting: list[Any]) -> None:
        assert [each.title for each in waiting] == ["a?"]  # one after the other
        await approvals.approve(waiting[0].id)

    assert run_with_people(handler, answer) == ["a: True", "b: False"]


def test_where_it_does_not_work_it_says_so() -> None:
    interrupts = [Interrupt("x", "1")]
    with pytest.raises(LookupError, match="from a handler"):
        asyncio.run(decide(interrupts))
    with pytest.raises(LookupError, match="from a handler"):
        decide_sync(interrupts)

    async def handler(ctx: Context) -> Any:
        with pytest.raises(TypeError, match="plain handlers"):
            decide_sync(interrupts)
        results: list[Any] = [{"seen": []}, [], None, "x"]
        for result in results:
            with pytest.raises(TypeError, match="nothing was interrupted"):
                await decide(result)
        return "done"

    async def nobody(approvals: Any, waiting: list[Any]) -> None:
        assert not waiting

    assert run_with_people(handler, nobody) == "done"


def test_one_after_the_other_and_in_a_graph_within() -> None:
    def twice(state: State) -> State:
        return {"seen": [f"{interrupt('one?')} {interrupt('two?')}"]}

    inner = StateGraph(State)
    inner.add_node("twice", twice)
    inner.add_edge(START, "twice")
    builder = StateGraph(State)
    builder.add_node("inner", inner.compile())
    builder.add_node("beside", lambda state: {"seen": [str(interrupt("beside?"))]})
    builder.add_edge(START, "inner")
    builder.add_edge(START, "beside")
    graph: Any = durable(builder.compile(checkpointer=PerdureSaver()))

    async def handler(ctx: Context) -> Any:
        rounds = []
        state = await graph.ainvoke({"seen": []}, THREAD)
        while "__interrupt__" in state:
            rounds.append(sorted(each.value for each in state["__interrupt__"]))
            state = await graph.ainvoke(await decide(state, timeout=60), THREAD)
        return [rounds, state["seen"]]

    async def answer(approvals: Any, waiting: list[Any]) -> None:
        for each in waiting:
            await approvals.approve(each.id)

    assert run_with_people(handler, answer) == [[["beside?", "one?"], ["two?"]], ["True", "True False"]]
