"""The streams of a node without a node: what the partitions say is said by the test."""

import asyncio
from typing import Any

import pytest

from perdure.errors import NotFound, Overloaded, TerminalError, Unavailable
from perdure.model.actions import Refused, StreamAnswer
from perdure.model.entries import Failure, Value
from perdure.model.streams import ChunkEvent, Cursor, EndEvent, RegeneratedEvent, StreamHead, StreamPart
from perdure.runtime import streams as module
from perdure.runtime.streams import Outlet, Reader, Streams

ID = b"i" * 24
NAME = "answer"


class Node:
    """Stored parts, and an attempt that writes."""

    def __init__(self) -> None:
        self.parts: list[StreamPart] = []
        self.result: Value | Failure | None = None
        self.attempt = 1
        self.known = True
        self.serials = iter(range(1, 1000))
        self.streams = Streams(self.ask, lambda: next(self.serials))

    async def ask(self, id: bytes, name: str) -> StreamAnswer | Refused:
        await asyncio.sleep(0)
        if not self.known:
            return Refused(404, "not found")
        return StreamAnswer(1, self.attempt, self.head, tuple(self.parts), self.result)

    @property
    def head(self) -> StreamHead:
        return StreamHead(len(self.parts), max((part.end for part in self.parts), default=0))

    def begin(self) -> Outlet:
        """The next attempt starts, and will write."""
        self.attempt += 1
        self.streams.started(ID, self.attempt)
        return self.streams.open(ID, (0, 1), self.attempt, {NAME: self.head} if self.parts else {})

    def store(self, outlet: Outlet, step: int) -> None:
        """The step's result is proposed and stored."""
        self.parts += outlet.take(step)
        self.streams.stored(ID, self.attempt, step)


async def told(reader: Reader) -> list[Any]:
    """The next batch: chunks as text, positions to forget from, None at the end."""
    found: list[Any] = []
    for event in (await asyncio.wait_for(reader.next(), 5)).events:
        if isinstance(event, ChunkEvent):
            found.append(event.chunk.decode())
        else:
            found.append(event.position if isinstance(event, RegeneratedEvent) else event.failure)
    return found


def test_what_was_proposed_and_never_stored_is_void_when_the_next_attempt_starts() -> None:
    async def check() -> None:
        node = Node()
        outlet = node.begin()
        outlet.write(NAME, 1, (b"1", b"2"))
        outlet.take(1)
        outlet.over()  # the result is on its way
        reader = await node.streams.read(ID, NAME)
        assert await told(reader) == ["1", "2"]
        outlet = node.begin()
        assert await told(reader) == [0]
        outlet.write(NAME, 1, (b"3",))
        node.store(outlet, 1)
        assert await told(reader) == ["3"]
        node.streams.finished(ID, Value(b""))
        assert await told(reader) == [None]
        reader.close()
        assert (node.streams.size, node.streams._outlets, node.streams._logs) == (0, {}, {})

    asyncio.run(check())


def test_an_order_of_the_partition_voids_what_is_on_its_way() -> None:
    async def check() -> None:
        node = Node()
        outlet = node.begin()
        outlet.write(NAME, 1, (b"1",))
        outlet.take(1)
        node.streams.aborted(1, 1)  # another partition's
        reader = await node.streams.read(ID, NAME)
        assert await told(reader) == ["1"]
        node.streams.aborted(0, 1)
        assert await told(reader) == [0]
        reader.close()

    asyncio.run(check())


def test_a_reader_of_another_log_is_told_of_the_first_difference() -> None:
    async def check() -> None:
        node = Node()
        outlet = node.begin()
        outlet.write(NAME, 1, (b"a0",))
        outlet.write(NAME, 2, (b"b1",))
        outlet.write(NAME, 1, (b"a2",))
        reader = await node.streams.read(ID, NAME)
        cursor = (await reader.next()).cursor
        reader.close()
        node.store(outlet, 1)
        outlet.over()  # step 2 was cut off; nobody reads
        outlet = node.begin()
        outlet.write(NAME, 2, (b"c3",))
        reader = await node.streams.read(ID, NAME, cursor=cursor)
        assert await told(reader) == [1, "a2", "c3"]
        reader.close()
        for known, expected in (
            (cursor._replace(position=0), ["a2", "c3"]),
            (cursor._replace(position=-1), ["a0", "a2", "c3"]),
            (cursor._replace(number=2), [0, "a0", "a2", "c3"]),
            (cursor._replace(position=3), [1, "a2", "c3"]),
        ):
            reader = await node.streams.read(ID, NAME, cursor=known)
            assert await told(reader) == expected
            reader.close()
        reader = await node.streams.read(ID, NAME, start=3, cursor=cursor._replace(position=9))
        assert await told(reader) == [3, "c3"]  # nothing before what was asked for
        reader.close()

    asyncio.run(check())


def test_marks_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARK_LIMIT", 4)

    async def check() -> None:
        node = Node()
        outlet = node.begin()
        late = await node.streams.read(ID, NAME)
        outlet.write(NAME, 1, (b"first",))
        cursors: list[Cursor] = []
        reader = await node.streams.read(ID, NAME)
        for number in range(20):
            outlet.write(NAME, 2 + number, (b"void",))
            cursors.append((await reader.next()).cursor)
            outlet.void(2 + number)
            assert await told(reader) == [1 + number]
        reader.close()
        for cursor in cursors:
            again = await node.streams.read(ID, NAME, cursor=cursor)
            outlet.write(NAME, 1, (b"more",))
            events = await told(again)
            assert isinstance(events[0], int) and events[0] <= cursor.position and events[-1] == "more"
            again.close()
        assert (await told(late))[0] == "first"
        late.close()

    asyncio.run(check())


def test_limits_and_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAMES_LIMIT", 2)

    async def check() -> None:
        node = Node()
        outlet = node.begin()
        for name in ("a", "b"):
            outlet.write(name, 1, (b"x",))
        with pytest.raises(TerminalError, match="use fewer names"):
            outlet.write("c", 1, (b"x",))
        node.streams.limit(5, 1)
        with pytest.raises(Overloaded):
            outlet.write("a", 1, (b"x" * 4,))
        outlet.write_once("a", b"x" * 4)  # what is stored at once is not refused
        outlet.void_all()
        assert (node.streams.size, node.streams._outlets) == (0, {})
        node.parts.append(StreamPart(NAME, 1, ((0, (b"x" * 6,)),)))
        with pytest.raises(Overloaded):
            await node.streams.read(ID, NAME)
        node.known = False
        with pytest.raises(NotFound):
            await node.streams.read(ID, NAME)
        node.known = True
        node.streams.limit(100, 1)
        reader = await node.streams.read(ID, NAME)
        with pytest.raises(Overloaded, match="the limit"):
            await node.streams.read(ID, NAME)
        await told(reader)
        waiting = asyncio.ensure_future(reader.next())
        await asyncio.sleep(0)
        node.streams.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await node.streams.read(ID, NAME)
        reader.close()
        reader.close()
        assert (node.streams.size, node.streams.readers) == (0, 0)

    asyncio.run(check())


def test_a_failure_ends_the_stream_when_all_was_told() -> None:
    async def check() -> None:
        node = Node()
        node.parts = [StreamPart(NAME, 1, ((0, tuple(b"%d" % n for n in range(1500))),))]
        node.result = Failure(500, "no")
        reader = await node.streams.read(ID, NAME)
        sizes = []
        while True:
            batch = await reader.next()
            sizes.append(len(batch.events))
            if isinstance(batch.events[-1], EndEvent):
                break
        assert sizes == [512, 512, 477]
        with pytest.raises(StopAsyncIteration):
            await reader.next()
        assert batch.cursor.ended and Cursor.parse(str(batch.cursor)) == batch.cursor
        reader.close()

    asyncio.run(check())


def test_a_position_that_two_attempts_used_is_not_taken_for_the_same_chunk() -> None:
    async def check() -> None:
        node = Node()
        outlet = node.begin()
        outlet.write(NAME, 1, (b"stored",))
        node.store(outlet, 1)
        outlet.write(NAME, 2, (b"cut off",))
        reader = await node.streams.read(ID, NAME)
        cursor = (await reader.next()).cursor
        reader.close()
        outlet = node.begin()
        outlet.write(NAME, 2, (b"again",))
        reader = await node.streams.read(ID, NAME, cursor=cursor)
        assert await told(reader) == [1, "again"]
        reader.close()

    asyncio.run(check())


def test_a_reader_that_saw_two_tries_fail_gets_the_next_attempt_from_where_that_begins() -> None:
    """The next attempt's positions begin where what is stored ends: before those of the try that failed last."""

    async def check() -> None:
        node = Node()
        outlet = node.begin()
        outlet.write(NAME, 1, (b"stored",))
        node.store(outlet, 1)
        reader = await node.streams.read(ID, NAME)
        assert await told(reader) == ["stored"]
        for attempt in ("first", "second"):
            outlet.write(NAME, 2, (attempt.encode(), b"try"))
            assert await told(reader) == [attempt, "try"]
            outlet.void(2)
            assert await told(reader) == [1 if attempt == "first" else 3]
        outlet.over()
        outlet = node.begin()
        outlet.write(NAME, 2, (b"third",))
        assert await told(reader) == [1, "third"]
        reader.close()

    asyncio.run(check())
