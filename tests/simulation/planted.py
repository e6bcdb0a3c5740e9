"""Bugs planted in the engine, to see that the simulator finds them.

Each is a mistake that somebody could make: a line forgotten, a check left out, two lines in the wrong order. It is
in force inside of its context manager and nowhere else; the engine's own code knows nothing of it.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from perdure.core import awaiting, control, delivery, inbox, journal, lifecycle, partition, streams
from perdure.core.tables import INBOX, INVOCATION, LOCK, META, STATE, STREAM, TIMER, InvocationItem, Lock, TimerKind
from perdure.core.turn import Turn
from perdure.model import actions as a
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.ids import CANCEL_SIGNAL
from perdure.model.invocation import Completed, Invocation, Invoked, Suspended, Target
from perdure.model.streams import StreamHead
from perdure.protocol.control import Start
from perdure.protocol.exchange import EngineEnd
from perdure.protocol.machine import Machine
from perdure.runtime import invoker
from perdure.runtime.loop import PartitionLoop
from perdure.runtime.streams import Outlet, _Log
from perdure.sdk.driver import HandlerRun
from perdure.sdk.eventloop import HandlerTask
from perdure.storage.base import Batch, Storage
from perdure.transports.remote import RemoteDuplex

__all__ = ["PLANTED"]

Plant = Callable[[], AbstractContextManager[Any]]
PLANTED: dict[str, Plant] = {}


def plant(make: Callable[[], Iterator[None]]) -> Callable[[], Iterator[None]]:
    """Registers a bug under its function's name."""
    PLANTED[make.__name__.replace("_", " ")] = contextlib.contextmanager(make)
    return make


# ---- the loop and the store


class _Wrapped:
    """A store with one method changed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def _with_store(kind: type[_Wrapped]) -> AbstractContextManager[Any]:
    real = PartitionLoop.__init__

    def init(self: PartitionLoop, index: int, partitions: int, storage: Storage, *rest: Any) -> None:
        real(self, index, partitions, kind(storage), *rest)

    return patch.object(PartitionLoop, "__init__", init)


@plant
def skip_a_commit() -> Iterator[None]:
    """Every seventh batch is acted on without being stored."""

    class Skipping(_Wrapped):
        def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
            self._commits += 1
            if self._commits % 7 == 0:
                done(None)
            else:
                self._storage.commit(batch, done)

    with _with_store(Skipping):
        yield


@plant
def act_before_the_commit() -> Iterator[None]:
    """Actions are carried out as soon as the batch is handed to the store."""
    real = PartitionLoop._close_batch

    def close_batch(self: PartitionLoop) -> None:
        real(self)
        actions, self._actions = self._actions, []
        for action in actions:
            self._perform(self.index, action)

    with patch.object(PartitionLoop, "_close_batch", close_batch):
        yield


@plant
def write_state_outside_the_batch() -> Iterator[None]:
    """A handler's `set` goes to the store at once, whatever becomes of the batch."""

    def set_state(turn: Turn, invocation: Invocation, entry: e.SetState) -> None:
        owner = (invocation.target.service, invocation.target.key)
        overlay: Any = turn.tables
        while hasattr(overlay, "_tables"):
            overlay = overlay._tables
        overlay._storage._rows._put(STATE, owner, {(*owner, entry.key): entry.value})

    with patch.dict(journal.ENTRIES, {e.SetState: set_state}):
        yield


# ---- recovery


def _recovery_without(kind: type[a.Action]) -> AbstractContextManager[Any]:
    def recover(turn: Turn, command: c.Recover) -> None:
        delivery.recover(turn, command)
        turn.actions[:] = [action for action in turn.actions if not isinstance(action, kind)]

    return patch.dict(partition.HANDLERS, {c.Recover: recover})


@plant
def lose_the_outbox_on_recovery() -> Iterator[None]:
    with _recovery_without(a.Send):
        yield


@plant
def forget_running_invocations_on_recovery() -> Iterator[None]:
    with _recovery_without(a.StartAttempt):
        yield


@plant
def forget_timers_on_recovery() -> Iterator[None]:
    with _recovery_without(a.SetTimer):
        yield


# ---- objects


@plant
def forget_the_lock() -> Iterator[None]:
    """An exclusive invocation takes the lock whoever has it."""

    def acquire(turn: Turn, target: Target, number: int) -> None:
        turn.tables.put(LOCK, (target.service, target.key), Lock(number))

    with patch.object(inbox, "acquire", acquire):
        yield


@plant
def last_come_first_served() -> Iterator[None]:
    """The next holder of an object is the one that came last."""

    def release(turn: Turn, target: Target, number: int) -> int | None:
        tables, owner = turn.tables, (target.service, target.key)
        waiting = [row for row in tables.scan(INBOX, owner) if isinstance(row[1], InvocationItem)]
        if not waiting:
            return real(turn, target, number)
        key, item = waiting[-1]
        lock = tables.get(LOCK, owner)
        assert lock is not None and isinstance(item, InvocationItem)
        tables.delete(INBOX, key)
        tables.put(LOCK, owner, Lock(item.number, lock.queued - 1))
        return item.number

    real = inbox.release
    with patch.object(inbox, "release", release):
        yield


@plant
def kill_keeps_the_lock() -> Iterator[None]:
    """Killing the holder of an object does not pass the object on."""

    def finish(turn: Turn, invocation: Invocation, result: e.Value | e.Failure) -> None:
        if result == e.Failure(409, "killed"):
            with patch.object(inbox, "release", lambda turn, target, number: None):
                real(turn, invocation, result)
        else:
            real(turn, invocation, result)

    real = lifecycle.finish
    with patch.object(lifecycle, "finish", finish):
        yield


# ---- between partitions


@plant
def deliver_twice() -> Iterator[None]:
    """A message that comes again is applied again."""

    def deliver(turn: Turn, command: c.Deliver) -> bool:
        return real(turn, command) or command.position <= (turn.tables.get(META, (f"received:{command.source}",)) or 0)

    real = delivery.deliver
    with patch.object(delivery, "deliver", deliver):
        yield


@plant
def overlook_a_gap() -> Iterator[None]:
    """A message that comes before its turn is applied, and those before it are taken for known."""

    def deliver(turn: Turn, command: c.Deliver) -> bool:
        counter = (f"received:{command.source}",)
        received = turn.tables.get(META, counter) or 0
        fresh = command.position > received
        if fresh:
            turn.tables.put(META, counter, command.position)
        turn.actions.append(a.AckDelivery(command.source, max(received, command.position)))
        return fresh

    with patch.object(delivery, "deliver", deliver):
        yield


@plant
def acknowledge_what_was_not_taken() -> Iterator[None]:
    """The sender is told that a message has arrived although it came too early to be applied."""

    def deliver(turn: Turn, command: c.Deliver) -> bool:
        fresh = real(turn, command)
        turn.actions[-1] = a.AckDelivery(command.source, command.position)
        return fresh

    real = delivery.deliver
    with patch.object(delivery, "deliver", deliver):
        yield


# ---- time


@plant
def keep_no_row_of_a_timer() -> Iterator[None]:
    """A sleep is remembered by the process only."""

    def sleep(turn: Turn, invocation: Invocation, entry: e.Sleep) -> None:
        turn.actions.append(a.SetTimer(entry.wake_up_time))

    with patch.dict(journal.ENTRIES, {e.Sleep: sleep}):
        yield


@plant
def fire_timers_early() -> Iterator[None]:
    """Whatever is due within a second is due."""

    def tick(turn: Turn) -> None:
        turn.at += 1000
        try:
            real(turn)
        finally:
            turn.at -= 1000

    real = delivery.tick
    with patch.object(delivery, "tick", tick):
        yield


@plant
def fire_timers_twice() -> Iterator[None]:
    """A timer's row stays when it has fired."""

    def fire(turn: Turn, key: Any) -> None:
        real(turn, key)
        if key[2] == TimerKind.SLEEP and turn.at < key[0] + 50:
            turn.tables.put(TIMER, key, True)

    real = delivery._fire
    with patch.object(delivery, "_fire", fire):
        yield


# ---- attempts


@plant
def suspend_without_a_look_back() -> Iterator[None]:
    """What came while the handler was being suspended does not wake it."""

    def suspend(turn: Turn, command: c.Suspend) -> None:
        invocation = lifecycle.current(turn, command.number, command.attempt)
        if invocation is not None:
            lifecycle.move(turn, invocation, Suspended(turn.at, command.waiting))

    with patch.dict(partition.HANDLERS, {c.Suspend: suspend}):
        yield


@plant
def ignore_the_fence() -> Iterator[None]:
    """An attempt that was given up may still speak for the invocation."""

    def current(turn: Turn, number: int, attempt: int) -> Invocation | None:
        invocation = turn.tables.get(INVOCATION, (number,))
        return invocation if invocation is not None and type(invocation.status) is Invoked else None

    with patch.object(lifecycle, "current", current):
        yield


@plant
def tell_only_the_first_caller() -> Iterator[None]:
    """Of all who wait for a result the first is told."""

    def finish(turn: Turn, invocation: Invocation, result: e.Value | e.Failure) -> None:
        real(turn, replace(invocation, waiters=invocation.waiters[:1]), result)

    real = lifecycle.finish
    with patch.object(lifecycle, "finish", finish):
        yield


@plant
def count_a_waiter_twice() -> Iterator[None]:
    """Whoever attaches is told twice."""

    def attach_from(turn: Turn, command: c.AttachFrom) -> None:
        real(turn, command)
        found = lifecycle.find(turn, command.id)
        if found is not None and command.wait and not isinstance(found.status, Completed):
            waiters = (*found.waiters, command.waiter)
            turn.tables.put(INVOCATION, (found.number,), replace(found, waiters=waiters))

    real = control.attach_from
    with patch.dict(partition.MESSAGES, {c.AttachFrom: attach_from}):
        yield


@plant
def accept_a_key_again() -> Iterator[None]:
    """A second request with the same idempotency key is a second invocation."""

    def accept(turn: Turn, command: c.Invoke) -> None:
        real(turn, replace(command, idempotency_key=None))

    real = lifecycle.accept
    with patch.dict(partition.HANDLERS, {c.Invoke: accept}), patch.dict(partition.MESSAGES, {c.Invoke: accept}):
        yield


@plant
def sleep_through_a_cancellation() -> Iterator[None]:
    """A suspended invocation is not woken by being cancelled."""

    def awaited(waiting: Any, notification: e.Notification) -> bool:
        if isinstance(notification, e.Signal) and notification.signal == CANCEL_SIGNAL:
            return False
        return real(waiting, notification)

    real = awaiting.is_awaited
    with patch.object(awaiting, "is_awaited", awaited):
        yield


# ---- replay


@plant
def run_a_journaled_step_again() -> Iterator[None]:
    """A replay runs the steps whose results it has."""
    real = Machine.__init__

    def init(self: Machine, *arguments: Any) -> None:
        real(self, *arguments)
        self.settled.clear()

    with patch.object(Machine, "__init__", init):
        yield


@plant
def replay_in_another_order() -> Iterator[None]:
    """A replay is given its notifications by their ids, not in the order in which they came."""
    real = Machine.__init__

    def init(self: Machine, *arguments: Any) -> None:
        real(self, *arguments)
        ordered = sorted(self._notifications, key=lambda each: getattr(each, "completion_id", 1 << 30))
        self._notifications.clear()
        self._notifications.extend(ordered)

    with patch.object(Machine, "__init__", init):
        yield


@plant
def forget_what_a_replay_set() -> Iterator[None]:
    """A handler that sets a key and reads it again reads the old value."""

    def set_state(self: Machine, key: str, value: bytes) -> None:
        self.issue(e.SetState(key, value))

    with patch.object(Machine, "set_state", set_state):
        yield


# ---- what the simulator found in the engine, planted again


@plant
def forget_the_output_of_an_attempt_cut_off() -> Iterator[None]:
    """An attempt that replays its output has none to end with."""
    with patch.object(invoker, "reversed", lambda entries: (), create=True):
        yield


@plant
def hash_tasks_by_their_address() -> Iterator[None]:
    """A set of tasks has another order in every attempt. (By a counter, so that the test has no luck of its own.)"""
    count = 0

    def address(self: HandlerTask) -> int:
        nonlocal count
        if not hasattr(self, "address"):
            count += 1
            addresses[id(self)] = count * 7919
        return addresses.get(id(self), 0)

    addresses: dict[int, int] = {}
    with patch.object(HandlerTask, "__hash__", address):
        yield


@plant
def clean_up_before_a_retry() -> Iterator[None]:
    """Tasks of a handler that is to be tried again are cancelled, and what they then do is journaled."""
    with patch.object(HandlerRun, "final", lambda self, error: True):
        yield


@plant
def count_a_try_that_still_runs() -> Iterator[None]:
    """A step that a crash cuts off counts as failed."""

    def tries(self: HandlerRun) -> dict[int, int]:
        return {step.completion_id: step.tries for step in self.steps.values() if step.tries}

    with patch.object(HandlerRun, "_tries", tries):
        yield


@plant
def wait_for_steps_that_will_not_run() -> Iterator[None]:
    """An attempt that is to fail when its steps are done waits for steps that it no longer starts."""

    def fail_when_quiet(self: HandlerRun) -> None:
        if not any(step.running for step in self.steps.values()):
            self._fail(next(iter(self._exhausted.values())))

    with patch.object(HandlerRun, "_fail_when_quiet", fail_when_quiet):
        yield


# ---- elsewhere


@plant
def ack_what_is_not_stored() -> Iterator[None]:
    """A handler elsewhere is told at once that a step's result is stored."""
    real = RemoteDuplex.data

    def data(self: RemoteDuplex, chunk: bytes) -> None:
        real(self, chunk)
        end = self._end
        for completion_id in sorted(end._acked):
            notification = e.Completion(e.RUN_COMPLETION, completion_id, e.VOID)
            if self._stream is not None and not self._gone:
                self._stream.write(end.notify(notification))

    with patch.object(RemoteDuplex, "data", data):
        yield


@plant
def count_what_was_not_sent_as_seen() -> Iterator[None]:
    """What came after the input was closed counts as known to the handler that suspends."""
    real = RemoteDuplex.notify

    def notify(self: RemoteDuplex, notification: e.Notification) -> None:
        if self._input_closed:
            self._end.seen += 1
        real(self, notification)

    with patch.object(RemoteDuplex, "notify", notify):
        yield


@plant
def answer_all_of_a_tree_with_one() -> Iterator[None]:
    """A handler that waits for all of several things is not woken when one of them fails."""

    def has_come(waiting: Any, notifications: Any) -> bool:
        calm = [note for note in notifications if not isinstance(note.result, e.Failure)]
        return real(waiting, calm)

    real = awaiting.has_come
    with patch.object(awaiting, "has_come", has_come):
        yield


@plant
def lose_an_entry_on_the_way() -> Iterator[None]:
    """The last entry of a longer journal is not sent to a handler elsewhere."""
    real = EngineEnd.opening

    def opening(self: EngineEnd) -> bytes:
        whole = self.start
        if len(whole.entries) > 4 and isinstance(whole.entries[-1], e.Completion):
            self.start = replace(whole, entries=whole.entries[:-1])
        return real(self)

    with patch.object(EngineEnd, "opening", opening):
        yield


# ---- streams


@plant
def keep_what_a_failed_try_showed() -> Iterator[None]:
    """The chunks of a try that failed stay among those of its step."""
    with patch.object(Outlet, "void", lambda self, completion_id: None):
        yield


@plant
def forget_to_store_what_a_step_showed() -> Iterator[None]:
    """A step's result is stored without its chunks."""

    def store(turn: Turn, invocation: Invocation, parts: Any, source: int) -> Invocation:
        return real(turn, invocation, parts[:0] if source % 2 else parts, source)

    real = streams.store
    with patch.object(streams, "store", store):
        yield


@plant
def write_again_on_replay() -> Iterator[None]:
    """What a handler writes is stored again by each of its later attempts."""

    def write(turn: Turn, command: c.WriteStream) -> None:
        head = turn.tables.get(STREAM, (command.number, command.part.name)) or StreamHead()
        real(turn, replace(command, ordinal=head.written))

    def init(self: HandlerRun, definition: Any, start: Start, *rest: Any) -> None:
        forgotten = {name: replace(head, written=0) for name, head in start.streams.items()}
        begin(self, definition, replace(start, streams=forgotten), *rest)

    real, begin = streams.write, HandlerRun.__init__
    with patch.dict(partition.HANDLERS, {c.WriteStream: write}), patch.object(HandlerRun, "__init__", init):
        yield


@plant
def regenerate_without_a_word() -> Iterator[None]:
    """A reader is not told that what it has seen is void."""
    with patch.object(_Log, "regenerated_since", lambda self, marks: None):
        yield


@plant
def believe_every_cursor() -> Iterator[None]:
    """A reader that comes back is taken to have seen what is there now."""
    with patch.object(_Log, "resume", lambda self, cursor: (self.marks, cursor.position + 1)):
        yield
