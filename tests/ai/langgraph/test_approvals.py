"""People answer what interrupts an agent or a graph: `decide`."""

import asyncio
import inspect
import operator
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.types import Interrupt, interrupt
from pydantic import BaseModel

from perdure import App, Context, Service, SyncContext, TerminalError
from perdure.ai.langchain import DurableMiddleware
from perdure.ai.langgraph import PerdureSaver, decide, decide_sync, durable, in_handler, memory
from perdure.testing import TestEngine
from tests.ai.harness import FAST
from tests.ai.langchain.fakes import Fake, call, fake, says

PER_CALL = "interrupt_mode" in inspect.signature(HumanInTheLoopMiddleware).parameters
TYPED = "response_schema" in inspect.signature(interrupt).parameters
THREAD: Any = {"configurable": {"thread_id": "t"}}


def run_with_people(
    handler: Callable[..., Any], answer: Callable[[Any, list[Any]], Awaitable[None]], **options: Any
) -> Any:
    """The handler's result; `answer(approvals, open)` says what people do once it waits for them."""
    service = Service("Desk", retry_policy=FAST)
    service.handler(name="handler")(handler)

    async def main() -> Any:
        async with TestEngine(App(service, *memory), replay=True, skip=False, **options) as engine:
            sent = await engine.send("Desk/handler")
            await engine.settle()
            await answer(engine.approvals(), list(await engine.approvals().list()))
            await engine.advance(3700)
            return await sent.attach()

    return asyncio.run(main())


class Payer(Fake):
    """Pays the amounts that it is told, whoever asks it again."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        calls = [call("pay", f"c{amount}", amount=int(amount)) for amount in messages[0].text.split()]
        message = says("done") if len(messages) > 1 else says("", *calls)
        return ChatResult(generations=[ChatGeneration(message=message)])


def paying(paid: list[int], **options: Any) -> Any:
    @tool
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    human = HumanInTheLoopMiddleware(interrupt_on={"pay": True}, **options)
    model = Payer(messages=iter(()))
    return create_agent(model, [pay], middleware=[human, DurableMiddleware()], checkpointer=PerdureSaver())


async def settle(agent: Any, amounts: str, **options: Any) -> Any:
    state = await agent.ainvoke({"messages": [("user", amounts)]}, THREAD)
    while "__interrupt__" in state:
        state = await agent.ainvoke(await decide(state, **options), THREAD)
    assert state["messages"][-1].text == "done"
    return {message.tool_call_id: message.text for message in state["messages"][2:-1]}


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.pattern("human approval")
def test_people_decide_about_tools(crash: bool) -> None:
    paid: list[int] = []
    agent = paying(paid)

    async def handler(ctx: Context) -> Any:
        return await settle(agent, "1 2 3 4 5", timeout=3600, to=["ann"])

    async def answer(approvals: Any, waiting: list[Any]) -> None:
        by = {each.context["arguments"]["amount"]: each for each in waiting}
        assert sorted(by) == [1, 2, 3, 4, 5] and {each.title for each in waiting} == {"Call pay?"} and not paid
        assert by[1].context["tool"] == "pay" and by[1].to == ["ann"]
        await approvals.approve(by[1].id)
        await approvals.reject(by[2].id, comment="too much")
        await approvals.approve(by[3].id, {"arguments": {"amount": 33}})
        await approvals.approve(by[4].id, {"message": "paid it myself"})

    texts = run_with_people(handler, answer, crash=crash)
    assert texts["c1"] == "paid 1" and texts["c2"].endswith("with reason: too much")
    assert texts["c3"].endswith("paid 33") and texts["c4"] == "paid it myself"
    assert texts["c5"].endswith("with reason: Nobody answered in time.")
    assert set(paid) == {1, 33}


@pytest.mark.skipif(not PER_CALL, reason="of newer versions")
def test_an_interrupt_for_each_call() -> None:
    """What is given instead is checked with the tool's own schema, before anybody goes on."""
    paid: list[int] = []
    agent = paying(paid, interrupt_mode="per_call")

    async def handler(ctx: Context) -> Any:
        return await settle(agent, "1 2")

    async def answer(approvals: Any, waiting: list[Any]) -> None:
        by = {each.context["arguments"]["amount"]: each for each in waiting}
        assert sorted(by) == [1, 2]
        with pytest.raises(Exception, match="amount"):
            await approvals.approve(by[1].id, {"arguments": {"amount": "much"}})
        await approvals.approve(by[1].id, {"arguments": {"amount": 11}})
        await approvals.reject(by[2].id)

    texts = run_with_people(handler, answer)
    assert texts["c1"].endswith("paid 11") and "was not executed" in texts["c2"]
    assert paid == [11]


@pytest.mark.parametrize("allowed", [["respond"], ["approve"], ["approve", "edit"]])
def test_a_rejection_that_is_not_allowed(allowed: Any) -> None:
    @tool
    def ask(question: str) -> str:
        """Asks a person."""
        raise AssertionError("the person is the tool")

    human = HumanInTheLoopMiddleware(interrupt_on={"ask": {"allowed_decisions": allowed}})
    model = fake(says("", call("ask", "a", question="why?")), says("done"))
    agent: Any = create_agent(model, [ask], middleware=[human, DurableMiddleware()], checkpointer=PerdureSaver())

    async def handler(ctx: Context) -> Any:
        state = await agent.ainvoke({"messages": [("user", "x")]}, THREAD)
        return (await agent.ainvoke(await decide(state), THREAD))["messages"][2].text

    async def reject(approvals: Any, waiting: list[Any]) -> None:
        assert ("respond" in allowed or "edit" in allowed) is (waiting[0].schema is not None)
        if allowed == ["respond"]:
            with pytest.raises(Exception, match="missing"):
                await approvals.approve(waiting[0].id)
        await approvals.reject(waiting[0].id, comment="who knows")

    if allowed == ["respond"]:
        assert run_with_people(handler, reject) == "who knows"
    else:
        with pytest.raises(TerminalError, match="who knows") as caught:
            run_with_people(handler, reject)
        assert caught.value.code == 403


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
