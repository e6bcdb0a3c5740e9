"""The deterministic event loop: a handler's coroutine and all its tasks run here, never on the real loop.

The loop does not wait. `pump` runs callbacks until none is ready; then the driver delivers one notification
from the journal and pumps again. What a task sees is therefore a function of the handler's input and of the
order of notifications, and that order is the journal's: asyncio code of any shape replays as it ran.

Time is the journal's. `call_at` and `call_later` make durable timers, collected in `timers` and journaled by
the driver when nothing is ready any more, so a timer cancelled by then leaves no trace.

What no journal can hold (sockets, pipes, subprocesses, signals) raises `NonDurableOperation`.
"""

import asyncio
import contextvars
import functools
import logging
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

from perdure.errors import NonDurableOperation
from perdure.sdk import anyio_threads
from perdure.sdk.steps import in_step

__all__ = ["HandlerLoop", "Timer", "dropping"]

_log = logging.getLogger("perdure.handler")

dropping: contextvars.ContextVar[bool] = contextvars.ContextVar("perdure_dropping", default=False)
"""Whether handlers are being dropped: what their `finally` blocks do now, they do when they are not."""

_UNWIND_LIMIT = 1000  # coroutines, and things that their `finally` blocks await
LAST_MOMENT = 253_402_300_799.0  # the end of the year 9999; `sleep(math.inf)` is how some code waits for ever

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Ready:
    """One callback to run. Lighter than `asyncio.Handle`, of which nothing but `cancel` is used."""

    __slots__ = ("args", "callback", "context", "gone")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.gone = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone


class Timer(_Ready):
    """A durable timer. `when` is in the loop's time: seconds since the epoch, by the journal's clock."""

    __slots__ = ("completion_id", "name", "on_cancel", "wake_up_time", "when_")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        name: str,
    ) -> None:
        super().__init__(callback, args, context)
        self.when_ = when
        self.name = name
        self.completion_id: int | None = None  # given when the timer is journaled,
        self.wake_up_time = 0  # and so is when it is due by the wall clock (ms since the epoch)
        self.on_cancel: Callable[[Timer], None] | None = None

    def when(self) -> float:
        return self.when_

    def cancel(self) -> None:
        self.gone = True
        if self.on_cancel is not None:
            self.on_cancel(self)


class HandlerTask(asyncio.Task[Any]):
    """A task whose hash replays, and with it the order of a set of tasks.

    asyncio keeps tasks in sets (`wait`, `as_completed`, `TaskGroup`), and what it does to each in turn, such as
    cancelling it, the code sees in that order. By default it would be the order of their addresses in memory.
    """

    __slots__ = ("_hash", "context")

    def __init__(self, coro: Any, hash: int, context: contextvars.Context, **options: Any) -> None:
        self._hash = hash
        self.context = context  # Python 3.11 has no `get_context()`
        super().__init__(coro, context=context, **options)

    def __hash__(self) -> int:
        return self._hash


class HandlerLoop(asyncio.AbstractEventLoop):
    """See the module's docstring. Made for one attempt and dropped with it.

    `salt` is the same in every attempt of an invocation, and another one in every other invocation. `woken` is called,
    in whatever thread, when one comes back to this loop that nobody knows of: what waits for it waits in vain.
    """

    def __init__(
        self, clock: Callable[[], float], salt: int = 0, woken: Callable[["HandlerLoop"], None] | None = None
    ) -> None:
        self._clock = clock
        self._woken = woken
        self._hash = salt
        self.ready: deque[_Ready] = deque()
        self.timers: list[Timer] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their making, which replays
        self._prune_at = 64
        self._generators: weakref.WeakKeyDictionary[AsyncGenerator[Any, Any], HandlerTask] = weakref.WeakKeyDictionary()
        self._closed = False
        self._pumping = False
        self._task_factory: Any = None
        if "anyio" in sys.modules and not anyio_threads.adapted:
            anyio_threads.adapt(HandlerLoop)

    # What the driver uses

    def pump(self) -> None:
        """Run callbacks until none is ready. To be called from a plain callback of the real loop."""
        ready = self.ready
        outer = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(self._keep_generator, self._drop_generator)  # the real loop must not finish what is ours
        self._pumping = True
        try:
            while ready:
                item = ready.popleft()
                if item.gone:
                    continue
                try:
                    if item.context is None:
                        item.callback(*item.args)
                    else:
                        item.context.run(item.callback, *item.args)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a SystemExit too: a handler must not take the engine along
                    self.call_exception_handler(
                        {"message": f"Exception in callback {item.callback!r}", "exception": error}
                    )
        finally:
            self._pumping = False
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)

    def _keep_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        task = asyncio.current_task(self)
        if isinstance(task, HandlerTask):
            self._generators[generator] = task

    def _drop_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """An async generator was left unfinished: finish it here; if the whole attempt was dropped, close it."""
        if self._closed:
            outer = asyncio._get_running_loop()
            asyncio._set_running_loop(self)
            try:
                _unwind(generator)
            finally:
                asyncio._set_running_loop(outer)
        elif self._pumping:
            self.create_task(generator.aclose())

    def take_timers(self) -> list[Timer]:
        """The timers made since the last call and not cancelled, in the order in which they were made."""
        timers, self.timers = self.timers, []
        return [timer for timer in timers if not timer.gone]

    def fire(self, timer: Timer) -> None:
        """A timer's time has come."""
        if not timer.gone:
            self.ready.append(timer)

    def abandon(self) -> None:
        """Drop every task where it stands. Their `finally` blocks run, with a context that answers nobody."""
        self._closed = True
        self.ready.clear()
        self.timers.clear()
        outer = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(None, self._drop_generator)
        try:
            for task in list(self._tasks):
                if task.done():
                    continue
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                if isinstance(task, HandlerTask):
                    task.context.run(self._close_task, task)
                else:
                    self._close_task(task)
            for generator, its in list(self._generators.items()):  # those that only the garbage collector would find
                its.context.run(self._unwind_in, its, generator)
            self.ready.clear()
            self._tasks.clear()
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(outer)

    def _close_task(self, task: "asyncio.Task[Any]") -> None:
        coroutine = task.get_coro()
        if coroutine is not None:
            self._unwind_in(task, coroutine)

    def _unwind_in(self, task: "asyncio.Task[Any]", root: Any) -> None:
        """Unwind as the task would: cancel scopes and context variables look at who leaves them."""
        quiet = dropping.set(True)
        asyncio._enter_task(self, task)
        try:
            _unwind(root)
        finally:
            asyncio._leave_task(self, task)
            dropping.reset(quiet)

    def others(self, main: "asyncio.Task[Any] | None") -> "list[asyncio.Task[Any]]":
        """The tasks besides `main` that are not done."""
        return [task for task in self._tasks if task is not main and not task.done()]

    # asyncio.AbstractEventLoop

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        item = _Ready(callback, args, contextvars.copy_context() if context is None else context)
        if not self._closed:
            self.ready.append(item)
        return item

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self.call_at(self._clock() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self.timer(when, callback, args, contextvars.copy_context() if context is None else context, "")

    def timer(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        name: str,
    ) -> Timer:
        """A durable timer with a name for the journal; due at once if `when` has passed, never if beyond all dates."""
        timer = Timer(when, callback, args, context, name)
        if self._closed:
            return timer
        if when <= self._clock():
            self.ready.append(timer)
        elif when <= LAST_MOMENT:
            self.timers.append(timer)
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Any:
        if asyncio._get_running_loop() is not self:  # which is of each thread its own
            if self._woken is not None and not in_step():  # a step fails with it, or knows what to do
                self._woken(self)
            raise NonDurableOperation("waking a handler from another thread (call_soon_threadsafe)")
        return self.call_soon(callback, *args, context=context)

    def time(self) -> float:
        return self._clock()

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
        if self._task_factory is not None:
            task = self._task_factory(self, coro, **({} if context is None else {"context": context}), **options)
        else:
            self._hash += 0x9E3779B97F4A7C15  # spreads the tasks of all handlers over asyncio's set of all tasks
            context = contextvars.copy_context() if context is None else context
            task = HandlerTask(coro, self._hash & 0xFFFFFFFFFFFFFFF, context, loop=self, name=name, **options)
        if self._closed:  # it will never run; closed here, nobody wonders why it was never awaited
            task._log_destroy_pending = False
            coro.close()
            return task  # type: ignore[no-any-return]
        tasks = self._tasks
        tasks[task] = None
        if len(tasks) >= self._prune_at:
            self._tasks = {task: None for task in tasks if not task.done()}
            self._prune_at = max(64, 2 * len(self._tasks))
        return task  # type: ignore[no-any-return]

    def set_task_factory(self, factory: Any) -> None:
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        return self._task_factory

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> "asyncio.Future[T]":
        """Runs `func` at once, on this thread: a thread's timing is nothing that replays."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            future.set_exception(error)
        return future

    def set_default_executor(self, executor: Any) -> None:
        pass

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return self._pumping

    def is_closed(self) -> bool:
        return self._closed

    def stop(self) -> None:
        raise NonDurableOperation("loop.stop")

    def close(self) -> None:
        raise NonDurableOperation("loop.close")

    def run_forever(self) -> NoReturn:
        raise NonDurableOperation("loop.run_forever")

    def run_until_complete(self, future: Any) -> NoReturn:
        raise NonDurableOperation("loop.run_until_complete")

    async def shutdown_asyncgens(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        pass

    def get_exception_handler(self) -> Any:
        return None

    def set_exception_handler(self, handler: Any) -> None:
        pass

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            _log.error("%s", context.get("message"), exc_info=context.get("exception"))


def _unwind(root: Any) -> None:
    """Have a coroutine, or an async generator, run its `finally` blocks to the end; what they await is not waited for.

    From the inside out: Python's own `close` gives up where an inner `finally` awaits something, and leaves the inner
    coroutine to the garbage collector, which complains of it at some other time and place.
    """
    for _ in range(_UNWIND_LIMIT):
        innermost = root
        while True:
            inner = _awaited(innermost)
            if inner is None:
                break
            innermost = inner
        throw = innermost.aclose().throw if isinstance(innermost, AsyncGeneratorType) else innermost.throw
        try:
            throw(GeneratorExit())
        except BaseException as error:
            if not isinstance(error, GeneratorExit | StopIteration | StopAsyncIteration):
                _log.debug("a handler did not let itself be dropped: %r", error)
            if innermost is root:
                return
    _log.debug("a handler did not let itself be dropped: it always awaits one thing more")


def _awaited(outer: Any) -> Any:
    """The coroutine that a coroutine (a generator, an async generator) waits in, if it is one that has not ended."""
    if isinstance(outer, CoroutineType):
        inner = outer.cr_await
    elif isinstance(outer, GeneratorType):
        inner = outer.gi_yieldfrom
    else:
        inner = getattr(outer, "ag_await", None)  # what closes a generator is none of these, and shows nothing
    if isinstance(inner, CoroutineType):
        return inner if inner.cr_frame is not None else None
    return inner if isinstance(inner, GeneratorType) and inner.gi_frame is not None else None


_REFUSED = (
    "add_reader",
    "add_signal_handler",
    "add_writer",
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "getaddrinfo",
    "getnameinfo",
    "remove_reader",
    "remove_signal_handler",
    "remove_writer",
    "sendfile",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendfile",
    "sock_sendto",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
)


def _refuse(operation: str) -> Callable[..., NoReturn]:
    def refused(self: HandlerLoop, *args: object, **kwargs: object) -> NoReturn:
        raise NonDurableOperation(f"loop.{operation}")

    refused.__name__ = operation
    return refused


for _operation in _REFUSED:
    setattr(HandlerLoop, _operation, _refuse(_operation))


_as_completed = asyncio.as_completed


@functools.wraps(_as_completed)
def _as_completed_in_order(fs: Any, **options: Any) -> Any:
    """asyncio's own makes tasks of coroutines in the order of a set, which is that of their addresses in memory.

    On a handler's loop they are made in the order given, which replays. Elsewhere nothing changes.
    """
    loop = asyncio._get_running_loop()
    if isinstance(loop, HandlerLoop) and not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)):
        fs = [asyncio.ensure_future(each, loop=loop) for each in dict.fromkeys(fs)]
    return _as_completed(fs, **options)


asyncio.as_completed = asyncio.tasks.as_completed = _as_completed_in_order


_wrap_future = asyncio.wrap_future


@functools.wraps(_wrap_future)
def _wrap_future_elsewhere(future: Any, *, loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """A thread's future is done when the thread is, which no journal knows. Elsewhere nothing changes."""
    if isinstance(loop or asyncio._get_running_loop(), HandlerLoop) and not asyncio.isfuture(future):
        raise NonDurableOperation("waiting for a thread (asyncio.wrap_future)")
    return _wrap_future(future, loop=loop)


asyncio.wrap_future = asyncio.futures.wrap_future = _wrap_future_elsewhere
