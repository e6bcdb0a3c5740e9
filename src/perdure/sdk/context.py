"""The contexts that handlers are given: the durable operations, by the names people type.

Which class a handler gets depends on what it is: `Context` in services, `ObjectContext` in exclusive handlers,
`SharedContext` in shared ones, `WorkflowContext` in a workflow's main. Every operation is a coroutine that
begins when it is awaited or made a task, unless its description says that it is not.
"""

import asyncio
import contextvars
import random
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints, overload

from perdure.errors import Invalid, NotReady, TerminalError
from perdure.model import entries as e
from perdure.model.ids import CANCEL_SIGNAL, awakeable_id, parse_awakeable_id
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.sdk.approvals import ApprovalOptions, Decision, Escalation, Notify, ask
from perdure.sdk.driver import HandlerRun
from perdure.sdk.saga import Saga
from perdure.sdk.serde import Serde, serde_for
from perdure.sdk.service import resolve_handler
from perdure.sdk.steps import in_step
from perdure.sdk.streams import Stream

__all__ = [
    "Awakeable",
    "Context",
    "DurablePromise",
    "InvocationHandle",
    "ObjectContext",
    "SharedContext",
    "WorkflowContext",
    "context_for",
    "current_context",
]

T = TypeVar("T")
Seconds = float | timedelta

_CURRENT: contextvars.ContextVar["Context | None"] = contextvars.ContextVar("perdure_context", default=None)
_UNTYPED = serde_for(None)


def current_context() -> "Context":
    """The context of the handler this code runs in; of a plain one its `SyncContext`.

    Raises `LookupError` outside of a handler, and inside a step.
    """
    context = _CURRENT.get()
    if context is None or in_step():
        raise LookupError("current_context() is known only inside a handler, and not in its steps")
    return context


def seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def unwrap(result: e.Result, serde: Serde[Any]) -> Any:
    """A notification's result as what `await` gives: a value, or a raised `TerminalError`."""
    if isinstance(result, e.Value):
        return serde.deserialize(result.content)
    if isinstance(result, e.Failure):
        raise TerminalError(result.message, result.code, dict(result.metadata))
    return None


@lru_cache(maxsize=4096)
def _annotated_result(fn: Callable[..., Any]) -> Any:
    try:
        hint = get_type_hints(fn).get("return")
    except (NameError, TypeError):
        return None
    origin = get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, Awaitable):
        arguments = get_args(hint)
        return arguments[-1] if arguments else None
    return None if isinstance(hint, TypeVar) else hint


def result_serde(fn: Callable[..., Any]) -> Serde[Any]:
    """How a step's result is written: as its function's annotation says, else as plain JSON."""
    while isinstance(fn, partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    annotations = getattr(fn, "__annotations__", None)
    if not annotations or "return" not in annotations:
        return _UNTYPED
    hint = annotations["return"]
    if hint is None:
        return _UNTYPED
    if isinstance(hint, type) and not get_args(hint):
        return serde_for(hint)
    return serde_for(_annotated_result(fn))


class Awakeable(Generic[T]):
    """Something that the outside world completes: hand `id` to it, then await this."""

    def __init__(self, run: HandlerRun, number: int, serde: Serde[Any]) -> None:
        self._number = number
        self._serde = serde
        self._future = run.signal(number)
        self.id: str = awakeable_id(run.start.id, number)

    def __await__(self) -> Generator[Any, None, T]:
        result = yield from asyncio.shield(self._future).__await__()
        return cast(T, unwrap(result, self._serde))


class DurablePromise(Generic[T]):
    """A workflow's promise: completed once, by any of its handlers, and awaited by any."""

    def __init__(self, run: HandlerRun, name: str, serde: Serde[Any]) -> None:
        self._run = run
        self._name = name
        self._serde = serde

    async def value(self) -> T:
        """Wait for the result; raises `TerminalError` if it was rejected."""
        machine = self._run.machine
        completion_id = machine.completion_id()
        machine.issue(e.GetPromise(self._name, completion_id))
        return cast(T, unwrap(await self._run.completion(completion_id), self._serde))

    def __await__(self) -> Generator[Any, None, T]:
        return self.value().__await__()

    async def peek(self) -> T | None:
        """The result if there is one, else None; raises `TerminalError` if it was rejected."""
        machine = self._run.machine
        completion_id = machine.completion_id()
        machine.issue(e.PeekPromise(self._name, completion_id))
        return cast("T | None", unwrap(await self._run.completion(completion_id), self._serde))

    async def resolve(self, value: T) -> None:
        """Complete it. Raises `TerminalError` (409) if it is completed already."""
        await self._complete(e.Value(self._serde.serialize(value)))

    async def reject(self, message: str, code: int = 500) -> None:
        """Complete it with a failure. Raises `TerminalError` (409) if it is completed already."""
        await self._complete(e.Failure(code, message))

    async def _complete(self, result: e.Value | e.Failure) -> None:
        machine = self._run.machine
        completion_id = machine.completion_id()
        machine.issue(e.CompletePromise(self._name, result, completion_id))
        unwrap(await self._run.completion(completion_id), _UNTYPED)


class InvocationHandle(Generic[T]):
    """Another invocation, by its id."""

    def __init__(self, run: HandlerRun, id: str, serde: Serde[Any]) -> None:
        self._run = run
        self._serde = serde
        self.id = id

    async def attach(self) -> T:
        """Wait for its result; raises `TerminalError` with its failure, or 404 if there is no such invocation."""
        machine = self._run.machine
        completion_id = machine.completion_id()
        machine.issue(e.AttachInvocation(e.InvocationTarget(self.id), completion_id))
        return cast(T, unwrap(await self._run.completion(completion_id), self._serde))

    async def output(self) -> T:
        """Its result if there is one; raises `NotReady` while it runs, otherwise as `attach`."""
        machine = self._run.machine
        completion_id = machine.completion_id()
        machine.issue(e.GetInvocationOutput(e.InvocationTarget(self.id), completion_id))
        result = await self._run.completion(completion_id)
        if isinstance(result, e.Void):
            raise NotReady(f"invocation {self.id} has no output yet")
        return cast(T, unwrap(result, self._serde))

    async def cancel(self) -> None:
        """Ask it to stop: its handler sees a cancellation."""
        self._run.machine.issue(e.SendSignal(self.id, CANCEL_SIGNAL, e.VOID))

    async def signal(self, name: str, value: Any = None) -> None:
        """Send it a named signal, for `ctx.signal(name)`."""
        data = b"" if value is None else serde_for(_class(value)).serialize(value)
        self._run.machine.issue(e.SendSignal(self.id, name, e.Value(data)))

    async def reject_signal(self, name: str, message: str, code: int = 500) -> None:
        """Send it a named signal that fails: whoever awaits it gets a `TerminalError`."""
        self._run.machine.issue(e.SendSignal(self.id, name, e.Failure(code, message)))


class Context:
    """What every handler has. See the module's docstring for when operations begin."""

    def __init__(self, run: HandlerRun) -> None:
        self._run = run
        self._random: random.Random | None = None

    @property
    def invocation_id(self) -> str:
        """`inv_1...`: the same for every attempt."""
        return self._run.invocation_id

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers the invocation was made with, names in lower case."""
        entry = self._run.start.entries[0]
        return dict(entry.headers) if isinstance(entry, e.Input) else {}

    @property
    def attempt(self) -> int:
        """Which attempt this is: 1, 2, ... Not the same on replay, so nothing durable may depend on it."""
        return self._run.start.attempt

    @property
    def random(self) -> random.Random:
        """Chance that replays: seeded with the invocation's id."""
        if self._random is None:
            self._random = random.Random(self._run.start.random_seed)
        return self._random

    def uuid(self) -> uuid.UUID:
        """A random UUID (version 4) that replays. Not a coroutine."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def now(self) -> datetime:
        """The journal's time (aware, UTC): when what the handler last waited for was recorded. Not a coroutine."""
        return datetime.fromtimestamp(self._run.now_ms() / 1000, UTC)

    @overload
    async def run(
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
    async def run(
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
    async def run(
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
        """A step: `fn(*args, **kwargs)` runs once, and its result is journaled.

        An async `fn` runs on the real event loop, a plain one in a worker thread; if what it returns can be awaited
        it is. The result's type is `type`, else what `fn` is annotated with, else plain JSON; or `serde` says all.
        A `TerminalError` ends the step and is raised here; any other exception is retried, under `retry` if it is
        given (then exhaustion is a `TerminalError` here), otherwise under the invocation's policy.

        Guarantee: a step whose result is journaled never runs again. One that is interrupted between its effect and
        its record runs again, with the same `current_step().token`.
        """
        run = self._run
        if serde is None:
            serde = result_serde(fn) if type is None else serde_for(type)
        completion_id, future = run.step(name, fn, args, kwargs, retry, serde)
        try:
            result = await future
        except asyncio.CancelledError:
            run.abandon_step(completion_id)
            raise
        if result.__class__ is e.Value:
            return serde.deserialize(result.content)
        return unwrap(result, serde)

    async def sleep(self, delay: Seconds, name: str | None = None) -> None:
        """Sleep durably for `delay` (seconds or timedelta). `asyncio.sleep` does the same."""
        wait = seconds(delay)
        if wait <= 0:
            await asyncio.sleep(0)
            return
        loop = self._run.loop
        future = loop.create_future()
        timer = loop.timer(loop.time() + wait, _wake, (future,), contextvars.copy_context(), name or "")
        try:
            await future
        finally:
            timer.cancel()

    @overload
    async def call(
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
    async def call(
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
    async def call(
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
        """Call a handler exactly once and wait for its result.

        `handler` is a decorated function or "Service/handler"; `key` names the object or workflow. Raises the
        callee's `TerminalError`. If this invocation is cancelled meanwhile, so is the callee.
        """
        run, machine = self._run, self._run.machine
        reference = resolve_handler(handler)
        definition = reference.definition
        parameter = _body(definition, arg)
        identity = machine.completion_id()
        entry = e.Call(
            reference.service,
            reference.handler,
            parameter,
            identity,
            machine.completion_id(),
            _key(definition, key),
            _headers(headers),
            idempotency_key,
        )
        serde = serde_for(type) if type is not None or definition is None else definition.output
        return unwrap(await run.call(entry), serde)

    @overload
    async def send(
        self,
        handler: Callable[[Any, Any], Awaitable[T]] | Callable[[Any], Awaitable[T]],
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Seconds | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> InvocationHandle[T]: ...
    @overload
    async def send(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Seconds | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> InvocationHandle[Any]: ...
    async def send(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        delay: Seconds | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> InvocationHandle[Any]:
        """Have a handler called exactly once, maybe later (`delay`: seconds or timedelta), and do not wait."""
        run, machine = self._run, self._run.machine
        reference = resolve_handler(handler)
        invoke_time = 0 if delay is None else run.host.now_ms() + int(seconds(delay) * 1000)
        identity = machine.completion_id()
        machine.issue(
            e.OneWayCall(
                reference.service,
                reference.handler,
                _body(reference.definition, arg),
                identity,
                invoke_time,
                _key(reference.definition, key),
                _headers(headers),
                idempotency_key,
            )
        )
        result = await run.completion(identity)
        assert isinstance(result, e.InvocationIdResult)
        serde = _UNTYPED if reference.definition is None else reference.definition.output
        return InvocationHandle(run, result.invocation_id, serde)

    @overload
    def invocation(self, id: str, type: type[T]) -> InvocationHandle[T]: ...
    @overload
    def invocation(self, id: str, type: Any = None) -> InvocationHandle[Any]: ...
    def invocation(self, id: str, type: Any = None) -> InvocationHandle[Any]:
        """A handle on another invocation. Not a coroutine."""
        return InvocationHandle(self._run, id, serde_for(type))

    @overload
    def awakeable(self, type: type[T]) -> Awakeable[T]: ...
    @overload
    def awakeable(self, type: Any = None) -> Awakeable[Any]: ...
    def awakeable(self, type: Any = None) -> Awakeable[Any]:
        """Something to be completed from outside, by its `id`. Not a coroutine; await the awakeable."""
        return Awakeable(self._run, self._run.machine.signal_id(), serde_for(type))

    async def resolve_awakeable(self, id: str, value: Any = None) -> None:
        """Complete an awakeable of another invocation. Only the first completion counts."""
        data = b"" if value is None else serde_for(_class(value)).serialize(value)
        self._run.machine.issue(e.CompleteAwakeable(_awakeable(id), e.Value(data)))

    async def reject_awakeable(self, id: str, message: str, code: int = 500) -> None:
        """Fail an awakeable of another invocation: whoever awaits it gets a `TerminalError`."""
        self._run.machine.issue(e.CompleteAwakeable(_awakeable(id), e.Failure(code, message)))

    @overload
    async def signal(self, name: str, type: type[T]) -> T: ...
    @overload
    async def signal(self, name: str, type: Any = None) -> Any: ...
    async def signal(self, name: str, type: Any = None) -> Any:
        """Wait for the next signal of that name to this invocation; they are kept in order until they are awaited."""
        return unwrap(await self._run.signal(name), serde_for(type))

    def stream(self, name: str) -> Stream:
        """The invocation's stream of that name, to be written to and read along. Not a coroutine."""
        return Stream(self._run, name)

    @overload
    async def approval(
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
    async def approval(
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
    async def approval(self, title: str, schema: Any = None, **options: Any) -> Decision[Any]:
        """Have a person decide, and wait for it: days cost nothing. The first answer counts.

        `schema` is the type of what is approved (a model, a dataclass, ...) or a JSON schema; answers that do not suit
        it are refused. None: a yes or no. `context` (JSON) is what a person has to see. `notify(request)` is a step
        that tells them, with links to answer by; `to` and `tags` are for whoever lists approvals. If nobody answers,
        `escalate` says who is told when. After `timeout` (seconds or timedelta) it raises `ApprovalTimeout`, which is a
        `TimeoutError` and a `TerminalError`; a failed `notify` raises its `TerminalError`. A rejection is no exception:
        the decision is false, and its `value` raises.
        """
        return await ask(self, title, ApprovalOptions(schema=schema, **options))

    def saga(self, *, parallel: bool = False) -> Saga:
        """`async with ctx.saga() as saga`: if the block ends with a failure for good, what was done is undone.

        See `perdure.Saga`. With `parallel` the compensations run side by side. Not a coroutine.
        """
        return Saga(self, parallel=parallel)


class SharedContext(Context):
    """Objects and workflows: the key, and state to read."""

    @property
    def key(self) -> str:
        """The object's key, or the workflow's id."""
        return self._run.start.target.key or ""

    @overload
    async def get(self, name: str, type: type[T], default: T) -> T: ...
    @overload
    async def get(self, name: str, type: type[T], default: None = None) -> T | None: ...
    @overload
    async def get(self, name: str, type: Any = None, default: Any = None) -> Any: ...
    async def get(self, name: str, type: Any = None, default: Any = None) -> Any:
        """The value of a key of the state, or `default`."""
        result: e.Result | int = self._run.machine.get_state(name)
        if isinstance(result, int):
            result = await self._run.completion(result)
        if isinstance(result, e.Void):
            return default
        return unwrap(result, serde_for(type))

    async def keys(self) -> list[str]:
        """The keys that have a value, sorted."""
        keys = self._run.machine.get_state_keys()
        if isinstance(keys, int):
            result = await self._run.completion(keys)
            assert isinstance(result, e.StateKeys)
            keys = result.keys
        return sorted(keys)

    @overload
    def promise(self, name: str, type: type[T]) -> DurablePromise[T]: ...
    @overload
    def promise(self, name: str, type: Any = None) -> DurablePromise[Any]: ...
    def promise(self, name: str, type: Any = None) -> DurablePromise[Any]:
        """A durable promise of this workflow. Not a coroutine. Only in workflows: elsewhere a `TerminalError`."""
        if not self._run.definition.in_workflow:
            raise TerminalError(f"{self._run.start.target}: promises belong to workflows")
        return DurablePromise(self._run, name, serde_for(type))

    if not TYPE_CHECKING:  # absent for type checkers, refused for everybody else

        def set(self, name, value):
            raise TerminalError(_READ_ONLY.format(self._run.start.target))

        def clear_all(self):
            raise TerminalError(_READ_ONLY.format(self._run.start.target))

        async def clear(self, name):
            raise TerminalError(_READ_ONLY.format(self._run.start.target))


_READ_ONLY = "{}: a shared handler may read state, not change it; make it exclusive (@....handler())"


class ObjectContext(SharedContext):
    """Exclusive handlers: state to read and to write. Writes are durable with the journal entry that holds them."""

    def set(self, name: str, value: Any) -> None:
        """Give a key of the state a value. Not a coroutine."""
        self._run.machine.set_state(name, serde_for(_class(value)).serialize(value))

    async def clear(self, name: str) -> None:
        """Forget a key of the state."""
        self._run.machine.clear_state(name)

    def clear_all(self) -> None:
        """Forget all of the state. Not a coroutine."""
        self._run.machine.clear_all_state()


class WorkflowContext(ObjectContext):
    """A workflow's main: an object's context and, as in all of a workflow's handlers, promises."""


def _class(value: Any) -> Any:
    """The type a value is written by where nobody named one: bytes stay bytes, a model knows best how it is written."""
    kind = type(value)
    return kind if kind is bytes or hasattr(kind, "__pydantic_validator__") else None


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _awakeable(id: str) -> str:
    try:
        parse_awakeable_id(id)
    except Invalid as error:
        raise TerminalError(error.message, 400) from None
    return id


def _body(definition: Any, arg: Any) -> bytes:
    if definition is not None:
        return cast(bytes, definition.body(arg))
    return _UNTYPED.serialize(arg) if type(arg) is not bytes else arg


def _key(definition: Any, key: str | None) -> str:
    if definition is None:
        return key or ""
    if definition.kind is HandlerKind.PLAIN:
        if key is not None:
            raise TerminalError(f"{definition.service} is a service: it has no keys, leave out key=", 400)
        return ""
    if not key:
        raise TerminalError(f"{definition.service}/{definition.name} needs key=: the object or workflow to call", 400)
    return key


def _headers(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(headers.items()) if headers else ()


_CLASSES: dict[HandlerKind, type[Context]] = {
    HandlerKind.PLAIN: Context,
    HandlerKind.EXCLUSIVE: ObjectContext,
    HandlerKind.SHARED: SharedContext,
    HandlerKind.WORKFLOW: WorkflowContext,
}


def context_for(run: HandlerRun) -> Context:
    """The context of a handler's run, also known as `current_context()` from here on."""
    context = _CLASSES[run.definition.kind](run)
    _CURRENT.set(context)
    return context
