"""People decide about the tool calls that `HumanInTheLoopMiddleware` holds back."""

import inspect
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from perdure import Context, TerminalError
from perdure.ai.langchain import DurableMiddleware, decide
from perdure.ai.langgraph import PerdureSaver
from tests.ai.langchain.fakes import Fake, call, fake, says
from tests.ai.langchain.people import run_with_people

PER_CALL = "interrupt_mode" in inspect.signature(HumanInTheLoopMiddleware).parameters
THREAD: Any = {"configurable": {"thread_id": "t"}}


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
