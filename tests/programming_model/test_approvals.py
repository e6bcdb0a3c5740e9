"""`ctx.approval`: a person decides; whatever becomes of who asks, nothing is left that waits for nobody."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from perdure import (
    ApprovalRequest,
    ApprovalTimeout,
    Conflict,
    Context,
    Decision,
    Escalation,
    Invalid,
    NotFound,
    Service,
    SyncContext,
    TerminalError,
    current_context,
)
from perdure.protocol.approvals import closed_keys, open_keys
from perdure.sdk.inbox import ApprovalDescription
from perdure.sdk.operations import ReadState
from tests.programming_model.ways import Engine, Start, fails

DAYS = timedelta(days=1)


@dataclass
class Refund:
    amount: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    reason: str = ""


class Model(pydantic.BaseModel):
    amount: int

    @pydantic.field_validator("amount")
    @classmethod
    def is_even(cls, amount: int) -> int:
        if amount % 2:
            raise ValueError("it has to be even")
        return amount


class Struct(msgspec.Struct):
    amount: int


class Dict(TypedDict):
    amount: int


async def only(engine: Engine) -> ApprovalDescription:
    """The one approval that is open."""
    await engine.settle()
    (found,) = await engine.approvals().list()
    return found


async def none_open(engine: Engine) -> None:
    await engine.settle()
    assert await engine.approvals().list() == []


def asking(schema: Any = None, **options: Any) -> Service:
    """A service that asks, and says what it was told."""
    service = Service("Desk")

    @service.handler()
    async def ask(ctx: Context) -> list[Any]:
        decision = await ctx.approval("Refund?", schema, **options)
        return [decision.approved, decision.value if decision else None, decision.comment, decision.by]

    return service


async def test_approved_with_a_value(start: Start) -> None:
    service = asking(Refund, context={"order": 7, "rate": 1.0, "note": None}, to=["ann"], tags=["money"])
    async with start(service) as engine:
        handle = await engine.send("Desk/ask")
        found = await only(engine)
        assert (found.status, found.title, found.to, found.tags) == ("open", "Refund?", ["ann"], ["money"])
        assert found.context == {"order": 7, "rate": 1.0, "note": None}
        assert (found.requester.invocation_id, found.requester.handler) == (handle.id, "ask")
        assert await engine.approvals().get(found.id) == found
        done = await engine.approvals().approve(found.id, Refund(5, "late"), comment="fine", by="bob")
        assert (done.status, done.value, done.by) == ("approved", {"amount": 5, "reason": "late"}, "bob")
        assert await handle.attach() == [True, {"amount": 5, "reason": "late"}, "fine", "bob"]
        await none_open(engine)
        assert [each.id for each in await engine.approvals().list(status="closed")] == [found.id]


async def test_a_rejection_is_a_decision(start: Start) -> None:
    service = Service("Desk")

    @service.handler()
    async def ask(ctx: Context) -> str:
        decision = await ctx.approval("Delete everything?", Refund)
        assert not decision and not decision.approved
        return f"{decision.value}"

    async with start(service) as engine:
        handle = await engine.send(ask)
        await engine.approvals().reject((await only(engine)).id, comment="no way", by="bob")
        with fails(403, "rejected by bob: no way"):
            await handle.attach()


async def test_what_does_not_fit_is_refused_and_the_first_answer_counts(start: Start) -> None:
    async with start(asking(Refund)) as engine:
        handle = await engine.send("Desk/ask")
        approvals, id = engine.approvals(), (await only(engine)).id
        for value, said in (
            ({"amount": "x"}, "value.amount: "),
            ({"amount": 0}, "value.amount: 0 is less than the minimum of 1"),
            ({}, '"amount" is a required property'),
            (7, "value: "),
        ):
            with pytest.raises(Invalid, match=said):
                await approvals.approve(id, value)
        with pytest.raises(Invalid, match="value: it is missing"):
            await approvals.approve(id)
        assert (await only(engine)).id == id
        await approvals.approve(id, {"amount": 3}, by="ann")
        for again in (approvals.approve(id, {"amount": 4}), approvals.reject(id)):
            with pytest.raises(Conflict, match="approved by ann before: the first answer counts"):
                await again
        with pytest.raises(NotFound):
            await approvals.approve("apr_none")
        with pytest.raises(NotFound):
            await approvals.get("apr_none")
        assert (await handle.attach())[1]["amount"] == 3


@pytest.mark.parametrize("kind", [Struct, Dict, Refund, Literal["a", "b"], list[int]], ids=str)
async def test_values_have_their_types(kind: Any) -> None:
    service, seen = Service("Desk"), list[Any]()

    @service.handler()
    async def ask(ctx: Context) -> None:
        seen.append((await ctx.approval("?", kind)).value)

    value: Any = {"amount": 5} if isinstance(kind, type) and not hasattr(kind, "__args__") else "b"
    value = [1, 2] if kind == list[int] else value
    async with Start("replay")(service) as engine:
        handle = await engine.send(ask)
        await engine.approvals().approve((await only(engine)).id, value)
        await handle.attach()
        assert seen == [msgspec.convert(value, kind)]


async def test_a_json_schema_and_a_yes_or_no() -> None:
    service = Service("Desk")

    @service.handler()
    async def ask(ctx: Context) -> list[Any]:
        which = await ctx.approval("Which?", {"type": "string", "enum": ["a", "b"]})
        sure = await ctx.approval("Sure?")
        return [which.value, sure.value, bool(sure)]

    async with Start("live")(service) as engine:
        handle = await engine.send(ask)
        first = await only(engine)
        with pytest.raises(Invalid, match="value: "):
            await engine.approvals().approve(first.id, "c")
        await engine.approvals().approve(first.id, "b")
        second = await only(engine)
        with pytest.raises(Invalid, match="this is a yes or no"):
            await engine.approvals().approve(second.id, "b")
        await engine.approvals().approve(second.id)
        assert await handle.attach() == ["b", None, True]


async def test_a_value_that_only_its_type_refuses_is_asked_for_once_more(start: Start) -> None:
    async with start(asking(Model, timeout=2 * DAYS), skip=False) as engine:
        handle = await engine.send("Desk/ask")
        first = await only(engine)
        await engine.approvals().approve(first.id, {"amount": 3})
        again = await only(engine)
        assert again.id == first.id and again.problem is not None and "has to be even" in again.problem
        assert await engine.approvals().list(status="closed") == []
        await engine.approvals().approve(again.id, {"amount": 4})
        assert (await handle.attach())[1] == {"amount": 4}
        await none_open(engine)


async def test_days_of_waiting_then_an_answer_after_a_crash(start: Start) -> None:
    async with start(asking(Refund, timeout=30 * DAYS), skip=False) as engine:
        handle = await engine.send("Desk/ask")
        await only(engine)
        await engine.advance(9 * DAYS)
        assert (await handle.describe()).status == "suspended"
        engine.crash()
        found = await only(engine)
        assert (found.expires_at or engine.now()) - found.created_at == 30 * DAYS
        await engine.approvals().approve(found.id, {"amount": 1})
        assert (await handle.attach())[0]


async def test_nobody_answers(start: Start) -> None:
    service = Service("Patient")

    @service.handler()
    async def wait(ctx: Context) -> str:
        try:
            await ctx.approval("?", timeout=2 * DAYS)
        except TimeoutError as error:
            return f"{type(error).__name__}: {error}"
        return "answered"

    async with start(service, asking(timeout=60)) as engine:
        begun = engine.now()
        assert await engine.call("Patient/wait") == "ApprovalTimeout: nobody answered in time: ?"
        assert engine.now() - begun >= 2 * DAYS
        with fails(408, "nobody answered in time: Refund?"):
            await engine.call("Desk/ask")
        await none_open(engine)
        assert [each.status for each in await engine.approvals().list(status="expired")] == ["expired"] * 2
        late = (await engine.approvals().list(status="all"))[0]
        with pytest.raises(Conflict, match="it is too late"):
            await engine.approvals().approve(late.id)


async def test_an_answer_that_beats_the_clock_is_not_lost(start: Start) -> None:
    """The handler's timer is due and so is the answer: they agree on what became of it."""
    async with start(asking(timeout=60), skip=False) as engine:
        handle = await engine.send("Desk/ask")
        found = await only(engine)
        answering = asyncio.ensure_future(engine.approvals().approve(found.id))
        await engine.advance(60)
        outcome = (await asyncio.gather(answering, return_exceptions=True))[0]
        engine.skip = True
        try:
            approved = (await handle.attach())[0]
        except TerminalError as error:
            assert (error.code, isinstance(outcome, Conflict)) == (408, True)
        else:
            assert approved and isinstance(outcome, ApprovalDescription)
        await none_open(engine)


@pytest.mark.parametrize("end", ["cancel", "kill"])
async def test_who_asked_is_cancelled_or_killed(start: Start, end: str) -> None:
    async with start(asking(), skip=False) as engine:
        handle = await engine.send("Desk/ask")
        found = await only(engine)
        await getattr(handle, end)()
        await none_open(engine)
        assert (await engine.approvals().get(found.id)).status == "withdrawn"
        with pytest.raises(Conflict, match="nobody waits for the answer any more"):
            await engine.approvals().approve(found.id)


async def test_who_asked_goes_on_without_the_answer(start: Start) -> None:
    """A timeout of its own, and a task that nobody waits for: what was asked is withdrawn."""
    service = Service("Hasty")

    @service.handler()
    async def ask(ctx: Context) -> str:
        left = asyncio.create_task(ctx.approval("left behind"))
        try:
            async with asyncio.timeout(60):
                await ctx.approval("given up")
        except TimeoutError:
            return "went on"
        finally:
            assert not left.done()
        return "answered"

    async with start(service) as engine:
        assert await engine.call(ask) == "went on"
        await none_open(engine)
        closed = await engine.approvals().list(status="withdrawn")
        assert sorted(each.title for each in closed) == ["given up", "left behind"]


async def test_several_at_once(start: Start) -> None:
    service = Service("Board")

    @service.handler()
    async def vote(ctx: Context) -> list[bool]:
        votes = await asyncio.gather(*(ctx.approval(f"vote {n}", to=[f"p{n}"], tags=["vote"]) for n in range(3)))
        return [vote.approved for vote in votes]

    async with start(service) as engine:
        handle = await engine.send(vote)
        await engine.settle()
        approvals = engine.approvals()
        assert len(await approvals.list(service="Board", handler="vote", tag="vote")) == 3
        assert [each.title for each in await approvals.list(to="p1")] == ["vote 1"]
        assert len(await approvals.list(limit=2)) == 2
        assert await approvals.list(service="Other") == []
        for number, person in ((2, "p2"), (0, "p0"), (1, "p1")):
            (theirs,) = await approvals.list(to=person)
            await (approvals.reject if number == 1 else approvals.approve)(theirs.id)
        assert await handle.attach() == [True, False, True]
        for wrong in ({"status": "nothing"}, {"limit": 0}):
            with pytest.raises(Invalid):
                await approvals.list(**wrong)


async def test_people_are_told_and_others_when_nobody_answers(start: Start) -> None:
    told: list[ApprovalRequest] = []
    service = Service("Desk")

    async def tell(request: ApprovalRequest) -> None:
        told.append(request)

    def page(request: ApprovalRequest) -> str:
        told.append(request)
        return "not of interest"

    stages = [Escalation(2 * DAYS, ["boss"], page), Escalation(DAYS, ["lead"])]

    @service.handler()
    async def ask(ctx: Context) -> bool:
        decision = await ctx.approval(
            "Deploy?", context="v2", to=["ann"], notify=tell, escalate=stages, timeout=9 * DAYS
        )
        return decision.approved

    async with start(service, skip=False) as engine:
        handle = await engine.send(ask)
        found = await only(engine)
        first = told[0]
        assert (first.id, first.title, first.context, first.to) == (found.id, "Deploy?", "v2", ["ann"])
        assert first.link is not None and f"/restate/approvals/{found.id}?token=answer." in first.link
        assert first.approve_link and first.reject_link and first.escalation == 0
        await engine.advance(DAYS)
        assert (await only(engine)).to == ["ann", "lead"]
        assert {request.escalation for request in told} == {0}
        await engine.advance(DAYS)
        assert ((await only(engine)).to, (await only(engine)).escalations) == (["ann", "lead", "boss"], 2)
        assert (told[-1].escalation, told[-1].to, told[-1].expires_at) == (2, ["boss"], found.expires_at)
        await engine.approvals().approve(found.id)
        assert await handle.attach() is True
        engine.once("notify: Deploy?", "escalate 2: Deploy?")


async def test_a_notifier_that_does_not_get_through_holds_nothing_up(start: Start) -> None:
    if start.crashes:
        pytest.skip("each life would die of noting the next failure")

    async def down(request: ApprovalRequest) -> None:
        raise ConnectionError("the mail server is down")

    async with start(asking(notify=down), skip=False) as engine:
        handle = await engine.send("Desk/ask")
        found = await only(engine)
        await engine.approvals().approve(found.id)
        engine.skip = True  # a handler that was suspended goes on when its next try is due
        assert (await handle.attach())[0] is True


async def test_a_notifier_that_fails_for_good_fails_the_approval(start: Start) -> None:
    async def wrong(request: ApprovalRequest) -> None:
        raise TerminalError("no such address", 422)

    async with start(asking(notify=wrong)) as engine:
        with fails(422, "no such address"):
            await engine.call("Desk/ask")
        await none_open(engine)


async def test_a_plain_handler_asks(start: Start) -> None:
    service = Service("Plain")

    @service.handler()
    def ask(ctx: SyncContext) -> list[Any]:
        decision: Decision[Refund] = ctx.approval("Refund?", Refund)
        try:
            ctx.approval("Quick?", timeout=5)
        except ApprovalTimeout:
            return [decision.value.amount, "late"]
        return []

    async with start(service) as engine:
        handle = await engine.send(ask)
        await engine.approvals().approve((await only(engine)).id, {"amount": 8})
        assert await handle.attach() == [8, "late"]


async def test_options_that_cannot_be() -> None:
    service, errors = Service("Wrong"), list[str]()

    @service.handler()
    async def ask(ctx: Context) -> None:
        wrong: Sequence[dict[str, Any]] = (
            {"to": "ann"},
            {"tags": [1]},
            {"timeout": 0},
            {"escalate": [5]},
            {"nothing": 1},
            {"schema": {"type": "strin"}},
        )
        for options in wrong:
            with pytest.raises((TypeError, ValueError, Exception)) as caught:
                await ctx.approval("?", **options)
            errors.append(str(caught.value))
        with pytest.raises(TypeError):
            await current_context().approval("")

    async with Start("live")(service) as engine:
        await engine.call(ask)
    for named, said in zip(("to", "tags", "timeout", "escalate", "nothing", "no JSON schema"), errors, strict=True):
        assert named in said


async def test_the_built_in_objects_are_not_shown(start: Start) -> None:
    async with start(asking()) as engine:
        assert [info.name for info in engine.node.registry.services()] == ["Desk"]
        assert [info.name for info in engine.node.registry.here()] == ["Desk"]
        with pytest.raises(NotFound, match=r"registered: Desk$"):
            await engine.call("Nobody/there")


async def test_what_is_closed_is_forgotten(start: Start) -> None:
    async with start(asking(), skip=False) as engine:
        await engine.send("Desk/ask")
        found = await only(engine)
        await engine.approvals().approve(found.id)
        await engine.advance(29 * DAYS)
        assert len(await engine.approvals().list(status="closed")) == 1
        await engine.advance(3 * DAYS)
        assert await engine.approvals().list(status="closed") == []
        with pytest.raises(NotFound):
            await engine.approvals().get(found.id)
        for key in (*open_keys(), *closed_keys(round(found.created_at.timestamp() * 1000))):
            assert await engine.execute(ReadState("PerdureApprovalIndex", key)) == {}
