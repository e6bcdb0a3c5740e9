"""The streams of a node: what handlers write now, and everyone who reads.

Chunks of a step are here, in memory, until the step has a result; then they are one row, in the batch of the result.
Readers get them at once. A try that comes to nothing makes its chunks void, and readers are told from which position
on to forget; so whoever applies the events in order holds, at any time, what is stored and what is being written.

Two things are in memory, both bounded: an `Outlet` for each attempt that writes, with what is not stored yet, and a log
for each stream that has readers, with all of it. Readers have a position in the log and nothing of their own, so
a slow one costs no more than a fast one. They are woken together, a few ms after the first chunk they can have.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Self, TypeAlias

from perdure.errors import NotFound, Overloaded, TerminalError, Unavailable
from perdure.model.actions import Refused, StreamAnswer
from perdure.model.entries import Failure, Value
from perdure.model.streams import (
    STEP_LIMIT,
    STREAM_LIMIT,
    Chunk,
    ChunkEvent,
    Cursor,
    EndEvent,
    RegeneratedEvent,
    StreamEvent,
    StreamHead,
    StreamPart,
    check_stream_name,
)

__all__ = ["Batch", "Outlet", "Reader", "Streams"]

MEMORY_LIMIT = 256 << 20  # bytes of chunks, not stored yet and in logs
READER_LIMIT = 10_000
NAMES_LIMIT = 1_000  # streams that one attempt writes to
BATCH_EVENTS = 512  # events that a reader is given at once
MARK_LIMIT = 1_000  # "regenerated" marks that a log remembers one by one
FLUSH_SECONDS = 0.004  # at most so long are chunks held back, so that readers are woken together
HEARTBEAT_SECONDS = 15.0

Key: TypeAlias = tuple[int, int]  # partition, number of the invocation
Ask: TypeAlias = Callable[[bytes, str], Awaitable[StreamAnswer | Refused]]


class Batch(NamedTuple):
    """Events in order; none is a sign of life. `cursor` is what the reader has seen after the last of them."""

    events: list[StreamEvent]
    cursor: Cursor


class _Source:
    """Who wrote: one try of a step, or one write of the handler's own. Its chunks are stored, or void, together."""

    __slots__ = ("attempt", "closes", "runs", "size", "stored", "taken")

    def __init__(self, attempt: int, *, stored: bool = False) -> None:
        self.attempt = attempt
        self.closes: str | None = None
        self.runs: dict[str, list[tuple[int, list[Chunk]]]] = {}
        self.size = 0
        self.taken = False
        self.stored = stored

    def add(self, name: str, position: int, chunks: tuple[Chunk, ...]) -> None:
        runs = self.runs.setdefault(name, [])
        if runs and runs[-1][0] + len(runs[-1][1]) == position:
            runs[-1][1].extend(chunks)
        else:
            runs.append((position, list(chunks)))

    def parts(self) -> tuple[StreamPart, ...]:
        return tuple(
            StreamPart(name, self.attempt, tuple((position, tuple(chunks)) for position, chunks in runs))
            for name, runs in self.runs.items()
        )


_Item: TypeAlias = tuple[int, Chunk, _Source]


class Outlet:
    """What one attempt writes, until it is stored. Implements `protocol.attempt.Outlet`."""

    __slots__ = ("_next", "_sizes", "_sources", "_streams", "_writes", "attempt", "heads", "id", "is_over", "key")

    def __init__(self, streams: "Streams", id: bytes, key: Key, attempt: int, heads: dict[str, StreamHead]) -> None:
        self._streams = streams
        self.id = id
        self.key = key
        self.attempt = attempt
        self.heads = heads
        self.is_over = False
        self._sources: dict[int, _Source] = {}
        self._next: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._writes = 0

    def write(self, name: str, completion_id: int, chunks: tuple[Chunk, ...]) -> None:
        source = self._sources.get(completion_id)
        if source is None:
            source = _Source(self.attempt)
        self._write(source, name, chunks)
        self._sources[completion_id] = source

    def _write(self, source: _Source, name: str, chunks: tuple[Chunk, ...]) -> None:
        size = sum(map(len, chunks))
        if source.size + size > STEP_LIMIT:
            raise TerminalError(f"a step may write {STEP_LIMIT:,} bytes to streams: split it into several", 413)
        head = self.heads.get(name)
        if name not in self._sizes and len(self._sizes) >= NAMES_LIMIT:
            raise TerminalError(f"an invocation may write to {NAMES_LIMIT:,} streams: use fewer names", 413)
        total = self._sizes.get(name, 0 if head is None else head.size) + size
        if total > STREAM_LIMIT:
            raise TerminalError(f"stream {name!r} has {STREAM_LIMIT:,} bytes, the limit: begin another one", 413)
        if source.taken:  # it will be on disk in a moment, and must not fail today and succeed on replay
            self._streams.size += size
        else:
            self._streams.admit(size)
        self._sizes[name] = total
        source.size += size
        position = self._next.get(name, 0 if head is None else head.next)
        self._next[name] = position + len(chunks)
        source.add(name, position, chunks)
        log = self._streams.log(self.id, name)
        if log is not None:
            log.append(position, chunks, source)

    def write_once(self, name: str, chunk: Chunk | None) -> tuple[int, StreamPart]:
        self._writes += 1
        source, key = _Source(self.attempt), -self._writes  # no step has a negative id
        source.taken = True
        if chunk is not None:
            self._write(source, name, (chunk,))
        else:
            source.closes = name
        self._sources[key] = source
        parts = source.parts()
        return key, parts[0] if parts else StreamPart(name, self.attempt, ())

    def take(self, completion_id: int) -> tuple[StreamPart, ...]:
        source = self._sources.get(completion_id)
        if source is None:
            return ()
        source.taken = True
        return source.parts()

    def void(self, completion_id: int) -> None:
        source = self._sources.get(completion_id)
        if source is not None and not source.taken:
            self._void(completion_id)

    def _void(self, source_id: int) -> None:
        source = self._sources.pop(source_id)
        for name, runs in source.runs.items():
            self._sizes[name] -= sum(len(chunk) for _, chunks in runs for chunk in chunks)
            log = self._streams.log(self.id, name)
            if log is not None:
                log.void(source)
        self._streams.release(source.size)

    def stored(self, source_id: int) -> None:
        """It is on disk."""
        source = self._sources.pop(source_id, None)
        if source is not None:
            source.stored = True
            self._streams.release(source.size)
            for name in source.runs:
                log = self._streams.log(self.id, name)
                if log is not None:
                    log.touch()
            if source.closes is not None:
                self._streams.closed(self.id, source.closes)
        self._forget_if_done()

    def over(self) -> None:
        """The attempt has said its last: what is not on its way to the disk will not get there."""
        self.is_over = True
        for source_id in list(self._sources):
            self.void(source_id)
        self._forget_if_done()

    def void_all(self) -> None:
        """Another attempt has begun, or none will: what is not stored never will be."""
        self.is_over = True
        for source_id in list(self._sources):
            self._void(source_id)
        self._forget_if_done()

    def _forget_if_done(self) -> None:
        if self.is_over and not self._sources:
            self._streams.forget(self)

    def unstored(self, name: str) -> list[_Item]:
        """The chunks of a stream that are here and nowhere else."""
        return [
            (position + offset, chunk, source)
            for source in self._sources.values()
            for position, chunks in source.runs.get(name, ())
            for offset, chunk in enumerate(chunks)
        ]


class _Log:
    """A stream that has readers: its chunks by position, and from where it had to be regenerated, each time."""

    def __init__(self, streams: "Streams", id: bytes, name: str, serial: int, unstored: list[_Item]) -> None:
        self._streams = streams
        self.id = id
        self.name = name
        self.serial = serial
        self.items: list[_Item] = []
        self.size = 0
        self.number = 0
        self.attempt = 0
        self.end: EndEvent | None = None
        self.readers: dict[Reader, None] = {}  # woken in order, so that the simulator repeats itself
        self.pins = 0
        self._marks: list[int] = []
        self._marks_dropped = 0
        self._floor = 0  # the least of the dropped marks
        self._unused = 0  # the position behind all that anybody was ever given
        self._insert(unstored)
        self.loading: asyncio.Task[None] | None = None

    def append(self, position: int, chunks: tuple[Chunk, ...], source: _Source) -> None:
        if position < self._unused:  # another attempt: it begins where the stored ones end, maybe before voided tries
            self._mark(position)
        items = self.items
        for offset, chunk in enumerate(chunks):
            items.append((position + offset, chunk, source))
            self._count(len(chunk))
        self._unused = position + len(chunks)
        self.touch()

    def _insert(self, items: list[_Item]) -> None:
        for _, chunk, _ in items:
            self._count(len(chunk))
        self.items = sorted([*self.items, *items], key=_position)
        if self.items:
            self._unused = max(self._unused, self.items[-1][0] + 1)

    def _count(self, size: int) -> None:
        self.size += size
        self._streams.size += size

    def merge(self, answer: StreamAnswer) -> None:
        """What is stored; some of it may have been here before it was stored."""
        self.number = answer.number
        self.attempt = max(self.attempt, answer.attempt)
        known = {position for position, _, _ in self.items}
        found: list[_Item] = []
        for part in answer.parts:
            source = _Source(part.attempt, stored=True)
            found += [
                (start + offset, chunk, source)
                for start, chunks in part.runs
                for offset, chunk in enumerate(chunks)
                if start + offset not in known
            ]
        self._insert(found)
        if answer.result is not None:
            self.finish(answer.result)
        elif answer.head.closed:
            self.end = EndEvent(None)

    def void(self, source: _Source) -> None:
        first = next((position for position, _, of in self.items if of is source), None)
        if first is None:
            return
        kept = [item for item in self.items if item[2] is not source]
        self._count(-sum(len(chunk) for _, chunk, of in self.items if of is source))
        self.items = kept
        self._mark(first)
        self.touch()

    def _mark(self, position: int) -> None:
        """What readers have seen from there on is void."""
        self._marks.append(position)
        if len(self._marks) > MARK_LIMIT:
            half = MARK_LIMIT // 2
            least = min(self._marks[:half])
            self._floor = min(self._floor, least) if self._marks_dropped else least
            self._marks_dropped += half
            del self._marks[:half]

    @property
    def marks(self) -> int:
        return self._marks_dropped + len(self._marks)

    def regenerated_since(self, marks: int) -> int | None:
        """The least position that became void after so many marks; None if none did."""
        unseen = self._marks[max(0, marks - self._marks_dropped) :]
        if marks < self._marks_dropped:
            unseen = [self._floor, *unseen]
        return min(unseen, default=None)

    def finish(self, result: Value | Failure) -> None:
        self.end = EndEvent(result if isinstance(result, Failure) else None)
        self.touch()

    @property
    def ended(self) -> bool:
        """Whether nothing is added any more, and nothing that is there can become void."""
        return self.end is not None and all(source.stored for _, _, source in reversed(self.items))

    def touch(self) -> None:
        if self.readers:
            self._streams.wake(self)

    def resume(self, cursor: Cursor) -> tuple[int, int]:
        """For a reader that comes back: which marks it knows, and from which position on it has to forget.

        A cursor of this log says what its reader knows. Of another one, from before a crash or while nobody else was
        reading, only the attempt helps: a chunk that was stored by then is what the reader has seen there.
        """
        beyond = cursor.position + 1
        if cursor.number != self.number:
            return self.marks, 0
        if cursor.log == self.serial and cursor.marks <= self.marks:
            first = self.regenerated_since(cursor.marks)
            return self.marks, beyond if first is None else min(first, beyond)
        expected = 0
        for position, _, source in self.items:
            if position != expected or position >= beyond or source.attempt > cursor.attempt:
                break
            expected += 1
        return self.marks, min(expected, beyond)


def _position(item: _Item) -> int:
    return item[0]


class Reader:
    """One who reads a stream: `next` until a batch has an `EndEvent`, then (or earlier) `close`."""

    def __init__(self, streams: "Streams", log: _Log, start: int, cursor: Cursor | None) -> None:
        self._streams = streams
        self._log = log
        self._floor = start  # nothing before it is wanted
        self._waiter: asyncio.Future[bool] | None = None
        self._failure: Exception | None = None
        self._over = False
        self._next = start
        self._marks = log.marks
        self._announce: int | None = None
        self.at_end = False
        """Whether the end had been seen and nothing has happened since: there is nothing to tell."""
        if cursor is not None:
            self._marks, known = log.resume(cursor)
            self._next = max(start, known)
            if known <= cursor.position:
                self._announce = self._next
            self.at_end = cursor.ended and log.ended and self._announce is None

    async def next(self) -> Batch:
        """What is new; waits for it. Without events after a while, as a sign of life.

        Raises `Unavailable` when the node stops, `StopAsyncIteration` after the end.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            events = self._take()
            if events:
                return Batch(events, self._cursor())
            if self._over:
                raise StopAsyncIteration
            self._waiter = self._streams.loop.create_future()
            try:
                alive = await self._waiter
            finally:
                self._waiter = None
            if alive:
                return Batch([], self._cursor())

    def _cursor(self) -> Cursor:
        log = self._log
        return Cursor(log.number, log.attempt, log.serial, self._marks, self._next - 1, self._over)

    def _take(self) -> list[StreamEvent]:
        log = self._log
        events: list[StreamEvent] = []
        if self._marks != log.marks:
            first = log.regenerated_since(self._marks)
            self._marks = log.marks
            if first is not None and first < self._next:
                self._next = self._announce = max(first, self._floor)
        if self._announce is not None:
            events.append(RegeneratedEvent(self._announce))
            self._announce = None
        items = log.items
        if items and items[-1][0] >= self._next:
            first = bisect_left(items, self._next, key=_position)
            new = items[first : first + BATCH_EVENTS]
            events += [ChunkEvent(position, chunk) for position, chunk, _ in new]
            self._next = new[-1][0] + 1
        if log.end is not None and not self._over and (not items or items[-1][0] < self._next) and log.ended:
            events.append(log.end)
            self._over = True
        return events

    def wake(self, *, sign_of_life: bool = False) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(sign_of_life)

    def fail(self, error: Exception) -> None:
        """It will be given nothing more."""
        self._failure = self._failure or error
        self.wake()

    def close(self) -> None:
        """Let go of the stream. May be called again."""
        self._streams.leave(self._log, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Streams:
    """All of a node. Everything runs on the event loop's thread."""

    def __init__(self, ask: Ask, serial: Callable[[], int]) -> None:
        self._ask = ask
        self._serial = serial
        self.loop = asyncio.get_running_loop()
        self._memory_limit = MEMORY_LIMIT
        self._reader_limit = READER_LIMIT
        self._outlets: dict[bytes, Outlet] = {}
        self._logs: dict[bytes, dict[str, _Log]] = {}
        self._dirty: dict[_Log, None] = {}
        self._flushed_at = 0.0
        self._flush_handle: asyncio.TimerHandle | asyncio.Handle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None
        self.size = 0
        """Bytes of chunks in memory."""
        self.readers = 0

    def limit(self, memory: int, readers: int) -> None:
        """Other limits than the usual ones: bytes of chunks in memory, readers at once."""
        self._memory_limit = memory
        self._reader_limit = readers

    # Writers

    def open(self, id: bytes, key: Key, attempt: int, heads: dict[str, StreamHead]) -> Outlet:
        """The outlet of an attempt, which has begun to write."""
        outlet = self._outlets[id] = Outlet(self, id, key, attempt, heads)
        return outlet

    def forget(self, outlet: Outlet) -> None:
        if self._outlets.get(outlet.id) is outlet:
            del self._outlets[outlet.id]

    def admit(self, size: int) -> None:
        """Count bytes that are written. Raises `Overloaded` if there are too many."""
        if self.size + size > self._memory_limit:
            raise Overloaded(f"streams hold {self._memory_limit:,} bytes in memory, the limit; try again later")
        self.size += size

    def release(self, size: int) -> None:
        self.size -= size

    def log(self, id: bytes, name: str) -> _Log | None:
        logs = self._logs.get(id)
        return None if logs is None else logs.get(name)

    # What the partitions tell

    def stored(self, id: bytes, attempt: int, source: int) -> None:
        outlet = self._outlets.get(id)
        if outlet is not None and outlet.attempt == attempt:
            outlet.stored(source)

    def started(self, id: bytes, attempt: int) -> None:
        """An attempt begins: an earlier one stores nothing more."""
        if not self._outlets and not self._logs:
            return
        outlet = self._outlets.get(id)
        if outlet is not None and outlet.attempt < attempt:
            outlet.void_all()
        for log in self._logs.get(id, {}).values():
            log.attempt = max(log.attempt, attempt)

    def aborted(self, partition: int, number: int) -> None:
        """By order of the partition, which drops whatever the attempt said after that."""
        for outlet in [outlet for outlet in self._outlets.values() if outlet.key == (partition, number)]:
            outlet.void_all()

    def finished(self, id: bytes, result: Value | Failure) -> None:
        """The invocation is completed."""
        if not self._outlets and not self._logs:
            return
        outlet = self._outlets.get(id)
        if outlet is not None:
            outlet.void_all()
        for log in self._logs.get(id, {}).values():
            log.finish(result)

    def closed(self, id: bytes, name: str) -> None:
        """The handler has closed the stream."""
        log = self.log(id, name)
        if log is not None and log.end is None:
            log.end = EndEvent(None)
            log.touch()

    # Readers

    async def read(self, id: bytes, name: str, *, start: int = 0, cursor: Cursor | None = None) -> Reader:
        """Read a stream from position `start` on, or go on behind `cursor`.

        A stream that does not exist yet is waited for. Raises `NotFound` if there is no such invocation, `Overloaded`
        if too many read, or too much is in memory, and `Unavailable` if the node is not ready.
        """
        check_stream_name(name)
        if self._failure is not None:
            raise self._failure
        if self.readers >= self._reader_limit:
            raise Overloaded(f"{self._reader_limit:,} readers of streams are connected, the limit; try again later")
        if self.size > self._memory_limit:
            raise Overloaded("streams hold too much in memory to read another one; try again later")
        log = self.log(id, name) or self._open_log(id, name)
        log.pins += 1
        self.readers += 1
        try:
            assert log.loading is not None
            await asyncio.shield(log.loading)
            if self._failure is not None:  # it came too late for `close`
                raise self._failure
            reader = Reader(self, log, start, cursor)
        except BaseException:
            self._unpin(log)
            raise
        log.readers[reader] = None
        if self._heartbeat is None:
            self._heartbeat = self.loop.call_later(HEARTBEAT_SECONDS, self._beat)
        return reader

    def _open_log(self, id: bytes, name: str) -> _Log:
        outlet = self._outlets.get(id)
        log = _Log(self, id, name, self._serial(), [] if outlet is None else outlet.unstored(name))
        self._logs.setdefault(id, {})[name] = log
        log.loading = self.loop.create_task(self._load(log), name=f"loads stream {name}")
        log.loading.add_done_callback(_retrieved)
        return log

    async def _load(self, log: _Log) -> None:
        try:
            answer = await self._ask(log.id, log.name)
            if isinstance(answer, Refused):
                raise NotFound(answer.message)
            if self.log(log.id, log.name) is not log:
                return  # whoever wanted it has left
            log.merge(answer)
            if self.size > self._memory_limit:
                raise Overloaded("streams hold too much in memory to read another one; try again later")
        except BaseException:
            self._drop(log)  # whoever comes later asks again
            raise

    def leave(self, log: _Log, reader: Reader) -> None:
        if reader in log.readers:
            del log.readers[reader]
            self._unpin(log)

    def _unpin(self, log: _Log) -> None:
        self.readers -= 1
        log.pins -= 1
        if log.pins == 0:
            self._drop(log)

    def _drop(self, log: _Log) -> None:
        logs = self._logs.get(log.id)
        if logs is not None and logs.get(log.name) is log:
            del logs[log.name]
            if not logs:
                del self._logs[log.id]
            self._dirty.pop(log, None)
            self.size -= log.size
            log.size = 0

    # Waking them

    def wake(self, log: _Log) -> None:
        """There is something new for its readers, soon."""
        self._dirty[log] = None
        if self._flush_handle is None:
            wait = self._flushed_at + FLUSH_SECONDS - self.loop.time()
            self._flush_handle = (
                self.loop.call_later(wait, self._flush) if wait > 0 else self.loop.call_soon(self._flush)
            )

    def _flush(self) -> None:
        self._flush_handle = None
        self._flushed_at = self.loop.time()
        dirty, self._dirty = self._dirty, {}
        for log in dirty:
            for reader in log.readers:
                reader.wake()

    def _beat(self) -> None:
        self._heartbeat = None
        for logs in self._logs.values():
            for log in logs.values():
                for reader in log.readers:
                    reader.wake(sign_of_life=True)
        if self.readers:
            self._heartbeat = self.loop.call_later(HEARTBEAT_SECONDS, self._beat)

    def hang_up(self, error: Exception) -> None:
        """Let go of every reader: they come back to the next process."""
        for logs in list(self._logs.values()):
            for log in list(logs.values()):
                for reader in list(log.readers):
                    reader.fail(error)

    def close(self) -> None:
        """Nothing more will be read."""
        self._failure = Unavailable("the engine has stopped; read on when it has started again")
        self.hang_up(self._failure)
        for handle in (self._heartbeat, self._flush_handle):
            if handle is not None:
                handle.cancel()
        self._heartbeat = self._flush_handle = None


def _retrieved(task: "asyncio.Task[None]") -> None:
    """Whoever asked is told; if all of them have left, nobody is to be warned."""
    if not task.cancelled():
        task.exception()
