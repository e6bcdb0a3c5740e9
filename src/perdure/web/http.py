"""The little of HTTP that ingress and admin share, over ASGI: a request, a response, errors as JSON, a router.

There is no framework in the way: a call to a handler costs one pass over its headers and two messages out.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from perdure.errors import Invalid, RequestError, TooLarge, Unauthorized
from perdure.model.keys import Role
from perdure.web.operations import Operation

__all__ = [
    "ERROR_SOURCE",
    "JSON",
    "SERVER",
    "TEXT",
    "CallerGone",
    "Departures",
    "Malformed",
    "MethodNotAllowed",
    "Receive",
    "Rejection",
    "Request",
    "Response",
    "Route",
    "Router",
    "Scope",
    "Send",
    "Unreadable",
    "Unsupported",
    "error_headers",
    "explained",
    "format_time_ms",
    "format_time_ns",
    "json_response",
    "percent_decoded",
    "read_json",
    "respond",
    "serve_lifespan",
]

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]

JSON: Final = (b"content-type", b"application/json")
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
SERVER: Final = (b"server", b"perdure")
ERROR_SOURCE: Final = b"x-restate-error-source"
logger = logging.getLogger("perdure.web")

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class CallerGone(Exception):
    """The connection was lost before the request was complete; there is nobody to answer."""


class MethodNotAllowed(RequestError):
    """The path is known, `method` is not one of the `allowed`."""

    status = 405

    def __init__(self, message: str, allowed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class Rejection(RequestError):
    """Refused before it was understood what is asked for. The admin port says why in text, as restate-server does."""


class Unreadable(Rejection):
    """A body that is no JSON, a parameter of the query or a segment of the path that cannot be read."""

    status = 400


class Unsupported(Rejection):
    """A body of a media type that is not read here."""

    status = 415


class Malformed(Rejection):
    """JSON, but not of the shape that is wanted."""

    status = 422


class Response(NamedTuple):
    """`body` is whole, or comes in pieces."""

    status: int
    headers: list[Header]
    body: bytes | AsyncGenerator[bytes, None] = b""


def json_response(status: int, value: Any, *headers: Header) -> Response:
    return Response(status, [JSON, *headers], _encode(value))


_ACCEPTED: Final = {True: b"true", False: b"false", None: b"unknown"}


def explained(response: Response, source: str, accepted: bool | None, retryable: bool) -> Response:
    """Adds to an error, in headers, what a body that is empty or text cannot say.

    `source` is whose fault it is; `accepted` whether something of the request is kept, None if that is not known;
    `retryable` whether the same request may be sent again, and may succeed then.
    """
    response.headers.append((ERROR_SOURCE, source.encode()))
    response.headers.append((b"x-perdure-accepted", _ACCEPTED[accepted]))
    response.headers.append((b"x-perdure-retryable", b"true" if retryable else b"false"))
    return response


def error_headers(error: RequestError) -> list[Header]:
    """What an error says beside its body: one that asks for a key says how it is shown."""
    return [(b"www-authenticate", b"Bearer")] if isinstance(error, Unauthorized) else []


class Request:
    """One request. `fields` are its headers by lower-case name, the first of each name.

    `affected` is what it was about, where its path does not say so: for the audit log, filled in by who knows.
    """

    __slots__ = ("affected", "fields", "method", "path", "query", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        headers: Iterable[Header] = scope["headers"]
        fields = dict(headers)
        if len(fields) != len(scope["headers"]):
            fields = {}
            for name, value in headers:
                fields.setdefault(name, value)
        self.fields = fields
        self.query: bytes = scope["query_string"]
        self.path = ""
        self.affected: dict[str, str | list[str]] | None = None

    def parse_path(self) -> str:
        """The path as it was sent, before percent-decoding. Raises `Invalid` if it is no text."""
        raw = self.scope.get("raw_path")
        if raw is None:  # optional in ASGI
            self.path = self.scope["path"]
        else:
            try:
                self.path = raw.decode()
            except UnicodeDecodeError:
                raise Invalid("bad path: not UTF-8") from None
        return self.path

    def parameters(self) -> dict[str, str]:
        """The query's parameters, names in lower case, the first of each name."""
        found: dict[str, str] = {}
        for pair in self.query.split(b"&") if self.query else ():
            name, _, value = pair.partition(b"=")
            found.setdefault(_form_decoded(name).lower(), _form_decoded(value))
        return found

    def parameter(self, name: str) -> str | None:
        """One of the query's parameters, which must not be there twice. Raises `Unreadable`."""
        values = [
            _form_decoded(value)
            for key, _, value in (pair.partition(b"=") for pair in self.query.split(b"&"))
            if _form_decoded(key).lower() == name
        ]
        if len(values) > 1:
            raise Unreadable(f"query: {name} is given twice")
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """A parameter that is `true` or `false`; False if it is not there. Raises `Unreadable`."""
        text = self.parameter(name)
        if text not in (None, "true", "false"):
            raise Unreadable(f"query: {name}={text!r}: it has to be true or false")
        return text == "true"

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises `TooLarge` over `limit` bytes, `CallerGone` if the rest will not come."""
        fields = self.fields
        length = fields.get(b"content-length")
        if length is not None:
            if not length.isdigit():
                raise Invalid("content-length is not a number")
            if int(length) > limit:
                raise TooLarge(f"the body has {int(length)} bytes, the limit is {limit}")
            if length == b"0":
                return b""
        elif b"transfer-encoding" not in fields and self.scope["http_version"][0] == "1":
            return b""
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body") or message["type"] != "http.request":
            return await self._rest(message, body, limit)
        if len(body) > limit:
            raise TooLarge(f"the body has more than {limit} bytes")
        return body

    async def _rest(self, message: Mapping[str, Any], body: bytes, limit: int) -> bytes:
        chunks, size = [body], len(body)
        while True:
            if message["type"] != "http.request":
                raise CallerGone
            if size > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await self.receive()
            chunk = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)


async def read_json(request: Request, type: type[T], limit: int) -> T:
    """The body as a struct. Raises `Unsupported`, `TooLarge`, `Unreadable` (no JSON), `Malformed` (another shape)."""
    content_type = request.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != b"application/json" and not (
        content_type.startswith(b"application/") and content_type.endswith(b"+json")
    ):
        raise Unsupported("content-type has to be application/json")
    body = await request.body(limit)
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        raise Malformed(f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"body: {error}") from None


async def respond(send: Send, response: Response) -> None:
    """Sends a complete response. What goes wrong between the pieces of a body is raised, and cuts it off."""
    response.headers.append(SERVER)
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    body = response.body
    if not isinstance(body, bytes):
        async with contextlib.aclosing(body):
            async for piece in body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        body = b""
    await send({"type": "http.response.body", "body": body})


async def serve_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a server that announces start and end; there is nothing to do. Other protocols are refused."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1003})
        return
    if scope["type"] != "lifespan":
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def percent_decoded(segment: str) -> str:
    """Decodes one segment of a path. Raises `Invalid` if what comes out is no text."""
    if "%" not in segment:
        return segment
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise Invalid(f"bad path: {segment!r} is not UTF-8 after percent-decoding") from None


def _form_decoded(raw: bytes) -> str:
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode(errors="replace")


def format_time_ms(at: int) -> str:
    """Ms since the epoch -> `2026-01-31T12:00:00.123+00:00`."""
    return _datetime(at).isoformat(timespec="milliseconds")


def format_time_ns(at: int) -> str:
    """Ms since the epoch -> `2026-01-31T12:00:00.123000000Z`."""
    return f"{_datetime(at):%Y-%m-%dT%H:%M:%S}.{at % 1000:03}000000Z"


def _datetime(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


class Departures:
    """Finds callers that have hung up while they wait for a result, so that nothing is kept for them.

    Asking the server whether one is still there costs something, and most are answered at once: only who has
    waited for `patience` seconds is watched.
    """

    def __init__(self, patience: float = 5.0) -> None:
        self._patience = patience
        self._waiting: dict[asyncio.Task[Any], tuple[float, Receive]] = {}
        self._watched: dict[asyncio.Task[Any], asyncio.Task[None]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def wait(self, receive: Receive) -> asyncio.Task[Any] | None:
        """The current task waits from now on; it is cancelled if its caller leaves. Ends with `done`."""
        task = asyncio.current_task()
        if task is not None:
            loop = task.get_loop()
            self._waiting[task] = (loop.time(), receive)
            if self._sweep is None:
                self._sweep = loop.call_later(self._patience, self._look)
        return task

    def done(self, task: asyncio.Task[Any] | None) -> None:
        """The task got what it waited for."""
        if task is not None:
            self._waiting.pop(task, None)
            if self._watched and (watcher := self._watched.pop(task, None)) is not None:
                watcher.cancel()

    def _look(self) -> None:
        self._sweep = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        latest = loop.time() - self._patience / 2
        for task, (since, receive) in list(self._waiting.items()):
            if since <= latest:
                del self._waiting[task]
                self._watched[task] = loop.create_task(self._watch(task, receive))
        if self._waiting:
            self._sweep = loop.call_later(self._patience, self._look)

    async def _watch(self, task: asyncio.Task[Any], receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
        self._watched.pop(task, None)
        task.cancel()


Handler: TypeAlias = Callable[..., Awaitable[Response]]


class Route(NamedTuple):
    """A way to ask for something: `path` names its variable segments in braces.

    `role` is what a key has to be for at least; None: whoever asks. `operation` is what the OpenAPI document says.
    """

    method: str
    path: str
    handler: Handler
    role: Role | None
    operation: Operation | None


class Router:
    """Method and path to route. A route's path names its variable segments in braces; one that is written `{*name}`
    and comes last stands for all that follow, which may be none."""

    def __init__(self) -> None:
        self._routes: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        self._open_ended: list[tuple[tuple[str, ...], dict[str, Route]]] = []
        self._listed: list[Route] = []

    def add(
        self, method: str, path: str, handler: Handler, *, role: Role | None, operation: Operation | None = None
    ) -> None:
        """Make a route known. Its role has to be said: nothing is open because it was forgotten."""
        pattern = tuple(path.split("/")[1:])
        route = Route(method, path, handler, role, operation)
        self._listed.append(route)
        open_ended = pattern[-1].startswith("{*")
        routes = self._open_ended if open_ended else self._routes.setdefault(len(pattern), [])
        for known, methods in routes:
            if known == pattern:
                methods[method] = route
                return
        routes.append((pattern, {method: route}))

    def routes(self) -> list[Route]:
        """Every route, in the order in which they were added."""
        return list(self._listed)

    def find(self, method: str, segments: list[str]) -> tuple[Route, dict[str, str]] | None:
        """The route and the values of the variable segments, percent-decoded; None for an unknown path."""
        for pattern, methods in self._routes.get(len(segments), ()):
            if _fits(pattern, segments):
                return _chosen(method, methods), _values(pattern, segments)
        for pattern, methods in self._open_ended:
            *fixed, rest = pattern
            count = len(fixed)
            if len(segments) > count and _fits(fixed, segments[:count]):
                values = _values(fixed, segments[:count])
                values[rest[2:-1]] = percent_decoded("/".join(segments[count:]))
                return _chosen(method, methods), values
        return None


def _fits(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """A variable segment is never empty."""
    return all(
        segment != "" if part[:1] == "{" else part == segment for part, segment in zip(pattern, segments, strict=True)
    )


def _values(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str]:
    return {
        part[1:-1]: percent_decoded(segment) for part, segment in zip(pattern, segments, strict=True) if part[:1] == "{"
    }


def _chosen(method: str, methods: Mapping[str, Route]) -> Route:
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        allowed = sorted({*methods, "HEAD"} if "GET" in methods else methods)
        raise MethodNotAllowed(f"{method} is not allowed here: {', '.join(allowed)}", allowed)
    return route
