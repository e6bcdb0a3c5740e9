"""What a stream shows, as the parts of a message: the common ground of the protocols that pages speak.

Handlers write text as `str`; everything else is an object with a `type`:

    {"type": "text", "text": ...}                             the same as the text alone
    {"type": "reasoning", "text": ...}                        a piece of what the model thinks
    {"type": "tool-call", "id": ..., "name": ..., "input": ...}
    {"type": "tool-call-delta", "id": ..., "name": ..., "delta": ...}     a piece of the input, as JSON text
    {"type": "tool-result", "id": ..., "output": ...}         or "error": a text
    {"type": "data", "name": ..., "data": ...}                anything a page can use
    {"type": "state", "state": ...}                           what the page is to show as the agent's state

Anything else is data with the name "chunk".

No such protocol can take back what it has sent. When a stream is regenerated, the parts that are void are named to the
page, and what is still valid of the one that was cut is sent again, as the beginning of a new part.
"""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from perdure.model.entries import Failure
from perdure.model.streams import RAW, Chunk, ChunkEvent, Cursor, EndEvent, RegeneratedEvent, StreamEvent

__all__ = ["Dialect", "PartKind", "PartRendering", "Void"]

PartKind: TypeAlias = Literal["text", "reasoning", "tool", "data"]
JsonObject: TypeAlias = dict[str, Any]


class _Part:
    """A part that was sent: which chunks it is made of."""

    __slots__ = ("id", "kind", "name", "open", "original", "pieces", "position")

    def __init__(self, kind: PartKind, id: str, position: int, name: str = "", original: str = "") -> None:
        self.kind = kind
        self.id = id
        self.position = position
        self.name = name
        self.original = original
        self.open = True
        self.pieces: list[tuple[int, str]] = []  # of text: position, text


class Void(NamedTuple):
    """The parts with these ids are void; `kept` parts, of those that were valid so far, still are."""

    ids: list[str]
    kept: int


class Dialect(Protocol):
    """How a protocol says it: each method gives the events, as JSON objects."""

    def begin(self, invocation_id: str) -> list[JsonObject]: ...

    def opened(self, kind: PartKind, id: str, name: str) -> list[JsonObject]:
        """A text, reasoning or tool part begins; of a tool, `name` is the tool's."""
        ...

    def delta(self, kind: PartKind, id: str, text: str) -> list[JsonObject]: ...

    def closed(self, kind: PartKind, id: str, name: str, text: str) -> list[JsonObject]:
        """It is whole; `text` is all of it."""
        ...

    def tool_result(self, id: str, output: Any, error: str | None) -> list[JsonObject]: ...

    def data(self, id: str, name: str, value: Any) -> list[JsonObject]: ...

    def void(self, void: Void) -> list[JsonObject]: ...

    def end(self, failure: Failure | None) -> list[JsonObject]: ...


class PartRendering:
    """Turns a stream's events into a protocol's, as server-sent events. One for each reader."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    resumable = False
    """A page that comes back is sent the message from its beginning: parts are not to be had by halves."""

    def __init__(self, dialect: Dialect, last: bytes = b"") -> None:
        self._dialect = dialect
        self._last = last
        self._parts: list[_Part] = []
        self._made = 0
        self._used: dict[str, int] = {}  # how often a tool call's id was given to a part

    def begin(self, invocation_id: str, created: bool) -> bytes:
        return _written(self._dialect.begin(invocation_id))

    def events(self, events: list[StreamEvent], cursor: Cursor) -> bytes:
        told: list[JsonObject] = []
        for event in events:
            if isinstance(event, ChunkEvent):
                told += self._chunk(event.position, _read(event.chunk))
            elif isinstance(event, RegeneratedEvent):
                told += self._regenerated(event.position)
            else:
                assert isinstance(event, EndEvent)
                told += [*self._close_all(), *self._dialect.end(event.failure)]
                return _written(told) + self._last
        return _written(told)

    def _chunk(self, position: int, chunk: JsonObject) -> Iterator[JsonObject]:
        kind = chunk["type"]
        if kind in ("text", "reasoning"):
            yield from self._text(kind, position, str(chunk.get("text", "")))
        elif kind == "tool-call-delta":
            yield from self._tool(position, chunk, str(chunk.get("delta", "")))
        elif kind == "tool-call":
            part = self._tool_part(chunk)
            if part is None or not part.pieces:
                yield from self._tool(position, chunk, msgspec.json.encode(chunk.get("input")).decode())
                part = self._parts[-1]
            yield from self._close(part)
        elif kind == "tool-result":
            part = self._tool_part(chunk)
            if part is not None:
                yield from self._close(part)
            id = str(chunk.get("id", "")) if part is None else part.id
            error = chunk.get("error")
            yield from self._dialect.tool_result(id, chunk.get("output"), None if error is None else str(error))
        else:
            yield from self._close_text()
            part = self._open("data", self._fresh_id(), position)
            part.open = False
            yield from self._dialect.data(part.id, str(chunk.get("name", "chunk")), chunk.get("data"))

    def _text(self, kind: PartKind, position: int, text: str) -> Iterator[JsonObject]:
        part = self._parts[-1] if self._parts else None
        if part is None or not part.open or part.kind != kind:
            yield from self._close_text()
            part = self._open(kind, self._fresh_id(), position)
            yield from self._dialect.opened(kind, part.id, "")
        part.pieces.append((position, text))
        if text:
            yield from self._dialect.delta(kind, part.id, text)

    def _tool(self, position: int, chunk: JsonObject, text: str) -> Iterator[JsonObject]:
        part = self._tool_part(chunk)
        if part is None or not part.open:
            yield from self._close_text()
            original = str(chunk.get("id", ""))
            uses = self._used[original] = self._used.get(original, 0) + 1
            name = str(chunk.get("name", ""))
            part = self._open("tool", original if uses == 1 else f"{original}#{uses}", position, name, original)
            yield from self._dialect.opened("tool", part.id, part.name)
        part.pieces.append((position, text))
        if text:
            yield from self._dialect.delta("tool", part.id, text)

    def _tool_part(self, chunk: JsonObject) -> _Part | None:
        wanted = str(chunk.get("id", ""))
        return next((part for part in reversed(self._parts) if part.kind == "tool" and part.original == wanted), None)

    def _fresh_id(self) -> str:
        self._made += 1
        return f"part-{self._made}"

    def _open(self, kind: PartKind, id: str, position: int, name: str = "", original: str = "") -> _Part:
        part = _Part(kind, id, position, name, original)
        self._parts.append(part)
        return part

    def _close_text(self) -> Iterator[JsonObject]:
        """Something else begins. A tool's input may go on beside it."""
        if self._parts and self._parts[-1].kind != "tool":
            yield from self._close(self._parts[-1])

    def _close_all(self) -> Iterator[JsonObject]:
        for part in self._parts:
            yield from self._close(part)

    def _close(self, part: _Part) -> Iterator[JsonObject]:
        if part.open:
            part.open = False
            yield from self._dialect.closed(part.kind, part.id, part.name, "".join(text for _, text in part.pieces))

    def _regenerated(self, position: int) -> Iterator[JsonObject]:
        void = [part for part in self._parts if part.position >= position or _goes_on(part, position)]
        if not void:
            return
        yield from self._close_all()
        first = self._parts.index(void[0])
        void, self._parts = self._parts[first:], self._parts[:first]
        yield from self._dialect.void(Void([part.id for part in void], first))
        for part in void:
            for at, text in part.pieces:
                if at < position:
                    if part.kind == "tool":
                        yield from self._tool(at, {"id": part.original, "name": part.name}, text)
                    else:
                        yield from self._text(part.kind, at, text)


def _goes_on(part: _Part, position: int) -> bool:
    return bool(part.pieces) and part.pieces[-1][0] >= position


def _read(chunk: Chunk) -> JsonObject:
    if chunk[:1] == RAW:
        return {"type": "data", "name": "bytes", "data": b64encode(chunk[1:]).decode()}
    value = msgspec.json.decode(chunk)
    if isinstance(value, str):
        return {"type": "text", "text": value}
    if isinstance(value, dict) and value.get("type") in _KNOWN:
        if value["type"] == "state":
            return {"type": "data", "name": "state", "data": value.get("state")}
        return value
    return {"type": "data", "name": "chunk", "data": value}


_KNOWN = frozenset({"text", "reasoning", "tool-call", "tool-call-delta", "tool-result", "data", "state"})


def _written(events: list[JsonObject]) -> bytes:
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(event) for event in events)
