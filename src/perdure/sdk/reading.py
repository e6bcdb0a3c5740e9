"""Reading streams from outside of handlers: the events, and the reader that puts them together.

`StreamFeed` is the HTTP side of it without IO: what to ask, what the answer's bytes mean, whether to ask again. Async
and sync clients are shells around it, as they are around operations.
"""

from base64 import b64decode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec

from perdure.errors import TerminalError
from perdure.model.entries import Failure
from perdure.model.streams import (
    RAW,
    Chunk,
    ChunkEvent,
    EndEvent,
    RegeneratedEvent,
    StreamEvent,
    check_stream_name,
)
from perdure.sdk.operations import HttpReply, HttpRequest, Operation, Retries, refusal, reply_value
from perdure.sdk.serde import Serde, serde_for

__all__ = [
    "Events",
    "ReadStream",
    "Regenerated",
    "StreamChunk",
    "StreamFeed",
    "StreamReader",
    "SyncStreamReader",
]

Told: TypeAlias = tuple[StreamEvent, str]
"""An event and its id, by which a reader goes on behind it."""
Events: TypeAlias = AsyncGenerator[Told, None]
PAUSES: Final = 30  # tries, seconds apart at most 2, to reach a server that was there before


class ReadStream(Operation[None], frozen=True):
    """Read a stream: of an invocation by its `id`, or of the workflow (`service`, `key`)."""

    name: str
    id: str = ""
    service: str = ""
    key: str = ""
    start: int = 0
    last_event_id: str | None = None

    def to_http(self) -> HttpRequest:
        check_stream_name(self.name)
        name = quote(self.name, safe="")
        if self.id:
            path = f"/restate/streams/{quote(self.id, safe='')}/{name}"
        else:
            path = f"/restate/workflow/{self.service}/{quote(self.key, safe='')}/streams/{name}"
        fields = () if self.last_event_id is None else (("last-event-id", self.last_event_id),)
        return HttpRequest("GET", f"{path}?from={self.start}" if self.start else path, fields)

    def from_http(self, reply: HttpReply) -> None:
        reply_value(reply)


class StreamFeed:
    """One reading over HTTP, over as many connections as it takes."""

    def __init__(self, operation: ReadStream, retries: int) -> None:
        self._operation = operation
        self._retries = retries
        self._tries = Retries(operation, retries)
        self._rest = b""
        self._fields: dict[bytes, bytes] = {}
        self.over = False

    def request(self) -> HttpRequest:
        """What to ask (again)."""
        self._rest, self._fields = b"", {}
        return self._operation.to_http()

    def refused(self, reply: HttpReply) -> float:
        """Another answer than a stream: how long (s) to wait before asking again; raises what it stands for."""
        if reply.status == 204:
            self.over = True
            return 0.0
        delay = self._tries.after_reply(reply)
        if delay is None:
            self._operation.from_http(reply)
            raise refusal(reply.status, "the answer is no stream of events")
        return delay

    def lost(self) -> float | None:
        """The connection was lost, or never came about: how long (s) to wait; None: it is no use."""
        return self._tries.after_failure(sent=True)

    def feed(self, data: bytes) -> list[Told]:
        """What has come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found: list[Told] = []
        for line in lines:
            if line:
                field, _, value = line.partition(b":")
                self._fields[field] = value.removeprefix(b" ")
            elif self._fields:
                fields, self._fields = self._fields, {}
                event = _event_of(fields)
                if event is not None:
                    id = fields.get(b"id", b"").decode()
                    self._operation = msgspec.structs.replace(self._operation, last_event_id=id)
                    self.over = isinstance(event, EndEvent)
                    found.append((event, id))
        if found:
            self._tries = Retries(self._operation, max(self._retries, PAUSES) if self._retries else 0)
        return found


def _event_of(fields: dict[bytes, bytes]) -> StreamEvent | None:
    data = fields.get(b"data")
    if data is None or b"id" not in fields:
        return None
    kind = fields.get(b"event", b"message")
    position = int(fields[b"id"].rpartition(b"-")[2].removesuffix(b".end"))
    if kind == b"message":
        return ChunkEvent(position, data)
    if kind == b"bytes":
        return ChunkEvent(position, RAW + b64decode(data))
    told = msgspec.json.decode(data)
    if kind == b"regenerated":
        return RegeneratedEvent(told["from"])
    if kind == b"end":
        if told["status"] == "succeeded":
            return EndEvent(None)
        metadata = tuple((told.get("metadata") or {}).items())
        return EndEvent(Failure(told["code"], told["message"], metadata))
    return None


# ---- what users are given


class StreamChunk(NamedTuple):
    """A chunk: its value as it was written. `id` is what a reader that comes back later goes on behind."""

    value: Any
    position: int
    id: str


class Regenerated(NamedTuple):
    """Everything from `position` on is void, or follows again: a step is tried once more."""

    position: int
    id: str


Seen: TypeAlias = StreamChunk | Regenerated


class _Reading:
    """What is known so far: the values by position."""

    def __init__(self, serde: Serde[Any] | None) -> None:
        self._serde = serde
        self.values: dict[int, Any] = {}
        self.last_event_id: str | None = None

    def take(self, told: Told) -> Seen | None:
        """Apply an event; None at the end. Raises the invocation's `TerminalError`."""
        event, self.last_event_id = told
        if isinstance(event, EndEvent):
            if event.failure is not None:
                raise TerminalError(event.failure.message, event.failure.code, dict(event.failure.metadata))
            return None
        if isinstance(event, RegeneratedEvent):
            for position in [position for position in self.values if position >= event.position]:
                del self.values[position]
            return Regenerated(event.position, self.last_event_id)
        value = self._read(event.chunk)
        self.values[event.position] = value
        return StreamChunk(value, event.position, self.last_event_id)

    def _read(self, chunk: Chunk) -> Any:
        if chunk[:1] == RAW:
            return chunk[1:]
        return msgspec.json.decode(chunk) if self._serde is None else self._serde.deserialize(chunk)

    def text(self) -> str:
        return "".join(value if isinstance(value, str) else "" for value in self.values.values())


class StreamReader:
    """A stream that is being read: iterate over its events, or await `text()` or `values()`.

    ::

        async for event in client.stream(id, "answer"):
            if isinstance(event, StreamChunk):
                print(event.value, end="")

    The connection is made again when it is lost. Iteration ends when the invocation (or the stream) does, and raises
    its `TerminalError` if it failed. Raises `NotFound` if there is no such invocation.
    """

    def __init__(self, open_events: Callable[[ReadStream], Events], operation: ReadStream, type: Any) -> None:
        self._open_events = open_events
        self._operation = operation
        self._reading = _Reading(None if type is None else serde_for(type))

    @property
    def last_event_id(self) -> str | None:
        """Of the event seen last: pass it to `stream(..., last_event_id=...)` to go on behind it."""
        return self._reading.last_event_id

    @property
    def so_far(self) -> list[Any]:
        """What is valid of what has come, in order."""
        return list(self._reading.values.values())

    async def __aiter__(self) -> AsyncIterator[Seen]:
        events = self._open_events(self._operation)
        try:
            async for told in events:
                seen = self._reading.take(told)
                if seen is None:
                    return
                yield seen
        finally:
            await events.aclose()

    async def values(self) -> list[Any]:
        """Read to the end; all that is valid then, in order. Not the values from before `last_event_id`."""
        async for _ in self:
            pass
        return self.so_far

    async def text(self) -> str:
        """Read to the end; its chunks of text joined, everything else left out."""
        await self.values()
        return self._reading.text()


class SyncStreamReader:
    """`StreamReader`, blocking."""

    def __init__(
        self,
        open_events: Callable[[ReadStream], Generator[Told, None, None]],
        operation: ReadStream,
        type: Any,
    ) -> None:
        self._open_events = open_events
        self._operation = operation
        self._reading = _Reading(None if type is None else serde_for(type))

    @property
    def last_event_id(self) -> str | None:
        """Of the event seen last: pass it to `stream(..., last_event_id=...)` to go on behind it."""
        return self._reading.last_event_id

    @property
    def so_far(self) -> list[Any]:
        """What is valid of what has come, in order."""
        return list(self._reading.values.values())

    def __iter__(self) -> Iterator[Seen]:
        events = self._open_events(self._operation)
        try:
            for told in events:
                seen = self._reading.take(told)
                if seen is None:
                    return
                yield seen
        finally:
            events.close()

    def values(self) -> list[Any]:
        """Read to the end; all that is valid then, in order. Not the values from before `last_event_id`."""
        for _ in self:
            pass
        return self.so_far

    def text(self) -> str:
        """Read to the end; its chunks of text joined, everything else left out."""
        self.values()
        return self._reading.text()
