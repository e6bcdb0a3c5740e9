"""`TestEngine`: the whole engine in memory, in virtual time, with crashes and failures by script.

It is the real engine (core, partition loop, invoker, handler loop) with three parts of its own: a clock that moves
when it is told to or when nothing else can happen, stores that say what was committed, and steps that fail on cue.

A simulated crash drops the node with everything that is not committed and assembles a new one over what is. Whoever
waits for a result finds it again there, as a client does whose connection broke.
"""

import asyncio
import contextlib
import random
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from msgspec.structs import replace

from perdure.assembly import LocalNode, assemble
from perdure.core.tables import INVOCATION, INVOCATION_ID, JOURNAL, TIMER, Key, Table, TimerKind
from perdure.embedded import _CARRY_OUT, _value
from perdure.errors import Invalid, PerdureError, StorageError, TerminalError, Unavailable
from perdure.model import actions as a
from perdure.model import entries as e
from perdure.model.ids import format_invocation_id, parse_invocation_id
from perdure.model.invocation import AttemptFailure, Completed, Invocation, Paused, Suspended, Target
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.protocol.control import FromHandler, Start
from perdure.runtime.clock import VirtualClock
from perdure.runtime.node import Node
from perdure.sdk import operations as op
from perdure.sdk import serving
from perdure.sdk.app import App
from perdure.sdk.caller import Caller, in_seconds
from perdure.sdk.driver import HandlerRun
from perdure.sdk.operations import Operation
from perdure.sdk.serde import Serde
from perdure.sdk.service import Duration, HandlerDefinition
from perdure.sdk.steps import _is_async, current_step
from perdure.storage.base import Batch, Storage
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import _LAYOUTS, SqliteStorage

__all__ = ["InvocationPaused", "InvocationStuck", "StepRun", "TestEngine"]

R = TypeVar("R")
V = TypeVar("V")

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
    """Nothing runs, no timer is left, and still there is no result: whatever is waited for has to come from the test."""


class StepRun(NamedTuple):
    """One run of a step's function. `again`: its result had been recorded before, which must never be."""

    invocation: str
    name: str
    attempt: int
    token: str
    again: bool


class _Crashed(Exception):
    """Answers whoever waited for something of a node that is gone."""


class _Step(NamedTuple):
    """Which step of which invocation."""

    invocation: bytes
    completion_id: int


class _Countdown:
    """What is to happen at the n-th occasion."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def reached(self) -> bool:
        self.left -= 1
        return self.left == 0


# ---- parts of a node


class _EncodedMemory(MemoryStorage):
    """Keeps what a row is once it was written to SQLite's columns and read back; refuses what SQLite would refuse."""

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        try:
            encoded = self._encoded(batch)
        except Exception as error:
            self.close()
            done(StorageError(f"the batch can't be written: {error!r}"))
            return
        super().commit(encoded, done)

    def _encoded(self, batch: Batch) -> Batch:
        encoded = Batch()
        for table, groups in batch.groups.items():
            layout = _LAYOUTS[table]
            width = len(layout.read)
            for name, group in groups.items():
                copy = encoded.group(table, name)
                copy.dropped = group.dropped
                for key, value in group.rows.items():
                    if value is None:
                        copy.rows[key] = None
                    else:
                        known, copied = layout.decode(layout.encode(key, value)[:width])
                        assert known == key
                        copy.rows[known] = copied
        return encoded


class _Store:
    """A partition's store for one life of the node: tells the engine what it commits, and can be cut off."""

    def __init__(self, inner: Storage, engine: "TestEngine") -> None:
        self.inner = inner
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self.dead = False
        self.commits = 0
        self.stored = False  # the batch last taken is on disk, whether the partition knows or not

    def get(self, table: Table[V], key: Key) -> V | None:
        return self.inner.get(table, key)

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        return self.inner.scan(table, group, limit=limit)

    def last(self, table: Table[V], group: Key) -> Key | None:
        return self.inner.last(table, group)

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        if self.dead:
            return
        self.commits += 1
        self.stored = False
        if self._engine._loses(self, batch):
            return
        if isinstance(self.inner, MemoryStorage):
            self.inner.commit(batch, lambda error: self._written(batch, done, error))
        else:
            self.inner.commit(batch, lambda error: self._from_thread(batch, done, error))

    def _from_thread(
        self, batch: Batch, done: Callable[[BaseException | None], None], error: BaseException | None
    ) -> None:
        self.stored = error is None
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and the test with it
            self._loop.call_soon_threadsafe(self._written, batch, done, error)

    def _written(
        self, batch: Batch, done: Callable[[BaseException | None], None], error: BaseException | None
    ) -> None:
        if self.dead:
            return
        self.stored = error is None
        if self._engine._committed(self, batch, error):
            done(error)

    def cut(self) -> None:
        """Take no more batches; what was given is on disk when this returns."""
        self.dead = True
        if not isinstance(self.inner, MemoryStorage):
            self.inner.close()

    def close(self) -> None:
        self.cut()


class _Run(HandlerRun):
    """An attempt whose steps go by the engine's script."""

    __slots__ = ("_engine",)

    def __init__(
        self, engine: "TestEngine", definition: HandlerDefinition, start: Start, send: Callable[[FromHandler], None]
    ) -> None:
        self._engine = engine
        super().__init__(definition, start, send, engine._living().node.host, serving._main)

    def step(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: RetryPolicy | None,
        serde: Serde[Any],
    ) -> "tuple[int, asyncio.Future[e.Result]]":
        scripted = _ScriptedStep(self._engine, self.start.id, name, fn)
        issued = super().step(name, scripted.function(), args, kwargs, retry, serde)
        scripted.step = _Step(self.start.id, issued[0])
        self._engine._names[scripted.step] = name
        return issued


class _ScriptedStep:
    """Wraps a step's function: counts its runs, and fails or crashes where the script says so."""

    def __init__(self, engine: "TestEngine", invocation: bytes, name: str, fn: Callable[..., Any]) -> None:
        self._engine = engine
        self._fn = fn
        self._life = engine._living()
        self._name = name
        self.step = _Step(invocation, 0)

    def function(self) -> Callable[..., Any]:
        return self._run_async if _is_async(self._fn) else self._run_plain

    async def _run_async(self, *args: Any, **kwargs: Any) -> Any:
        if self._begins():
            await asyncio.get_running_loop().create_future()  # until the crash takes it away
        return await self._ends(await self._fn(*args, **kwargs))

    def _run_plain(self, *args: Any, **kwargs: Any) -> Any:
        if self._begins():
            return _forever()
        result = self._fn(*args, **kwargs)
        return self._ends(result, plain=True) if self._engine._watches_end_of(self._name) else result

    def _begins(self) -> bool:
        """The function is about to run; whether the process dies first."""
        engine = self._engine
        if engine._strikes(engine._before, self._name):
            engine._die_soon(self._life)
            return True
        info = current_step()
        again = self.step in engine._recorded
        engine.steps.append(
            StepRun(format_invocation_id(self.step.invocation), self._name, info.attempt, info.token, again)
        )
        failures = engine._failures.get(self._name)
        if failures:
            raise failures.popleft()
        return False

    async def _ends(self, result: Any, *, plain: bool = False) -> Any:
        """The function has run; the process may die before anyone hears of it."""
        if plain and hasattr(result, "__await__"):
            result = await result
        engine = self._engine
        if engine._strikes(engine._during, self._name):
            engine._die_soon(self._life)
            await asyncio.get_running_loop().create_future()
        return result


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


class _Transport:
    """Opens scripted runs."""

    def __init__(self, engine: "TestEngine", handlers: dict[tuple[str, str], HandlerDefinition]) -> None:
        self._engine = engine
        self._handlers = handlers

    def open(self, start: Start, receive: Callable[[FromHandler], None]) -> _Run:
        return _Run(self._engine, self._handlers[start.target.service, start.target.handler], start, receive)


class _Life:
    """One node, from its start to its crash."""

    def __init__(self, clock: VirtualClock, stores: list[_Store]) -> None:
        self.clock = clock
        self.stores = stores
        self.node: LocalNode = cast(LocalNode, None)
        self.dying = False

    @property
    def quiet(self) -> bool:
        """Whether nothing can happen before time passes or something comes from outside."""
        if self.dying or not self.node.ready:
            return False
        if not all(partition._quiet.is_set() for partition in self.node.partitions):
            return False
        runs = [live.duplex for live in self.node.invoker._live.values()]
        return all(isinstance(run, HandlerRun) and run._idle for run in runs)

    def row(self, id: bytes) -> Invocation | None:
        """What is committed of an invocation."""
        for store in self.stores:
            number = store.get(INVOCATION_ID, (id[8:] + id[:8],))
            if number is not None:
                return store.get(INVOCATION, (number,))
        return None

    def journal(self, id: bytes) -> list[e.Entry]:
        """The entries that are committed of an invocation."""
        for store in self.stores:
            number = store.get(INVOCATION_ID, (id[8:] + id[:8],))
            if number is not None:
                return [entry for _, (_, entry) in store.scan(JOURNAL, (number,))]
        return []

    def next_due(self) -> int | None:
        """When the next thing is due that somebody waits for: the end of a retention is not."""
        node = self.node
        ticks = [known[1] for known in node._timers if known is not None]
        due = [
            at
            for at, _, timer in self.clock._heap
            if not timer.gone and timer not in ticks and getattr(timer.callback, "__self__", None) is not node.courier
        ]
        for index, store in enumerate(self.stores):
            for key, _ in store.scan(TIMER, ()):
                if due and key[0] >= min(due):
                    break
                if self._matters(index, store, key):
                    due.append(key[0])
                    break
        return min(due, default=None)

    def _matters(self, partition: int, store: _Store, key: Key) -> bool:
        _, number, kind, identity = key
        invocation = store.get(INVOCATION, (number,))
        if invocation is None or isinstance(invocation.status, Completed | Paused):
            return False
        if kind != TimerKind.SLEEP:
            return kind in (TimerKind.BEGIN, TimerKind.RETRY)
        if isinstance(invocation.status, Suspended):
            return identity in invocation.status.waiting.completions
        live = self.node.invoker._live.get((partition, number))
        if live is None or not isinstance(live.duplex, HandlerRun):
            return True
        timer = live.duplex._sleeping.get(identity)
        return timer is not None and not timer.gone


# ---- the engine


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
    * `store="sqlite"` keeps everything in real files; in memory too, rows are what SQLite would make of them.

    A call fails with `InvocationPaused` when what it waits for is paused, and with `InvocationStuck` when nothing can
    happen any more and nothing came from the test for `stuck_after` seconds (None: it waits on).

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
    ) -> None:
        self._apps = [app] if isinstance(app, App) else list(app)
        for each in self._apps:
            if not isinstance(each, App):
                raise TypeError(f"TestEngine takes an App, or several; put services into one: App(...), not {each!r}")
        if partitions < 1:
            raise Invalid(f"partitions must be at least 1, not {partitions}")
        self._replay = replay
        self._suspend = suspend
        self._crash_always = crash
        self._partitions = partitions
        self.skip = skip
        self._sqlite = store == "sqlite"
        self._attempt_limit = attempt_limit
        self._timeout = in_seconds(timeout)
        self._stuck_after = stuck_after
        self._chance = random.Random(seed)
        self._at = int(start.timestamp() * 1000)
        self._backend = self
        self._stores: list[Storage] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._life: _Life | None = None
        self._rising: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._risen = asyncio.Event()
        self._failure: BaseException | None = None
        self._stopped = False
        self._waiting: dict[asyncio.Future[Any], bytes | None] = {}  # what fails when nothing can happen any more
        self._before: dict[str, _Countdown] = {}
        self._during: dict[str, _Countdown] = {}
        self._after: dict[str, _Countdown] = {}
        self._failures: dict[str, deque[BaseException]] = {}
        self._at_commit: _Countdown | None = None
        self._at_lost_commit: _Countdown | None = None
        self._accepted: set[bytes] = set()
        self._numbers: dict[tuple[int, int], bytes] = {}
        self._recorded: set[_Step] = set()
        self._names: dict[_Step, str] = {}
        self._results: dict[bytes, a.Answer] = {}  # of invocations that a crash kept from being told
        self.steps: list[StepRun] = []
        """Every run of a step's function, in order."""
        self.crashes = 0
        """How often the process has died."""
        self.commits = 0
        """How many batches were committed."""

    # Life

    async def __aenter__(self) -> "TestEngine":
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
            self._stores = [_EncodedMemory() for _ in range(self._partitions)]
        await self._rise()

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
            with contextlib.suppress(RuntimeError):  # what cannot be cancelled for want of a loop needs it no more
                life.node.close()
            life.node._give_up(Unavailable("the engine has stopped"))
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _living(self) -> _Life:
        if self._life is None:
            raise Unavailable("the engine does not run: use it within `async with TestEngine(...) as engine:`")
        return self._life

    @property
    def node(self) -> Node:
        """The engine's inside; another one after each crash."""
        return self._living().node

    async def _rise(self) -> None:
        """Assemble a node over what is committed."""
        if self._sqlite and self._folder is not None:
            folder = Path(self._folder.name)
            self._stores = [SqliteStorage(folder / f"{index}.db") for index in range(self._partitions)]
        clock = VirtualClock(self._at)
        life = self._life = _Life(clock, [_Store(inner, self) for inner in self._stores])
        life.node = assemble(
            self._apps,
            life.stores,
            clock=clock,
            replay_always=self._replay,
            attempt_limit=self._attempt_limit,
            chance=lambda: 0.0,
            entropy=self._chance.getrandbits,
            failed=self._partition_failed,
        )
        handlers = {
            (service.name, handler.name): handler
            for app in self._apps
            for service in app.services.values()
            for handler in service.handlers.values()
        }
        life.node.invoker._transport = _Transport(self, handlers)
        if self._suspend:
            _suspend_at_once(life.node)
        await life.node.start()
        self._risen.set()

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
        while calm < CALM_TURNS:
            turns += 1
            await asyncio.sleep(0 if turns % 64 else 0.0005)
            life = self._life
            if self._failure is not None:
                return
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
        self._before[step] = _Countdown(nth)

    def crash_during(self, step: str, *, nth: int = 1) -> None:
        """The process dies when the step's function has run and nothing is recorded yet: it will run again."""
        self._during[step] = _Countdown(nth)

    def crash_after(self, step: str, *, nth: int = 1) -> None:
        """The process dies when the step's result is recorded and nobody was told: it must not run again."""
        self._after[step] = _Countdown(nth)

    def crash_at_commit(self, nth: int = 1, *, lost: bool = False) -> None:
        """The process dies at the n-th commit from now: when it is on disk and nothing was done about it.

        With `lost`, just before it is on disk.
        """
        if lost:
            self._at_lost_commit = _Countdown(nth)
        else:
            self._at_commit = _Countdown(nth)

    def fail_step(self, step: str, error: BaseException | None = None, *, times: int = 1) -> None:
        """The next `times` runs of the step fail with `error` instead of calling the function."""
        error = error or RuntimeError(f"step {step!r} fails by script")
        self._failures.setdefault(step, deque()).extend([error] * times)

    def ran(self, step: str) -> int:
        """How often a step's function has run (or was failed by script)."""
        return sum(run.name == step for run in self.steps)

    def _strikes(self, faults: dict[str, _Countdown], step: str) -> bool:
        fault = faults.get(step)
        return fault is not None and fault.reached()

    def _watches_end_of(self, step: str) -> bool:
        return step in self._during

    def _loses(self, store: _Store, batch: Batch) -> bool:
        """Whether the process dies before this batch is on disk."""
        if batch and self._at_lost_commit is not None and self._at_lost_commit.reached():
            self._die_soon(self._living())
            return True
        return False

    def _committed(self, store: _Store, batch: Batch, error: BaseException | None) -> bool:
        """A batch is on disk; whether the partition gets to know, or the process dies first."""
        life = self._living()
        if error is not None:
            return True
        crash = self._observe(life.stores.index(store), batch)
        if batch:
            self.commits += 1
            if self._at_commit is not None and self._at_commit.reached():
                crash = True
            # The first commit of a life is its recovery: dying of that each time would be no life.
            crash = crash or (self._crash_always and store.commits > 1)
        if crash:
            self._die_soon(life)
        return not crash

    def _observe(self, partition: int, batch: Batch) -> bool:
        """Note what was committed; whether the script has the process die of it."""
        crash = False
        for groups in batch.groups.get(INVOCATION_ID, {}).values():
            for key, number in groups.rows.items():
                if number is not None:
                    id = key[0][16:] + key[0][:16]
                    self._accepted.add(id)
                    self._numbers[partition, number] = id
        for (number,), group in batch.groups.get(JOURNAL, {}).items():
            for value in group.rows.values():
                if value is not None and value[1].TYPE == e.RUN_COMPLETION:
                    step = _Step(self._numbers[partition, number], value[1].completion_id)
                    self._recorded.add(step)
                    crash |= self._strikes(self._after, self._names.get(step, ""))
        for groups in batch.groups.get(INVOCATION, {}).values():
            for invocation in groups.rows.values():
                if invocation is not None and isinstance(invocation.status, Paused):
                    self._paused(invocation)
        return crash

    def _paused(self, invocation: Invocation) -> None:
        for future, id in self._waiting.items():
            if id == invocation.id and not future.done():
                future.set_exception(_pause_of(invocation))

    def _die_soon(self, life: _Life) -> None:
        """The process dies here; from any thread."""
        life.dying = True
        with contextlib.suppress(RuntimeError):
            life.node._loop.call_soon_threadsafe(self._die, life)

    def _die(self, life: _Life) -> None:
        if self._life is not life or self._stopped:
            return
        self.crashes += 1
        if self.crashes > CRASH_LIMIT:
            self._failure = AssertionError(f"{CRASH_LIMIT} crashes, and still no end: the test makes no progress")
        node = life.node
        for partition, store in zip(node.partitions, life.stores, strict=True):
            store.cut()
            partition._perform = _nothing
            if partition._busy and store.stored:
                self._last_words(node, partition._actions)
        if self._rising is not None:
            self._rising.cancel()
        node.close()
        node._give_up(_Crashed())
        self._at = life.clock.now_ms()
        self._risen.clear()
        self._rising = node._loop.create_task(self._rise(), name="perdure restart")

    def _last_words(self, node: Node, actions: list[a.Action]) -> None:
        """What was stored is told to whoever asked for it: were it asked again, it would happen twice."""
        for action in actions:
            if isinstance(action, a.Reply):
                node.reply(action.token, action.outcome)
            elif isinstance(action, a.Finished):
                self._results[action.id] = a.Answer(action.id, action.result, action.expires_at)

    # Operations

    async def execute(self, operation: Operation[R], timeout: Duration | None = None) -> R:
        """Carries an operation out, through as many crashes as it takes."""
        limit = self._timeout if timeout is None else in_seconds(timeout)
        expired = asyncio.get_running_loop().create_future()
        deadline = None if limit is None else self._now_ms() + int(limit * 1000)
        self._waiting[expired] = None
        self._watch()
        try:
            call = _Call(self, operation, expired)
            while True:
                with contextlib.suppress(_Crashed):
                    return cast(R, await self._until(call.carry_out, expired, deadline))
        finally:
            del self._waiting[expired]

    async def _until(self, work: Callable[[_Life], Any], stopped: "asyncio.Future[Any]", deadline: int | None) -> Any:
        """Do it in this life, unless it is `stopped` or the deadline passes."""
        await self._risen.wait()
        life = self._living()
        timer = None
        if deadline is not None:
            timer = life.clock.call_at(deadline, lambda: _fail(stopped, TimeoutError("the time for it is over")))
        task = asyncio.ensure_future(work(life))
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return await (task if task.done() else stopped)
        finally:
            if timer is not None:
                timer.cancel()
            if not task.done():
                task.cancel()

    def _watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._pass_time(), name="perdure time")

    async def _pass_time(self) -> None:
        """While somebody waits: when nothing can happen, skip to when something can, or say that nothing will."""
        loop = asyncio.get_running_loop()
        since: float | None = None
        while self._waiting and not self._stopped:
            await self.settle()
            if self._failure is not None:
                self._fail_all(self._failure)
                return
            life = self._life
            if not self._waiting or life is None or not life.quiet:
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
                    self._fail_all(InvocationStuck(_stuck(life, self._stuck_after)))
            await asyncio.sleep(0.001)

    def _look_for_pauses(self, life: _Life) -> None:
        """Nothing can happen: fail whoever waits for something that waits for a paused invocation."""
        for future, id in self._waiting.items():
            paused = None if id is None else _paused_behind(life, id, set())
            if paused is not None and not future.done():
                future.set_exception(_pause_of(paused))

    def _fail_all(self, error: BaseException) -> None:
        for future in self._waiting:
            _fail(future, error)


class _Call:
    """One operation, carried out in as many lives as it takes."""

    def __init__(self, engine: TestEngine, operation: Operation[Any], stopped: "asyncio.Future[Any]") -> None:
        self._engine = engine
        self._operation = operation
        self._stopped = stopped
        self._id: bytes | None = None

    async def carry_out(self, life: _Life) -> Any:
        operation, node = self._operation, life.node
        if isinstance(operation, op.Invoke):
            return _value(await self._invoke(node, operation))
        if isinstance(operation, op.Attach):
            self._waits_for(life, parse_invocation_id(operation.id))
        elif isinstance(operation, op.WorkflowResult) and operation.wait:
            self._waits_for(life, _workflow_id(node, operation))
        return await _CARRY_OUT[operation.__class__](node, operation)

    def _waits_for(self, life: _Life, id: bytes | None) -> None:
        self._engine._waiting[self._stopped] = self._id = id
        invocation = None if id is None else life.row(id)
        if invocation is not None and isinstance(invocation.status, Paused):
            _fail(self._stopped, _pause_of(invocation))

    async def _invoke(self, node: Node, call: op.Invoke) -> a.Answer | a.Refused:
        engine = self._engine
        if self._id is not None and self._id in engine._accepted:
            answer = await node.attach(parse_invocation_id(format_invocation_id(self._id)))
            return engine._results.get(self._id, answer) if isinstance(answer, a.Refused) else answer
        target = node.registry.target(call.service, call.handler, call.key)
        outcome = await node.call(
            target,
            call.body,
            headers=call.headers,
            idempotency_key=call.idempotency_key,
            on_accepted=lambda id: self._waits_for(engine._living(), id),
        )
        if isinstance(outcome, a.AlreadyInvoked):
            raise TerminalError("the workflow was started before, and a workflow runs once", 409)
        return outcome


def _nothing(partition: int, action: a.Action) -> None:
    """What a dead partition does about an action."""


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _pause_of(invocation: Invocation) -> InvocationPaused:
    assert isinstance(invocation.status, Paused)
    return InvocationPaused(format_invocation_id(invocation.id), str(invocation.target), invocation.status.failure)


def _paused_behind(life: _Life, id: bytes, seen: set[bytes]) -> Invocation | None:
    """The paused invocation that this one waits for, through however many calls; or itself."""
    invocation = life.row(id)
    if invocation is None or id in seen:
        return None
    seen.add(id)
    if isinstance(invocation.status, Paused):
        return invocation
    entries = life.journal(id)
    known = {entry.completion_id: entry.result for entry in entries if isinstance(entry, e.Completion)}
    for entry in entries:
        if isinstance(entry, e.Call) and entry.completion_id not in known:
            callee = known.get(entry.invocation_id_completion_id)
            if isinstance(callee, e.InvocationIdResult):
                found = _paused_behind(life, parse_invocation_id(callee.invocation_id), seen)
                if found is not None:
                    return found
    return None


def _stuck(life: _Life, seconds: float) -> str:
    lines = [f"nothing can happen any more, and nothing came from outside for {seconds:g} s. What is not finished:"]
    for store in life.stores:
        for number in {key[0] for key, _ in store.scan(JOURNAL, ())} if False else _numbers_of(store):
            invocation = store.get(INVOCATION, (number,))
            if invocation is not None and not isinstance(invocation.status, Completed):
                lines.append(f"  {invocation.target} ({format_invocation_id(invocation.id)}): {invocation.status}")
    return "\n".join(lines)


def _numbers_of(store: _Store) -> list[int]:
    return []


def _workflow_id(node: Node, wanted: op.WorkflowResult) -> bytes | None:
    service = node.registry.service(wanted.service)
    mains = [] if service is None else [each for each in service.handlers.values() if each.kind is HandlerKind.WORKFLOW]
    if not mains:
        return None
    return node.invocation_id(Target(wanted.service, mains[0].name, HandlerKind.WORKFLOW, wanted.key), None)


def _suspend_at_once(node: Node) -> None:
    """Give every handler an inactivity timeout of nothing."""
    services = node.registry._services
    for name, service in services.items():
        handlers = {each: replace(info, inactivity_timeout_ms=0) for each, info in service.handlers.items()}
        services[name] = replace(service, handlers=handlers)
