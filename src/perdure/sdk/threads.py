"""Plain `def` handlers: they run in a worker thread and use the same context without `await`.

The thread asks, the handler's loop does: every operation of a `SyncContext` is a coroutine of the async context,
run by the handler's main task while the thread waits. While the thread itself runs, the attempt is not at rest,
so no notification is delivered: what the thread sees is as deterministic as it is itself.
"""

import asyncio
import contextvars
import queue
import random
import threading
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from perdure.errors import AttemptGone, TerminalError
from perdure.model.services import RetryPolicy
from perdure.sdk.approvals import Decision, Escalation, Notify
from perdure.sdk.context import (
    _CURRENT,
    Awakeable,
    Context,
    DurablePromise,
    InvocationHandle,
    ObjectContext,
    Seconds,
    SharedContext,
    WorkflowContext,
)
from perdure.sdk.driver import HandlerRun
from perdure.sdk.saga import Saga
from perdure.sdk.serde import Serde
from perdure.sdk.streams import Stream

__all__ = [
    "SyncAwakeable",
    "SyncContext",
    "SyncInvocationHandle",
    "SyncObjectContext",
    "SyncPromise",
    "SyncSaga",
    "SyncSharedContext",
    "SyncWorkflowContext",
    "run_in_thread",
]

T = TypeVar("T")
Ask = Callable[[], Any]


class _Bridge:
    """Between a handler's thread and its main task; one operation at a time."""

    def __init__(self, run: HandlerRun) -> None:
        self.run = run
        self._asked: asyncio.Future[Ask | _Outcome] | None = None
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.gone = False
        self.thread: int | None = None

    def ask(self, operation: Ask) -> Any:
        """In the thread: have an operation done, and wait for its result."""
        if threading.get_ident() != self.thread:
            raise TerminalError("the context was used in a thread of its handler's making: it is for the handler's own")
        if self.gone:
            raise AttemptGone
        self._post(operation)
        value, error = self._answers.get()
        if error is not None:
            raise error
        return value

    def _post(self, message: "Ask | _Outcome") -> None:
        self.run.host.loop.call_soon_threadsafe(self._arrive, message)

    def finish(self, outcome: "_Outcome") -> None:
        """In the thread: the handler's function is done."""
        self._post(outcome)

    def _arrive(self, message: "Ask | _Outcome") -> None:
        if self.gone or self._asked is None or self._asked.done():
            return
        self.run.thread_busy = False
        self._asked.set_result(message)
        self.run.advance()

    def listen(self) -> "asyncio.Future[Ask | _Outcome]":
        """In the main task: from here on the thread runs, until the future is done."""
        self._asked = self.run.loop.create_future()
        self.run.thread_busy = True
        return self._asked

    def answer(self, value: Any, error: BaseException | None) -> None:
        self._answers.put((value, error))

    def close(self) -> None:
        """The attempt is dropped: the thread unwinds at its next operation, or in the one it waits for."""
        self.gone = True
        self._answers.put((None, AttemptGone()))


class _BegunIn(Generic[T]):
    """Awaits a coroutine; what that does before it waits for anything, it does within a context."""

    def __init__(self, context: contextvars.Context, awaited: Coroutine[Any, Any, T]) -> None:
        self._context = context
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, T]:
        awaited, error = self._awaited, None
        try:
            waits_for = self._context.run(awaited.send, None)
            while True:
                try:
                    yield waits_for
                except BaseException as thrown:
                    error = thrown
                waits_for = awaited.send(None) if error is None else awaited.throw(error)
                error = None
        except StopIteration as done:
            return cast(T, done.value)


class _Outcome:
    def __init__(self, value: Any, error: BaseException | None) -> None:
        self.value = value
        self.error = error


async def run_in_thread(run: HandlerRun, context: Context, fn: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a plain handler function in a thread of its own; its result."""
    bridge = _Bridge(run)
    sync = sync_context_for(context, bridge)
    inherited = contextvars.copy_context()
    inherited.run(_CURRENT.set, sync)  # type: ignore[arg-type]  # for `current_context()`

    def body() -> None:
        bridge.thread = threading.get_ident()
        try:
            outcome = _Outcome(inherited.run(fn, sync, *arguments), None)
        except BaseException as error:
            outcome = _Outcome(None, error)
        bridge.finish(outcome)

    asked = bridge.listen()
    run.host.loop.run_in_executor(run.host.handler_threads, body)
    try:
        while True:
            message = await asked
            if isinstance(message, _Outcome):
                if message.error is not None:
                    raise message.error
                return message.value
            value: Any = None
            error: BaseException | None = None
            try:
                value = message()
                if isinstance(value, Awaitable):
                    value = await value
            except (AttemptGone, GeneratorExit):
                raise
            except BaseException as problem:
                error = problem
            asked = bridge.listen()
            bridge.answer(value, error)
    finally:
        bridge.close()


class SyncAwakeable(Generic[T]):
    """Something that the outside world completes: hand `id` to it, then `wait()`."""

    def __init__(self, bridge: _Bridge, awakeable: Awakeable[T]) -> None:
        self._bridge = bridge
        self._awakeable = awakeable
        self.id = awakeable.id

    def wait(self) -> T:
        """Block until it is completed; raises `TerminalError` if it was rejected."""
        return cast(T, self._bridge.ask(lambda: self._awakeable))


class SyncInvocationHandle(Generic[T]):
    """Another invocation, by its id."""

    def __init__(self, bridge: _Bridge, handle: InvocationHandle[T]) -> None:
        self._bridge = bridge
        self._handle = handle
        self.id = handle.id

    def attach(self) -> T:
        return cast(T, self._bridge.ask(self._handle.attach))

    def output(self) -> T:
        return cast(T, self._bridge.ask(self._handle.output))

    def cancel(self) -> None:
        self._bridge.ask(self._handle.cancel)

    def signal(self, name: str, value: Any = None) -> None:
        self._bridge.ask(lambda: self._handle.signal(name, value))

    def reject_signal(self, name: str, message: str, code: int = 500) -> None:
        self._bridge.ask(lambda: self._handle.reject_signal(name, message, code))


class SyncPromise(Generic[T]):
    """A workflow's promise."""

    def __init__(self, bridge: _Bridge, promise: DurablePromise[T]) -> None:
        self._bridge = bridge
        self._promise = promise

    def value(self) -> T:
        return cast(T, self._bridge.ask(self._promise.value))

    def peek(self) -> T | None:
        return cast("T | None", self._bridge.ask(self._promise.peek))

    def resolve(self, value: T) -> None:
        self._bridge.ask(lambda: self._promise.resolve(value))

    def reject(self, message: str, code: int = 500) -> None:
        self._bridge.ask(lambda: self._promise.reject(message, code))


class SyncContext:
    """What every plain handler has; each operation is `Context`'s, and blocks this thread instead of being awaited."""

    def __init__(self, bridge: _Bridge, context: Context) -> None:
        self._bridge = bridge
        self._context = context
        self._run = bridge.run

    @property
    def invocation_id(self) -> str:
        return self._context.invocation_id

    @property
    def headers(self) -> Mapping[str, str]:
        return self._context.headers

    @property
    def attempt(self) -> int:
        return self._context.attempt

    @property
    def random(self) -> random.Random:
        return self._context.random

    def uuid(self) -> uuid.UUID:
        return self._context.uuid()

    def now(self) -> datetime:
        run = self._bridge.run
        return self._context.now() if run.has_clock else cast(datetime, self._bridge.ask(self._context.now))

    @overload
    def run(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        retry: RetryPolicy | None = None,
        type: Any = None,
        serde: Serde[Any] | None = None,
        **kwargs: Any,
    ) -> T: ...
    @overload
    def run(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: Any,
        retry: RetryPolicy | None = None,
        type: Any = None,
        serde: Serde[Any] | None = None,
        **kwargs: Any,
    ) -> T: ...
    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        retry: RetryPolicy | None = None,
        type: Any = None,
        serde: Serde[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        around = contextvars.copy_context()  # the step is to see what is set here, as in an async handler
        return self._bridge.ask(
            lambda: _BegunIn(around, self._context.run(name, fn, *args, retry=retry, type=type, serde=serde, **kwargs))
        )

    def sleep(self, delay: Seconds, name: str | None = None) -> None:
        self._bridge.ask(lambda: self._context.sleep(delay, name))

    @overload
    def call(
        self,
        handler: Callable[[Any, Any], Awaitable[T]] | Callable[[Any], Awaitable[T]],
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        type: None = None,
    ) -> T: ...
    @overload
    def call(
        self,
        handler: Callable[[Any, Any], T] | Callable[[Any], T],
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        type: None = None,
    ) -> T: ...
    @overload
    def call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        type: Any = None,
    ) -> Any: ...
    def call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        type: Any = None,
    ) -> Any:
        return self._bridge.ask(
            lambda: self._context.call(
                handler, arg, key=key, idempotency_key=idempotency_key, headers=headers, type=type
            )
        )

    def send(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Seconds | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SyncInvocationHandle[Any]:
        handle = self._bridge.ask(
            lambda: self._context.send(
                handler, arg, key=key, delay=delay, idempotency_key=idempotency_key, headers=headers
            )
        )
        return SyncInvocationHandle(self._bridge, handle)

    @overload
    def invocation(self, id: str, type: type[T]) -> SyncInvocationHandle[T]: ...
    @overload
    def invocation(self, id: str, type: Any = None) -> SyncInvocationHandle[Any]: ...
    def invocation(self, id: str, type: Any = None) -> SyncInvocationHandle[Any]:
        return SyncInvocationHandle(self._bridge, self._context.invocation(id, type))

    @overload
    def awakeable(self, type: type[T]) -> SyncAwakeable[T]: ...
    @overload
    def awakeable(self, type: Any = None) -> SyncAwakeable[Any]: ...
    def awakeable(self, type: Any = None) -> SyncAwakeable[Any]:
        return SyncAwakeable(self._bridge, self._bridge.ask(lambda: (self._context.awakeable(type),))[0])

    def resolve_awakeable(self, id: str, value: Any = None) -> None:
        self._bridge.ask(lambda: self._context.resolve_awakeable(id, value))

    def reject_awakeable(self, id: str, message: str, code: int = 500) -> None:
        self._bridge.ask(lambda: self._context.reject_awakeable(id, message, code))

    @overload
    def signal(self, name: str, type: type[T]) -> T: ...
    @overload
    def signal(self, name: str, type: Any = None) -> Any: ...
    def signal(self, name: str, type: Any = None) -> Any:
        return self._bridge.ask(lambda: self._context.signal(name, type))

    def stream(self, name: str) -> Stream:
        """The invocation's stream of that name, to be written to and read along."""
        return Stream(self._bridge.run, name, self._bridge)

    @overload
    def approval(
        self,
        title: str,
        schema: type[T],
        *,
        context: Any = None,
        timeout: Seconds | None = None,
        escalate: Escalation | Sequence[Escalation] = (),
        notify: Notify | None = None,
        to: Sequence[str] = (),
        tags: Sequence[str] = (),
    ) -> Decision[T]: ...
    @overload
    def approval(
        self,
        title: str,
        schema: Any = None,
        *,
        context: Any = None,
        timeout: Seconds | None = None,
        escalate: Escalation | Sequence[Escalation] = (),
        notify: Notify | None = None,
        to: Sequence[str] = (),
        tags: Sequence[str] = (),
    ) -> Decision[Any]: ...
    def approval(self, title: str, schema: Any = None, **options: Any) -> Decision[Any]:
        return cast("Decision[Any]", self._bridge.ask(lambda: self._context.approval(title, schema, **options)))

    def saga(self, *, parallel: bool = False) -> "SyncSaga":
        """`with ctx.saga() as saga`: as `Context.saga`."""
        return SyncSaga(self._bridge, self._context.saga(parallel=parallel))


class SyncSaga:
    """`Saga`, for `with`."""

    def __init__(self, bridge: _Bridge, saga: Saga) -> None:
        self._bridge = bridge
        self._saga = saga

    def compensate(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        self._saga.compensate(fn, *args, name=name, retry=retry, **kwargs)

    def compensate_call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._saga.compensate_call(handler, arg, key=key, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, AttemptGone):
            self._bridge.ask(lambda: self._saga.__aexit__(kind, error, traceback))


class SyncSharedContext(SyncContext):
    """Objects and workflows: the key, and state to read."""

    _context: SharedContext

    @property
    def key(self) -> str:
        return self._context.key

    @overload
    def get(self, name: str, type: type[T], default: T) -> T: ...
    @overload
    def get(self, name: str, type: type[T], default: None = None) -> T | None: ...
    @overload
    def get(self, name: str, type: Any = None, default: Any = None) -> Any: ...
    def get(self, name: str, type: Any = None, default: Any = None) -> Any:
        return self._bridge.ask(lambda: self._context.get(name, type, default))

    def keys(self) -> list[str]:
        return cast("list[str]", self._bridge.ask(self._context.keys))

    @overload
    def promise(self, name: str, type: type[T]) -> SyncPromise[T]: ...
    @overload
    def promise(self, name: str, type: Any = None) -> SyncPromise[Any]: ...
    def promise(self, name: str, type: Any = None) -> SyncPromise[Any]:
        return SyncPromise(self._bridge, self._context.promise(name, type))

    if not TYPE_CHECKING:  # absent for type checkers, refused by the async context for everybody else

        def set(self, name, value):
            self._bridge.ask(lambda: self._context.set(name, value))

        def clear(self, name):
            self._bridge.ask(lambda: self._context.clear(name))

        def clear_all(self):
            self._bridge.ask(self._context.clear_all)


class SyncObjectContext(SyncSharedContext):
    """Exclusive handlers: state to read and to write."""

    _context: ObjectContext

    def set(self, name: str, value: Any) -> None:
        self._bridge.ask(lambda: self._context.set(name, value))

    def clear(self, name: str) -> None:
        self._bridge.ask(lambda: self._context.clear(name))

    def clear_all(self) -> None:
        self._bridge.ask(self._context.clear_all)


class SyncWorkflowContext(SyncObjectContext):
    """A workflow's main."""


def sync_context_for(context: Context, bridge: _Bridge) -> SyncContext:
    if isinstance(context, WorkflowContext):
        return SyncWorkflowContext(bridge, context)
    if isinstance(context, ObjectContext):
        return SyncObjectContext(bridge, context)
    if isinstance(context, SharedContext):
        return SyncSharedContext(bridge, context)
    return SyncContext(bridge, context)
