"""Streams: what a handler shows while it works, chunk by chunk, beside its journal.

A chunk has a position in its stream. Positions grow and have gaps: what a failed try of a step wrote is void, and its
positions are not used again within the attempt. A later attempt goes on behind the last position that was stored, so
a position alone does not say which chunk was seen there; with the attempt it does.

A chunk is encoded once, where it is written: as JSON, or as a zero byte and the raw bytes.
"""

from typing import NamedTuple, TypeAlias

import msgspec

from perdure.errors import Invalid
from perdure.model.entries import Failure

__all__ = [
    "NAME_LIMIT",
    "RAW",
    "STEP_LIMIT",
    "STREAM_LIMIT",
    "Chunk",
    "ChunkEvent",
    "Cursor",
    "EndEvent",
    "RegeneratedEvent",
    "Run",
    "StreamEvent",
    "StreamHead",
    "StreamPart",
    "check_stream_name",
]

NAME_LIMIT = 200  # characters of a stream's name
STEP_LIMIT = 8 << 20  # bytes that one try of a step may write: they are in memory until it ends, then one row
STREAM_LIMIT = 16 << 20  # bytes of one stream: a reader's log of it is in memory

Chunk: TypeAlias = bytes
END_SUFFIX = ".end"
RAW = b"\0"  # begins a chunk of bytes; no JSON begins so
Run: TypeAlias = tuple[int, tuple[Chunk, ...]]
"""Chunks at successive positions, the first of them at the number."""


def check_stream_name(name: str) -> None:
    """Raises `Invalid` for what is no name of a stream."""
    if not isinstance(name, str) or not name:
        raise Invalid("a stream needs a name")
    if len(name) > NAME_LIMIT:
        raise Invalid(f"a stream's name has at most {NAME_LIMIT} characters, not {len(name)}")
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise Invalid(f"the stream's name {name!r} is not valid Unicode")


class StreamPart(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one step, or one write of the handler's own, has put into a stream. One row, however many chunks."""

    name: str
    attempt: int
    runs: tuple[Run, ...]

    @property
    def end(self) -> int:
        """The position behind its last chunk; 0 if it has none."""
        return self.runs[-1][0] + len(self.runs[-1][1]) if self.runs else 0


class StreamHead(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A stream, without its chunks: its parts are numbered from 0 to `parts`.

    `next` is the position behind the last stored one, `written` how many writes of the handler's own are stored (and
    are not to be made again on replay).
    """

    parts: int = 0
    next: int = 0
    chunks: int = 0
    size: int = 0
    written: int = 0
    updated_at: int = 0
    closed: bool = False


class ChunkEvent(NamedTuple):
    position: int
    chunk: Chunk


class RegeneratedEvent(NamedTuple):
    """Forget every chunk at `position` and behind it: they are void, or follow again."""

    position: int


class EndEvent(NamedTuple):
    """Nothing more will come; `failure` if the invocation ended with one."""

    failure: Failure | None


StreamEvent: TypeAlias = ChunkEvent | RegeneratedEvent | EndEvent


class Cursor(NamedTuple):
    """What a reader has seen: every chunk up to `position`, as the stream was in a certain moment.

    The moment is the `attempt` of the invocation (whose `number` tells it from a later one with the same id), and of
    `log`, the memory of it that one process had for a while, the number of `marks` ("regenerated") made by then.
    `ended` once the end was seen too. As text it is an event's id: `<number>.<attempt>.<log>.<marks>-<position>`.
    """

    number: int
    attempt: int
    log: int
    marks: int
    position: int
    ended: bool = False

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises `Invalid` for what is no event's id."""
        life, _, position = text.removesuffix(END_SUFFIX).rpartition("-")
        seen_nothing = life.endswith("-")  # position -1: told to forget everything
        parts = [*life.removesuffix("-").split("."), position]
        if len(parts) != 5 or not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in parts):
            raise Invalid(f"{text[:80]!r} is no id of an event of a stream")
        number, attempt, log, marks, last = map(int, parts)
        return cls(number, attempt, log, marks, -last if seen_nothing else last, text.endswith(END_SUFFIX))

    def __str__(self) -> str:
        life = f"{self.number}.{self.attempt}.{self.log}.{self.marks}"
        return f"{life}-{self.position}{END_SUFFIX if self.ended else ''}"
