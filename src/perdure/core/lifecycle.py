"""From accepted to completed: the statuses an invocation goes through, and nothing but these.

`ALLOWED` is the whole of it; a move that is not in the table is a bug and stops the partition.
"""

from typing import Any

from msgspec.structs import replace

from perdure.core import awaiting, inbox
from perdure.core.tables import (
    ACTIVE,
    INVOCATION,
    INVOCATION_ID,
    JOURNAL,
    PROMISE,
    STATE,
    STREAM,
    STREAM_PART,
    TIMER,
    TimerKind,
)
from perdure.core.turn import Turn
from perdure.model.actions import (
    Accepted,
    AlreadyInvoked,
    Answer,
    Finished,
    Notify,
    ReplayedJournal,
    Reply,
    SetTimer,
    StartAttempt,
)
from perdure.model.commands import CompleteCall, End, Fail, Invoke, Load, Note, Suspend
from perdure.model.entries import VOID, Completion, Failure, Notification, Signal, Value
from perdure.model.invocation import (
    Completed,
    Inboxed,
    Invocation,
    Invoked,
    Paused,
    Scheduled,
    Status,
    Suspended,
    Target,
    Waiter,
)
from perdure.model.services import HandlerKind
from perdure.model.streams import StreamHead

__all__ = [
    "ALLOWED",
    "EAGER_STATE_LIMIT",
    "accept",
    "complete_waiter",
    "current",
    "drop_journal",
    "end",
    "expires_at",
    "fail",
    "find",
    "finish",
    "forget",
    "id_key",
    "load",
    "move",
    "note",
    "notify",
    "start",
    "suspend",
    "wake",
]

ALLOWED: dict[type[Status], frozenset[type[Status]]] = {
    Scheduled: frozenset({Inboxed, Invoked, Completed}),
    Inboxed: frozenset({Invoked, Completed}),
    Invoked: frozenset({Invoked, Suspended, Paused, Completed}),
    Suspended: frozenset({Invoked, Paused, Completed}),
    Paused: frozenset({Invoked, Completed}),
    Completed: frozenset(),
}

EAGER_STATE_LIMIT = 1 << 20  # bytes of an object's state sent along with a start; more is read when asked for


def id_key(invocation: bytes) -> tuple[bytes]:
    """The key of INVOCATION_ID: the time-ordered 16 bytes first, so that new ids are stored side by side."""
    return (invocation[8:] + invocation[:8],)


def find(turn: Turn, invocation: bytes) -> Invocation | None:
    """The invocation with this id."""
    number = turn.tables.get(INVOCATION_ID, id_key(invocation))
    return None if number is None else turn.tables.get(INVOCATION, (number,))


def current(turn: Turn, number: int, attempt: int) -> Invocation | None:
    """The invocation, if `attempt` is still the one that speaks for it."""
    invocation = turn.tables.get(INVOCATION, (number,))
    if invocation is None or invocation.attempts != attempt:
        return None
    status = invocation.status
    return invocation if type(status) is Invoked and status.retry_at is None else None


def move(turn: Turn, invocation: Invocation, status: Status, **changes: Any) -> Invocation:
    """Give the invocation its next status; the only way there is."""
    before, after = type(invocation.status), type(status)
    assert after in ALLOWED[before], f"{before.__name__} -> {after.__name__}"
    tables = turn.tables
    moved = replace(invocation, status=status, **changes)
    tables.put(INVOCATION, (invocation.number,), moved)
    if before is not after:
        if after is Invoked:
            tables.put(ACTIVE, (invocation.number,), True)  # so that it is started again after a crash
        elif before is Invoked:
            tables.delete(ACTIVE, (invocation.number,))
        statuses = tables.statuses
        statuses[before] -= 1
        statuses[after] += 1
    return moved


def accept(turn: Turn, command: Invoke) -> None:
    """A new invocation, or another request for one that is known."""
    tables, target = turn.tables, command.target
    if command.idempotency_key is not None or target.kind is HandlerKind.WORKFLOW:
        known = find(turn, command.id)
        if known is not None:
            _repeat(turn, command, known)
            return
    number = tables.count("number")
    tables.put(INVOCATION_ID, id_key(command.id), number)
    tables.append(number, turn.at, command.input)
    later = command.execute_at is not None and command.execute_at > turn.at
    invocation = Invocation(
        number,
        command.id,
        target,
        Scheduled(command.execute_at or turn.at),
        turn.at,
        idempotency_key=command.idempotency_key,
        retention=command.retention,
        caller=command.caller,
        waiters=() if command.waiter is None else (command.waiter,),
        execute_at=command.execute_at if later else None,
        trace=command.trace,
    )
    tables.statuses[Scheduled] += 1
    if later:
        due = command.execute_at or 0
        tables.put(INVOCATION, (number,), invocation)
        tables.put(TIMER, (due, number, TimerKind.BEGIN, 0), True)
        turn.actions.append(SetTimer(due))
    else:
        _begin(turn, invocation, ReplayedJournal((command.input,), None))
    if command.token is not None and not command.wait:
        turn.actions.append(Reply(command.token, Accepted(command.id, True, command.execute_at if later else None)))


def _repeat(turn: Turn, command: Invoke, known: Invocation) -> None:
    workflow = command.target.kind is HandlerKind.WORKFLOW
    status = known.status
    if command.waiter is not None:
        if workflow:
            complete_waiter(turn, command.waiter, Failure(409, "the workflow method was already invoked"))
        elif isinstance(status, Completed):
            complete_waiter(turn, command.waiter, status.result)
        elif command.waiter not in known.waiters:
            turn.tables.put(INVOCATION, (known.number,), replace(known, waiters=(*known.waiters, command.waiter)))
    if command.token is None:
        return
    if not command.wait:
        execute_at = status.at if isinstance(status, Scheduled) else None
        turn.actions.append(Reply(command.token, Accepted(known.id, False, execute_at)))
    elif workflow:
        turn.actions.append(Reply(command.token, AlreadyInvoked(known.id)))
    elif isinstance(status, Completed):
        turn.actions.append(Reply(command.token, Answer(known.id, status.result, expires_at(known))))


def begin(turn: Turn, invocation: Invocation) -> None:
    """The scheduled time has come."""
    _begin(turn, invocation, None)


def _begin(turn: Turn, invocation: Invocation, journal: ReplayedJournal | None) -> None:
    if invocation.target.kind is HandlerKind.EXCLUSIVE:
        position = inbox.acquire(turn, invocation.target, invocation.number)
        if position is not None:
            move(turn, invocation, Inboxed(position), inboxed_at=turn.at)
            return
    start(turn, invocation, journal)


def start(turn: Turn, invocation: Invocation, journal: ReplayedJournal | None = None, **changes: Any) -> None:
    """Run the handler, from the beginning or again: every attempt comes through here."""
    status = changes.pop("status", None)
    if status is None:
        before = invocation.status
        status = Invoked(seen=before.seen) if type(before) is Suspended else Invoked()
    if invocation.started_at is None:
        changes["started_at"] = turn.at
    invocation = move(turn, invocation, status, attempts=invocation.attempts + 1, **changes)
    if journal is None:
        journal = _journal(turn, invocation)
    else:
        journal = ReplayedJournal(journal.entries, _state(turn, invocation.target), turn.at)
    turn.actions.append(StartAttempt(invocation, journal))


def _journal(turn: Turn, invocation: Invocation) -> ReplayedJournal:
    rows = turn.tables.journal(invocation.number)
    entries = tuple([entry for _, entry in rows])
    state = _state(turn, invocation.target)
    return ReplayedJournal(entries, state, rows[-1][0] if rows else turn.at, _streams(turn, invocation))


def _streams(turn: Turn, invocation: Invocation) -> dict[str, StreamHead]:
    if not invocation.streams:
        return {}
    return {key[1]: head for key, head in turn.tables.scan(STREAM, (invocation.number,))}


def load(turn: Turn, command: Load) -> None:
    """The runtime has room for an attempt that recovery announced."""
    invocation = current(turn, command.number, command.attempt)
    if invocation is not None:
        turn.actions.append(StartAttempt(invocation, _journal(turn, invocation)))


def _state(turn: Turn, target: Target) -> dict[str, bytes] | None:
    """The object's state to send along, or None: it has none, or too much."""
    if target.key is None:
        return None
    state: dict[str, bytes] = {}
    size = 0
    for key, value in turn.tables.scan(STATE, (target.service, target.key)):
        state[key[2]] = value
        size += len(value)
        if size > EAGER_STATE_LIMIT:
            return None
    return state


def notify(turn: Turn, invocation: Invocation, notification: Notification) -> None:
    """Append a notification to the journal and see that the handler gets it, now or when it runs again."""
    status = invocation.status
    if type(status) is Completed:
        return
    turn.tables.append(invocation.number, turn.at, notification)
    if type(status) is Invoked:
        turn.actions.append(Notify(invocation.number, notification))
    elif type(status) is Suspended and _wakes(turn, invocation, status, notification):
        start(turn, invocation)


def _wakes(turn: Turn, invocation: Invocation, status: Suspended, notification: Notification) -> bool:
    if not awaiting.is_awaited(status.waiting, notification):
        return False
    return status.waiting.flat or awaiting.has_come(
        status.waiting, _notifications(turn, invocation)[status.seen or 0 :]
    )


def _notifications(turn: Turn, invocation: Invocation) -> list[Notification]:
    return [entry for _, entry in turn.tables.journal(invocation.number) if isinstance(entry, Completion | Signal)]


def wake(turn: Turn, invocation: Invocation) -> None:
    """Make a paused, suspended or backing-off invocation run now."""
    start(turn, invocation, resumed_at=turn.at)


def suspend(turn: Turn, command: Suspend) -> None:
    """The handler was dropped; unless what it waits for came meanwhile, that is that."""
    invocation = current(turn, command.number, command.attempt)
    if invocation is None:
        return
    if awaiting.has_come(command.waiting, _notifications(turn, invocation)[command.seen or 0 :]):
        start(turn, invocation, status=Invoked(seen=command.seen))
    else:
        move(turn, invocation, Suspended(turn.at, command.waiting, command.seen))


def end(turn: Turn, command: End) -> None:
    """The handler returned."""
    invocation = current(turn, command.number, command.attempt)
    if invocation is not None:
        finish(turn, invocation, command.result)


def fail(turn: Turn, command: Fail) -> None:
    """The attempt failed: back off and try again, or stop trying."""
    invocation = current(turn, command.number, command.attempt)
    if invocation is None:
        return
    status = invocation.status
    assert isinstance(status, Invoked)
    failures = status.failures + (command.delay_ms is None)
    behavior = command.behavior
    if behavior == "retry" and command.delay_ms is None and command.policy.exhausted(failures):
        behavior = command.policy.on_exhausted
    if behavior == "pause":
        move(turn, invocation, Paused(turn.at, command.failure))
        return
    if behavior == "fail":
        finish(turn, invocation, Failure(command.failure.code, command.failure.message))
        return
    delay = command.delay_ms
    if delay is None:
        delay = command.policy.delay_ms(failures, command.chance)
    retry = Invoked(
        failures, turn.at + delay, command.failure, command.step_attempts, status.fruitless + 1, status.seen
    )
    if delay <= 0:
        start(turn, invocation, status=replace(retry, retry_at=None))
        return
    move(turn, invocation, retry)
    due = turn.at + delay
    turn.tables.put(TIMER, (due, invocation.number, TimerKind.RETRY, invocation.attempts), True)
    turn.actions.append(SetTimer(due))


def note(turn: Turn, command: Note) -> None:
    """A step failed inside a running attempt: keep why, and how often, with the invocation."""
    invocation = current(turn, command.number, command.attempt)
    if invocation is not None:
        assert isinstance(invocation.status, Invoked)
        status = replace(invocation.status, failure=command.failure, step_attempts=command.step_attempts)
        turn.tables.put(INVOCATION, (invocation.number,), replace(invocation, status=status))


def finish(turn: Turn, invocation: Invocation, result: Value | Failure) -> None:
    """Complete it, tell whoever waits, pass the object's lock on, and keep what is to be kept."""
    tables, retention = turn.tables, invocation.retention
    held = invocation.target.kind is HandlerKind.EXCLUSIVE and not isinstance(invocation.status, Scheduled | Inboxed)
    completed = move(turn, invocation, Completed(turn.at, result), waiters=())
    tables.completed.append(completed)
    turn.actions.append(Finished(invocation.id, result, expires_at(completed)))
    for waiter in invocation.waiters:
        complete_waiter(turn, waiter, result)
    if held:
        following = inbox.release(turn, invocation.target, invocation.number)
        if following is not None:
            successor = tables.get(INVOCATION, (following,))
            assert successor is not None
            start(turn, successor)
    if retention.completion_ms <= 0:
        forget(turn, completed)
        return
    _keep_until(turn, completed.number, TimerKind.EXPIRE, retention.completion_ms)
    if retention.journal_ms <= 0:
        drop_journal(turn, completed)
    elif retention.journal_ms < retention.completion_ms:
        _keep_until(turn, completed.number, TimerKind.EXPIRE_JOURNAL, retention.journal_ms)


def _keep_until(turn: Turn, number: int, kind: int, keep_ms: int) -> None:
    due = turn.at + keep_ms
    turn.tables.put(TIMER, (due, number, kind, 0), True)
    turn.actions.append(SetTimer(due))


def drop_journal(turn: Turn, invocation: Invocation) -> None:
    """Forget how the invocation came about: its journal, and what it showed meanwhile."""
    tables, number = turn.tables, invocation.number
    tables.drop(JOURNAL, (number,))
    if invocation.streams:
        for key, _ in tables.scan(STREAM, (number,)):
            tables.drop(STREAM_PART, key)
        tables.drop(STREAM, (number,))


def forget(turn: Turn, invocation: Invocation) -> None:
    """Delete every trace of it; a workflow takes its state and promises along, and tells whoever waits for these."""
    tables, target = turn.tables, invocation.target
    tables.delete(INVOCATION, (invocation.number,))
    tables.delete(INVOCATION_ID, id_key(invocation.id))
    drop_journal(turn, invocation)
    if target.kind is HandlerKind.WORKFLOW:
        owner = (target.service, target.key)
        for key, promise in tables.scan(PROMISE, owner):
            gone = Failure(410, f"the workflow is no longer kept, and with it the promise {key[2]!r}")
            for waiter in promise.waiters:
                complete_waiter(turn, waiter, gone)
        tables.drop(STATE, owner)
        tables.drop(PROMISE, owner)


def complete_waiter(turn: Turn, waiter: Waiter, result: Value | Failure | None) -> None:
    """Send a result to the journal entry that waits for it, whichever partition that is in."""
    turn.post(waiter.invocation, CompleteCall(waiter, result))


def completed_call(turn: Turn, command: CompleteCall) -> None:
    """A result has come for an entry of one of our journals."""
    waiter = command.waiter
    invocation = find(turn, waiter.invocation)
    if invocation is not None and invocation.number == waiter.number:
        result = VOID if command.result is None else command.result
        notify(turn, invocation, Completion(waiter.type, waiter.completion_id, result, turn.at))


def expires_at(invocation: Invocation) -> int | None:
    """Until when (ms since the epoch) the result can be asked for; None where it is not kept."""
    status = invocation.status
    if not isinstance(status, Completed) or invocation.retention.completion_ms <= 0:
        return None
    return status.at + invocation.retention.completion_ms
