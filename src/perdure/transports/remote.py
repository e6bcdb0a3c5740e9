"""Handlers in other processes: an attempt as a request to an endpoint, whose bytes are messages of the protocol.

`RemoteDuplex` has the rules (what is sent when, which answers are failures, how long silence may last); a `Connector`
moves the bytes, over HTTP or whatever else there is. Neither retries an attempt: it fails, and the partition decides.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

from msgspec.structs import replace

from perdure.errors import RemoteProtocolError
from perdure.model.deployments import Deployment, Endpoint, ProtocolMode
from perdure.model.entries import Notification
from perdure.model.ids import format_invocation_id
from perdure.model.invocation import AttemptFailure, Waiting
from perdure.model.services import HandlerInfo
from perdure.protocol import versions
from perdure.protocol.control import AwaitingOn, Error, FromHandler, Start
from perdure.protocol.exchange import EngineEnd
from perdure.protocol.frames import FRAME_LIMIT, MESSAGE_TOO_LARGE
from perdure.protocol.wire_control import TREE_TOO_DEEP

__all__ = [
    "NO_HTTP2",
    "Answer",
    "ByteStream",
    "Clock",
    "Collector",
    "Connector",
    "Listener",
    "Remote",
    "RemoteDuplex",
    "Request",
    "Timer",
]

DRAIN_MS = 5_000  # how long an endpoint may take to end its response after its last message
QUIET_MS = 1_000  # silence after which a handler with no step running is taken to wait
NO_HTTP2 = "the endpoint does not speak HTTP/2"
"""How a problem begins that HTTP/1.1 may not have."""
SLOW_READER_BYTES = 64 << 20  # unsent bytes at which an endpoint that does not read is given up

_REASONS = {413: "RT0019", 415: "RT0015", 429: "RT0023", 503: "RT0023", 502: "RT0010", 504: "RT0010"}
_JOURNAL_MISMATCH = 570
TOO_DEEP = "RT0025"  # as restate-server does: the next attempt would only wait for the same
_BROKEN_RULES = {MESSAGE_TOO_LARGE: "RT0003", TREE_TOO_DEEP: TOO_DEEP}


Receive: TypeAlias = Callable[[FromHandler], None]  # no handler elsewhere can say more


class Request(NamedTuple):
    """One request to an endpoint; `path` is behind the endpoint's own."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    bidirectional: bool = False


class Answer(NamedTuple):
    """A whole response; header names in lower case. `http_version` is "1.1" or "2"."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    http_version: str = "2"


class ByteStream(Protocol):
    """The engine's half of an exchange."""

    @property
    def unsent(self) -> int:
        """Bytes that were written and not taken yet."""
        ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Nothing more will be written; the response is still read."""
        ...

    def abort(self) -> None:
        """Hang up. The listener hears nothing any more."""
        ...


class Listener(Protocol):
    """Is told of the endpoint's half. All of it happens on the event loop's thread."""

    def head(self, status: int, headers: Mapping[str, str]) -> None: ...

    def data(self, chunk: bytes) -> None: ...

    def end(self) -> None: ...

    def broken(self, problem: str) -> None:
        """There will be no more: no connection, a lost one, a reset stream."""
        ...

    @property
    def congested(self) -> bool:
        """Whether to wait before reading on: what was read so far is not stored yet."""
        ...


class Collector:
    """A listener that waits for a whole answer; `what` names the request in errors."""

    congested = False

    def __init__(self, what: str, limit: int = FRAME_LIMIT) -> None:
        self._what = what
        self._limit = limit
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._body = bytearray()
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self._status, self._headers = status, headers

    def data(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > self._limit:
            self.broken(f"the answer has more than {self._limit} bytes")

    def end(self) -> None:
        if not self._answer.done():
            self._answer.set_result(Answer(self._status, self._headers, bytes(self._body)))

    def broken(self, problem: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(ConnectionError(f"{self._what}: {problem}"))

    async def answer(self, timeout: float) -> Answer:
        """Raises `ConnectionError`, also after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._answer
        except TimeoutError:
            raise ConnectionError(f"{self._what}: no answer within {timeout:g} s") from None


class Connector(Protocol):
    """Moves bytes to one kind of endpoint."""

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> ByteStream:
        """Begin an exchange."""
        ...

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        """One request without a body and its whole answer. Raises `ConnectionError`, which says what is wrong."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


class Timer(Protocol):
    def cancel(self) -> object: ...


class Clock(Protocol):
    def now_ms(self) -> int: ...

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> Timer: ...


class Remote:
    """Opens attempts on deployments. `connectors` makes one for each kind of endpoint, when it is first needed; `sign`
    gives the headers that prove who asks for a path, and for which key.

    `congested` says whether partitions are behind with what handlers tell them; `limit` is the longest message taken
    from an endpoint, in bytes.
    """

    def __init__(
        self,
        clock: Clock,
        connectors: Mapping[type, Callable[[], Connector]],
        *,
        sign: Callable[[str, str | None], Mapping[str, str]] = lambda path, key: {},
        congested: Callable[[], bool] = lambda: False,
        limit: int = FRAME_LIMIT,
    ) -> None:
        self.clock = clock
        self._makers = connectors
        self._connectors: dict[type, Connector] = {}
        self.sign = sign
        self.congested = congested
        self.limit = limit

    @property
    def connections(self) -> int:
        """How many are open, of the ways that keep them."""
        return sum(getattr(each, "connections", 0) for each in self._connectors.values())

    def connector(self, endpoint: Endpoint) -> Connector:
        kind = type(endpoint)
        connector = self._connectors.get(kind)
        if connector is None:
            connector = self._connectors[kind] = self._makers[kind]()
        return connector

    def open(
        self,
        deployment: Deployment,
        version: int,
        info: HandlerInfo,
        start: Start,
        receive: "Receive",
    ) -> "RemoteDuplex":
        """The way to one attempt, in this version of the protocol."""
        return RemoteDuplex(self, deployment, version, info, start, receive)

    async def close(self) -> None:
        for connector in self._connectors.values():
            await connector.close()


class RemoteDuplex:
    """One attempt on a deployment; a `base.Duplex` to the engine, a `Listener` to the connector."""

    __slots__ = (
        "_active_at",
        "_content_type",
        "_deployment",
        "_end",
        "_gone",
        "_info",
        "_input_closed",
        "_over",
        "_quiet",
        "_receive",
        "_remote",
        "_request",
        "_stream",
        "_timer",
        "sdk",
    )

    def __init__(
        self,
        remote: Remote,
        deployment: Deployment,
        version: int,
        info: HandlerInfo,
        start: Start,
        receive: "Receive",
    ) -> None:
        self._remote = remote
        self._deployment = deployment
        self._info = info
        self._receive = receive
        self._content_type = versions.content_type(version)
        self._end = EngineEnd(start, version, remote.limit)
        self._stream: ByteStream | None = None
        self._timer: Timer | None = None
        self._input_closed = False
        self._quiet = False
        self._over = False  # the last message was said, or the attempt has failed
        self._gone = False
        self._active_at = 0
        self.sdk: str | None = None
        """What the endpoint says it is made with."""
        self._request = self._make_request(start)

    def _make_request(self, start: Start) -> Request:
        target, deployment = start.target, self._deployment
        path = f"/invoke/{target.service}/{target.handler}"
        bidirectional = deployment.mode is ProtocolMode.BIDI_STREAM and self._info.inactivity_timeout_ms > 0
        headers = [
            ("content-type", self._content_type),
            ("accept", self._content_type),
            ("x-restate-invocation-id", format_invocation_id(start.id)),
            *deployment.headers.items(),
            *self._remote.sign(path, target.key).items(),
        ]
        if start.trace:
            headers += [("traceparent", start.trace), ("tracestate", start.trace_state)]
        if target.key is not None:
            headers.append(("x-restate-service-key", quote(target.key, safe="")))
        return Request("POST", path, headers, bidirectional)

    # The engine's side

    def begin(self) -> None:
        remote = self._remote
        self._active_at = remote.clock.now_ms()
        endpoint = self._deployment.endpoint
        self._stream = stream = remote.connector(endpoint).open(endpoint, self._request, self)
        stream.write(self._end.opening())
        if not self._request.bidirectional:
            self.close_input()
        self._watch()

    def notify(self, notification: Notification) -> None:
        stream = self._stream
        if self._input_closed or self._gone or stream is None:
            return  # the next attempt finds it in its journal
        self._active()
        stream.write(self._end.notify(notification))
        if stream.unsent > SLOW_READER_BYTES:
            self._fail(f"the endpoint has not read {stream.unsent} bytes that were sent to it", "RT0010")

    def close_input(self) -> None:
        if not self._input_closed and not self._gone and self._stream is not None:
            self._input_closed = True
            self._active_at = self._remote.clock.now_ms()
            self._stream.close()
            self._watch()

    def drain(self) -> bool:
        return self._gone or not self._end.running

    def abort(self) -> None:
        self._gone = True
        self._cancel_timer()
        if self._stream is not None:
            self._stream.abort()

    # The endpoint's side

    @property
    def congested(self) -> bool:
        return self._remote.congested()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.sdk = headers.get("x-restate-server")
        if status == 200:
            if headers.get("content-type") != self._content_type:
                found = headers.get("content-type", "none")
                self._fail(f"the endpoint answered with the content type {found}, not {self._content_type}", "RT0012")
            return
        delay_ms = None
        if status in (429, 503):
            delay_ms = retry_after_ms(headers.get("retry-after"), self._remote.clock.now_ms())
        self._fail(f"the endpoint answered with status {status}", _REASONS.get(status, "RT0012"), delay_ms)

    def data(self, chunk: bytes) -> None:
        if self._gone:
            return
        self._active()
        end, receive = self._end, self._receive
        try:
            for message in end.feed(chunk, self._active_at):
                if isinstance(message, AwaitingOn) and (end.running or message_is_done(message)):
                    continue
                if isinstance(message, Error):
                    message = _with_reason(message)
                if end.ended:
                    self._over = True
                receive(message)
                if self._gone:
                    return
                if self._over:
                    self._wait_for_the_end()
        except RemoteProtocolError as error:
            self._fail(error.message, _BROKEN_RULES.get(error.code, "RT0012"))

    def end(self) -> None:
        self._stream = None
        if not self._over and not self._gone:
            self._fail("the connection was ended before the last message", "RT0010")
        else:
            self.abort()

    def broken(self, problem: str) -> None:
        self._stream = None
        if not self._over and not self._gone:
            self._fail(problem, "RT0010")
        else:
            self.abort()

    def _fail(self, problem: str, reason: str, delay_ms: int | None = None) -> None:
        if self._gone or self._over:
            return
        self._over = True
        where = f"{self._deployment.endpoint.address}{self._request.path}"
        failure = AttemptFailure(
            f"[{reason}] {where}: {problem}", 500, self._remote.clock.now_ms(), restate_code=reason
        )
        self.abort()
        self._receive(Error(failure, delay_ms, "pause" if reason == TOO_DEEP else "retry"))

    def _wait_for_the_end(self) -> None:
        """Some servers drop a response whose request is not over: the request ends first, then the response has to."""
        self.close_input()
        self._cancel_timer()
        clock = self._remote.clock
        self._timer = clock.call_at(clock.now_ms() + DRAIN_MS, self.abort)

    # Silence

    def _active(self) -> None:
        self._active_at = self._remote.clock.now_ms()
        if self._quiet:
            self._quiet = False
            self._watch()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """Look again when silence would have lasted too long, if it lasts; one timer, however much is said."""
        self._cancel_timer()
        if self._gone or self._over:
            return
        clock, info = self._remote.clock, self._info
        patience_ms = info.abort_timeout_ms if self._input_closed else info.inactivity_timeout_ms
        if not self._input_closed and not self._quiet:
            patience_ms = min(patience_ms, QUIET_MS)
        self._timer = clock.call_at(self._active_at + patience_ms, self._look)

    def _look(self) -> None:
        if self._gone or self._over:
            return
        silence_ms = self._remote.clock.now_ms() - self._active_at
        info = self._info
        if self._input_closed:
            if silence_ms >= info.abort_timeout_ms:
                self._fail(f"nothing was heard for {info.abort_timeout_ms} ms, the abort timeout", "RT0001")
                return
        elif silence_ms >= info.inactivity_timeout_ms:
            self.close_input()
        elif silence_ms >= QUIET_MS and not self._quiet:
            self._quiet = True
            if not self._end.running:
                self._receive(AwaitingOn(Waiting()))
        self._watch()


def message_is_done(message: AwaitingOn) -> bool:
    """Whether there is nothing in it; such a hint says nothing."""
    waiting = message.waiting
    return not (waiting.completions or waiting.signals or waiting.names or waiting.nested)


def _with_reason(message: Error) -> FromHandler:
    reason = "RT0016" if message.failure.code == _JOURNAL_MISMATCH else "RT0007"
    return replace(message, failure=replace(message.failure, restate_code=reason))


def retry_after_ms(text: str | None, now_ms: int) -> int | None:
    """A `Retry-After` (seconds, or an HTTP date) as ms from now; None if there is none, or none that can be read."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text) * 1000
    try:
        return max(0, int(parsedate_to_datetime(text).timestamp() * 1000) - now_ms)
    except (TypeError, ValueError):
        return None
