"""Cancel, kill, pause, resume, restart, purge: what people do to invocations."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    Conflict,
    Context,
    Invalid,
    NotFound,
    ObjectContext,
    RetryPolicy,
    Service,
    SharedContext,
    TerminalError,
    VirtualObject,
)
from perdure.testing import InvocationPaused
from tests.programming_model.ways import Start, fails, until


async def test_cancel_raises_at_the_await_and_callers_see_409(start: Start) -> None:
    service = Service("Simple")
    reached: list[str] = []

    @service.handler()
    async def work(ctx: Context) -> None:
        await ctx.run("begin", lambda: None)
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            reached.append("cancelled")
            raise
        reached.append("not cancelled")

    @service.handler()
    async def outer(ctx: Context, id: str) -> str:
        try:
            await ctx.invocation(id).attach()
        except TerminalError as error:
            return f"{error.code} {error.message}"
        return "no error"

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        attached = await engine.send(outer, handle.id)
        await engine.settle()
        await handle.cancel()
        with fails(409, "cancelled"):
            await handle.attach()
        assert await attached.attach() == "409 cancelled"
        assert set(reached) == {"cancelled"}
        with pytest.raises(Conflict):
            await handle.cancel()
        with pytest.raises(NotFound):
            await engine.invocation("inv_1" + "0" * 33).cancel()
        engine.once("begin")


async def test_cancel_lets_the_handler_compensate(start: Start) -> None:
    service = Service("Saga")
    undone: list[str] = []

    @service.handler()
    async def undo(ctx: Context, what: str) -> None:
        await ctx.run(f"undo {what}", undone.append, what)

    @service.handler()
    async def trip(ctx: Context) -> str:
        booked: list[str] = []
        try:
            for what in ("flight", "hotel", "car"):
                await ctx.run(f"book {what}", lambda: None)
                booked.append(what)
                await ctx.sleep(100)
        except asyncio.CancelledError:
            for what in reversed(booked):
                await ctx.call(undo, what)
            await ctx.sleep(10)
            raise
        return "booked"

    async with start(service, skip=False) as engine:
        handle = await engine.send(trip)
        await engine.settle()
        await engine.advance(150)
        await handle.cancel()
        await engine.settle()
        await engine.advance(10)
        with fails(409, "cancelled"):
            await handle.attach()
        assert list(dict.fromkeys(undone)) == ["hotel", "flight"]
        engine.once("book flight", "book hotel", "undo hotel", "undo flight")
        assert engine.ran("book car") == 0


async def test_a_cancellation_may_be_refused(start: Start) -> None:
    service = Service("Stubborn")

    @service.handler()
    async def work(ctx: Context) -> str:
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        async with asyncio.timeout(100):
            await ctx.sleep(10)
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.run("on", lambda: None))
        return "went on"

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await handle.cancel()
        await engine.settle()
        await engine.advance(10)
        assert await handle.attach() == "went on"
        engine.once("on")


async def test_cancel_twice_is_cancelling_twice(start: Start) -> None:
    service = Service("Twice")

    @service.handler()
    async def work(ctx: Context) -> str:
        cancelled = 0
        while cancelled < 2:
            try:
                await ctx.sleep(1000)
            except asyncio.CancelledError:
                cancelled += 1
                await ctx.run(f"cancelled {cancelled}", lambda: None)
        return "enough"

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await handle.cancel()
        await engine.settle()
        assert (await handle.describe()).status in ("running", "suspended")
        await handle.cancel()
        assert await handle.attach() == "enough"
        engine.once("cancelled 1", "cancelled 2")


async def test_cancel_goes_through_the_tree_of_calls_but_not_to_sends(start: Start) -> None:
    service = Service("Tree")
    sent: list[str] = []

    @service.handler()
    async def leaf(ctx: Context, name: str) -> str:
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            await ctx.run(f"{name} cancelled", lambda: None)
            raise
        return name

    @service.handler()
    async def middle(ctx: Context, name: str) -> str:
        try:
            return await ctx.call(leaf, f"{name}.leaf")
        except asyncio.CancelledError:
            await ctx.run(f"{name} cancelled", lambda: None)
            raise

    @service.handler()
    async def root(ctx: Context) -> None:
        one_way = await ctx.send(leaf, "sent")
        await ctx.run("note", sent.append, one_way.id)
        await asyncio.gather(ctx.call(middle, "a"), ctx.call(middle, "b"), ctx.call(leaf, "c"))

    async with start(service, skip=False) as engine:
        handle = await engine.send(root)
        await engine.settle()
        await handle.cancel()
        with fails(409, "cancelled"):
            await handle.attach()
        await engine.settle()
        engine.once(*(f"{name} cancelled" for name in ("a", "b", "c", "a.leaf", "b.leaf")))
        assert engine.ran("sent cancelled") == 0
        await engine.advance(1000)
        assert await engine.invocation(sent[0], str).attach() == "sent"


async def test_a_cancelled_callee_is_a_terminal_error_for_its_caller(start: Start) -> None:
    service = Service("Callee")
    told: list[str] = []

    @service.handler()
    async def inner(ctx: Context) -> None:
        await ctx.run("tell", told.append, ctx.invocation_id)
        await ctx.sleep(1000)

    @service.handler()
    async def outer(ctx: Context) -> str:
        try:
            await ctx.call(inner)
        except TerminalError as error:
            return f"{error.code}"
        return "no error"

    async with start(service, skip=False) as engine:
        handle = await engine.send(outer)
        await engine.settle()
        await engine.invocation(told[0]).cancel()
        assert await handle.attach() == "409"


async def test_cancel_of_what_waits_in_an_inbox_or_is_scheduled(start: Start) -> None:
    thing = VirtualObject("Queue")

    @thing.handler()
    async def hold(ctx: ObjectContext, n: int) -> int:
        await ctx.run(f"hold {n}", lambda: None)
        await ctx.sleep(100)
        return n

    async with start(thing, skip=False) as engine:
        handles = [await engine.send(hold, n, key="k") for n in range(4)]
        scheduled = await engine.send(hold, 9, key="k", delay=50)
        await engine.settle()
        assert [(await handle.describe()).status for handle in handles[1:]] == ["inboxed"] * 3
        assert (await scheduled.describe()).status == "scheduled"
        waiting = asyncio.ensure_future(handles[2].attach())
        gone = asyncio.ensure_future(scheduled.attach())
        await engine.settle()
        await handles[2].cancel()
        await scheduled.cancel()
        with fails(409, "cancel"):
            await waiting
        with fails(409, "cancel"):
            await gone
        await engine.advance(300)
        assert [await handles[n].attach() for n in (0, 1, 3)] == [0, 1, 3]
        engine.once("hold 0", "hold 1", "hold 3")
        assert engine.ran("hold 2") == engine.ran("hold 9") == 0


async def test_cancel_while_a_step_backs_off_or_an_attempt_does(start: Start) -> None:
    service = Service("Backoff", retry_policy=RetryPolicy(100, factor=1, max_attempts=10))
    seen: list[str] = []

    def broken() -> None:
        raise ValueError("broken")

    @service.handler()
    async def step(ctx: Context) -> None:
        try:
            await ctx.run("broken", broken)
        except asyncio.CancelledError:
            await ctx.run("tidy", lambda: None)
            raise

    @service.handler()
    async def attempt(ctx: Context) -> None:
        await ctx.sleep(1)
        seen.append("attempt")
        if len(seen) < 3:
            raise ValueError("broken")
        await ctx.sleep(1000)

    async with start(service, skip=False) as engine:
        handle = await engine.send(step)
        await engine.settle()
        await until(lambda: engine.ran("broken"))
        await handle.cancel()
        with fails(409, "cancelled"):
            await handle.attach()
        engine.once("tidy")
        handle = await engine.send(attempt)
        await engine.settle()
        await engine.advance(1)
        assert (await handle.describe()).status == "backing-off"
        await handle.cancel()  # tried again at once; it fails once more before it comes to an await
        engine.skip = True
        with fails(409, "cancelled"):
            await handle.attach()


async def test_cancel_while_a_step_runs_gives_the_step_up(start: Start) -> None:
    service = Service("Running")
    stopped: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.append("endless")

    @service.handler()
    async def work(ctx: Context) -> None:
        try:
            await ctx.run("endless", endless)
        finally:
            await ctx.run("tidy", lambda: None)

    async with start(service) as engine:
        handle = await engine.send(work)
        await until(lambda: engine.ran("endless"))
        await handle.cancel()
        with fails(409, "cancelled"):
            await handle.attach()
        assert len(stopped) == engine.ran("endless")
        engine.once("tidy")


async def test_kill_ends_it_without_its_code_and_its_calls_too(start: Start) -> None:
    service = Service("Mortal")
    thing = VirtualObject("Locked")
    ended: list[str] = []

    @thing.handler()
    async def hold(ctx: ObjectContext) -> str:
        ctx.set("held", True)
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            ended.append("cancelled")
        return "held"

    @thing.shared()
    async def look(ctx: SharedContext) -> bool:
        return await ctx.get("held", bool, default=False)

    @service.handler()
    async def outer(ctx: Context) -> None:
        try:
            await ctx.call(hold, key="k")
        except asyncio.CancelledError:
            ended.append("outer cancelled")
            raise

    @service.handler()
    async def caller(ctx: Context, id: str) -> str:
        try:
            return await ctx.invocation(id).attach()  # type: ignore[no-any-return]
        except TerminalError as error:
            return f"{error.code} {error.message}"

    async with start(service, thing, skip=False) as engine:
        handle = await engine.send(outer)
        watcher = await engine.send(caller, handle.id)
        await engine.settle()
        queued = await engine.send(hold, key="k")
        await engine.settle()
        await handle.kill()
        with fails(409, "killed"):
            await handle.attach()
        assert await watcher.attach() == "409 killed"
        await engine.settle()
        assert (await queued.describe()).status in ("running", "suspended")
        assert await engine.call(look, key="k") is True
        await engine.advance(1000)
        assert await queued.attach() == "held"
        assert ended == []
        with pytest.raises(Conflict):
            await handle.kill()


@pytest.mark.parametrize("what", ["paused", "scheduled", "inboxed", "backing off"])
async def test_kill_whatever_it_does(start: Start, what: str) -> None:
    thing = VirtualObject("Any", retry_policy=RetryPolicy(100, max_attempts=9))

    @thing.handler()
    async def work(ctx: ObjectContext, how: str) -> None:
        if how == "fail":
            raise ValueError("broken")
        await ctx.sleep(50)

    async with start(thing, skip=False) as engine:
        if what == "inboxed":
            await engine.send(work, "first", key="k")
        handle = await engine.send(
            work, "fail" if what == "backing off" else "work", key="k", delay=5 if what == "scheduled" else None
        )
        await engine.settle()
        if what == "paused":
            await handle.pause()
        await handle.kill()
        if what in ("paused", "backing off"):
            with fails(409, "killed"):
                await handle.attach()
        else:  # it had not begun, and nothing of it is kept
            with pytest.raises(NotFound):
                await handle.output()
        after = await engine.send(work, "after", key="k")
        engine.skip = True
        assert await after.attach() is None


async def test_pause_and_resume(start: Start) -> None:
    service = Service("Pausing")
    told: list[str] = []

    @service.handler()
    async def work(ctx: Context) -> str:
        await ctx.run("before", lambda: None)
        awakeable = ctx.awakeable(str)
        await ctx.run("tell", told.append, awakeable.id)
        await ctx.sleep(10)
        answer = await awakeable
        return answer + await ctx.run("after", lambda: "!")

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await handle.pause()
        await engine.settle()
        assert (await handle.describe()).status == "paused"
        await handle.pause()
        await engine.advance(100)
        await engine.resolve_awakeable(told[0], "answer")
        await engine.settle()
        assert (await handle.describe()).status == "paused"
        assert engine.ran("after") == 0
        with pytest.raises(InvocationPaused, match="somebody paused it"):
            await handle.attach()
        await handle.resume()
        assert await handle.attach() == "answer!"
        engine.once("before", "tell", "after")
        for refused in (handle.pause, handle.resume):
            with pytest.raises(Conflict):
                await refused()


async def test_a_paused_invocation_is_cancelled(start: Start) -> None:
    service = Service("PausedThenCancelled")

    @service.handler()
    async def work(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            await ctx.run("tidy", lambda: None)
            raise

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await handle.pause()
        await engine.settle()
        await handle.cancel()
        with fails(409, "cancelled"):
            await handle.attach()
        engine.once("tidy")


async def test_pause_and_resume_in_the_middle_of_a_step(start: Start) -> None:
    service = Service("MidStep")
    block = [True]

    async def slow() -> str:
        while block[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return "slow"

    @service.handler()
    async def work(ctx: Context) -> str:
        first = await ctx.run("first", lambda: "first ")
        return first + await ctx.run("slow", slow)

    async with start(service) as engine:
        handle = await engine.send(work)
        await until(lambda: engine.ran("slow"))
        await handle.pause()
        await engine.settle()
        block[0] = False
        await handle.resume()
        assert await handle.attach() == "first slow"
        engine.once("first")
        assert engine.ran("slow") >= 2  # cut off by the pause, with nothing recorded
        assert len({run.token for run in engine.steps if run.name == "slow"}) == 1


async def test_resume_makes_a_retry_happen_now(start: Start) -> None:
    service = Service("Impatient", retry_policy=RetryPolicy(3600, max_attempts=5))
    broken = [True]

    @service.handler()
    async def work(ctx: Context) -> str:
        if broken[0]:
            raise ValueError("broken")
        return "repaired"

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        description = await handle.describe()
        assert description.status == "backing-off" and description.failures == 1
        assert description.last_failure is not None and "broken" in description.last_failure["message"]
        broken[0] = False
        begun = engine.now()
        await handle.resume()
        assert await handle.attach() == "repaired"
        assert engine.now() == begun


async def test_restart_as_new_from_the_beginning_and_from_a_prefix(start: Start) -> None:
    service = Service("Again")

    @service.handler()
    async def work(ctx: Context, n: int) -> int:
        total = 0
        for i in range(n):
            total += await ctx.run(f"step {i}", lambda i=i: 10**i)
            await ctx.sleep(1)
        return total

    async with start(service) as engine:
        handle = await engine.send(work, 3)
        assert await handle.attach() == 111
        again = await handle.restart()
        assert again.id != handle.id
        assert await again.attach() == 111
        engine.once(**{"step 0": 2, "step 1": 2, "step 2": 2})
        journal = (await handle.describe()).journal
        keep = next(i for i, entry in enumerate(journal) if entry.get("name") == "step 1")
        kept = await handle.restart(keep=keep)
        assert await kept.attach() == 111
        engine.once(**{"step 0": 2, "step 1": 3, "step 2": 3})
        assert (await kept.describe()).restarted_from == handle.id
        with pytest.raises(Invalid, match="keep must be"):
            await handle.restart(keep=len(journal) + 1)


async def test_a_restart_from_a_prefix_does_not_mind_that_awakeables_and_ids_are_new(start: Start) -> None:
    service = Service("Asked")
    notes = VirtualObject("Notes")

    @notes.handler()
    async def note(ctx: ObjectContext, text: str) -> str:
        return text

    @service.handler()
    async def work(ctx: Context) -> int:
        answer = ctx.awakeable(int)
        await ctx.send(note, answer.id, key=ctx.invocation_id, idempotency_key=answer.id)
        await ctx.run("tell", lambda: asked.append(answer.id))
        value = await answer
        return value + await ctx.run("after", lambda: 1)

    asked: list[str] = []
    async with start(service, notes, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await engine.resolve_awakeable(asked[-1], 41)
        assert await handle.attach() == 42
        journal = (await handle.describe()).journal
        answered = next(i for i, entry in enumerate(journal) if entry.get("signal") == 17)
        kept = await handle.restart(keep=answered + 1)
        assert await kept.attach() == 42
        engine.once(tell=1, after=2)
        again = await kept.restart(keep=answered + 1)
        assert await again.attach() == 42
        for asks in (handle, kept):
            with pytest.raises(Invalid, match="is answered later, and nobody knows its new id; keep at most 1 or"):
                await asks.restart(keep=answered)
        assert len(set(asked)) == 1


async def test_a_restart_from_an_entry_behind_an_approval_keeps_the_decision(start: Start) -> None:
    service = Service("Approved")

    @service.handler()
    async def work(ctx: Context) -> str:
        decision = await ctx.approval("Pay?", int)
        return await ctx.run("pay", lambda: f"{decision.by} pays {decision.value}")

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        (waiting,) = await engine.approvals().list()
        await engine.approvals().approve(waiting.id, 5, by="ann")
        assert await handle.attach() == "ann pays 5"
        journal = (await handle.describe()).journal
        keep = next(i for i, entry in enumerate(journal) if entry.get("name") == "pay")
        kept = await handle.restart(keep=keep)
        assert await kept.attach() == "ann pays 5"
        engine.once(pay=2)
        assert len(await engine.approvals().list(status="all")) == 1


async def test_restart_is_refused_where_it_makes_no_sense(start: Start) -> None:
    service = Service("NotAgain", journal_retention=timedelta(hours=1))

    @service.handler()
    async def work(ctx: Context) -> str:
        await ctx.sleep(10)
        return "done"

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        with pytest.raises(Conflict, match="still running"):
            await handle.restart()
        with pytest.raises(Conflict):
            await handle.purge()
        await engine.advance(10)
        assert await handle.attach() == "done"
        await handle.purge(journal_only=True)
        assert await handle.output() == "done"
        with pytest.raises(Exception, match="no longer kept"):
            await handle.restart()
        await handle.purge()
        with pytest.raises(NotFound):
            await handle.output()


async def test_restart_of_a_failed_invocation_of_an_object_waits_its_turn(start: Start) -> None:
    thing = VirtualObject("Turns")
    broken = [True]

    @thing.handler()
    async def work(ctx: ObjectContext, name: str) -> list[str]:
        order = [*await ctx.get("order", list[str], default=[]), name]
        ctx.set("order", order)
        await ctx.sleep(5)
        if broken[0] and name == "fails":
            raise TerminalError("broken")
        return order

    async with start(thing, skip=False) as engine:
        handle = await engine.send(work, "fails", key="k")
        await engine.settle()
        await engine.advance(5)
        with fails(500, "broken"):
            await handle.attach()
        broken[0] = False
        holder = await engine.send(work, "holds", key="k")
        await engine.settle()
        again = await handle.restart()
        await engine.settle()
        assert (await again.describe()).status == "inboxed"
        engine.skip = True
        assert await holder.attach() == ["fails", "holds"]
        assert await again.attach() == ["fails", "holds", "fails"]


async def test_handlers_cancel_each_other(start: Start) -> None:
    service = Service("Rivals")

    @service.handler()
    async def victim(ctx: Context) -> str:
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            return "survived"
        return "slept"

    @service.handler()
    async def rival(ctx: Context) -> list[Any]:
        scheduled = await ctx.send(victim, delay=500)
        running = await ctx.send(victim)
        await ctx.sleep(1)
        await running.cancel()
        survived = await running.attach()
        await scheduled.cancel()
        await ctx.invocation("inv_1" + "0" * 33).cancel()
        try:
            await scheduled.attach()
        except TerminalError as error:
            return [survived, error.code]
        return [survived, None]

    async with start(service) as engine:
        begun = engine.now()
        assert await engine.call(rival) == ["survived", 404]
        assert engine.now() - begun < timedelta(seconds=10)
