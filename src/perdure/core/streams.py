"""Streams: rows beside the journal, stored with the step that wrote them, dropped with the journal."""

from msgspec.structs import replace

from perdure.core import lifecycle
from perdure.core.tables import INVOCATION, STREAM, STREAM_PART
from perdure.core.turn import Turn
from perdure.model.actions import Refused, Reply, StreamAnswer, StreamStored
from perdure.model.commands import ReadStream, WriteStream
from perdure.model.ids import format_invocation_id
from perdure.model.invocation import Completed, Invocation
from perdure.model.streams import StreamHead, StreamPart

__all__ = ["read", "store", "write"]


def store(turn: Turn, invocation: Invocation, parts: tuple[StreamPart, ...], source: int) -> Invocation:
    """Keep what a step has written, with its result; the invocation, which from now on is known to have streams."""
    for part in parts:
        _append(turn, invocation.number, part, StreamHead())
    turn.actions.append(StreamStored(invocation.id, invocation.attempts, source))
    return _has_streams(turn, invocation)


def write(turn: Turn, command: WriteStream) -> None:
    """Keep what the handler's own code has written; each of its writes is stored once, in order."""
    invocation = lifecycle.current(turn, command.number, command.attempt)
    if invocation is None:
        return
    part = command.part
    head = turn.tables.get(STREAM, (command.number, part.name)) or StreamHead()
    if command.ordinal != head.written:
        return
    _append(turn, command.number, part, StreamHead(written=1, closed=command.closes))
    turn.actions.append(StreamStored(invocation.id, invocation.attempts, command.source))
    _has_streams(turn, invocation)


def _append(turn: Turn, number: int, part: StreamPart, change: StreamHead) -> None:
    tables, key = turn.tables, (number, part.name)
    head = tables.get(STREAM, key) or StreamHead()
    if part.runs:
        tables.put(STREAM_PART, (*key, head.parts), part)
    head = StreamHead(
        head.parts + bool(part.runs),
        max(head.next, part.end),
        head.chunks + sum(len(chunks) for _, chunks in part.runs),
        head.size + sum(len(chunk) for _, chunks in part.runs for chunk in chunks),
        head.written + change.written,
        turn.at,
        head.closed or change.closed,
    )
    tables.put(STREAM, key, head)


def _has_streams(turn: Turn, invocation: Invocation) -> Invocation:
    if not invocation.streams:
        invocation = replace(invocation, streams=True)
        turn.tables.put(INVOCATION, (invocation.number,), invocation)
    return invocation


def read(turn: Turn, command: ReadStream) -> None:
    """Tell all that is stored of a stream, and whether more may come."""
    invocation = lifecycle.find(turn, command.id)
    if invocation is None:
        refusal = Refused(404, f"invocation {format_invocation_id(command.id)} not found")
        turn.actions.append(Reply(command.token, refusal))
        return
    key = (invocation.number, command.name)
    head = turn.tables.get(STREAM, key) if invocation.streams else None
    parts = tuple(part for _, part in turn.tables.scan(STREAM_PART, key)) if head is not None and head.parts else ()
    status = invocation.status
    answer = StreamAnswer(
        invocation.number,
        invocation.attempts,
        head or StreamHead(),
        parts,
        status.result if isinstance(status, Completed) else None,
    )
    turn.actions.append(Reply(command.token, answer))
