"""One partition's loop: nothing is done about a command before it is stored, and what cannot be stored stops it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.core import partition
from perdure.errors import StorageError
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import Action, Notify, StartAttempt
from perdure.model.invocation import Retention, Target
from perdure.model.services import HandlerKind
from perdure.runtime import loop as loop_module
from perdure.runtime.loop import PartitionLoop
from perdure.storage.base import Batch
from perdure.storage.memory import MemoryStorage

AT = 1_000_000


def invoke(number: int) -> c.Invoke:
    target = Target("greeter", "greet", HandlerKind.PLAIN)
    return c.Invoke(AT, bytes(23) + bytes([number]), target, e.Input(b"in"), Retention(60_000, 60_000))


def step(number: int, attempt: int = 1) -> list[c.PartitionCommand]:
    return [c.Append(AT, number, attempt, e.Run(1, "step")), c.Propose(AT, number, attempt, 1, e.Value(b"v"))]


class Rig:
    """A loop over a store whose commits are done when the test says so."""

    def __init__(self, held: bool = True, storage: MemoryStorage | None = None) -> None:
        self.writes: list[Callable[[], None]] = []
        self.storage = storage or MemoryStorage(deliver=self.writes.append if held else None)
        self.performed: list[Action] = []
        self.writing: list[int] = []  # how many writes were under way when each action was performed
        self.failures: list[BaseException] = []
        self.when_performing: Callable[[Action], None] = lambda action: None
        self.loop = PartitionLoop(0, 1, self.storage, self.perform, self.failures.append)

    def perform(self, index: int, action: Action) -> None:
        self.performed.append(action)
        self.writing.append(len(self.writes))
        self.when_performing(action)

    async def write(self) -> None:
        """The oldest write is done."""
        self.writes.pop(0)()
        await turns()


async def turns(count: int = 6) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


def in_loop(body: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            await body()

        asyncio.run(main())

    test.__name__ = body.__name__
    test.__doc__ = body.__doc__
    return test


@in_loop
async def test_no_action_is_performed_before_its_batch_is_stored() -> None:
    rig = Rig()
    rig.loop.submit(invoke(1))
    await turns()
    assert len(rig.writes) == 1 and rig.performed == []
    assert rig.storage.snapshot()["invocation"] == {}
    await rig.write()
    assert rig.storage.snapshot()["invocation"].keys() == {(1,)}
    assert [type(action) for action in rig.performed] == [StartAttempt]


@in_loop
async def test_what_is_submitted_within_one_turn_is_one_commit() -> None:
    """So a step whose function is quick costs one."""
    rig = Rig()
    rig.loop.submit(invoke(1))
    run, result = step(1)
    rig.loop.submit(run)
    asyncio.get_running_loop().call_soon(rig.loop.submit, result)
    assert rig.loop.queued == 2
    await turns()
    assert (len(rig.writes), rig.loop.commits, rig.loop.queued) == (1, 1, 0)
    await rig.write()
    assert [type(action) for action in rig.performed] == [StartAttempt, Notify]


@in_loop
async def test_while_one_batch_is_written_the_next_is_collected_and_handed_over_first() -> None:
    rig = Rig()
    rig.loop.submit(invoke(1))
    await turns()
    for command in (invoke(2), *step(1)):
        rig.loop.submit(command)
        await turns()
    assert len(rig.writes) == 1  # there is one write at a time, and one batch beside it
    await rig.write()
    assert [type(action) for action in rig.performed] == [StartAttempt]
    assert rig.writing == [1]  # the second was being written before the first one's actions were performed
    assert rig.loop.commits == 2
    await rig.write()
    assert [type(action) for action in rig.performed] == [StartAttempt, StartAttempt, Notify]
    assert rig.writes == []


@in_loop
async def test_what_an_action_submits_is_the_next_batch() -> None:
    rig = Rig()
    commands = step(1)
    rig.when_performing = lambda action: rig.loop.submit(commands.pop(0)) if commands else None
    rig.loop.submit(invoke(1))
    await turns()
    await rig.write()
    await turns()
    assert len(rig.writes) == 1
    await rig.write()
    assert rig.loop.commits == 2


@in_loop
async def test_very_many_commands_are_several_commits() -> None:
    rig = Rig(held=False)
    limit, loop_module.BATCH_LIMIT = loop_module.BATCH_LIMIT, 4
    try:
        for number in range(10):
            rig.loop.submit(invoke(number))
        await rig.loop.quiet()
    finally:
        loop_module.BATCH_LIMIT = limit
    assert rig.loop.commits == 3
    started = [action.invocation.number for action in rig.performed if isinstance(action, StartAttempt)]
    assert started == list(range(1, 11))


@in_loop
async def test_quiet_is_when_everything_is_stored_and_done() -> None:
    rig = Rig()
    await rig.loop.quiet()
    rig.loop.submit(invoke(1))
    waiting = asyncio.ensure_future(rig.loop.quiet())
    await turns()
    rig.loop.submit(invoke(2))
    await rig.write()
    assert not waiting.done()
    await rig.write()
    assert waiting.done() and len(rig.performed) == 2


# ---- failures --------------------------------------------------------------------------------------------------------


class Full(MemoryStorage):
    """A disk that is full from the `good`-th commit on."""

    def __init__(self, good: int = 0) -> None:
        super().__init__()
        self.good = good

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        self.good -= 1
        if self.good >= 0:
            super().commit(batch, done)
        else:
            done(OSError("disk full"))


def test_a_commit_that_fails_stops_the_loop_loudly(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        rig = Rig(storage=Full(good=1))
        rig.loop.submit(invoke(1))
        await rig.loop.quiet()
        assert len(rig.performed) == 1
        rig.loop.submit(invoke(2))
        await rig.loop.quiet()
        assert len(rig.performed) == 1
        (failure,) = rig.failures
        assert isinstance(failure, StorageError) and rig.loop.failure is failure
        assert str(failure) == "partition 0 cannot commit: disk full"
        rig.loop.submit(invoke(3))
        await turns()
        await rig.loop.quiet()
        assert rig.loop.commits == 2 and len(rig.failures) == 1
        assert rig.loop.queued == 0  # nobody will ever take it

    asyncio.run(body())
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL and "partition 0 stopped" in record.message


class Broken(c.Tick, frozen=True):
    """A command that the core has no function for: a bug."""


def test_a_bug_in_the_core_stops_the_loop_before_anything_of_its_batch_is_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        rig = Rig()
        rig.loop.submit(invoke(1))
        await turns()
        rig.loop.submit(invoke(2))
        rig.loop.submit(Broken(AT))
        rig.loop.submit(invoke(3))
        await rig.write()
        assert [type(failure) for failure in rig.failures] == [KeyError]
        assert len(rig.performed) == 1  # what was stored before is done
        assert rig.writes == [] and rig.storage.snapshot()["invocation"].keys() == {(1,)}
        await rig.loop.quiet()
        rig.loop.submit(invoke(4))
        await turns()
        assert rig.writes == [] and rig.loop.queued == 0

    asyncio.run(body())
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


def test_an_action_that_cannot_be_performed_stops_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """The tables say it is done: going on, whoever depends on it would wait for ever."""

    async def body() -> None:
        rig = Rig(held=False)

        def fail(action: Action) -> None:
            raise ZeroDivisionError

        rig.when_performing = fail
        rig.loop.submit(invoke(1))
        rig.loop.submit(invoke(2))
        await turns()
        assert [type(failure) for failure in rig.failures] == [ZeroDivisionError]
        assert rig.loop.failure is rig.failures[0]
        await rig.loop.quiet()

    asyncio.run(body())
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]


@in_loop
async def test_a_closed_loop_does_nothing_more() -> None:
    """As after a crash: what was being written may be stored, and is found by the next process."""
    rig = Rig()
    rig.loop.submit(invoke(1))
    await turns()
    rig.loop.submit(invoke(2))
    waiting = asyncio.ensure_future(rig.loop.quiet())
    await turns()
    rig.loop.close()
    await turns()
    assert waiting.done()
    await rig.write()
    assert rig.performed == [] and rig.writes == [] and rig.failures == []
    assert rig.storage.snapshot()["invocation"].keys() == {(1,)}
    failure = rig.loop.failure
    assert str(failure) == "partition 0 is closed"
    rig.loop.close()
    assert rig.loop.failure is failure


@in_loop
async def test_a_batch_that_was_to_be_closed_when_the_loop_was_is_not() -> None:
    rig = Rig()
    rig.loop.submit(invoke(1))
    rig.loop.close()
    await turns()
    assert rig.writes == []


def test_a_commit_that_is_done_when_the_event_loop_is_gone_is_nobodys() -> None:
    rigs: list[Rig] = []

    async def body() -> None:
        rigs.append(Rig())
        rigs[0].loop.submit(invoke(1))
        await turns()

    asyncio.run(body())
    rigs[0].writes[0]()
    assert rigs[0].performed == []


@in_loop
async def test_the_commands_are_the_core_s() -> None:
    """The same commands give the core's own actions, in its order."""
    rig = Rig(held=False)
    commands: list[Any] = [invoke(1), *step(1), invoke(2), c.Cancel(AT, invoke(2).id)]
    for command in commands:
        rig.loop.submit(command)
    await rig.loop.quiet()
    from perdure.storage.overlay import Overlay

    tables = Overlay(MemoryStorage())
    assert rig.performed == [action for command in commands for action in partition.apply(tables, command)]
