"""What is true of a partition's tables after every commit, whatever happened.

`check` reads tables and says what is wrong with them; it knows nothing of how they came to be. The simulator calls
it after every commit, and a test or a person may call it on a copy of any store (`MemoryStorage.snapshot`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from perdure.core import tables as t
from perdure.core.tables import InvocationItem, Key, Lock, TimerKind
from perdure.model import entries as e
from perdure.model.invocation import Completed, Inboxed, Invocation, Invoked, Paused, Scheduled, Suspended
from perdure.model.services import HandlerKind

__all__ = ["Rows", "check", "journal_of"]

Rows: TypeAlias = Mapping[str, Mapping[Key, Any]]
"""For each table, by name, its rows."""


def check(tables: Rows, journals: Iterable[int] | None = None) -> list[str]:
    """Everything that is wrong with one partition's tables; nothing, if they are as they should be.

    `journals`, if given, names the invocations whose journals are looked at: they are most of the work.
    """
    wrong: list[str] = []
    for rule in _RULES:
        wrong += rule(tables)
    invocations = tables["invocation"]
    if journals is None:
        journals = sorted({key[0] for key in tables["journal"]} | {key[0] for key in invocations})
    for number in journals:
        wrong += _journal(tables, number)
    return wrong


def journal_of(tables: Rows, number: int) -> list[e.Entry]:
    """An invocation's entries up to the first gap."""
    rows = tables["journal"]
    entries: list[e.Entry] = []
    while (row := rows.get((number, len(entries)))) is not None:
        entries.append(row[1])
    return entries


def _ids(tables: Rows) -> Iterator[str]:
    """Numbers and ids name each other, and no number is beyond the counter."""
    invocations, ids = tables["invocation"], tables["invocation_id"]
    last = tables["meta"].get(("number",), 0)
    if len(ids) != len(invocations):
        yield f"{len(invocations)} invocations have {len(ids)} ids"
    for (number,), invocation in invocations.items():
        if invocation.number != number:
            yield f"invocation {invocation.number} is stored as number {number}"
        if ids.get((invocation.id[8:] + invocation.id[:8],)) != number:
            yield f"invocation {number} is not found by its id"
        if number > last:
            yield f"invocation {number} is beyond the counter, {last}"


def _active(tables: Rows) -> Iterator[str]:
    """ACTIVE names exactly the invocations that have to be started again after a crash."""
    active = {key[0] for key in tables["active"]}
    invoked = {key[0] for key, row in tables["invocation"].items() if type(row.status) is Invoked}
    if active != invoked:
        yield f"active are {sorted(active)}, invoked are {sorted(invoked)}"


def _locks(tables: Rows) -> Iterator[str]:
    """A lock is held by an invocation of its object that has begun and has not ended; an inbox has a lock."""
    invocations, inbox = tables["invocation"], tables["inbox"]
    queued: dict[Key, int] = {}
    for key, item in inbox.items():
        owner = key[:2]
        queued[owner] = queued.get(owner, 0) + 1
        if key[2] > tables["meta"].get(("inbox",), 0):
            yield f"inbox position {key[2]} of {owner} is beyond the counter"
        if isinstance(item, InvocationItem):
            waiting = invocations.get((item.number,))
            if waiting is None or waiting.status != Inboxed(key[2]) or _owner(waiting) != owner:
                yield f"position {key[2]} of the inbox of {owner} names {item.number}, which is {_short(waiting)}"
    for owner, lock in tables["lock"].items():
        holder = invocations.get((lock.holder,))
        if (
            holder is None
            or _owner(holder) != owner
            or holder.target.kind is not HandlerKind.EXCLUSIVE
            or not isinstance(holder.status, Invoked | Suspended | Paused)
        ):
            yield f"{owner} is held by {lock.holder}, which is {_short(holder)}"
        if lock.queued != queued.pop(owner, 0):
            yield f"the lock of {owner} counts {lock.queued} in its inbox, and that is not so"
    for owner in queued:
        yield f"{owner} has an inbox and no lock: nobody will open it"


def _statuses(tables: Rows) -> Iterator[str]:
    """Every status has the row that will end it."""
    timers = tables["timer"]
    for (number,), invocation in tables["invocation"].items():
        status = invocation.status
        kind = type(status)
        if invocation.target.kind is HandlerKind.EXCLUSIVE and kind in (Invoked, Suspended, Paused):
            lock: Lock | None = tables["lock"].get(_owner(invocation))
            if lock is None or lock.holder != number:
                yield f"{number} runs, and {_owner(invocation)} is held by {lock}"
        if kind is Scheduled and (status.at, number, TimerKind.BEGIN, 0) not in timers:
            yield f"{number} is scheduled and has no timer"
        elif kind is Inboxed and (*_owner(invocation), status.position) not in tables["inbox"]:
            yield f"{number} is inboxed and not in the inbox"
        elif kind is Invoked and status.retry_at is not None:
            if (status.retry_at, number, TimerKind.RETRY, invocation.attempts) not in timers:
                yield f"{number} backs off and has no timer"
        elif kind is Completed:
            due = status.at + invocation.retention.completion_ms
            if invocation.retention.completion_ms <= 0 or (due, number, TimerKind.EXPIRE, 0) not in timers:
                yield f"{number} is completed and will never be forgotten"


def _outbox(tables: Rows) -> Iterator[str]:
    """What waits to be delivered has no gaps, and ends with what was sent last."""
    positions: dict[int, list[int]] = {}
    for destination, position in tables["outbox"]:
        positions.setdefault(destination, []).append(position)
    for destination, found in positions.items():
        found.sort()
        last = tables["meta"].get((f"sent:{destination}",), 0)
        if found != list(range(last - len(found) + 1, last + 1)):
            yield f"the outbox for {destination} holds {found}, and {last} were sent"


def _promises(tables: Rows) -> Iterator[str]:
    for key, promise in tables["promise"].items():
        if promise.result is not None and promise.waiters:
            yield f"promise {key} has a result and somebody waits for it"
        if len(set(promise.waiters)) != len(promise.waiters):
            yield f"promise {key}: the same entry waits twice"


def _streams(tables: Rows) -> Iterator[str]:
    """A stream belongs to an invocation that says so; its head counts its parts, whose positions are used once."""
    heads, parts = tables.get("stream", {}), tables.get("stream_part", {})
    counted: dict[Key, int] = {}
    for (number, name, index), part in parts.items():
        counted[number, name] = counted.get((number, name), 0) + 1
        head = heads.get((number, name))
        if head is None or index >= head.parts or part.end > head.next:
            yield f"part {index} of stream {name!r} of {number} is beyond its head, {head}"
    for key, head in heads.items():
        invocation = tables["invocation"].get((key[0],))
        if invocation is None or not invocation.streams:
            yield f"stream {key[1]!r} of {key[0]} belongs to nobody"
        if counted.get(key, 0) != head.parts:
            yield f"stream {key[1]!r} of {key[0]} has {counted.get(key, 0)} parts, not {head.parts}"
        chunks = [
            position + offset
            for index in range(head.parts)
            for position, run in parts[*key, index].runs
            for offset in range(len(run))
        ]
        if len(chunks) != len(set(chunks)) or len(chunks) != head.chunks:
            yield f"stream {key[1]!r} of {key[0]} has positions twice, or not the {head.chunks} chunks that it counts"


_RULES: tuple[Callable[[Rows], Iterator[str]], ...] = (
    _ids,
    _active,
    _locks,
    _statuses,
    _outbox,
    _promises,
    _streams,
)


def _journal(tables: Rows, number: int) -> Iterator[str]:
    """A journal has no gap, begins with the input, and answers each command once, after it was given."""
    invocation: Invocation | None = tables["invocation"].get((number,))
    entries = journal_of(tables, number)
    if (number, len(entries) + 1) in tables["journal"]:
        yield f"the journal of {number} has a gap at {len(entries)}"
    if invocation is None:
        if entries:
            yield f"{number} is forgotten, its journal is not"
        return
    if len(set(invocation.waiters)) != len(invocation.waiters):
        yield f"{number}: the same entry waits twice for its result"
    if isinstance(invocation.status, Completed):
        return
    if not entries or not isinstance(entries[0], e.Input):
        yield f"the journal of {number} does not begin with its input"
    asked: set[int] = set()
    answered: set[int] = set()
    asleep: dict[int, int] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, e.Completion):
            if entry.completion_id in answered:
                yield f"the journal of {number} answers {entry.completion_id} twice, the second time at {index}"
            if entry.completion_id not in asked:
                yield f"the journal of {number} answers {entry.completion_id} at {index}, which nobody asked"
            answered.add(entry.completion_id)
            asleep.pop(entry.completion_id, None)
        elif not isinstance(entry, e.Signal):
            asked.update(_completion_ids(entry))
            if isinstance(entry, e.Sleep):
                asleep[entry.completion_id] = entry.wake_up_time
    for completion_id, due in asleep.items():
        if (due, number, TimerKind.SLEEP, completion_id) not in tables["timer"]:
            yield f"{number} sleeps ({completion_id}) and has no timer"
    if isinstance(invocation.status, Suspended):
        waiting = invocation.status.waiting
        if known := answered.intersection(waiting.completions):
            yield f"{number} is suspended and waits for {sorted(known)}, which the journal has"
        arrived = {entry.signal for entry in entries if isinstance(entry, e.Signal)}
        if known := {signal for signal in waiting.signals if signal in arrived and signal != 1}:
            yield f"{number} is suspended and waits for signals {sorted(known)}, which the journal has"


def _completion_ids(entry: e.Entry) -> Iterator[int]:
    for field in ("completion_id", "invocation_id_completion_id"):
        found = getattr(entry, field, None)
        if found is not None:
            yield found


def _owner(invocation: Invocation) -> Key:
    return (invocation.target.service, invocation.target.key)


def _short(invocation: Invocation | None) -> str:
    return "unknown" if invocation is None else f"{invocation.target} {invocation.status}"


assert {table.name for table in t.TABLES} >= {"invocation", "journal", "lock", "inbox", "timer", "outbox", "active"}
