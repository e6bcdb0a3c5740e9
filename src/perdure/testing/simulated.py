"""The simulated world: event loop, clock, disk, network and transport, each with the shape of the real one.

Nothing here waits, and nothing asks the machine. Time is a number on a `Timeline` that jumps to the next thing that
is to happen; whatever may go one way or another (how long a commit takes, whether a message arrives) is asked of
`Fate`, and the simulator answers from its seed. So one seed is one run, to the byte.
"""

import asyncio
import contextlib
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar, TypeVarTuple

from perdure.core.tables import Key, Table
from perdure.errors import StorageError
from perdure.model import actions as a
from perdure.model import commands as c
from perdure.model.entries import Notification
from perdure.model.invocation import AttemptFailure
from perdure.protocol.control import End, Error, Said, Start, Suspension
from perdure.runtime.clock import TimerHandle
from perdure.runtime.node import Node
from perdure.runtime.registry import Registry
from perdure.storage.base import Batch
from perdure.storage.memory import MemoryStorage
from perdure.transports.base import Duplex, Receive, Transport
from perdure.transports.remote import Remote

__all__ = [
    "Crash",
    "Fate",
    "SimulatedClock",
    "SimulatedDuplex",
    "SimulatedHost",
    "SimulatedLoop",
    "SimulatedNode",
    "SimulatedStorage",
    "SimulatedTransport",
    "Timeline",
    "Verdict",
    "Wall",
]

T = TypeVar("T")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")


class Crash(BaseException):
    """The process dies here: unwinds from wherever it is thrown to the simulator, which drops the rest."""


class Verdict:
    """What becomes of a commit: stored after `store_us`, then acknowledged after `acknowledge_us`, or `error`."""

    __slots__ = ("acknowledge_us", "error", "store_us", "stored")

    def __init__(
        self, store_us: int, acknowledge_us: int, *, stored: bool = True, error: BaseException | None = None
    ) -> None:
        self.store_us = store_us
        self.acknowledge_us = acknowledge_us
        self.stored = stored
        self.error = error


class Fate(Protocol):
    """Decides what chance decides, and is told what happened. Each method may raise `Crash`."""

    def commit(self, partition: int, batch: Batch) -> Verdict: ...

    def stored(self, partition: int) -> None: ...

    def acknowledged(self, partition: int) -> None: ...

    def performing(self, partition: int, action: a.Action) -> None: ...

    def deliveries(self, destination: int, message: c.Deliver | c.Delivered) -> Sequence[int]:
        """After how many µs each copy of a message between partitions arrives; none: it is lost."""
        ...

    def latency_us(self) -> int:
        """How long a message takes between engine and handler; 0 for handlers of the same process."""
        ...

    def opened(self, duplex: "SimulatedDuplex") -> None: ...

    def said(self, duplex: "SimulatedDuplex", message: Said) -> None: ...


class Moment:
    """Something that is to happen."""

    __slots__ = ("callback", "gone")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.gone = False

    def cancel(self) -> None:
        self.gone = True


class Timeline:
    """Time in µs since the beginning, which never goes back, and what is to happen when."""

    def __init__(self) -> None:
        self.now_us = 0
        self._heap: list[tuple[int, int, Moment]] = []
        self._count = 0

    def at(self, when_us: int, callback: Callable[[], None]) -> Moment:
        moment = Moment(callback)
        self._count += 1
        heapq.heappush(self._heap, (max(when_us, self.now_us), self._count, moment))
        return moment

    def after(self, delay_us: int, callback: Callable[[], None]) -> Moment:
        return self.at(self.now_us + delay_us, callback)

    def next_us(self) -> int | None:
        """When the next thing happens, or None."""
        heap = self._heap
        while heap and heap[0][2].gone:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def advance(self) -> None:
        """Go to the next thing that is to happen, and have it happen. There has to be one (`next_us`)."""
        self.now_us, _, moment = heapq.heappop(self._heap)
        moment.callback()


class _Callback:
    """One callback of the loop; has of `asyncio.Handle` what asyncio uses."""

    __slots__ = ("args", "callback", "context", "gone", "when_")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        when: float = 0.0,
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        self.gone = False
        self.when_ = when

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self.when_


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The event loop of one life of the process: node, steps and clients run here. One thread, time as told.

    `complain` is told of an exception that nobody caught. After `abandon` nothing runs here any more.
    """

    def __init__(self, timeline: Timeline, complain: Callable[[str], None]) -> None:
        self._timeline = timeline
        self._complain = complain
        self._ready: deque[_Callback] = deque()
        self.dead = False

    @property
    def idle(self) -> bool:
        """Whether nothing runs until time goes on."""
        return not self._ready

    def run_one(self) -> None:
        """Run the next callback."""
        item = self._ready.popleft()
        if item.gone:
            return
        try:
            item.context.run(item.callback, *item.args)
        except Exception as error:
            self._complain(f"an exception that nobody caught: {type(error).__name__}: {error}")

    def abandon(self) -> None:
        """The process is dead: drop every callback and every task where it stands."""
        self.dead = True
        tasks = asyncio.all_tasks(self)  # before the callbacks go, some of which hold the only reference to theirs
        self._ready.clear()
        for task in tasks:  # in no order: whoever records anything looks at `dead` first
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if coroutine is not None:
                with contextlib.suppress(BaseException):
                    coroutine.close()
        self._ready.clear()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        item = _Callback(callback, args, context)
        if not self.dead:
            self._ready.append(item)
        return item

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        item = _Callback(callback, args, context, when)
        self._timeline.at(round(when * 1_000_000), lambda: self._due(item))
        return item

    def _due(self, item: _Callback) -> None:
        if not self.dead and not item.gone:
            self._ready.append(item)

    def time(self) -> float:
        return self._timeline.now_us / 1_000_000

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: "Generator[Any, None, T] | Coroutine[Any, Any, T]",
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> "asyncio.Task[T]":
        return asyncio.Task(coro, loop=self, name=name, context=context, **options)

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> "asyncio.Future[T]":
        """Runs `func` at once: there are no threads here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        message = str(context.get("message"))
        if not self.dead and "never retrieved" not in message:  # that comes when the collector likes
            self._complain(f"{message}: {context.get('exception')!r}")


class Wall:
    """What the clock on the wall says: it is set forwards and backwards while time goes on."""

    def __init__(self, timeline: Timeline, start_ms: int = 1_700_000_000_000) -> None:
        self._timeline = timeline
        self._offset_us = start_ms * 1000

    def now_ms(self) -> int:
        return (self._timeline.now_us + self._offset_us) // 1000

    def jump(self, delta_ms: int) -> None:
        self._offset_us += delta_ms * 1000


class SimulatedClock:
    """A process's clock. As on a real machine a timer counts elapsed time: a jump does not make it fire."""

    def __init__(self, loop: SimulatedLoop, wall: Wall) -> None:
        self._loop = loop
        self._wall = wall

    def now_ms(self) -> int:
        return self._wall.now_ms()

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> TimerHandle:
        return self._loop.call_later(max(0, at_ms - self.now_ms()) / 1000, callback)  # type: ignore[no-any-return]


class SimulatedHost:
    """What the process gives to handlers. Plain functions run at once, on the one thread there is."""

    step_threads = None
    handler_threads = None

    def __init__(self, loop: SimulatedLoop, clock: SimulatedClock, chance: Callable[[], float], replay: bool) -> None:
        self.loop = loop
        self.clock = clock
        self.chance = chance
        self.replay_always = replay

    def now_ms(self) -> int:
        return self.clock.now_ms()

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> TimerHandle:
        return self.clock.call_at(self.clock.now_ms() + delay_ms, callback)


class SimulatedStorage:
    """One life's access to one partition's disk. The disk, `rows`, outlives it.

    A batch is on the disk some time after `commit`, all of it at once, and `done` some time after that. If the
    process dies before, in between or after, that is what is found by the next.
    """

    def __init__(self, timeline: Timeline, fate: Fate, partition: int, rows: MemoryStorage) -> None:
        self._timeline = timeline
        self._fate = fate
        self._partition = partition
        self._rows = rows
        self._closed = False

    def get(self, table: Table[V], key: Key) -> V | None:
        return self._rows.get(table, key)

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        return self._rows.scan(table, group, limit=limit)

    def last(self, table: Table[V], group: Key) -> Key | None:
        return self._rows.last(table, group)

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        if self._closed:
            done(StorageError("the store is closed"))
            return
        verdict = self._fate.commit(self._partition, batch)

        def store() -> None:
            if self._closed:
                return
            if verdict.stored:
                self._rows.commit(batch, _ignore)
                self._fate.stored(self._partition)
            self._timeline.after(verdict.acknowledge_us, acknowledge)

        def acknowledge() -> None:
            if not self._closed:
                done(verdict.error)
                self._fate.acknowledged(self._partition)

        self._timeline.after(verdict.store_us, store)

    def close(self) -> None:
        self._closed = True


def _ignore(error: BaseException | None) -> None:
    assert error is None


class SimulatedDuplex:
    """A conversation with one attempt. Messages keep their order in each direction, and take their time."""

    def __init__(self, timeline: Timeline, fate: Fate, inner: Transport, start: Start, receive: Receive) -> None:
        self.start = start
        self.gone = False
        self._timeline = timeline
        self._fate = fate
        self._receive = receive
        self._engine_us = 0  # nothing arrives at the engine before this
        self._handler_us = 0
        self.inner: Duplex = inner.open(start, self._from_handler)

    def begin(self) -> None:
        self._fate.opened(self)
        self._to_handler(self.inner.begin)

    def notify(self, notification: Notification) -> None:
        self._to_handler(lambda: self.inner.notify(notification))

    def close_input(self) -> None:
        self._to_handler(self.inner.close_input)

    def drain(self) -> bool:
        return self.gone or self.inner.drain()

    def abort(self) -> None:
        self.gone = True
        self.inner.abort()

    def hang_up(self, at_ms: int) -> None:
        """The connection is lost: each side knows only that it hears nothing more."""
        if not self.gone:
            self.inner.abort()
            self._arrived(Error(AttemptFailure("the connection was lost", 500, at_ms)))

    def _to_handler(self, callback: Callable[[], None]) -> None:
        latency_us = self._fate.latency_us()
        if latency_us == 0 and self._handler_us == 0:
            callback()
            return
        self._handler_us = max(self._handler_us, self._timeline.now_us + latency_us)
        self._timeline.at(self._handler_us, lambda: None if self.gone else callback())

    def _from_handler(self, message: Said) -> None:
        latency_us = self._fate.latency_us()
        if latency_us == 0 and self._engine_us == 0:
            self._arrived(message)
            return
        self._engine_us = max(self._engine_us, self._timeline.now_us + latency_us)
        self._timeline.at(self._engine_us, lambda: self._arrived(message))

    def _arrived(self, message: Said) -> None:
        if self.gone:
            return
        if isinstance(message, End | Error | Suspension):
            self.gone = True
        self._fate.said(self, message)
        self._receive(message)


class SimulatedTransport:
    """In-process handlers, over a line that may be slow and may break."""

    def __init__(self, timeline: Timeline, fate: Fate, inner: Transport) -> None:
        self._timeline = timeline
        self._fate = fate
        self._inner = inner

    def open(self, start: Start, receive: Receive) -> SimulatedDuplex:
        return SimulatedDuplex(self._timeline, self._fate, self._inner, start, receive)


class SimulatedNode(Node):
    """A real node whose partitions speak over a network that loses, repeats, delays and reorders."""

    def __init__(
        self,
        registry: Registry,
        storages: Sequence[SimulatedStorage],
        transport: Transport,
        *,
        timeline: Timeline,
        loop: SimulatedLoop,
        fate: Fate,
        clock: SimulatedClock,
        attempt_limit: int,
        remote: Remote | None,
        newest_version: int,
        entropy: Callable[[int], int],
        chance: Callable[[], float],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._timeline = timeline
        self._simulated_loop = loop
        self._fate = fate
        super().__init__(
            registry,
            storages,
            transport,
            clock=clock,
            attempt_limit=attempt_limit,
            remote=remote,
            remote_attempt_limit=attempt_limit,
            newest_version=newest_version,
            entropy=entropy,
            chance=chance,
            failed=failed,
        )

    def submit(self, partition: int, command: c.PartitionCommand) -> None:
        if not isinstance(command, c.Deliver | c.Delivered):
            super().submit(partition, command)
            return
        for delay_us in self._fate.deliveries(partition, command):
            if delay_us == 0:
                super().submit(partition, command)
            else:
                self._timeline.after(delay_us, lambda: self._late(partition, command))

    def _late(self, partition: int, command: c.PartitionCommand) -> None:
        if not self._simulated_loop.dead:
            super().submit(partition, command)

    def _perform(self, partition: int, action: a.Action) -> None:
        self._fate.performing(partition, action)
        super()._perform(partition, action)
