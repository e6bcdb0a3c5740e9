"""Clients: call handlers of an engine over HTTP. `Client` is for asyncio, `SyncClient` is the same without `await`."""

import asyncio
import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

from perdure.errors import Invalid, Unavailable
from perdure.sdk.caller import (
    Caller,
    CallOptions,
    ClientInvocation,
    ClientState,
    ClientWorkflow,
    InvocationDescription,
    SendOptions,
    SubmitOptions,
    in_seconds,
)
from perdure.sdk.inbox import ApprovalDescription, Approvals
from perdure.sdk.operations import HttpReply, HttpRequest, Operation, Retries
from perdure.sdk.reading import Events, ReadStream, StreamFeed, SyncStreamReader, Told
from perdure.sdk.service import Duration, VirtualObject, Workflow

if TYPE_CHECKING:
    import pyqwest

__all__ = ["Client", "SyncApprovals", "SyncClient", "SyncClientInvocation", "SyncClientState", "SyncClientWorkflow"]

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

INGRESS_URL = "http://127.0.0.1:8080"
ADMIN_URL = "http://127.0.0.1:9070"


class Client(Caller):
    """Calls handlers of an engine over HTTP, from asyncio.

    `admin_url` is needed for what people do to invocations and state (cancel, kill, describe, ...). `token` is an API
    key of the server, and goes along as a bearer token. With https, `ca_file` (PEM) says whose certificates are
    trusted, in place of the system's authorities. `timeout` (seconds or timedelta; None waits for ever) is for each
    operation that names none of its own, `retries` is how often at most an operation is sent again: only ever where
    that is safe, which with an `idempotency_key` is always.

    A client keeps connections open; `async with` or `close` lets go of them.
    """

    def __init__(
        self,
        ingress_url: str = INGRESS_URL,
        *,
        admin_url: str = ADMIN_URL,
        token: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        timeout: Duration | None = None,
        retries: int = 5,
    ) -> None:
        self._timeout = in_seconds(timeout)
        self._http = _HttpBackend(_Addresses(ingress_url, admin_url, token, ca_file), retries)
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

    def __init__(
        self, ingress_url: str, admin_url: str, token: str | None, ca_file: str | os.PathLike[str] | None
    ) -> None:
        self._urls = (ingress_url.rstrip("/"), admin_url.rstrip("/"))
        for url in self._urls:
            if not url.startswith(("http://", "https://")):
                raise Invalid(f"{url!r} is no URL of a server: it has to begin with http:// or https://")
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise Invalid("token: it has characters that no API key has")
        self._fields = {} if token is None else {"authorization": f"Bearer {token}"}
        self._ca_file = ca_file

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

    def transport_options(self) -> dict[str, Any]:
        """For pyqwest's transports. Raises `Invalid` for a CA file that cannot be read."""
        options: dict[str, Any] = {"connect_timeout": 10.0, "pool_max_idle_per_host": 256}
        options |= {"use_system_dns": True, "enable_otel": False}
        if self._ca_file is not None:
            options["tls_ca_cert"] = read_authorities(self._ca_file)
        elif any(url.startswith("https:") for url in self._urls):
            options["tls_include_system_certs"] = True
        return options


def read_authorities(path: str | os.PathLike[str]) -> bytes:
    """A file of certificates in PEM. Raises `Invalid`."""
    import ssl

    try:
        content = Path(path).read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode())
    except OSError as error:
        why = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror or error
    except UnicodeDecodeError:
        why = "it holds no certificate in PEM"
    else:
        return content
    raise Invalid(f"CA file {os.fspath(path)}: {why}")


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
            except asyncio.CancelledError:
                _given_up.append(time.monotonic())
                raise
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

    async def events(self, operation: ReadStream) -> Events:
        feed = StreamFeed(operation, self._retries)
        client = self._client or self._connect()
        while not feed.over:
            request = feed.request()
            try:
                url, fields = self._addresses.of(request), self._addresses.fields(request)
                async with client.stream(request.method, url, fields) as response:
                    if response.status == 200:
                        async for data in response.content:
                            for told in feed.feed(bytes(data)):
                                yield told
                        delay: float | None = 0.0 if feed.over else feed.lost()
                    else:
                        body = b"".join([bytes(data) async for data in response.content])
                        delay = feed.refused(HttpReply(response.status, response.headers, body))  # type: ignore[arg-type]
                error: Exception = ConnectionError("it was closed before the end")
            except _lost() as problem:
                error, delay = problem, feed.lost()
            except asyncio.CancelledError:
                _given_up.append(time.monotonic())
                raise
            if delay is None:
                raise self._addresses.unreachable(request, error, sent=False) from error
            await asyncio.sleep(delay)

    def _connect(self) -> "pyqwest.Client":
        import pyqwest

        atexit.unregister(_settle)
        atexit.register(_settle)
        self._transport = pyqwest.HTTPTransport(**self._addresses.transport_options())
        self._client = pyqwest.Client(self._transport)
        return self._client

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = self._client = None


def _lost() -> tuple[type[Exception], ...]:
    """What a connection ends with that comes to nothing."""
    import pyqwest

    return OSError, pyqwest.ReadError, pyqwest.WriteError, pyqwest.RemoteProtocolError


_given_up: deque[float] = deque(maxlen=1)  # when a request was last cancelled


def _settle() -> None:
    """Before the interpreter goes: pyqwest lets go of cancelled requests in threads of its own, which need it."""
    if _given_up and time.monotonic() - _given_up[0] < 0.2:
        threading.Event().wait(0.05)


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
        ca_file: str | os.PathLike[str] | None = None,
        timeout: Duration | None = None,
        retries: int = 5,
    ) -> None:
        self._http = _BlockingBackend(_Addresses(ingress_url, admin_url, token, ca_file), retries)
        self._inner = Caller()
        self._inner._backend = self._http  # type: ignore[assignment]  # but for streams, which are read without it
        self._inner._timeout = in_seconds(timeout)

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

    def stream(
        self, id: str, name: str, *, start: int = 0, last_event_id: str | None = None, type: Any = None
    ) -> SyncStreamReader:
        """Reads a stream of an invocation along: iterate over it, or ask for its `text()`."""
        return SyncStreamReader(self._http.events, ReadStream(name, id, "", "", start, last_event_id), type)

    def resolve_awakeable(self, id: str, value: Any = None) -> None:
        """Completes an awakeable with a value. The first completion counts."""
        _now(self._inner.resolve_awakeable(id, value))

    def reject_awakeable(self, id: str, message: str, code: int = 500) -> None:
        """Fails an awakeable: whoever awaits it gets a `TerminalError`."""
        _now(self._inner.reject_awakeable(id, message, code))

    def state(self, service: VirtualObject | Workflow | str, key: str) -> "SyncClientState":
        """The state of an object or a workflow."""
        return SyncClientState(self._inner.state(service, key))

    def approvals(self) -> "SyncApprovals":
        """What waits for a person: to be listed and answered."""
        return SyncApprovals(self._inner.approvals())


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

    def submit(self, arg: Any = None, /, **options: Unpack[SubmitOptions]) -> SyncClientInvocation[Any]:
        """Starts it, unless it was started before (then `fresh` is False), and does not wait for it."""
        return SyncClientInvocation(_now(self._inner.submit(arg, **options)))

    def attach(self, *, timeout: Duration | None = None) -> Any:
        """Waits for the result of its main."""
        return _now(self._inner.attach(timeout=timeout))

    def output(self) -> Any:
        """The result of its main if there is one; raises `NotReady` while there is none."""
        return _now(self._inner.output())


class SyncApprovals:
    """`Approvals`, blocking."""

    def __init__(self, inner: Approvals) -> None:
        self._inner = inner

    def list(self, **wanted: Any) -> Sequence[ApprovalDescription]:
        """The newest first; `status`, `service`, `handler`, `to`, `tag` and `limit` as of `Approvals.list`."""
        return _now(self._inner.list(**wanted))

    def get(self, id: str) -> ApprovalDescription:
        """One of them. Raises `NotFound`."""
        return _now(self._inner.get(id))

    def approve(self, id: str, *value: Any, comment: str | None = None, by: str | None = None) -> ApprovalDescription:
        """Say yes, maybe with a value; raises as `Approvals.approve`."""
        return _now(self._inner.approve(id, *value, comment=comment, by=by))

    def reject(self, id: str, *, comment: str | None = None, by: str | None = None) -> ApprovalDescription:
        """Say no; raises as `Approvals.reject`."""
        return _now(self._inner.reject(id, comment=comment, by=by))


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
        self._pause = threading.Event()  # never set: a way to sleep

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
            self._pause.wait(delay)

    def events(self, operation: ReadStream) -> Generator[Told, None, None]:
        feed = StreamFeed(operation, self._retries)
        client = self._client or self._connect()
        while not feed.over:
            request = feed.request()
            try:
                url, fields = self._addresses.of(request), self._addresses.fields(request)
                with client.stream(request.method, url, fields) as response:
                    if response.status == 200:
                        for data in response.content:
                            yield from feed.feed(bytes(data))
                        delay: float | None = 0.0 if feed.over else feed.lost()
                    else:
                        body = b"".join(map(bytes, response.content))
                        delay = feed.refused(HttpReply(response.status, response.headers, body))  # type: ignore[arg-type]
                error: Exception = ConnectionError("it was closed before the end")
            except _lost() as problem:
                error, delay = problem, feed.lost()
            if delay is None:
                raise self._addresses.unreachable(request, error, sent=False) from error
            self._pause.wait(delay)

    def _connect(self) -> "pyqwest.SyncClient":
        import pyqwest

        with self._lock:
            if self._client is None:
                self._transport = pyqwest.SyncHTTPTransport(**self._addresses.transport_options())
                self._client = pyqwest.SyncClient(self._transport)
            return self._client

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = self._client = None
