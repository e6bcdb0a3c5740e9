"""What can be done from outside of handlers: call them, look at invocations, change state.

`Client` does it over HTTP, `perdure.Engine` in the same process, `SyncClient` without asyncio; the methods and what
they mean are here, once. Each builds an operation (`sdk.operations`), has it carried out, and reads the answer.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

import msgspec

from perdure.errors import Invalid
from perdure.model.entries import Failure, Value
from perdure.model.services import HandlerKind
from perdure.sdk import operations as op
from perdure.sdk.inbox import Approvals
from perdure.sdk.operations import Operation
from perdure.sdk.reading import Events, ReadStream, StreamReader
from perdure.sdk.serde import Serde, serde_for
from perdure.sdk.service import Duration, VirtualObject, Workflow, resolve_handler

__all__ = [
    "Backend",
    "CallOptions",
    "Caller",
    "ClientInvocation",
    "ClientState",
    "ClientWorkflow",
    "InvocationDescription",
    "SendOptions",
    "SubmitOptions",
    "in_seconds",
]

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


class _Options(TypedDict, total=False):
    headers: Mapping[str, str] | None
    """What the handler finds in `ctx.headers`."""
    timeout: Duration | None
    """How long to wait, seconds or timedelta, before `TimeoutError`; the invocation goes on. None: the client's."""


class CallOptions(_Options, total=False):
    """Options of `call`."""

    key: str | None
    """Which object or workflow."""
    idempotency_key: str | None
    """Calls with the same key to the same handler are one call; it makes every retry safe."""


class SendOptions(CallOptions, total=False):
    """Options of `send`."""

    delay: Duration | None
    """When to begin: so many seconds, or a timedelta, from now."""


class SubmitOptions(_Options, total=False):
    """Options of a workflow's `submit`."""

    delay: Duration | None
    """When to begin: so many seconds, or a timedelta, from now."""


class InvocationDescription(msgspec.Struct, frozen=True):
    """What is known of an invocation. Times are RFC 3339; bytes in the journal are base64."""

    id: str
    target: str
    service: str
    handler: str
    key: str | None
    handler_kind: str
    status: str
    """scheduled, inboxed, running, backing-off, suspended, paused or completed"""
    created_at: str
    started_at: str | None = None
    attempts: int = 0
    failures: int = 0
    """Failed attempts in a row."""
    last_failure: dict[str, Any] | None = None
    retry_at: str | None = None
    scheduled_for: str | None = None
    completed_at: str | None = None
    result: dict[str, Any] | None = None
    waiting_for: dict[str, Any] | None = None
    ahead: int | None = None
    """How many are before it in its object's inbox."""
    holder: str | None = None
    """Which invocation has the object's lock that it waits for."""
    deployment: str | None = None
    """The deployment on which it goes on, once it has begun on one."""
    paused_at: str | None = None
    idempotency_key: str | None = None
    caller: str | None = None
    restarted_from: str | None = None
    journal: list[dict[str, Any]] = []


# ---- operations and serdes from what users give


def _invoke(
    handler: Callable[..., Any] | str,
    arg: Any,
    type: Any = None,
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[op.Invoke, Serde[Any]]:
    """The call, and the serde of its result."""
    reference = resolve_handler(handler)
    definition = reference.definition
    if definition is None:
        body, content_type = _written(arg)
    else:
        _check_key(reference.service, definition.kind, key)
        body = definition.body(arg)
        content_type = definition.input.content_type if body else None
    fields = tuple((name.lower(), value) for name, value in headers.items()) if headers else ()
    call = op.Invoke(reference.service, reference.handler, key, body, content_type, fields, idempotency_key)
    return call, serde_for(type) if type is not None or definition is None else definition.output


def _send(
    handler: Callable[..., Any] | str, arg: Any, delay: Duration | None = None, **options: Any
) -> tuple[op.Send, Serde[Any]]:
    call, serde = _invoke(handler, arg, **options)
    wait = in_seconds(delay)
    return op.Send(call, None if wait is None else int(wait * 1000)), serde


def _check_key(service: str, kind: HandlerKind, key: str | None) -> None:
    if kind is HandlerKind.PLAIN:
        if key is not None:
            raise Invalid(f"{service} is a service and has no keys: leave out key=")
    elif not key:
        raise Invalid(f"{service} needs key=: which object or workflow to call")


def _written(value: Any) -> tuple[bytes, str | None]:
    """A value of which only itself is known: bytes as they are, None as nothing, everything else as its class."""
    if value is None:
        return b"", None
    serde = serde_for(None if value.__class__ in _PLAIN else value.__class__)
    return serde.serialize(value), serde.content_type


_PLAIN = frozenset({bool, int, float, str, list, dict, tuple})


def in_seconds(duration: Duration | None) -> float | None:
    """Seconds or a timedelta, as seconds. Raises `Invalid` if negative."""
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if duration is not None and duration < 0:
        raise Invalid(f"a duration must not be negative: {duration} seconds")
    return duration


def _workflow_name(workflow: Workflow | Callable[..., Any] | str) -> str:
    if isinstance(workflow, Workflow):
        return workflow.name
    if isinstance(workflow, str) and "/" not in workflow:
        return workflow
    return resolve_handler(workflow).service


def _main_of(workflow: Workflow | Callable[..., Any] | str) -> Callable[..., Any] | str:
    """A workflow's main, as `_invoke` takes it. Of a name alone: its handler `run`."""
    if isinstance(workflow, Workflow):
        return next(each.fn for each in workflow.handlers.values() if each.kind is HandlerKind.WORKFLOW)
    return f"{workflow}/run" if isinstance(workflow, str) and "/" not in workflow else workflow


def _output_of(workflow: Workflow | Callable[..., Any] | str, type: Any) -> Serde[Any]:
    if type is not None or isinstance(workflow, str):
        return serde_for(type)
    definition = resolve_handler(_main_of(workflow)).definition
    return serde_for(None) if definition is None else definition.output


def _object_name(service: VirtualObject | Workflow | str) -> str:
    return service if isinstance(service, str) else service.name


def _described(facts: dict[str, Any]) -> InvocationDescription:
    return msgspec.convert(facts, InvocationDescription)


# ---- asyncio


class Backend(Protocol):
    """Carries operations out."""

    async def execute(self, operation: Operation[R], timeout: float | None) -> R:
        """The answer, or an error of `perdure.errors`; `TimeoutError` after `timeout` seconds."""
        ...

    def events(self, operation: ReadStream) -> Events:
        """A stream's events up to its end, through whatever breaks meanwhile."""
        ...


class Caller:
    """The methods that `Client` and `Engine` share."""

    _backend: Backend
    _timeout: float | None = None

    async def execute(self, operation: Operation[R], timeout: Duration | None = None) -> R:
        """Carries an operation out: what all the other methods come down to."""
        return await self._backend.execute(operation, self._timeout if timeout is None else in_seconds(timeout))

    @overload
    async def call(
        self, handler: Callable[[Any], Awaitable[R]], arg: None = None, /, **options: Unpack[CallOptions]
    ) -> R: ...
    @overload
    async def call(self, handler: Callable[[Any, A], Awaitable[R]], arg: A, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    async def call(self, handler: Callable[[Any], R], arg: None = None, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    async def call(self, handler: Callable[[Any, A], R], arg: A, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    async def call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        type: type[R],
        **options: Unpack[CallOptions],
    ) -> R: ...
    @overload
    async def call(
        self, handler: str, arg: Any = None, /, *, type: Any = None, **options: Unpack[CallOptions]
    ) -> Any: ...
    async def call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        type: Any = None,
        timeout: Duration | None = None,
        **options: Any,
    ) -> Any:
        """Calls a handler and waits for its result.

        `handler` is a decorated function, whose annotations type the argument and the result, or "Service/handler",
        whose result is plain JSON or of `type`. Options are described at `CallOptions`. Raises the handler's
        `TerminalError`; `NotFound`, `Invalid`, `Overloaded`... if the call was not accepted; `TimeoutError`.
        """
        call, serde = _invoke(handler, arg, type, **options)
        return serde.deserialize(await self.execute(call, timeout))

    @overload
    async def send(
        self, handler: Callable[[Any], Awaitable[R]], arg: None = None, /, **options: Unpack[SendOptions]
    ) -> "ClientInvocation[R]": ...
    @overload
    async def send(
        self, handler: Callable[[Any, A], Awaitable[R]], arg: A, /, **options: Unpack[SendOptions]
    ) -> "ClientInvocation[R]": ...
    @overload
    async def send(
        self, handler: Callable[[Any], R], arg: None = None, /, **options: Unpack[SendOptions]
    ) -> "ClientInvocation[R]": ...
    @overload
    async def send(
        self, handler: Callable[[Any, A], R], arg: A, /, **options: Unpack[SendOptions]
    ) -> "ClientInvocation[R]": ...
    @overload
    async def send(
        self, handler: str, arg: Any = None, /, **options: Unpack[SendOptions]
    ) -> "ClientInvocation[Any]": ...
    async def send(
        self, handler: Callable[..., Any] | str, arg: Any = None, /, *, timeout: Duration | None = None, **options: Any
    ) -> "ClientInvocation[Any]":
        """Has a handler called, maybe after a `delay`, and waits only until that is durable."""
        send, serde = _send(handler, arg, **options)
        receipt = await self.execute(send, timeout)
        return ClientInvocation(self, receipt.id, serde, fresh=receipt.fresh)

    @overload
    def invocation(self, id: str, type: type[T]) -> "ClientInvocation[T]": ...
    @overload
    def invocation(self, id: str, type: Any = None) -> "ClientInvocation[Any]": ...
    def invocation(self, id: str, type: Any = None) -> "ClientInvocation[Any]":
        """A handle on an invocation, whose result is of `type`. Not a coroutine."""
        return ClientInvocation(self, id, serde_for(type))

    def workflow(self, workflow: Workflow | Callable[..., Any] | str, key: str, type: Any = None) -> "ClientWorkflow":
        """A handle on the workflow of that key, started or not. Not a coroutine."""
        return ClientWorkflow(self, workflow, key, type)

    def stream(
        self, id: str, name: str, *, start: int = 0, last_event_id: str | None = None, type: Any = None
    ) -> StreamReader:
        """Reads a stream of an invocation along, from position `start` on or behind the event `last_event_id`.

        Values are of `type`, or as JSON has them. Not a coroutine: iterate over it, or await its `text()`.
        """
        return StreamReader(self._backend.events, ReadStream(name, id, "", "", start, last_event_id), type)

    async def resolve_awakeable(self, id: str, value: Any = None) -> None:
        """Completes an awakeable with a value. The first completion counts."""
        await self.execute(op.CompleteAwakeable(id, Value(_written(value)[0])))

    async def reject_awakeable(self, id: str, message: str, code: int = 500) -> None:
        """Fails an awakeable: whoever awaits it gets a `TerminalError`."""
        await self.execute(op.CompleteAwakeable(id, Failure(code, message)))

    def state(self, service: VirtualObject | Workflow | str, key: str) -> "ClientState":
        """The state of an object or a workflow. Not a coroutine."""
        return ClientState(self, _object_name(service), key)

    def approvals(self) -> Approvals:
        """What waits for a person: to be listed and answered. Not a coroutine."""
        return Approvals(self)


class ClientInvocation(Generic[T]):
    """An invocation, by its `id`. `fresh` is False if sending it found that it had been sent before."""

    def __init__(self, client: Caller, id: str, serde: Serde[Any], *, fresh: bool = True) -> None:
        self._client = client
        self._serde = serde
        self.id = id
        self.fresh = fresh

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def attach(self, *, timeout: Duration | None = None) -> T:
        """Waits for the result; raises the invocation's `TerminalError`, or `NotFound`."""
        return self._serde.deserialize(await self._client.execute(op.Attach(self.id), timeout))  # type: ignore[no-any-return]

    async def output(self) -> T:
        """The result if there is one; raises `NotReady` while there is none, otherwise as `attach`."""
        return self._serde.deserialize(await self._client.execute(op.Output(self.id)))  # type: ignore[no-any-return]

    def stream(self, name: str, *, type: Any = None) -> StreamReader:
        """Reads one of its streams along. Not a coroutine: iterate over it, or await its `text()`."""
        return self._client.stream(self.id, name, type=type)

    async def signal(self, name: str, value: Any = None) -> None:
        """Sends it a named signal, for `ctx.signal(name)`."""
        await self._client.execute(op.SendSignal(self.id, name, _written(value)[0]))

    async def cancel(self) -> None:
        """Asks it to stop: its handler sees a cancellation. Raises `Conflict` if it is completed."""
        await self._client.execute(op.Control(self.id, "cancel"))

    async def kill(self) -> None:
        """Ends it now, without its code. Raises `Conflict` if it is completed."""
        await self._client.execute(op.Control(self.id, "kill"))

    async def pause(self) -> None:
        """Stops running it until it is resumed."""
        await self._client.execute(op.Control(self.id, "pause"))

    async def resume(self) -> None:
        """Runs it on, now."""
        await self._client.execute(op.Control(self.id, "resume"))

    async def purge(self, *, journal_only: bool = False) -> None:
        """Forgets it, or its journal. Raises `Conflict` if it is not completed."""
        await self._client.execute(op.Control(self.id, "purge-journal" if journal_only else "purge"))

    async def restart(self, *, keep: int = 1) -> "ClientInvocation[T]":
        """Runs it again as a new invocation that keeps the first `keep` entries of its journal (1: the input)."""
        id = await self._client.execute(op.Control(self.id, "restart-as-new", keep))
        return ClientInvocation(self._client, id or "", self._serde)

    async def describe(self) -> InvocationDescription:
        """Everything known of it: status, attempts, the last failure, the journal."""
        return _described(await self._client.execute(op.Describe(self.id)))


class ClientWorkflow:
    """The workflow of one key."""

    def __init__(self, client: Caller, workflow: Workflow | Callable[..., Any] | str, key: str, type: Any) -> None:
        self._client = client
        self._workflow = workflow
        self._name = _workflow_name(workflow)
        self._serde = _output_of(workflow, type)
        self.key = key

    async def submit(self, arg: Any = None, /, **options: Unpack[SubmitOptions]) -> ClientInvocation[Any]:
        """Starts it, unless it was started before (then `fresh` is False), and does not wait for it."""
        timeout = options.pop("timeout", None)
        send, serde = _send(_main_of(self._workflow), arg, key=self.key, **options)
        receipt = await self._client.execute(send, timeout)
        return ClientInvocation(self._client, receipt.id, serde, fresh=receipt.fresh)

    async def attach(self, *, timeout: Duration | None = None) -> Any:
        """Waits for the result of its main."""
        return self._serde.deserialize(
            await self._client.execute(op.WorkflowResult(self._name, self.key, True), timeout)
        )

    async def output(self) -> Any:
        """The result of its main if there is one; raises `NotReady` while there is none."""
        return self._serde.deserialize(await self._client.execute(op.WorkflowResult(self._name, self.key, False)))

    def stream(self, name: str, *, type: Any = None) -> StreamReader:
        """Reads a stream of its main along. Not a coroutine: iterate over it, or await its `text()`."""
        operation = ReadStream(name, service=self._name, key=self.key)
        return StreamReader(self._client._backend.events, operation, type)


class ClientState:
    """The state of one object or workflow, read and edited from outside its handlers."""

    def __init__(self, client: Caller, service: str, key: str) -> None:
        self._client = client
        self._service = service
        self._key = key

    async def get(self, name: str, type: Any = None, default: Any = None) -> Any:
        """The value of a key of the state, or `default`."""
        return _state_value(await self._client.execute(op.ReadState(self._service, self._key)), name, type, default)

    async def keys(self) -> list[str]:
        """The keys that have a value, sorted."""
        state = await self._client.execute(op.ReadState(self._service, self._key))
        return sorted(state)

    async def set(self, name: str, value: Any) -> None:
        """Gives a key a value, in turn with the exclusive handlers of this object."""
        await self._client.execute(op.ChangeState(self._service, self._key, {name: _written(value)[0]}))

    async def clear(self, name: str, *more: str) -> None:
        """Forgets keys, in turn with the exclusive handlers of this object."""
        await self._client.execute(op.ChangeState(self._service, self._key, dict.fromkeys((name, *more))))

    async def clear_all(self) -> None:
        """Forgets the whole state, in turn with the exclusive handlers of this object."""
        await self._client.execute(op.ChangeState(self._service, self._key, {}, replace=True))


def _state_value(state: dict[str, bytes], name: str, type: Any, default: Any) -> Any:
    value = state.get(name)
    return default if value is None else serde_for(type).deserialize(value)
