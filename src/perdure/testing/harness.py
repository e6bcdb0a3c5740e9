"""`TestEngine`: the whole engine in memory, in virtual time, with crashes and failures by script.

It is the real engine (core, partition loop, invoker, handler loop) with three parts of its own: a clock that moves
when it is told to or when nothing else can happen, stores that show what they commit (`testing.life`), and steps
that fail on cue (`testing.script`).

A simulated crash drops the node with everything that is not committed and assembles a new one over what is. Whoever
waits for a result finds it again there, as a client does whose connection broke.
"""

import asyncio
import contextlib
import random
import tempfile
from collections import deque
from collections.abc import Coroutine, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast

from msgspec.structs import replace

from perdure.assembly import assemble
from perdure.core.tables import INVOCATION
from perdure.embedded import _CARRY_OUT, _value, stream_owner, told_of
from perdure.errors import Invalid, NotFound, PerdureError, TerminalError, Unavailable
from perdure.model import actions as a
from perdure.model.ids import InvocationId, format_invocation_id, parse_invocation_id
from perdure.model.invocation import AttemptFailure, Completed, Invocation, Paused, Target
from perdure.model.services import HandlerKind
from perdure.model.streams import Cursor
from perdure.protocol.approvals import Links
from perdure.runtime.clock import VirtualClock
from perdure.runtime.node import Node
from perdure.runtime.streams import Reader
from perdure.sdk import operations as op
from perdure.sdk.app import App
from perdure.sdk.caller import Caller, in_seconds
from perdure.sdk.operations import Operation
from perdure.sdk.reading import Events, ReadStream
from perdure.sdk.service import Duration
from perdure.storage.base import Batch, Storage
from perdure.storage.sqlite import SqliteStorage
from perdure.testing.life import EncodedMemory, Life, Store
from perdure.testing.script import Countdown, Script, ScriptedTransport, StepRun

if TYPE_CHECKING:
    from perdure.sdk.otel import ReplaySafeTracerProvider

__all__ = ["InvocationPaused", "InvocationStuck", "StepRun", "TestEngine"]

R = TypeVar("R")

START: Final = datetime(2030, 1, 1, tzinfo=UTC)
CALM_TURNS: Final = 8  # turns of the event loop without work after which it is taken to be at rest
CRASH_LIMIT: Final = 5_000  # more crashes than this in one test are a test that makes no progress


class InvocationPaused(PerdureError):
    """What was called, or something it waits for, is paused, so there will be no result before somebody resumes it.

    `failure` says why; `id` is the invocation's, for `engine.invocation(id)`.
    """

    def __init__(self, id: str, target: str, failure: AttemptFailure | None) -> None:
        reason = "somebody paused it" if failure is None else failure.message
        super().__init__(f"{target} ({id}) is paused: {reason}")
        self.id = id
        self.target = target
        self.failure = failure
        if failure is not None and failure.stacktrace:
            self.add_note(failure.stacktrace)


class InvocationStuck(PerdureError):
    """Nothing runs, no timer is left, and there is no result: what is waited for has to come from the test."""


class _Crashed(Exception):
    """Answers whoever waited for something of a node that is gone."""


class TestEngine(Caller):
    """The engine for tests: has the methods of `Client` and `Engine`, and power over time and fate.

    ::

        async with TestEngine(app, replay=True) as engine:
            engine.crash_after("charge card")
            assert await engine.call(order, "book") == "sent"
            assert engine.ran("charge card") == 1

    * `replay` drops and replays every handler before each thing it is told: what does not replay shows here.
    * `suspend` has handlers suspended whenever they wait for anything but a step.
    * `crash` has the process die after every single commit.
    * `partitions` spreads keys and invocations over several partitions.
    * `skip`: while a result is awaited and nothing can happen, time jumps to when something can. Without it time
      passes only by `advance`.
    * `tracer_provider` has spans made, as `Engine` does.
    * `store="sqlite"` keeps everything in real files; in memory too, rows are what SQLite would make of them.

    A call fails with `InvocationPaused` when what it waits for is paused, and with `InvocationStuck` when nothing can
    happen any more and nothing came from the test for `stuck_after` seconds (None: it waits on). Timeouts are of the
    engine's time.

    To be used as `async with`, or `engine = await TestEngine(app)` and `await engine.stop()`.
    """

    __test__ = False  # for pytest: no class of tests

    def __init__(
        self,
        app: App | Sequence[App],
        *,
        replay: bool = False,
        suspend: bool = False,
        crash: bool = False,
        partitions: int = 1,
        skip: bool = True,
        store: Literal["memory", "sqlite"] = "memory",
        attempt_limit: int = 1000,
        timeout: Duration | None = None,
        start: datetime = START,
        seed: int = 0,
        stuck_after: float | None = 5.0,
        tracer_provider: "ReplaySafeTracerProvider | None" = None,
    ) -> None:
        self._apps: list[App] = list(app) if isinstance(app, Sequence) else [app]
        for each in self._apps:
            if not isinstance(each, App):
                raise TypeError(f"TestEngine takes an App, or several; put services into one: App(...), not {each!r}")
        if partitions < 1:
            raise Invalid(f"partitions must be at least 1, not {partitions}")
        self.skip = skip
        self._replay = replay
        self._suspend = suspend
        self._crash_always = crash
        self._partitions = partitions
        self._sqlite = store == "sqlite"
        self._attempt_limit = attempt_limit
        self._timeout = in_seconds(timeout)
        self._stuck_after = stuck_after
        self._tracer_provider = tracer_provider
        self._chance = random.Random(seed)
        self._at = int(start.timestamp() * 1000)
        self._backend = self
        self._script = Script()
        self._at_commit: Countdown | None = None
        self._at_lost_commit: Countdown | None = None
        self._stores: list[Storage] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._life: Life | None = None
        self._risen = asyncio.Event()
        self._rising: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._stopped = False
        self._calls: set[_Call] = set()
        self._results: dict[bytes, a.Answer] = {}  # of invocations that ended in the moment of a crash
        self.crashes = 0
        """How often the process has died."""
        self.commits = 0
        """How many batches were committed."""

    @property
    def steps(self) -> list[StepRun]:
        """Every run of a step's function, in order."""
        return self._script.steps

    # Life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        if error is None and self._failure is not None:
            raise self._failure

    def __await__(self) -> Generator[Any, None, "TestEngine"]:
        return self.__aenter__().__await__()

    async def start(self) -> None:
        """`async with` does it."""
        if self._life is not None:
            raise Invalid("the engine runs already")
        if self._sqlite:
            self._folder = tempfile.TemporaryDirectory(prefix="perdure-test-")
        else:
            self._stores = [EncodedMemory() for _ in range(self._partitions)]
        await self._rise()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Drop everything. `async with` does it."""
        tasks = [task for task in (self._rising, self._watching) if task is not None]
        self.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # steps that were cut off unwind

    def close(self) -> None:
        """Drop everything at once; also where the event loop is gone."""
        self._stopped = True
        life, self._life = self._life, None
        if life is not None:
            life.die(Unavailable("the engine has stopped"))
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _living(self) -> Life:
        if self._life is None:
            raise Unavailable("the engine does not run: use it within `async with TestEngine(...) as engine:`")
        return self._life

    @property
    def node(self) -> Node:
        """The engine's inside; another one after each crash."""
        return self._living().node

    async def _rise(self) -> None:
        """Start a node over what is committed."""
        try:
            await self._assemble().node.start()
        except Exception as error:
            self._failure = self._failure or error
        self._risen.set()

    def _assemble(self) -> Life:
        if self._folder is not None:
            folder = Path(self._folder.name)
            self._stores = [SqliteStorage(folder / f"{index}.db") for index in range(self._partitions)]
        stores = [Store(inner, self._loses, self._committed) for inner in self._stores]
        life = self._life = Life(VirtualClock(self._at), stores)
        life.node = assemble(
            self._apps,
            life.stores,
            clock=life.clock,
            replay_always=self._replay,
            attempt_limit=self._attempt_limit,
            chance=lambda: 0.0,
            entropy=self._chance.getrandbits,
            failed=self._partition_failed,
            tracer_provider=self._tracer_provider,
            links=Links(lambda: b"a key for tests", lambda: "http://localhost:8080"),
        )
        life.node.invoker._transport = ScriptedTransport(
            self._script, life.node.handlers, life.node.host, lambda: self._die_soon(life)
        )
        if self._suspend:
            _suspend_at_once(life.node)
        return life

    def _partition_failed(self, error: BaseException) -> None:
        self._failure = error

    # Time

    def now(self) -> datetime:
        """The engine's time."""
        return datetime.fromtimestamp(self._now_ms() / 1000, UTC)

    def _now_ms(self) -> int:
        return self._at if self._life is None else self._life.clock.now_ms()

    async def settle(self) -> None:
        """Wait until nothing can happen before time passes or something comes from outside.

        Steps count as something that happens: a step that waits for the test keeps this from returning.
        """
        calm = turns = 0
        while calm < CALM_TURNS and self._failure is None:
            turns += 1
            await asyncio.sleep(0 if turns % 64 else 0.0005)
            life = self._life
            calm = calm + 1 if life is not None and self._risen.is_set() and life.quiet else 0

    async def advance(self, by: Duration) -> None:
        """Have so much time pass (seconds or a timedelta), and everything happen that is due by then."""
        target = self._now_ms() + int((in_seconds(by) or 0) * 1000)
        while True:
            await self.settle()
            clock = self._living().clock
            due = clock.next_ms()
            if due is None or due > target:
                break
            clock.move_to(due)
            clock.run_due()
        clock.move_to(target)
        await self.settle()

    # Faults

    def crash(self) -> None:
        """The process dies, now, and starts again."""
        self._die_soon(self._living())

    def crash_before(self, step: str, *, nth: int = 1) -> None:
        """The process dies when the step's function is about to run (for the n-th time)."""
        self._script.before[step] = Countdown(nth)

    def crash_during(self, step: str, *, nth: int = 1) -> None:
        """The process dies when the step's function has run and nothing is recorded yet: it will run again."""
        self._script.during[step] = Countdown(nth)

    def crash_after(self, step: str, *, nth: int = 1) -> None:
        """The process dies when the step's result is recorded and nobody was told: it must not run again."""
        self._script.after[step] = Countdown(nth)

    def crash_at_commit(self, nth: int = 1, *, lost: bool = False) -> None:
        """The process dies at the n-th commit from now: when it is on disk and nothing was done about it.

        With `lost`, just before it is on disk.
        """
        if lost:
            self._at_lost_commit = Countdown(nth)
        else:
            self._at_commit = Countdown(nth)

    def fail_step(self, step: str, error: BaseException | None = None, *, times: int = 1) -> None:
        """The next `times` tries of the step fail with `error` instead of calling the function."""
        error = error or RuntimeError(f"step {step!r} fails by script")
        self._script.failures.setdefault(step, deque()).extend([error] * times)

    def ran(self, step: str) -> int:
        """How often a step's function was called."""
        return sum(run.name == step for run in self.steps)

    def _loses(self, store: Store, batch: Batch) -> bool:
        """Whether the process dies before this batch is on disk."""
        if batch and self._at_lost_commit is not None and self._at_lost_commit.reached():
            self._die_soon(self._living())
            return True
        return False

    def _committed(self, store: Store, batch: Batch) -> bool:
        """A batch is on disk; whether the partition gets to know, or the process dies first."""
        life = self._living()
        if not batch:
            return True
        self.commits += 1
        dies = self._script.committed(life.stores.index(store), batch)
        dies |= self._at_commit is not None and self._at_commit.reached()
        dies |= self._crash_always and store.commits > 1  # the first is the recovery: to die of that is no life
        for groups in batch.groups.get(INVOCATION, {}).values():
            for invocation in groups.rows.values():
                if invocation is not None and isinstance(invocation.status, Paused):
                    self._paused(invocation)
        if dies:
            self._die_soon(life)
        return not dies

    def _paused(self, invocation: Invocation) -> None:
        for call in self._calls:
            if call.id == invocation.id:
                call.fail(_pause_of(invocation))

    def _die_soon(self, life: Life) -> None:
        """The process dies here; from any thread."""
        life.dying = True
        with contextlib.suppress(RuntimeError):  # the event loop is gone
            life.node._loop.call_soon_threadsafe(self._die, life)

    def _die(self, life: Life) -> None:
        if self._life is not life or self._stopped:
            return
        self.crashes += 1
        if self.crashes > CRASH_LIMIT:
            self._failure = AssertionError(f"{CRASH_LIMIT} crashes, and still no end: the test makes no progress")
        if self._rising is not None:
            self._rising.cancel()
        self._risen.clear()
        self._at = life.clock.now_ms()
        for action in life.die(_Crashed()):
            self._results[action.id] = a.Answer(action.id, action.result, action.expires_at)
        self._rising = life.node._loop.create_task(self._rise(), name="perdure restart")

    # Operations

    async def execute(self, operation: Operation[R], timeout: Duration | None = None) -> R:
        """Carries an operation out, through as many crashes as it takes."""
        limit = self._timeout if timeout is None else in_seconds(timeout)
        call = _Call(self, operation, None if limit is None else self._now_ms() + int(limit * 1000))
        self._watch(call)
        try:
            return cast(R, await call.answer())
        finally:
            self._calls.discard(call)

    async def events(self, operation: ReadStream) -> Events:
        """A stream's events, through as many crashes as it takes."""
        call = _Call(self, operation, None)
        call.waits = True
        self._watch(call)
        cursor = None if operation.last_event_id is None else Cursor.parse(operation.last_event_id)
        try:
            while cursor is None or not cursor.ended:
                try:
                    async with await call.reader(cursor) as reader:
                        while not reader.at_end and (cursor is None or not cursor.ended):
                            batch = await call.unless_failed(reader.next())
                            for told in told_of(batch):
                                yield told
                                cursor = Cursor.parse(told[1])
                        if reader.at_end:
                            return
                except Unavailable:  # the node that was read is gone
                    if self._stopped:
                        raise
                    await asyncio.sleep(0)
        finally:
            self._calls.discard(call)

    def _watch(self, call: "_Call") -> None:
        """Somebody waits."""
        self._calls.add(call)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._pass_time(), name="perdure time")

    async def _pass_time(self) -> None:
        """While somebody waits: when nothing can happen, skip to when something can, or say that nothing will."""
        loop = asyncio.get_running_loop()
        since: float | None = None
        while self._calls and not self._stopped:
            await self.settle()
            if self._failure is not None:
                self._fail_all(self._failure)
                return
            life = self._life
            if life is None or not life.quiet or not any(call.waits for call in self._calls):
                continue
            due = life.next_due()
            if due is not None:
                since = None
                if self.skip:
                    life.clock.move_to(due)
                    life.clock.run_due()
                    continue
            else:
                since = loop.time() if since is None else since
                self._look_for_pauses(life)
                if self._stuck_after is not None and loop.time() - since > self._stuck_after:
                    self._fail_all(InvocationStuck(self._stuck(life)))
            await asyncio.sleep(0.001)

    def _look_for_pauses(self, life: Life) -> None:
        """Nothing can happen: fail whoever waits for something that waits for a paused invocation."""
        for call in self._calls:
            paused = None if call.id is None else life.paused_behind(call.id)
            if paused is not None:
                call.fail(_pause_of(paused))

    def _fail_all(self, error: BaseException) -> None:
        for call in self._calls:
            call.fail(error)

    def _stuck(self, life: Life) -> str:
        rows = [life.row(id) for id in self._script.accepted]
        unfinished = [
            f"  {row.target} ({format_invocation_id(row.id)}): {row.status}"
            for row in rows
            if row is not None and not isinstance(row.status, Completed)
        ]
        return "\n".join(["nothing can happen any more, and nothing came from the test. Not finished:", *unfinished])


class _Call:
    """One operation, carried out in as many lives as it takes."""

    def __init__(self, engine: TestEngine, operation: Operation[Any], deadline: int | None) -> None:
        self._engine = engine
        self._operation = operation
        self._deadline = deadline
        self._failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.id: bytes | None = None
        """The invocation whose result it waits for, once that is known."""
        self.waits = isinstance(operation, op.Invoke | op.Attach) or (
            isinstance(operation, op.WorkflowResult) and operation.wait
        )

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # if the answer is faster, nobody needs to be told

    async def answer(self) -> Any:
        """What it comes to, in this life of the engine or in a later one."""
        while True:
            try:
                return await self._in_this_life()
            except _Crashed:
                await asyncio.sleep(0)

    async def reader(self, cursor: Cursor | None) -> Reader:
        """A reader of the stream, in the life of the engine that is next or now."""
        operation = self._operation
        assert isinstance(operation, ReadStream)
        await self.unless_failed(self._engine._risen.wait())
        life = self._engine._living()
        if life.dying:
            raise Unavailable("it is about to crash")
        owner = stream_owner(life.node, operation)
        self._waits_for(life, owner)
        reading = life.node.streams.read(owner, operation.name, start=operation.start, cursor=cursor)
        try:
            return await self.unless_failed(reading)
        except _Crashed:
            raise Unavailable("it crashed") from None

    async def unless_failed(self, waiting: Coroutine[Any, Any, R]) -> R:
        """What it comes to, unless there will be no answer."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({task, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            return await (task if task.done() else self._failed)
        finally:
            task.cancel()

    async def _in_this_life(self) -> Any:
        await self._engine._risen.wait()
        life = self._engine._living()
        timer = None
        if self._deadline is not None:
            timer = life.clock.call_at(self._deadline, lambda: self.fail(TimeoutError("the time for it is over")))
        task = asyncio.ensure_future(self._carry_out(life))
        try:
            await asyncio.wait({task, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            return await (task if task.done() else self._failed)
        finally:
            if timer is not None:
                timer.cancel()
            if not task.done():
                task.cancel()

    async def _carry_out(self, life: Life) -> Any:
        operation, node = self._operation, life.node
        if life.dying:
            raise _Crashed
        if isinstance(operation, op.Invoke):
            return _value(await self._invoke(life, operation))
        if isinstance(operation, op.Attach):
            self._waits_for(life, parse_invocation_id(operation.id))
        elif isinstance(operation, op.WorkflowResult) and operation.wait:
            self._waits_for(life, _workflow_id(node, operation))
        try:
            return await _CARRY_OUT[operation.__class__](node, operation)
        except Unavailable:
            if not life.dying:
                raise
            raise _Crashed from None  # between two things that the operation asks for
        except NotFound:
            told = None if self.id is None else self._engine._results.get(self.id)
            if told is None:
                raise
            return _value(told)

    def _waits_for(self, life: Life, id: bytes | None) -> None:
        self.id = id
        invocation = None if id is None else life.row(id)
        if invocation is not None and isinstance(invocation.status, Paused):
            self.fail(_pause_of(invocation))

    async def _invoke(self, life: Life, call: op.Invoke) -> a.Answer | a.Refused:
        engine, node = self._engine, life.node
        if self.id is not None and self.id in engine._script.accepted:
            answer = await node.attach(InvocationId(self.id))
            return engine._results.get(self.id, answer) if isinstance(answer, a.Refused) else answer
        outcome = await node.call(
            node.registry.target(call.service, call.handler, call.key),
            call.body,
            headers=call.headers,
            idempotency_key=call.idempotency_key,
            on_accepted=lambda id: self._waits_for(life, id),
        )
        if isinstance(outcome, a.AlreadyInvoked):
            raise TerminalError("the workflow was started before, and a workflow runs once", 409)
        return outcome


def _pause_of(invocation: Invocation) -> InvocationPaused:
    assert isinstance(invocation.status, Paused)
    return InvocationPaused(format_invocation_id(invocation.id), str(invocation.target), invocation.status.failure)


def _workflow_id(node: Node, wanted: op.WorkflowResult) -> bytes | None:
    service = node.registry.service(wanted.service)
    mains = [] if service is None else [each for each in service.handlers.values() if each.kind is HandlerKind.WORKFLOW]
    if not mains:
        return None
    return node.invocation_id(Target(wanted.service, mains[0].name, HandlerKind.WORKFLOW, wanted.key), None)


def _suspend_at_once(node: Node) -> None:
    """Give every handler an inactivity timeout of nothing."""
    registry = node.registry
    for name, service in registry._local.items():
        handlers = {each: replace(info, inactivity_timeout_ms=0) for each, info in service.handlers.items()}
        registry._local[name] = registry._services[name] = replace(service, handlers=handlers)
