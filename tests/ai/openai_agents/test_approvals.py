"""Tools that need approval: people decide, on an engine that replays at every await."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from agents import Agent, ToolApprovalItem, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from perdure import App, ApprovalRequest, Context, Escalation, Service, SyncContext, TerminalError, current_context
from perdure.ai.openai_agents import Approvals, DurableRunner, decide
from perdure.sdk.inbox import ApprovalDescription
from perdure.testing import TestEngine
from tests.ai.harness import FAST, run
from tests.ai.openai_agents.test_replay import event_loop

pytestmark = pytest.mark.pattern("human approval")

Answer = Callable[[TestEngine, Sequence[ApprovalDescription]], Awaitable[None]]


class Sender:
    """An agent that wants to send to some people, and may not do so by itself. A turn for each list of names."""

    def __init__(self, *turns: list[str]) -> None:
        self.sent: list[str] = []

        @function_tool(needs_approval=True)
        def send(to: str) -> str:
            """Sends."""
            self.sent.append(to)
            return f"sent to {to}"

        calls = [[function_call("send", {"to": name}, call_id=name) for name in names] for names in turns]
        self.model = ScriptedModel([*calls, [assistant_message("done")]])
        self.agent = Agent[Any](name="Post", model=self.model, tools=[send])


def outputs(result: Any) -> list[Any]:
    return [result.final_output, *(item.output for item in result.new_items if item.type == "tool_call_output_item")]


def answered(handler: Callable[..., Any], answers: list[Answer], shown: list[Any] | None = None, **options: Any) -> Any:
    """The result of a handler whose approvals are answered, each time that the handler waits, by the next of these."""
    service = Service("S", retry_policy=FAST)
    service.handler()(handler)

    async def main() -> Any:
        async with TestEngine(App(service), replay=True, skip=False, **options) as engine:
            sent = await engine.send(f"S/{handler.__name__}")
            for answer in answers:
                await engine.settle()
                await answer(engine, await engine.approvals().list())
            result = await sent.attach()
            if shown is not None:
                shown.extend(await engine.stream(sent.id, "answer").values())
            assert await engine.approvals().list() == []
            return result

    return asyncio.run(main())


def of(name: str, waiting: Sequence[ApprovalDescription]) -> str:
    return next(each.id for each in waiting if each.context["arguments"]["to"] == name)


async def yes_no(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
    """Three are asked at once; one is sent to, the two others are not, one for no reason."""
    assert [each.title for each in waiting] == ["Call send?"] * 3
    about = {"tool": "send", "arguments": {"to": "bob"}, "agent": "Post"}
    assert [each.context for each in waiting if each.id == of("bob", waiting)] == [about]
    assert [each.tags for each in waiting] == [["mail"]] * 3
    assert [each.to for each in waiting] == [["ann@shop.example"]] * 3
    await engine.approvals().reject(of("bob", waiting), comment="not him")
    await engine.approvals().approve(of("ann", waiting))
    await engine.approvals().reject(of("eve", waiting))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_people_decide_and_the_run_goes_on(streamed: bool, crash: bool) -> None:
    sender = Sender(["ann", "bob", "eve"])
    approvals = Approvals(to=["ann@shop.example"], tags=["mail"])

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            if not streamed:
                return outputs(await DurableRunner.run(sender.agent, "x", approvals=approvals))
            result = DurableRunner.run_streamed(sender.agent, "x", approvals=approvals)
            kinds = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
            assert kinds.count("tool_output") == 3, kinds
            assert kinds[-1] == "message_output_created"
            assert result.last_agent is sender.agent
            assert result.is_complete and not result.interruptions
            return outputs(result)

    chunks: list[Any] = []
    final, *told = answered(handler, [yes_no], chunks, crash=crash)
    assert final == "done"
    assert sorted(told) == ["Tool execution was not approved.", "not him", "sent to ann"]
    assert set(sender.sent) == {"ann"}, "again only if the process dies meanwhile"
    results = {
        part["id"]: part["output"] for part in chunks if isinstance(part, dict) and part["type"] == "tool-result"
    }
    assert results == {"ann": "sent to ann", "bob": "not him", "eve": "Tool execution was not approved."}
    assert "".join(chunk for chunk in chunks if isinstance(chunk, str)) == "done"


def test_always_is_for_later_calls_of_the_tool() -> None:
    sender = Sender(["ann"], ["bob"], ["eve"])

    async def once(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
        await engine.approvals().approve(of("ann", waiting), "once")

    async def always(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
        await engine.approvals().approve(of("bob", waiting), "always")

    async def handler(ctx: Context) -> Any:
        return outputs(await DurableRunner.run(sender.agent, "x", approvals=Approvals(always=True)))

    assert answered(handler, [once, always]) == ["done", "sent to ann", "sent to bob", "sent to eve"]


def test_always_does_not_undo_what_was_said_of_another_call() -> None:
    sender = Sender(["ann", "bob"], ["eve"])

    async def both(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
        await engine.approvals().reject(of("ann", waiting))
        await engine.approvals().approve(of("bob", waiting), "always")

    async def again(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
        await engine.approvals().approve(of("eve", waiting), "once")

    async def handler(ctx: Context) -> Any:
        return outputs(await DurableRunner.run(sender.agent, "x", approvals=Approvals(always=True)))

    told = answered(handler, [both, again])
    assert told == ["done", "Tool execution was not approved.", "sent to bob", "sent to eve"]
    assert sender.sent == ["bob", "eve"]


def test_people_are_told_and_without_an_answer_in_time_it_is_a_no() -> None:
    sender = Sender(["ann", "bob"])
    told: list[tuple[str, int]] = []

    def tell(request: ApprovalRequest) -> None:
        told.append((request.title, request.escalation))

    def title(item: ToolApprovalItem) -> str:
        return f"Write with {item.arguments}?"

    approvals = Approvals(
        title=title, timeout=timedelta(days=2), notify=tell, escalate=Escalation(timedelta(days=1), notify=tell)
    )

    async def handler(ctx: Context) -> Any:
        began = ctx.now()
        result = await DurableRunner.run(sender.agent, "x", approvals=approvals)
        return [(ctx.now() - began).days, *outputs(result)]

    assert run(handler) == [2, "done", *["Nobody answered in time."] * 2]
    asked = ['Write with {"to":"ann"}?', 'Write with {"to":"bob"}?']
    assert sorted(set(told)) == sorted((title, number) for title in asked for number in (0, 1))


def test_who_cannot_be_told_ends_the_run() -> None:
    sender = Sender(["ann"])

    def tell(request: ApprovalRequest) -> None:
        raise TerminalError("no such address", 410)

    async def handler(ctx: Context) -> Any:
        return outputs(await DurableRunner.run(sender.agent, "x", approvals=Approvals(notify=tell)))

    with pytest.raises(TerminalError, match="no such address"):
        run(handler)


def test_an_agent_that_is_a_tool_asks_too() -> None:
    sender = Sender(["ann"], ["bob"])
    calls = [[function_call("post", {"input": "all"}, call_id="p")], [assistant_message("posted")]]
    boss = Agent[Any](name="Boss", model=ScriptedModel(calls), tools=[sender.agent.as_tool("post", "posts")])

    async def approve(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
        (each,) = waiting
        assert each.context["agent"] == "Post"
        await engine.approvals().approve(each.id)

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            return outputs(await DurableRunner.run(boss, "x", approvals=Approvals()))

    chunks: list[Any] = []
    assert answered(handler, [approve, approve], chunks, crash=True) == ["posted", "done"]
    assert sorted(set(sender.sent)) == ["ann", "bob"]
    results = [part for part in chunks if isinstance(part, dict) and part["type"] == "tool-result"]
    assert [part["output"] for part in results] == ["sent to ann", "sent to bob", "done"]


def test_a_plain_handler_asks_one_after_the_other() -> None:
    sender = Sender(["ann", "bob"])

    def handler(ctx: SyncContext) -> Any:
        with event_loop():
            return outputs(DurableRunner.run_sync(sender.agent, "x", approvals=Approvals(timeout=3600)))

    async def approve(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
        (each,) = waiting
        await engine.approvals().approve(each.id)

    assert answered(handler, [approve, approve]) == ["done", "sent to ann", "sent to bob"]


def test_the_state_may_be_kept_meanwhile() -> None:
    sender = Sender(["ann"])

    async def approve(engine: TestEngine, waiting: Sequence[ApprovalDescription]) -> None:
        await engine.approvals().approve(of("ann", waiting))

    async def handler(ctx: Context) -> Any:
        result = await DurableRunner.run(sender.agent, "x")
        state = await decide(result, to=["ann"])
        await current_context().run("put away", state.to_string)
        return outputs(await DurableRunner.run(sender.agent, state))

    assert answered(handler, [approve]) == ["done", "sent to ann"]


def test_it_is_for_handlers() -> None:
    sender = Sender(["ann"])

    async def main() -> None:
        with pytest.raises(LookupError, match="from a handler"):
            await DurableRunner.run(sender.agent, "x", approvals=Approvals())

    asyncio.run(main())
    with pytest.raises(TypeError, match="plain def handlers"):
        Approvals().decide_sync(None)  # type: ignore[arg-type]
