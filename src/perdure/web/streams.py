"""Streams as server-sent events: what a reader of `runtime.streams` is given, as the body of a response."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from perdure.errors import Invalid, Unavailable
from perdure.model.entries import Failure
from perdure.model.ids import InvocationId, format_invocation_id
from perdure.model.streams import RAW, ChunkEvent, Cursor, EndEvent, RegeneratedEvent, StreamEvent
from perdure.runtime.streams import Reader
from perdure.web.http import Departures, Header, Receive, Request, Response

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["EventBody", "EventStream", "Rendering", "Renderings", "end_to_json", "read_stream"]

_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect it
)
_RETRY: Final = b"retry: 1000\n\n"  # ms after which a browser comes back
_SIGN_OF_LIFE: Final = b":\n\n"
_encode = msgspec.json.Encoder().encode


class Rendering(Protocol):
    """How one reader's events are written; it may keep account of what was."""

    headers: tuple[Header, ...]
    """Beside the usual ones."""
    resumable: bool
    """Whether a reader can go on behind any event; if not, it begins at the beginning."""

    def begin(self, invocation_id: str, created: bool) -> bytes:
        """What comes first. `created`: the request made the invocation, so its id is news."""
        ...

    def events(self, events: list[StreamEvent], cursor: Cursor) -> bytes: ...


Renderings = Mapping[str, Callable[[], Rendering]]


class EventStream:
    """perdure's own: one event for each chunk, `regenerated`, `end`."""

    headers: tuple[Header, ...] = ()
    resumable = True

    def begin(self, invocation_id: str, created: bool) -> bytes:
        if not created:
            return _RETRY
        return _RETRY + b"event: invocation\ndata: " + _encode({"invocationId": invocation_id}) + b"\n\n"

    def events(self, events: list[StreamEvent], cursor: Cursor) -> bytes:
        life = str(cursor._replace(position=0, ended=False))[:-1].encode()
        pieces: list[bytes] = []
        for event in events:
            if type(event) is ChunkEvent:
                position, chunk = event
                if chunk[:1] == RAW:
                    pieces.append(b"event: bytes\nid: %b%d\ndata: %b\n\n" % (life, position, b64encode(chunk[1:])))
                else:
                    pieces.append(b"id: %b%d\ndata: %b\n\n" % (life, position, chunk))
            elif type(event) is RegeneratedEvent:
                position = event.position
                pieces.append(b'event: regenerated\nid: %b%d\ndata: {"from":%d}\n\n' % (life, position - 1, position))
            else:
                assert isinstance(event, EndEvent)
                id = str(cursor).encode()
                pieces.append(b"event: end\nid: %b\ndata: %b\n\n" % (id, _encode(end_to_json(event.failure))))
        return b"".join(pieces)


def end_to_json(failure: Failure | None) -> dict[str, Any]:
    """How an `end` event says how it ended."""
    if failure is None:
        return {"status": "succeeded"}
    told: dict[str, Any] = {"status": "failed", "code": failure.code, "message": failure.message}
    if failure.metadata:
        told["metadata"] = dict(failure.metadata)
    return told


class EventBody(AsyncGenerator[bytes, None]):
    """The body: pieces as they come, until the end or until nobody reads. Closing it lets go of the reader."""

    def __init__(self, reader: Reader, rendering: Rendering, first: bytes, departures: Departures, receive: Receive):
        self._reader = reader
        self._rendering = rendering
        self._first = first
        self._departures = departures
        self._receive = receive
        self._over = False
        self._waiting: asyncio.Task[Any] | None = None

    async def asend(self, value: None) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            self._waiting = self._departures.wait(self._receive)
            return first
        if self._over:
            raise StopAsyncIteration
        try:
            batch = await self._reader.next()
        except Unavailable:  # cut off without an end, so that the caller comes back
            raise StopAsyncIteration from None
        if not batch.events:
            return _SIGN_OF_LIFE
        self._over = batch.cursor.ended
        return self._rendering.events(batch.events, batch.cursor)

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> bytes:
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        self._over = True
        self._departures.done(self._waiting)
        self._reader.close()


async def read_stream(
    node: "Node",
    request: Request,
    id: InvocationId,
    name: str,
    renderings: Renderings,
    departures: Departures,
    *,
    created: bool = False,
) -> Response:
    """The response that a stream is read from; 204 if the caller has seen all of it.

    Raises `Invalid` for a bad `from`, `protocol` or `Last-Event-ID`, and what `Streams.read` raises.
    """
    parameters = request.parameters()
    start = parameters.get("from", "0")
    if not (start.isascii() and start.isdigit() and len(start) <= 18):
        raise Invalid(f"from={start!r}: a position is a number, 0 or more")
    protocol = parameters.get("protocol")
    make = EventStream if protocol is None else renderings.get(protocol)
    if make is None:
        known = ", ".join(sorted(renderings)) or "none"
        raise Invalid(f"protocol={protocol!r} is not known here; there is: {known}")
    rendering = make()
    last = request.fields.get(b"last-event-id") if rendering.resumable else None
    cursor = Cursor.parse(last.decode("latin-1")) if last else None
    reader = await node.streams.read(id, name, start=int(start), cursor=cursor)
    if reader.at_end:
        reader.close()
        return Response(204, [])
    text_id = format_invocation_id(id)
    first = rendering.begin(text_id, created)
    headers = [*_HEADERS, *rendering.headers, (b"x-restate-id", text_id.encode())]
    return Response(200, headers, EventBody(reader, rendering, first, departures, request.receive))
