"""Time, messages between partitions, and what a crash leaves to be done."""

import pytest

from perdure.core.delivery import TIMERS_PER_TICK
from perdure.core.tables import INVOCATION, OUTBOX, TIMER
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import AckDelivery, Notify, Send, SetTimer, StartAttempt
from perdure.model.invocation import Invoked
from tests.core.invariants import check
from tests.core.world import AT, World, text, value

# ---- timers ----------------------------------------------------------------------------------------------------------


def test_timers_fire_in_the_order_of_their_times() -> None:
    world = World()
    ids = [world.invoke(execute_at=AT + after) for after in (30, 10, 20, 10)]
    world.tick(30)
    assert world.started() == [ids[1], ids[3], ids[2], ids[0]]
    assert not world.all(SetTimer)


def test_a_tick_that_comes_early_or_for_nothing_is_harmless() -> None:
    world = World()
    assert world.tick() == []
    world.invoke(execute_at=AT + 10)
    world.at -= 5000  # the clock was set back
    assert world.tick() == [SetTimer(AT + 10)] and not world.changed()


def test_very_many_timers_are_several_batches() -> None:
    world = World()
    extra = 3
    ids = [world.invoke(execute_at=AT + 10) for _ in range(TIMERS_PER_TICK + extra)]
    world.tick(10)
    assert world.started() == ids[:TIMERS_PER_TICK]
    assert world.all(SetTimer) == [SetTimer(AT + 10)]  # which is past: another tick comes at once
    world.tick()
    assert world.started() == ids[TIMERS_PER_TICK:] and not world.all(SetTimer)


def test_exactly_as_many_timers_as_a_tick_takes_leave_none() -> None:
    world = World()
    for _ in range(TIMERS_PER_TICK):
        world.invoke(execute_at=AT + 10)
    world.tick(10)
    assert not world.rows(TIMER) and not world.all(SetTimer)


@pytest.mark.parametrize("kind", ["begin", "sleep", "retry", "journal"])
def test_a_timer_that_nobody_waits_for_any_more_is_nothing(kind: str) -> None:
    world = World()
    id = world.invoke(execute_at=AT + 10 if kind == "begin" else None)
    if kind == "sleep":
        world.append(id, e.Sleep(AT + 10, 1))
        world.end(id)
    elif kind == "retry":
        world.fail(id)
        world.order(c.Kill, id)
    elif kind == "journal":  # of an invocation that has not ended: there is none, and if there were...
        world.tables[0].put(TIMER, (AT + 10, world[id].number, 3, 0), True)
    else:
        world.tables[0].put(INVOCATION, (world[id].number,), world[world.invoke()])
    world.tick(1000)
    assert [type(action) for action in world.actions if not isinstance(action, SetTimer)] == []


# ---- messages --------------------------------------------------------------------------------------------------------


def two() -> tuple[World, bytes, bytes]:
    """A call from an invocation of one partition to an invocation of another: sent, and not delivered."""
    world = World(2)
    caller, callee = world.invoke(partition=0), world.fresh_id(1)
    world.call(caller, "greeter/greet", (1, 2), callee)
    return world, caller, callee


def sent(world: World) -> Send:
    return world.only(Send)


def test_a_call_to_another_partition_goes_through_the_outbox() -> None:
    world, caller, callee = two()
    send = sent(world)
    assert (send.destination, send.position) == (1, 1)
    assert world.rows(OUTBOX) == {(1, 1): send.message}
    assert world.find(callee) is None
    assert not check([world.snapshot(0), world.snapshot(1)])  # it is on its way
    world.deliver(0, send)
    assert world.started() == [callee] and world.only(AckDelivery) == AckDelivery(0, 1)
    assert not check([world.snapshot(0), world.snapshot(1)])
    world.apply(c.Delivered(AT, 1, 1), 0)
    assert not world.rows(OUTBOX)
    world.end(callee)
    back = sent(world)
    world.deliver(1, back)
    assert world.notified() == [e.Completion(e.CALL_COMPLETION, 2, value("out"), AT)]
    assert world.journal(caller)[-1] == world.notified()[0]


def test_a_message_delivered_twice_is_applied_once_and_acknowledged_twice() -> None:
    world, _, callee = two()
    send = sent(world)
    world.deliver(0, send)
    world.end(callee)
    before = world.snapshot(1)
    world.deliver(0, send)
    assert world.actions == [AckDelivery(0, 1)]
    assert world.snapshot(1) == before


def test_a_message_after_a_gap_is_not_taken() -> None:
    world = World(2)
    signaller, receiver = world.invoke(partition=0), world.invoke(partition=1)
    sends = []
    for name in "abc":
        world.append(signaller, e.SendSignal(text(receiver), name, e.VOID))
        sends.append(sent(world))
    world.deliver(0, sends[1])
    assert world.actions == [AckDelivery(0, 0)] and not world.changed()
    world.deliver(0, sends[0])
    world.deliver(0, sends[2])
    assert world.actions == [AckDelivery(0, 1)]
    world.deliver(0, sends[1])
    world.deliver(0, sends[2])
    assert world.only(AckDelivery) == AckDelivery(0, 3)
    assert [entry.signal for entry in world.journal(receiver)[1:] if isinstance(entry, e.Signal)] == ["a", "b", "c"]


def test_an_acknowledgement_is_of_everything_up_to_it() -> None:
    world = World(3)
    signaller = world.invoke(partition=0)
    for partition in (1, 1, 2, 1):
        world.append(signaller, e.SendSignal(text(world.fresh_id(partition)), "go", e.VOID))
    assert world.rows(OUTBOX).keys() == {(1, 1), (1, 2), (1, 3), (2, 1)}
    world.apply(c.Delivered(AT, 1, 2))
    assert world.rows(OUTBOX).keys() == {(1, 3), (2, 1)}
    world.apply(c.Delivered(AT, 1, 2))
    assert not world.changed()
    world.apply(c.Delivered(AT, 1, 9))
    assert world.rows(OUTBOX).keys() == {(2, 1)}


def test_everything_one_partition_may_tell_another() -> None:
    """A call, its result, an attach, a signal, a cancellation, a kill."""
    world = World(2)
    boss = world.invoke(partition=0)
    callee, cancelled, killed = (world.fresh_id(1) for _ in range(3))
    for number, id in enumerate((callee, cancelled, killed)):
        world.call(boss, "greeter/greet", (2 * number + 1, 2 * number + 2), id)
    world.settle()
    world.append(
        boss,
        e.AttachInvocation(e.InvocationTarget(text(callee)), 7),
        e.SendSignal(text(callee), "go", value("now")),
        e.SendSignal(text(cancelled), 1, e.VOID),
    )
    world.settle()
    assert world.journal(callee)[-1] == e.Signal("go", value("now"), AT)
    assert world.journal(cancelled)[-1] == e.Signal(1, e.VOID, AT)
    world.end(callee)
    world.end(cancelled, e.Failure(409, "cancelled"))
    world.settle()
    answers = {entry.completion_id: entry.result for entry in world.journal(boss) if isinstance(entry, e.Completion)}
    assert (answers[2], answers[7], answers[4]) == (value("out"), value("out"), e.Failure(409, "cancelled"))
    assert not check([world.snapshot(0), world.snapshot(1)])
    world.order(c.Kill, boss)
    world.settle()
    assert world.kind(killed) == "Completed"
    assert not world.rows(OUTBOX, 0) and not world.rows(OUTBOX, 1)


# ---- recovery --------------------------------------------------------------------------------------------------------


def test_recovery_finds_everything_that_was_promised() -> None:
    world = World(2)
    running = world.invoke("counter/k/add")
    queued = world.invoke("counter/k/add")
    world.append(running, e.Run(1, "step"))
    sleeping = world.invoke()
    world.append(sleeping, e.Sleep(AT + 900, 1))
    world.suspend(sleeping, 1)
    scheduled = world.invoke(execute_at=AT + 800)
    backing_off = world.invoke()
    world.fail(backing_off)
    paused = world.invoke()
    world.order(c.Pause, paused)
    world.end(world.invoke())
    world.append(running, e.SendSignal(text(world.fresh_id(1)), "a", e.VOID))
    world.append(running, e.SendSignal(text(world.fresh_id(1)), "b", e.VOID))
    places = {id: world.kind(id) for id in (queued, sleeping, scheduled, backing_off, paused)}

    world.recover()
    (start,) = world.all(StartAttempt)
    assert (start.invocation.id, start.invocation.attempts, start.journal) == (running, 2, None)
    assert [(send.destination, send.position) for send in world.all(Send)] == [(1, 1), (1, 2)]
    assert world.all(SetTimer) == [SetTimer(AT + 500)]
    assert len(world.actions) == 4
    assert {id: world.kind(id) for id in places} == places
    assert not check([world.snapshot(0), world.snapshot(1)])
    world.tick(500)
    assert world.started() == [backing_off]


def test_recovering_from_nothing_is_nothing() -> None:
    world = World()
    assert world.recover() == [] and not world.changed()


def test_recovering_twice_fences_both() -> None:
    world = World()
    id = world.invoke()
    for attempt in (2, 3):
        world.recover()
        assert world.only(StartAttempt).invocation.attempts == attempt
        assert world.status(id) == Invoked()


def test_a_notification_to_an_attempt_that_is_yet_to_load_is_in_the_journal_it_loads() -> None:
    world = World()
    id = world.invoke()
    world.recover()
    world.apply(c.SendSignalTo(AT, id, e.Signal("go", e.VOID)))
    assert world.only(Notify).notification == e.Signal("go", e.VOID, AT)
    it = world[id]
    world.apply(c.Load(AT, it.number, it.attempts))
    journal = world.only(StartAttempt).journal
    assert journal is not None and journal.entries[-1] == e.Signal("go", e.VOID, AT)
