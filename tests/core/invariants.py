"""What is true of all partitions together, whatever happened; for one of them, `perdure.testing.invariants` knows.

`check` takes what is stored, each partition at a moment of its own: between two commits of one any other may be
ahead of it, so what is on its way from one to another counts as being there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.ids import parse_invocation_id, partition_of
from perdure.model.invocation import Completed, Invocation, Promise, Waiter
from perdure.testing.invariants import Rows, journal_of
from perdure.testing.invariants import check as check_one

__all__ = ["check"]

AT_ONCE = (e.GetLazyState, e.GetLazyStateKeys, e.PeekPromise, e.CompletePromise)  # answered in the next entry


def check(partitions: Sequence[Rows]) -> list[str]:
    """Everything that is wrong; nothing, if all is as it should be."""
    wrong = [f"partition {index}: {what}" for index, rows in enumerate(partitions) for what in check_one(rows)]
    for source in range(len(partitions)):
        for destination in range(len(partitions)):
            wrong += _stream(partitions, source, destination)
    under_way = list(_under_way(partitions))
    for index, rows in enumerate(partitions):
        for invocation in rows["invocation"].values():
            if partition_of(invocation.id, len(partitions)) != index:
                wrong.append(f"partition {index} has {invocation.id.hex()}, which another one owns")
            if not isinstance(invocation.status, Completed):
                wrong += _answers(partitions, rows, invocation, under_way)
    return wrong


def _received(partitions: Sequence[Rows], source: int, destination: int) -> int:
    return int(partitions[destination]["meta"].get((f"received:{source}",), 0))


def _stream(partitions: Sequence[Rows], source: int, destination: int) -> Iterator[str]:
    """Whatever was sent and is not received is in the outbox."""
    sent = partitions[source]["meta"].get((f"sent:{destination}",), 0)
    received = _received(partitions, source, destination)
    if received > sent:
        yield f"{destination} has {received} messages of {source}, which sent {sent}"
    for position in range(received + 1, sent + 1):
        if (destination, position) not in partitions[source]["outbox"]:
            yield f"message {position} from {source} to {destination} is lost"


def _under_way(partitions: Sequence[Rows]) -> Iterator[Any]:
    """The messages that are sent and not received."""
    for source, rows in enumerate(partitions):
        for (destination, position), message in rows["outbox"].items():
            if position > _received(partitions, source, destination):
                yield message


def _answers(partitions: Sequence[Rows], rows: Rows, invocation: Invocation, under_way: Sequence[Any]) -> Iterator[str]:
    """Every entry that waits for an answer will get one: whoever is to give it knows of it."""
    entries = journal_of(rows, invocation.number)
    answered = {entry.completion_id: entry for entry in entries if isinstance(entry, e.Completion)}
    for index, entry in enumerate(entries):
        if isinstance(entry, AT_ONCE):
            behind = entries[index + 1] if index + 1 < len(entries) else None
            if not isinstance(behind, e.Completion) or behind.completion_id != entry.completion_id:
                yield f"{invocation.target}: entry {index} was not answered at once"
        elif isinstance(entry, e.GetPromise) and entry.completion_id not in answered:
            waiter = Waiter(invocation.id, entry.completion_id, e.GET_PROMISE_COMPLETION, invocation.number)
            name = (invocation.target.service, invocation.target.key, entry.key)
            promise: Promise | None = rows["promise"].get(name)
            if promise is None or waiter not in promise.waiters:
                yield f"{invocation.target}: entry {index} waits for a promise that does not know of it"
        elif isinstance(entry, e.Call | e.AttachInvocation) and entry.completion_id not in answered:
            callee = _callee(entry, answered)
            kind = e.CALL_COMPLETION if isinstance(entry, e.Call) else e.ATTACH_COMPLETION
            waiter = Waiter(invocation.id, entry.completion_id, kind, invocation.number)
            if not _known(partitions, callee, waiter) and not any(_carries(message, waiter) for message in under_way):
                yield f"{invocation.target}: entry {index} waits for an answer that nobody will give"


def _callee(entry: e.Call | e.AttachInvocation, answered: dict[int, e.Completion]) -> bytes:
    if isinstance(entry, e.Call):
        known = answered[entry.invocation_id_completion_id].result
        assert isinstance(known, e.InvocationIdResult)
        return parse_invocation_id(known.invocation_id)
    assert isinstance(entry.target, e.InvocationTarget)
    return parse_invocation_id(entry.target.invocation_id)


def _known(partitions: Sequence[Rows], callee: bytes, waiter: Waiter) -> bool:
    rows = partitions[partition_of(callee, len(partitions))]
    number = rows["invocation_id"].get((callee[8:] + callee[:8],))
    return number is not None and waiter in rows["invocation"][(number,)].waiters


def _carries(message: Any, waiter: Waiter) -> bool:
    """Whether a message takes the question there, or the answer back."""
    return isinstance(message, c.Invoke | c.AttachFrom | c.CompleteCall) and message.waiter == waiter
