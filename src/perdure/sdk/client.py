"""Clients: call handlers from outside of them, over HTTP.

`Client` is for asyncio, `SyncClient` the same without `await`; `perdure.Engine` has `Client`'s methods for an
engine in the same process. All three only wrap `sdk.operations`: build an operation, have it carried out, read the
answer.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

import msgspec

from perdure.errors import Invalid, Unavailable
from perdure.model.entries import Failure, Value
from perdure.model.services import HandlerKind
from perdure.sdk import operations as op
from perdure.sdk.operations import HttpReply, HttpRequest, Operation, Retries
from perdure.sdk.serde import Serde, serde_for
from perdure.sdk.service import Duration, VirtualObject, Workflow, resolve_handler

if TYPE_CHECKING:
    import pyqwest

__all__ = [
    "AsyncOperations",
    "CallOptions",
    "Client",
    "ClientInvocation",
    "ClientState",
    "ClientWorkflow",
    "InvocationDescription",
    "SendOptions",
    "SyncClient",
    "SyncClientInvocation",
    "SyncClientState",
    "SyncClientWorkflow",
]

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

INGRESS_URL = "http://127.0.0.1:8080"
ADMIN_URL = "http://127.0.0.1:9070"


class CallOptions(TypedDict, total=False):
    """Options of `call`."""

    key: str | None
    """Which object or workflow."""
    idempotency_key: str | None
    """Calls with the same key to the same handler are one call; it makes every retry safe."""
    headers: Mapping[str, str] | None
    """What the handler finds in `ctx.headers`."""
    timeout: Duration | None
    """How long to wait, seconds or timedelta, before `TimeoutError`; the invocation goes on. None: the client's."""


class SendOptions(CallOptions, total=False):
    """Options of `send`."""

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
    seconds = _seconds(delay)
    return op.Send(call, None if seconds is None else int(seconds * 1000)), serde


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


def _seconds(duration: Duration | None) -> float | None:
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


class AsyncOperations:
    """The methods that `Client` and `Engine` share."""

    _backend: Backend
    _timeout: float | None = None

    async def _do(self, operation: Operation[R], timeout: Duration | None = None) -> R:
        return await self._backend.execute(operation, self._timeout if timeout is None else _seconds(timeout))

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
        return serde.deserialize(await self._do(call, timeout))

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
        receipt = await self._do(send, timeout)
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

    async def resolve_awakeable(self, id: str, value: Any = None) -> None:
        """Completes an awakeable with a value. The first completion counts."""
        await self._do(op.CompleteAwakeable(id, Value(_written(value)[0])))

    async def reject_awakeable(self, id: str, message: str, code: int = 500) -> None:
        """Fails an awakeable: whoever awaits it gets a `TerminalError`."""
        await self._do(op.CompleteAwakeable(id, Failure(code, message)))

    def state(self, service: VirtualObject | Workflow | str, key: str) -> "ClientState":
        """The state of an object or a workflow. Not a coroutine."""
        return ClientState(self, _object_name(service), key)


class ClientInvocation(Generic[T]):
    """An invocation, by its `id`. `fresh` is False if sending it found that it had been sent before."""

    def __init__(self, client: AsyncOperations, id: str, serde: Serde[Any], *, fresh: bool = True) -> None:
        self._client = client
        self._serde = serde
        self.id = id
        self.fresh = fresh

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def attach(self, *, timeout: Duration | None = None) -> T:
        """Waits for the result; raises the invocation's `TerminalError`, or `NotFound`."""
        return self._serde.deserialize(await self._client._do(op.Attach(self.id), timeout))  # type: ignore[no-any-return]

    async def output(self) -> T:
        """The result if there is one; raises `NotReady` while there is none, otherwise as `attach`."""
        return self._serde.deserialize(await self._client._do(op.Output(self.id)))  # type: ignore[no-any-return]

    async def signal(self, name: str, value: Any = None) -> None:
        """Sends it a named signal, for `ctx.signal(name)`."""
        await self._client._do(op.SendSignal(self.id, name, _written(value)[0]))

    async def cancel(self) -> None:
        """Asks it to stop: its handler sees a cancellation. Raises `Conflict` if it is completed."""
        await self._client._do(op.Control(self.id, "cancel"))

    async def kill(self) -> None:
        """Ends it now, without its code. Raises `Conflict` if it is completed."""
        await self._client._do(op.Control(self.id, "kill"))

    async def pause(self) -> None:
        """Stops running it until it is resumed."""
        await self._client._do(op.Control(self.id, "pause"))

    async def resume(self) -> None:
        """Runs it on, now."""
        await self._client._do(op.Control(self.id, "resume"))

    async def purge(self, *, journal_only: bool = False) -> None:
        """Forgets it, or its journal. Raises `Conflict` if it is not completed."""
        await self._client._do(op.Control(self.id, "purge-journal" if journal_only else "purge"))

    async def restart(self, *, keep: int = 1) -> "ClientInvocation[T]":
        """Runs it again as a new invocation that keeps the first `keep` entries of its journal (1: the input)."""
        id = await self._client._do(op.Control(self.id, "restart-as-new", keep))
        return ClientInvocation(self._client, id or "", self._serde)

    async def describe(self) -> InvocationDescription:
        """Everything known of it: status, attempts, the last failure, the journal."""
        return _described(await self._client._do(op.Describe(self.id)))


class ClientWorkflow:
    """The workflow of one key."""

    def __init__(
        self, client: AsyncOperations, workflow: Workflow | Callable[..., Any] | str, key: str, type: Any
    ) -> None:
        self._client = client
        self._workflow = workflow
        self._name = _workflow_name(workflow)
        self._serde = _output_of(workflow, type)
        self.key = key

    async def submit(self, arg: Any = None, /, **options: Unpack[SendOptions]) -> ClientInvocation[Any]:
        """Starts it, unless it was started before (then `fresh` is False), and does not wait for it."""
        return await self._client.send(_main_of(self._workflow), arg, key=self.key, **options)  # type: ignore

    async def attach(self, *, timeout: Duration | None = None) -> Any:
        """Waits for the result of its main."""
        return self._serde.deserialize(await self._client._do(op.WorkflowResult(self._name, self.key, True), timeout))

    async def output(self) -> Any:
        """The result of its main if there is one; raises `NotReady` while there is none."""
        return self._serde.deserialize(await self._client._do(op.WorkflowResult(self._name, self.key, False)))


class ClientState:
    """The state of one object or workflow, read and edited from outside its handlers."""

    def __init__(self, client: AsyncOperations, service: str, key: str) -> None:
        self._client = client
        self._service = service
        self._key = key

    async def get(self, name: str, type: Any = None, default: Any = None) -> Any:
        """The value of a key of the state, or `default`."""
        return _state_value(await self._client._do(op.ReadState(self._service, self._key)), name, type, default)

    async def keys(self) -> list[str]:
        """The keys that have a value, sorted."""
        return sorted(await self._client._do(op.ReadState(self._service, self._key)))

    async def set(self, name: str, value: Any) -> None:
        """Gives a key a value, in turn with the exclusive handlers of this object."""
        await self._client._do(op.ChangeState(self._service, self._key, {name: _written(value)[0]}))

    async def clear(self, name: str, *more: str) -> None:
        """Forgets keys, in turn with the exclusive handlers of this object."""
        await self._client._do(op.ChangeState(self._service, self._key, dict.fromkeys((name, *more))))

    async def clear_all(self) -> None:
        """Forgets the whole state, in turn with the exclusive handlers of this object."""
        await self._client._do(op.ChangeState(self._service, self._key, {}, replace=True))


def _state_value(state: dict[str, bytes], name: str, type: Any, default: Any) -> Any:
    value = state.get(name)
    return default if value is None else serde_for(type).deserialize(value)


class Client(AsyncOperations):
    """Calls handlers of an engine over HTTP, from asyncio.

    `admin_url` is needed for what people do to invocations and state (cancel, kill, describe, ...). `token` goes
    along as a bearer token. `timeout` (seconds or timedelta; None waits for ever) is for each operation that names
    none of its own, `retries` is how often at most an operation is sent again: only ever where that is safe, which
    with an `idempotency_key` is always.

    A client keeps connections open; `async with` or `close` lets go of them.
    """

    def __init__(
        self,
        ingress_url: str = INGRESS_URL,
        *,
        admin_url: str = ADMIN_URL,
        token: str | None = None,
        timeout: Duration | None = None,
        retries: int = 5,
    ) -> None:
        self._timeout = _seconds(timeout)
        self._http = _HttpBackend(_Addresses(ingress_url, admin_url, token), retries)
        self._backend = self._http

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.close()


class _Addresses:
    """Where requests go, and what every one of them carries."""

    def __init__(self, ingress_url: str, admin_url: str, token: str | None) -> None:
        self._urls = (ingress_url.rstrip("/"), admin_url.rstrip("/"))
        for url in self._urls:
            if not url.startswith(("http://", "https://")):
                raise Invalid(f"{url!r} is no URL of a server: it has to begin with http:// or https://")
        self._fields = {} if token is None else {"authorization": f"Bearer {token}"}

    def of(self, request: HttpRequest) -> str:
        return self._urls[request.admin] + request.path

    def fields(self, request: HttpRequest) -> dict[str, str]:
        return {**self._fields, **dict(request.headers)}

    def unreachable(self, request: HttpRequest, error: Exception, *, sent: bool) -> Unavailable:
        where = self._urls[request.admin]
        if not sent:
            return Unavailable(f"cannot connect to {where}: {error}")
        return Unavailable(
            f"the connection to {where} was lost: {error}. Whether the request was accepted is not known; "
            "with an idempotency_key it could be sent again"
        )


def _transport_options() -> dict[str, Any]:
    return {"connect_timeout": 10.0, "pool_max_idle_per_host": 256, "use_system_dns": True, "enable_otel": False}


class _HttpBackend:
    """Operations over HTTP, from asyncio."""

    def __init__(self, addresses: _Addresses, retries: int) -> None:
        self._addresses = addresses
        self._retries = retries
        self._transport: pyqwest.HTTPTransport | None = None
        self._client: pyqwest.Client | None = None

    async def execute(self, operation: Operation[R], timeout: float | None) -> R:
        async with asyncio.timeout(timeout):
            return await self._execute(operation)

    async def _execute(self, operation: Operation[R]) -> R:
        request = operation.to_http()
        url, fields = self._addresses.of(request), self._addresses.fields(request)
        client = self._client or self._connect()
        retries = Retries(operation, self._retries)
        while True:
            try:
                full = await client.execute(request.method, url, fields, request.body or None)
            except Exception as error:
                sent = not isinstance(error, ConnectionError)
                delay = retries.after_failure(sent=sent)
                if delay is None:
                    raise self._addresses.unreachable(request, error, sent=sent) from error
            else:
                reply = HttpReply(full.status, full.headers, full.content)  # type: ignore[arg-type]
                delay = retries.after_reply(reply)
                if delay is None:
                    return operation.from_http(reply)
            await asyncio.sleep(delay)

    def _connect(self) -> "pyqwest.Client":
        import pyqwest

        self._transport = pyqwest.HTTPTransport(**_transport_options())
        self._client = pyqwest.Client(self._transport)
        return self._client

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = self._client = None


# ---- without asyncio


class SyncClient:
    """`Client` for code without asyncio: the same arguments and methods, each of which blocks until it is done.

    Threads may share one.
    """

    def __init__(
        self,
        ingress_url: str = INGRESS_URL,
        *,
        admin_url: str = ADMIN_URL,
        token: str | None = None,
        timeout: Duration | None = None,
        retries: int = 5,
    ) -> None:
        self._http = _BlockingBackend(_Addresses(ingress_url, admin_url, token), retries)
        self._inner = AsyncOperations()
        self._inner._backend = self._http
        self._inner._timeout = _seconds(timeout)

    def __enter__(self) -> "SyncClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    @overload
    def call(
        self, handler: Callable[[Any], Awaitable[R]], arg: None = None, /, **options: Unpack[CallOptions]
    ) -> R: ...
    @overload
    def call(self, handler: Callable[[Any, A], Awaitable[R]], arg: A, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    def call(self, handler: Callable[[Any], R], arg: None = None, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    def call(self, handler: Callable[[Any, A], R], arg: A, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    def call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        type: type[R],
        **options: Unpack[CallOptions],
    ) -> R: ...
    @overload
    def call(self, handler: str, arg: Any = None, /, *, type: Any = None, **options: Unpack[CallOptions]) -> Any: ...
    def call(self, handler: Callable[..., Any] | str, arg: Any = None, /, **options: Any) -> Any:
        """Calls a handler and waits for its result; as `Client.call`."""
        return _now(self._inner.call(handler, arg, **options))

    @overload
    def send(
        self, handler: Callable[[Any], Awaitable[R]], arg: None = None, /, **options: Unpack[SendOptions]
    ) -> "SyncClientInvocation[R]": ...
    @overload
    def send(
        self, handler: Callable[[Any, A], Awaitable[R]], arg: A, /, **options: Unpack[SendOptions]
    ) -> "SyncClientInvocation[R]": ...
    @overload
    def send(
        self, handler: Callable[[Any], R], arg: None = None, /, **options: Unpack[SendOptions]
    ) -> "SyncClientInvocation[R]": ...
    @overload
    def send(
        self, handler: Callable[[Any, A], R], arg: A, /, **options: Unpack[SendOptions]
    ) -> "SyncClientInvocation[R]": ...
    @overload
    def send(self, handler: str, arg: Any = None, /, **options: Unpack[SendOptions]) -> "SyncClientInvocation[Any]": ...
    def send(
        self, handler: Callable[..., Any] | str, arg: Any = None, /, **options: Any
    ) -> "SyncClientInvocation[Any]":
        """Has a handler called, maybe after a `delay`, and waits only until that is durable."""
        return SyncClientInvocation(_now(self._inner.send(handler, arg, **options)))

    @overload
    def invocation(self, id: str, type: type[T]) -> "SyncClientInvocation[T]": ...
    @overload
    def invocation(self, id: str, type: Any = None) -> "SyncClientInvocation[Any]": ...
    def invocation(self, id: str, type: Any = None) -> "SyncClientInvocation[Any]":
        """A handle on an invocation, whose result is of `type`."""
        return SyncClientInvocation(self._inner.invocation(id, type))

    def workflow(
        self, workflow: Workflow | Callable[..., Any] | str, key: str, type: Any = None
    ) -> "SyncClientWorkflow":
        """A handle on the workflow of that key, started or not."""
        return SyncClientWorkflow(self._inner.workflow(workflow, key, type))

    def resolve_awakeable(self, id: str, value: Any = None) -> None:
        """Completes an awakeable with a value. The first completion counts."""
        _now(self._inner.resolve_awakeable(id, value))

    def reject_awakeable(self, id: str, message: str, code: int = 500) -> None:
        """Fails an awakeable: whoever awaits it gets a `TerminalError`."""
        _now(self._inner.reject_awakeable(id, message, code))

    def state(self, service: VirtualObject | Workflow | str, key: str) -> "SyncClientState":
        """The state of an object or a workflow."""
        return SyncClientState(self._inner.state(service, key))


class SyncClientInvocation(Generic[T]):
    """`ClientInvocation`, blocking."""

    def __init__(self, inner: ClientInvocation[T]) -> None:
        self._inner = inner
        self.id = inner.id
        self.fresh = inner.fresh

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def attach(self, *, timeout: Duration | None = None) -> T:
        """Waits for the result; raises the invocation's `TerminalError`, or `NotFound`."""
        return _now(self._inner.attach(timeout=timeout))

    def output(self) -> T:
        """The result if there is one; raises `NotReady` while there is none, otherwise as `attach`."""
        return _now(self._inner.output())

    def signal(self, name: str, value: Any = None) -> None:
        """Sends it a named signal, for `ctx.signal(name)`."""
        _now(self._inner.signal(name, value))

    def cancel(self) -> None:
        """Asks it to stop: its handler sees a cancellation. Raises `Conflict` if it is completed."""
        _now(self._inner.cancel())

    def kill(self) -> None:
        """Ends it now, without its code. Raises `Conflict` if it is completed."""
        _now(self._inner.kill())

    def pause(self) -> None:
        """Stops running it until it is resumed."""
        _now(self._inner.pause())

    def resume(self) -> None:
        """Runs it on, now."""
        _now(self._inner.resume())

    def purge(self, *, journal_only: bool = False) -> None:
        """Forgets it, or its journal. Raises `Conflict` if it is not completed."""
        _now(self._inner.purge(journal_only=journal_only))

    def restart(self, *, keep: int = 1) -> "SyncClientInvocation[T]":
        """Runs it again as a new invocation that keeps the first `keep` entries of its journal (1: the input)."""
        return SyncClientInvocation(_now(self._inner.restart(keep=keep)))

    def describe(self) -> InvocationDescription:
        """Everything known of it: status, attempts, the last failure, the journal."""
        return _now(self._inner.describe())


class SyncClientWorkflow:
    """`ClientWorkflow`, blocking."""

    def __init__(self, inner: ClientWorkflow) -> None:
        self._inner = inner
        self.key = inner.key

    def submit(self, arg: Any = None, /, **options: Unpack[SendOptions]) -> SyncClientInvocation[Any]:
        """Starts it, unless it was started before (then `fresh` is False), and does not wait for it."""
        return SyncClientInvocation(_now(self._inner.submit(arg, **options)))

    def attach(self, *, timeout: Duration | None = None) -> Any:
        """Waits for the result of its main."""
        return _now(self._inner.attach(timeout=timeout))

    def output(self) -> Any:
        """The result of its main if there is one; raises `NotReady` while there is none."""
        return _now(self._inner.output())


class SyncClientState:
    """`ClientState`, blocking."""

    def __init__(self, inner: ClientState) -> None:
        self._inner = inner

    def get(self, name: str, type: Any = None, default: Any = None) -> Any:
        """The value of a key of the state, or `default`."""
        return _now(self._inner.get(name, type, default))

    def keys(self) -> list[str]:
        """The keys that have a value, sorted."""
        return _now(self._inner.keys())

    def set(self, name: str, value: Any) -> None:
        """Gives a key a value, in turn with the exclusive handlers of this object."""
        _now(self._inner.set(name, value))

    def clear(self, name: str, *more: str) -> None:
        """Forgets keys, in turn with the exclusive handlers of this object."""
        _now(self._inner.clear(name, *more))

    def clear_all(self) -> None:
        """Forgets the whole state, in turn with the exclusive handlers of this object."""
        _now(self._inner.clear_all())


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, for its backend blocks."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("a blocking backend has waited")


class _BlockingBackend:
    """Operations over HTTP, blocking the thread; its coroutine is done when it is first resumed."""

    def __init__(self, addresses: _Addresses, retries: int) -> None:
        self._addresses = addresses
        self._retries = retries
        self._transport: pyqwest.SyncHTTPTransport | None = None
        self._client: pyqwest.SyncClient | None = None
        self._lock = threading.Lock()

    async def execute(self, operation: Operation[R], timeout: float | None) -> R:
        request = operation.to_http()
        url, fields = self._addresses.of(request), self._addresses.fields(request)
        client = self._client or self._connect()
        retries = Retries(operation, self._retries)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
                full = client.execute(request.method, url, fields, request.body or None, timeout=left)
            except Exception as error:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"no answer in {timeout} seconds") from error
                sent = not isinstance(error, ConnectionError)
                delay = retries.after_failure(sent=sent)
                if delay is None:
                    raise self._addresses.unreachable(request, error, sent=sent) from error
            else:
                reply = HttpReply(full.status, full.headers, full.content)  # type: ignore[arg-type]
                delay = retries.after_reply(reply)
                if delay is None:
                    return operation.from_http(reply)
            if deadline is not None and time.monotonic() + delay >= deadline:
                raise TimeoutError(f"no answer in {timeout} seconds")
            time.sleep(delay)  # noqa: ASYNC251 - this backend blocks

    def _connect(self) -> "pyqwest.SyncClient":
        import pyqwest

        with self._lock:
            if self._client is None:
                self._transport = pyqwest.SyncHTTPTransport(**_transport_options())
                self._client = pyqwest.SyncClient(self._transport)
            return self._client

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = self._client = None
