"""What people can do to an invocation, wherever it stands."""

from collections.abc import Callable
from typing import Any

import pytest

from perdure.core.tables import INVOCATION, JOURNAL, LOCK, STATE, TIMER
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import (
    AbortAttempt,
    Answer,
    Description,
    Done,
    Finished,
    Refused,
    StartAttempt,
    StateAnswer,
)
from perdure.model.ids import CANCEL_SIGNAL
from perdure.model.invocation import Completed, Invoked, Paused, Retention
from perdure.model.state import state_version
from tests.core.invariants import check
from tests.core.world import AT, KEPT, TOKEN, World, text, value

# ---- the matrix ------------------------------------------------------------------------------------------------------


def scheduled(world: World) -> bytes:
    return world.invoke(execute_at=AT + 1000)


def inboxed(world: World) -> bytes:
    world.invoke("counter/k/add")
    return world.invoke("counter/k/add")


def invoked(world: World) -> bytes:
    return world.invoke()


def backing_off(world: World) -> bytes:
    id = world.invoke()
    world.fail(id)
    return id


def suspended(world: World) -> bytes:
    id = world.invoke()
    world.suspend(id, signals=(17,))
    return id


def paused(world: World) -> bytes:
    id = world.invoke()
    world.fail(id, behavior="pause")
    return id


def completed(world: World) -> bytes:
    id = world.invoke()
    world.end(id)
    return id


def unknown(world: World) -> bytes:
    return world.fresh_id()


PLACES: dict[str, Callable[[World], bytes]] = {
    "Scheduled": scheduled,
    "Inboxed": inboxed,
    "Invoked": invoked,
    "BackingOff": backing_off,
    "Suspended": suspended,
    "Paused": paused,
    "Completed": completed,
    "unknown": unknown,
}
ORDERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "cancel": (c.Cancel, {}),
    "kill": (c.Kill, {}),
    "pause": (c.Pause, {}),
    "resume": (c.Resume, {}),
    "purge": (c.Purge, {}),
    "purge journal": (c.Purge, {"journal_only": True}),
    "restart": (c.Restart, {"new_id": b"n" * 24}),
    "attach": (c.Attach, {"wait": True}),
    "output": (c.Attach, {"wait": False}),
    "describe": (c.Describe, {}),
}
# order -> place -> the answer ("-": none yet), where it stands then, "+" if an attempt started, "x" if one was aborted
MATRIX = {
    "cancel": {
        "Scheduled": "done unknown",
        "Inboxed": "done unknown",
        "Invoked": "pending Invoked",
        "BackingOff": "pending Invoked +",
        "Suspended": "pending Invoked +",
        "Paused": "pending Invoked +",
        "Completed": "409 Completed",
        "unknown": "404 unknown",
    },
    "kill": {
        "Scheduled": "done unknown",
        "Inboxed": "done unknown",
        "Invoked": "done Completed x",
        "BackingOff": "done Completed x",
        "Suspended": "done Completed x",
        "Paused": "done Completed x",
        "Completed": "409 Completed",
        "unknown": "404 unknown",
    },
    "pause": {
        "Scheduled": "409 Scheduled",
        "Inboxed": "409 Inboxed",
        "Invoked": "pending Paused x",
        "BackingOff": "pending Paused x",
        "Suspended": "pending Paused x",
        "Paused": "done Paused",
        "Completed": "409 Completed",
        "unknown": "404 unknown",
    },
    "resume": {
        "Scheduled": "425 Scheduled",
        "Inboxed": "425 Inboxed",
        "Invoked": "done Invoked",
        "BackingOff": "done Invoked +",
        "Suspended": "done Invoked +",
        "Paused": "done Invoked +",
        "Completed": "409 Completed",
        "unknown": "404 unknown",
    },
    "purge": {
        **{place: f"409 {place}" for place in PLACES},
        "Completed": "done unknown",
        "unknown": "404 unknown",
    },
    "purge journal": {
        **{place: f"409 {place}" for place in PLACES},
        "Completed": "done Completed",
        "unknown": "404 unknown",
    },
    "restart": {
        **{place: f"409 {place}" for place in PLACES},
        "Scheduled": "425 Scheduled",
        "Inboxed": "425 Inboxed",
        "Completed": "done Completed +",
        "unknown": "404 unknown",
    },
    "attach": {
        **{place: f"- {place}" for place in PLACES},
        "Completed": "answer Completed",
        "unknown": "404 unknown",
    },
    "output": {
        **{place: f"470 {place}" for place in PLACES},
        "Completed": "answer Completed",
        "unknown": "404 unknown",
    },
    "describe": {
        **{place: f"description {place}" for place in PLACES},
        "unknown": "404 unknown",
    },
}


def seen(world: World, id: bytes) -> str:
    """What an order came to, in the words of the matrix."""
    word = "-"
    for outcome in [world.reply()] if [a for a in world.actions if hasattr(a, "token")] else []:
        if isinstance(outcome, Refused):
            word = str(outcome.status)
        elif isinstance(outcome, Done):
            word = "pending" if outcome.pending else "done"
        else:
            word = type(outcome).__name__.lower()
    started = " +" * len(world.all(StartAttempt))
    aborted = " x" * len(world.all(AbortAttempt))
    return f"{word} {world.kind(id)}{started}{aborted}"


@pytest.mark.parametrize(("order", "place"), [(order, place) for order in ORDERS for place in PLACES])
def test_every_order_in_every_place(order: str, place: str) -> None:
    world = World()
    id = PLACES[place](world)
    assert world.kind(id) == place
    attempts = world[id].attempts if place != "unknown" else 0
    command, fields = ORDERS[order]
    world.order(command, id, **fields)
    assert seen(world, id) == MATRIX[order][place]
    assert not check([world.snapshot()])
    if order != "restart" and "+" in MATRIX[order][place]:
        assert world[id].attempts == attempts + 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("order", ["cancel", "kill", "pause", "resume", "purge", "restart"])
def test_an_order_without_a_token_does_the_same_and_tells_nobody(order: str, place: str) -> None:
    asked, unasked = World(), World()
    command, fields = ORDERS[order]
    asked.order(command, PLACES[place](asked), **fields)
    id = PLACES[place](unasked)
    unasked.apply(command(AT, id, **fields))
    assert unasked.snapshot() == asked.snapshot()
    assert unasked.actions == [action for action in asked.actions if getattr(action, "token", None) is None]


# ---- cancel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["Invoked", "BackingOff", "Suspended", "Paused"])
def test_cancelling_what_runs_is_a_signal_to_its_code(place: str) -> None:
    world = World()
    id = PLACES[place](world)
    world.order(c.Cancel, id)
    signal = e.Signal(CANCEL_SIGNAL, e.VOID, AT)
    assert world.journal(id)[-1] == signal
    for start in world.all(StartAttempt):
        assert start.journal is not None and start.journal.entries[-1] == signal


@pytest.mark.parametrize("place", ["Scheduled", "Inboxed"])
@pytest.mark.parametrize(("order", "message"), [(c.Cancel, "canceled"), (c.Kill, "killed")])
def test_what_has_not_begun_is_withdrawn_and_whoever_waits_is_told(place: str, order: type, message: str) -> None:
    world = World()
    id = PLACES[place](world)
    caller = world.invoke()
    world.append(caller, e.AttachInvocation(e.InvocationTarget(text(id)), 1))
    world.order(order, id)
    failure = e.Failure(409, message)
    assert world.only(Finished) == Finished(id, failure, None)
    assert world.journal(caller)[-1] == e.Completion(e.ATTACH_COMPLETION, 1, failure, AT)
    assert world.find(id) is None
    world.tick(2000)  # its timer is nothing now
    assert not world.started()


# ---- kill ------------------------------------------------------------------------------------------------------------


def test_a_kill_spreads_to_the_calls_that_are_open_and_no_others() -> None:
    world = World()
    parent, done, open_, sent, grandchild = world.invoke(), *(world.fresh_id() for _ in range(4))
    world.call(parent, "greeter/greet", (1, 2), done)
    world.end(done)
    world.call(parent, "greeter/greet", (3, 4), open_)
    world.call(open_, "counter/k/add", (1, 2), grandchild)
    it = world[parent]
    world.apply(
        c.AppendCall(
            AT,
            it.number,
            it.attempts,
            e.OneWayCall("greeter", "greet", b"in", 5),
            world.invocation_of("greeter/greet", sent),
        )
    )
    world.order(c.Kill, parent)
    assert [world.kind(id) for id in (parent, done, open_, grandchild, sent)] == [*["Completed"] * 4, "Invoked"]
    killed = Completed(AT, e.Failure(409, "killed"))
    assert [world.status(id) for id in (parent, open_, grandchild)] == [killed] * 3
    assert not world.rows(LOCK)


def test_a_kill_passes_the_lock_on() -> None:
    world = World()
    holder, waiting = world.invoke("counter/k/add"), world.invoke("counter/k/add")
    world.order(c.Kill, holder)
    assert world.started() == [waiting]


def test_a_cycle_of_calls_can_be_killed() -> None:
    """An object that calls itself waits for ever; killing it ends both."""
    world = World()
    outer, inner = world.invoke("counter/k/add"), world.fresh_id()
    world.call(outer, "counter/k/add", (1, 2), inner)
    assert world.kind(inner) == "Inboxed"
    world.order(c.Kill, outer)
    assert (world.kind(outer), world.kind(inner)) == ("Completed", "Completed")
    assert not check([world.snapshot()])


def test_a_killed_call_is_a_failure_to_its_caller() -> None:
    world = World()
    parent, child = world.invoke(), world.fresh_id()
    world.call(parent, "greeter/greet", (1, 2), child)
    world.order(c.Kill, child)
    assert world.notified() == [e.Completion(e.CALL_COMPLETION, 2, e.Failure(409, "killed"), AT)]


# ---- pause and resume ------------------------------------------------------------------------------------------------


def test_a_paused_invocation_remembers_its_failure_and_collects_notifications() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Sleep(AT + 100, 1))
    world.fail(id)
    world.order(c.Pause, id)
    status = world.status(id)
    assert isinstance(status, Paused) and status.failure is not None and status.failure.message == "boom"
    world.tick(60_000)  # its sleep is over, its next attempt would be due
    assert not world.started() and not world.notified()
    assert world.kind(id) == "Paused"
    world.order(c.Resume, id)
    (start,) = world.all(StartAttempt)
    assert start.journal is not None
    assert start.journal.entries[-1] == e.Completion(e.SLEEP_COMPLETION, 1, e.VOID, AT + 60_000)
    assert world.status(id) == Invoked()  # its failures are forgiven
    assert world[id].resumed_at == world.at


def test_what_a_paused_attempt_still_says_is_dropped() -> None:
    world = World()
    id = world.invoke()
    it = world[id]
    world.order(c.Pause, id)
    world.apply(c.Append(AT, it.number, it.attempts, e.Run(1, "late")))
    assert not world.changed() and not world.actions


def test_a_suspended_invocation_that_is_paused_keeps_its_lock_and_is_not_woken() -> None:
    world = World()
    holder, waiting = world.invoke("counter/k/add"), world.invoke("counter/k/add")
    world.suspend(holder, signals=(17,))
    world.order(c.Pause, holder)
    world.apply(c.SendSignalTo(AT, holder, e.Signal(17, value("v"))))
    assert (world.kind(holder), world.kind(waiting)) == ("Paused", "Inboxed")
    assert world.rows(LOCK)[("counter", "k")].holder == world[holder].number


def test_resuming_before_the_next_attempt_is_due_makes_one_attempt_of_it() -> None:
    world = World()
    id = backing_off(world)
    world.order(c.Resume, id)
    world.tick(60_000)
    assert not world.started()
    assert world[id].attempts == 2


# ---- purge -----------------------------------------------------------------------------------------------------------


def test_purging_forgets_everything_and_its_timers_find_nothing() -> None:
    world = World()
    id = completed(world)
    world.order(c.Purge, id)
    snapshot = world.snapshot()
    assert not [name for name, rows in snapshot.items() if rows and name not in ("meta", "timer")]
    world.tick(KEPT.completion_ms)
    assert not world.rows(TIMER)


def test_purging_the_journal_keeps_the_result() -> None:
    world = World()
    id = completed(world)
    assert world.rows(JOURNAL)
    world.order(c.Purge, id, journal_only=True)
    assert not world.rows(JOURNAL)
    assert world.ask(c.Attach, id, wait=False) == Answer(id, value("out"), AT + KEPT.completion_ms)


# ---- restart ---------------------------------------------------------------------------------------------------------

NEW = b"n" * 24


def journaled(world: World) -> bytes:
    """A completed invocation with six entries: input, step, call, its id, the step's result, the call's result."""
    id, callee = world.invoke(), world.fresh_id()
    world.append(id, e.Run(1, "step"))
    world.call(id, "greeter/greet", (2, 3), callee)
    world.at += 10
    world.propose(id, 1)
    world.end(callee)
    world.append(id, e.Output(value("out")))
    world.end(id)
    return id


def test_a_restart_is_a_new_invocation_with_the_same_input() -> None:
    world = World()
    id = completed(world)
    world.at += 5
    world.order(c.Restart, id, new_id=NEW)
    assert world.reply() == Done(new_id=NEW)
    fresh = world[NEW]
    assert (fresh.status, fresh.target, fresh.retention) == (Invoked(), world[id].target, KEPT)
    assert (fresh.created_at, fresh.restarted_from, fresh.idempotency_key) == (AT + 5, id, None)
    assert world.journal(NEW) == [e.Input(b"in")]
    assert world.started() == [NEW]


def test_a_restart_keeps_the_answers_to_what_it_keeps() -> None:
    world = World()
    id = journaled(world)
    kinds = [type(entry).__name__ for entry in world.journal(id)]
    assert kinds == ["Input", "Run", "Call", "Completion", "Completion", "Completion", "Output"]
    world.at += 100
    world.order(c.Restart, id, new_id=NEW, keep=2)
    step, call_id, call_result = world.journal(id)[4], world.journal(id)[3], world.journal(id)[5]
    assert world.journal(NEW) == [e.Input(b"in"), e.Run(1, "step"), step]
    world.order(c.Purge, NEW)
    world.order(c.Kill, NEW)
    world.order(c.Purge, NEW)
    world.order(c.Restart, id, new_id=NEW, keep=3)
    assert world.journal(NEW)[3:] == [call_id, step, call_result]
    assert not check([world.snapshot()])


def test_what_a_restart_keeps_is_stored_with_the_time_it_has() -> None:
    """A store keeps the time of a notification beside it, once: the two must not differ."""
    world = World()
    id = journaled(world)
    world.at += 100
    world.order(c.Restart, id, new_id=NEW, keep=7)
    for at, entry in world.tables[0].journal(world[NEW].number):
        assert not isinstance(entry, e.Completion) or entry.at == at
        assert isinstance(entry, e.Completion) or at == world.at


def test_a_restart_in_an_object_takes_its_turn() -> None:
    world = World()
    first = world.invoke("counter/k/add")
    world.end(first)
    world.invoke("counter/k/add")
    world.order(c.Restart, first, new_id=NEW)
    assert world.kind(NEW) == "Inboxed" and not world.started()
    assert not check([world.snapshot()])


def test_what_cannot_be_restarted() -> None:
    world = World()
    id = journaled(world)
    for keep in (0, -1, 8):
        refused = Refused(400, "keep must be from 1 to 7, the length of the journal")
        assert world.ask(c.Restart, id, new_id=NEW, keep=keep) == refused
    workflow = world.invoke("flow/k/main")
    world.end(workflow)
    outcome = world.ask(c.Restart, workflow, new_id=NEW)
    assert outcome == Refused(422, "a workflow runs once per id and cannot be restarted")
    world.order(c.Purge, id, journal_only=True)
    outcome = world.ask(c.Restart, id, new_id=NEW)
    assert outcome == Refused(410, "the journal, and with it the input, is no longer kept")
    assert world.find(NEW) is None


def test_a_prefix_with_an_open_question_cannot_be_kept() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Sleep(AT + 10, 1), e.Run(2, "step"), e.SendSignal(text(world.fresh_id()), 17, e.VOID))
    world.end(id)
    outcome = world.ask(c.Restart, id, new_id=NEW, keep=3)
    assert outcome == Refused(400, "2 of the first 3 entries have no result yet; keep fewer entries")
    assert world.ask(c.Restart, id, new_id=NEW, keep=1) == Done(new_id=NEW)


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_a_description_has_the_journal_and_the_place_in_the_queue() -> None:
    world = World()
    holder, first, second = (world.invoke("counter/k/add") for _ in range(3))
    assert world.ask(c.Describe, second) == Description(world[second], ((AT, e.Input(b"in")),), 1, holder)
    assert world.ask(c.Describe, first) == Description(world[first], ((AT, e.Input(b"in")),), 0, holder)
    assert world.ask(c.Describe, holder) == Description(world[holder], ((AT, e.Input(b"in")),), None)


def test_attaching_to_what_runs_is_answered_by_its_end() -> None:
    world = World()
    id = invoked(world)
    world.order(c.Attach, id, wait=True)
    assert not world.actions and not world.changed()
    world.end(id)
    assert world.only(Finished) == Finished(id, value("out"), AT + KEPT.completion_ms)


# ---- state from outside ----------------------------------------------------------------------------------------------


def change(world: World, changes: dict[str, bytes | None], **options: Any) -> Any:
    world.apply(c.ChangeState(world.at, "counter", "k", changes, token=TOKEN, **options))
    return world.reply()


def state(world: World) -> dict[str, bytes]:
    world.apply(c.ReadState(world.at, "counter", "k", TOKEN))
    outcome = world.reply()
    assert isinstance(outcome, StateAnswer)
    return outcome.values


def test_state_is_changed_and_read_from_outside() -> None:
    world = World()
    assert state(world) == {}
    assert change(world, {"a": b"1", "b": b"2"}) == Done()
    assert change(world, {"a": None, "c": b"3"}) == Done()
    assert state(world) == {"b": b"2", "c": b"3"}
    assert change(world, {"d": b""}, replace=True) == Done()
    assert state(world) == {"d": b""}
    world.apply(c.ChangeState(AT, "counter", "k", {"d": None}))
    assert not world.actions and state(world) == {}
    assert not world.rows(STATE)


def test_a_change_of_another_version_is_dropped() -> None:
    world = World()
    empty = state_version({})
    assert change(world, {"a": b"1"}, version=empty) == Done()
    assert change(world, {"a": b"2"}, replace=True, version=empty) == Done()
    assert state(world) == {"a": b"1"}
    assert change(world, {"b": b"2"}, version=state_version({"a": b"1"})) == Done()
    assert state(world) == {"a": b"1", "b": b"2"}


def test_the_version_is_that_of_the_turn() -> None:
    """What a handler changes in the meantime counts, not what was there when the change was asked for."""
    for written, changed in ((b"1", {"n": b"1"}), (b"9", {"n": b"5"})):
        world = World()
        holder = world.invoke("counter/k/add")
        assert change(world, {"n": b"5"}, version=state_version({"n": b"9"})) == Done(pending=True)
        world.append(holder, e.SetState("n", written))
        world.end(holder)
        assert state(world) == changed


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_reaches_what_lives_and_is_nothing_to_the_rest(place: str) -> None:
    world = World()
    id = PLACES[place](world)
    world.at += 1
    assert world.apply(c.SendSignalTo(world.at, id, e.Signal(17, value("v"), 5), TOKEN))[-1].outcome == Done()  # type: ignore[union-attr]
    if place in ("Completed", "unknown"):
        assert not world.changed()
        return
    assert world.journal(id)[-1] == e.Signal(17, value("v"), AT + 1)
    assert world.started() == ([id] if place == "Suspended" else [])
    assert len(world.notified()) == (place in ("Invoked", "BackingOff"))


def test_a_signal_sent_before_the_beginning_is_there_at_the_beginning() -> None:
    world = World()
    id = scheduled(world)
    world.apply(c.SendSignalTo(AT, id, e.Signal("go", value("v"))))
    world.tick(1000)
    (start,) = world.all(StartAttempt)
    assert start.journal is not None
    assert start.journal.entries == (e.Input(b"in"), e.Signal("go", value("v"), AT))


def test_nothing_is_kept_of_what_keeps_nothing() -> None:
    world = World()
    id = world.invoke(retention=Retention())
    world.order(c.Kill, id)
    assert world.only(Finished).expires_at is None
    assert not world.rows(INVOCATION) and not world.rows(JOURNAL)
