"""Streams in the tables: stored with the step, once for each write, dropped with the journal."""

from typing import Any

import pytest

from perdure.core.tables import STREAM, STREAM_PART
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import Notify, Refused, Reply, StartAttempt, StreamAnswer, StreamStored
from perdure.model.invocation import Retention
from perdure.model.streams import StreamHead, StreamPart
from tests.core.invariants import check
from tests.core.world import KEPT, TOKEN, World, text, value


def part(*runs: tuple[int, tuple[bytes, ...]], name: str = "answer", attempt: int = 1) -> StreamPart:
    return StreamPart(name, attempt, runs)


def propose(world: World, id: bytes, completion_id: int, *parts: StreamPart, attempt: int | None = None) -> list[Any]:
    it = world[id]
    attempt = it.attempts if attempt is None else attempt
    return world.apply(c.Propose(world.at, it.number, attempt, completion_id, value("done"), parts), world.owner(id))


def write(world: World, id: bytes, ordinal: int, chunk: bytes | None, position: int = 0) -> list[Any]:
    it = world[id]
    runs = () if chunk is None else ((position, (chunk,)),)
    command = c.WriteStream(world.at, it.number, it.attempts, part(*runs), ordinal, -1 - ordinal, chunk is None)
    return world.apply(command, world.owner(id))


def read(world: World, id: bytes, name: str = "answer") -> Any:
    (reply,) = world.apply(c.ReadStream(world.at, id, name, TOKEN))
    assert isinstance(reply, Reply) and reply.token == TOKEN
    return reply.outcome


def test_a_steps_chunks_are_one_row_in_the_batch_of_its_result() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Run(1, "step"))
    actions = propose(world, id, 1, part((0, (b"1", b"2")), (4, (b"5",))), part((0, (b"x",)), name="log"))
    assert [type(action) for action in actions] == [StreamStored, Notify]
    assert actions[0] == StreamStored(id, 1, 1)
    changed = {table.name for table in world.batch.groups}
    assert changed == {"journal", "stream", "stream_part", "invocation"}
    answer = read(world, id)
    assert answer == StreamAnswer(
        1, 1, StreamHead(1, 5, 3, 3, 0, world.at), (part((0, (b"1", b"2")), (4, (b"5",))),), None
    )
    assert not check([world.snapshot()])

    world.append(id, e.Run(2, "next"))
    propose(world, id, 2, part((5, (b"6",))))
    assert "invocation" not in {table.name for table in world.batch.groups}  # it is known to have streams
    assert [each.runs[0][0] for each in read(world, id).parts] == [0, 5]
    world.append(id, e.Run(3, "silent"))
    propose(world, id, 3)
    assert {table.name for table in world.batch.groups} == {"journal"}
    assert not check([world.snapshot()])


def test_what_an_earlier_attempt_wrote_is_not_stored() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Run(1, "step"))
    world.fail(id)
    world.tick(60_000)
    assert world[id].attempts == 2
    assert propose(world, id, 1, part((0, (b"1",))), attempt=1) == []
    assert read(world, id).parts == ()
    assert not check([world.snapshot()])


def test_the_handlers_writes_are_stored_once_each() -> None:
    world = World()
    id = world.invoke()
    assert write(world, id, 0, b"a") == [StreamStored(id, 1, -1)]
    assert write(world, id, 0, b"a", 1) == []  # a replay that did not know
    assert write(world, id, 2, b"c", 1) == []  # one before it is missing
    write(world, id, 1, b"b", 1)
    write(world, id, 2, None)
    answer = read(world, id)
    assert answer.head == StreamHead(2, 2, 2, 2, 3, world.at, closed=True)
    assert [each.runs for each in answer.parts] == [((0, (b"a",)),), ((1, (b"b",)),)]
    assert not check([world.snapshot()])


def test_an_attempt_starts_with_the_heads_of_its_streams() -> None:
    world = World()
    id = world.invoke()
    assert isinstance(world.actions[0], StartAttempt) and world.actions[0].journal is not None
    assert world.actions[0].journal.streams == {}
    write(world, id, 0, b"a")
    world.suspend(id, 1)
    world.apply(c.Resume(world.at, id), world.owner(id))
    (start,) = [action for action in world.actions if isinstance(action, StartAttempt)]
    assert start.journal is not None
    assert start.journal.streams == {"answer": StreamHead(1, 1, 1, 1, 1, world.at)}


@pytest.mark.parametrize("retention", [KEPT, Retention(60_000, 0), Retention(60_000, 10_000), Retention()])
def test_streams_are_kept_as_long_as_the_journal(retention: Retention) -> None:
    world = World()
    id = world.invoke(retention=retention)
    number = world[id].number
    write(world, id, 0, b"a")
    write(world, id, 1, b"b", 1)
    world.end(id)

    def rows() -> int:
        return len(world.snapshot()["stream"]) + len(world.snapshot()["stream_part"])

    assert rows() == (3 if retention.journal_ms else 0)
    assert not check([world.snapshot()])
    if retention.completion_ms:
        answer = read(world, id)
        assert answer.result == value("out") and len(answer.parts) == (2 if retention.journal_ms else 0)
    else:
        assert read(world, id) == Refused(404, f"invocation {text(id)} not found")
    world.tick(70_000)
    assert rows() == 0 and not list(world.tables[0].scan(STREAM_PART, (number, "answer")))
    assert world.tables[0].get(STREAM, (number, "answer")) is None
    assert not check([world.snapshot()])
