"""HTTP/2 to endpoints: a conversation is a stream, and streams share connections.

Frames and flow control are `h2`'s; the socket belongs to the engine's own event loop. So what a handler says costs no
hop between threads, and it is known exactly which streams an endpoint never began when it closes a connection (some do
after a thousand requests): these are opened again at once, on another. Without TLS the endpoint is taken to speak
HTTP/2 (prior knowledge); with it ALPN has to say so. A connection is used once the endpoint has sent its settings: some
endpoints cut a connection on which more streams are opened than they take.

All that is written within one turn of the event loop goes out in one piece.
"""

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import Frame, GoAwayFrame

from perdure.model.deployments import Endpoint, HttpEndpoint
from perdure.transports.remote import NO_HTTP2, Answer, Collector, Listener, Request

__all__ = ["Http2Connector"]

_log = logging.getLogger("perdure.transport")

STREAMS = 128  # on one connection, if the endpoint allows so many; as restate-server
REOPENINGS = 5
STREAM_WINDOW = 1 << 20  # bytes an endpoint may send ahead on one stream
CONNECTION_WINDOW = 16 << 20
PING_SECONDS = 40.0  # between pings; an answer has to come before the next
IDLE_SECONDS = 300.0
CONGESTION_SECONDS = 0.005

_CONFIG = H2Configuration(
    client_side=True,
    header_encoding=None,  # what is no text must not end the connection
    validate_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)


class _Http2(H2Connection):
    """h2 takes a connection for closed once the other side has said good-bye; but streams that have begun go on."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = ErrorCodes(frame.error_code) if frame.error_code in _CODES else frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]


_PING = b"perdure\0"
_TYPE_AT = 3  # the byte of a frame that says what it is
_SETTINGS_TYPE = b"\x04"  # what the first one has to be
_LAST_NUMBER = (1 << 31) - 1000  # streams of one connection end below 2**31
_CODES = frozenset(code.value for code in ErrorCodes)


class Http2Connector:
    """Used within one running event loop. `connect_timeout` is in seconds."""

    def __init__(self, connect_timeout: float = 10.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.connect_timeout = connect_timeout
        self._origins: dict[str, _Origin] = {}
        self._tls: ssl.SSLContext | None = None

    @property
    def tls(self) -> ssl.SSLContext:
        """What the machine trusts; reading that takes a while, so it is done once."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["h2"])
        return self._tls

    @property
    def connections(self) -> int:
        """How many are open."""
        return sum(len(origin._connections) for origin in self._origins.values())

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> "_Stream":
        assert isinstance(endpoint, HttpEndpoint)
        parts = urlsplit(endpoint.uri)
        key = f"{parts.scheme}://{parts.netloc}"
        origin = self._origins.get(key)
        if origin is None:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            origin = self._origins[key] = _Origin(self, parts.hostname or "", port, parts.scheme, parts.netloc)
        stream = _Stream(origin, request, parts.path, listener)
        origin.admit(stream)
        return stream

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        assert isinstance(endpoint, HttpEndpoint)
        collector = Collector(f"{endpoint.uri}{request.path}")
        stream = self.open(endpoint, request, collector)
        stream.close()
        try:
            return await collector.answer(self.connect_timeout)
        finally:
            stream.abort()

    async def close(self) -> None:
        for origin in self._origins.values():
            origin.close()
        self._origins.clear()
        await asyncio.sleep(0)


class _Origin:
    """The connections to one host and port, and the streams that wait for room on one."""

    def __init__(self, connector: Http2Connector, host: str, port: int, scheme: str, authority: str) -> None:
        self.connector = connector
        self.scheme = scheme
        self.authority = authority
        self._address = (host, port)
        self._connections: list[_Connection] = []
        self._waiting: deque[_Stream] = deque()
        self._connecting: asyncio.Task[None] | None = None

    def admit(self, stream: "_Stream") -> None:
        """Open a stream where there is room, else when there is."""
        for connection in self._connections:
            if connection.has_room:
                connection.begin(stream)
                return
        self._waiting.append(stream)
        if self._connecting is None:
            self._connecting = self.connector.loop.create_task(self._connect())

    def room(self) -> None:
        """A connection has room, or is new."""
        waiting = self._waiting
        for connection in list(self._connections):
            while waiting and connection.has_room:
                stream = waiting.popleft()
                if not stream.aborted:
                    connection.begin(stream)
        if waiting and self._connecting is None:
            self._connecting = self.connector.loop.create_task(self._connect())

    def gone(self, connection: "_Connection") -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        if self._waiting:
            self.room()

    async def _connect(self) -> None:
        host, port = self._address
        try:
            connection = await self._greeted(host, port)
        except (OSError, UnicodeError) as error:  # the latter for a host that can be none
            problem = str(error) or f"no HTTP/2 connection within {self.connector.connect_timeout:g} s"
            if "NO_APPLICATION_PROTOCOL" in problem:
                problem = f"{NO_HTTP2}: {problem}"
            self._give_up(f"can't connect to {host}:{port}: {problem}")
            return
        self._connecting = None
        if not connection.has_room:  # another would not have any either
            self._give_up(connection.problem or f"{host}:{port} takes no streams")
            connection.close()
            return
        self._connections.append(connection)
        self.room()

    async def _greeted(self, host: str, port: int) -> "_Connection":
        """A connection whose other side has sent its settings. Raises `OSError` or `UnicodeError`."""
        loop, context = self.connector.loop, self.connector.tls if self.scheme == "https" else None
        connection = _Connection(self)
        try:
            async with asyncio.timeout(self.connector.connect_timeout):
                await loop.create_connection(lambda: connection, host, port, ssl=context)
                await connection.greeted
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_up(self, problem: str) -> None:
        self._connecting = None
        waiting, self._waiting = self._waiting, deque()
        for stream in waiting:
            stream.broken(problem)

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._give_up("the engine stops")
        for connection in list(self._connections):
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, origin: _Origin) -> None:
        self._origin = origin
        self._loop = origin.connector.loop
        self._h2 = _Http2(_CONFIG)
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, _Stream] = {}
        self._flushing = False
        self._draining = False
        self._paused = False
        self._pinged = False
        self._timer: asyncio.TimerHandle | None = None
        self._used_at = self._loop.time()
        self._first = bytearray()  # what the endpoint said first
        self.problem: str | None = None  # why it has ended
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        """Done once the endpoint has said how many streams it takes, or will not."""

    @property
    def has_room(self) -> bool:
        count = len(self._streams)
        if self._draining or count >= STREAMS or self._transport is None:
            return False
        return count < self._h2.remote_settings.max_concurrent_streams

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        spoken = transport.get_extra_info("ssl_object")
        if spoken is not None and spoken.selected_alpn_protocol() != "h2":
            self._end(f"{NO_HTTP2}: it did not agree to, over TLS")
            return
        h2 = self._h2
        h2.initiate_connection()
        h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW, SettingCodes.ENABLE_PUSH: 0})
        h2.increment_flow_control_window(CONNECTION_WINDOW - h2.inbound_flow_control_window)
        self.flush()
        self._timer = self._loop.call_later(PING_SECONDS, self._keep_alive)

    def data_received(self, data: bytes) -> None:
        if self.problem is not None:
            return
        if len(self._first) < _TYPE_AT + 1:  # h2 would wait for the rest of what an HTTP/1.1 server says
            self._first += data[:30]
            if self._first[_TYPE_AT : _TYPE_AT + 1] not in (b"", _SETTINGS_TYPE):
                self._end(f"{NO_HTTP2}: it answered with {bytes(self._first)!r}")
                return
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as error:
            self._end(f"the endpoint broke HTTP/2: {error}")
            return
        handlers = _HANDLERS
        for event in events:
            handler = handlers.get(type(event))
            if handler is not None:
                handler(self, event)
        self.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(f"the connection was lost: {error}" if error else "the endpoint closed the connection")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        for stream in list(self._streams.values()):
            self.pump(stream)

    def flush(self) -> None:
        """Send what there is to be sent, at the end of this turn of the event loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        transport = self._transport
        if transport is not None and (data := self._h2.data_to_send()):
            transport.write(data)

    def _keep_alive(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._pinged:
            self._end("the endpoint does not answer pings")
            return
        if not self._streams and self._loop.time() - self._used_at > IDLE_SECONDS:
            self.close()
            return
        self._pinged = True
        self._h2.ping(_PING)
        self.flush()
        self._timer = self._loop.call_later(PING_SECONDS, self._keep_alive)

    def close(self) -> None:
        """Say good-bye; streams that are open are told that there will be no more."""
        if self._transport is not None:
            self._h2.close_connection()
        self._end("the engine has hung up")

    def _end(self, problem: str) -> None:
        if self.problem is not None:
            return
        self.problem = problem
        self._draining = True
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(problem))
            self.greeted.exception()  # whoever was to wait for it may have been cancelled
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.broken(problem)
        self._origin.gone(self)

    # Streams

    def begin(self, stream: "_Stream") -> None:
        h2, request = self._h2, stream.request
        number = h2.get_next_available_stream_id()
        headers = [
            (":method", request.method),
            (":scheme", self._origin.scheme),
            (":authority", self._origin.authority),
            (":path", stream.path),
            *request.headers,
        ]
        h2.send_headers(number, headers)
        self._draining = self._draining or number > _LAST_NUMBER
        self._streams[number] = stream
        stream.connection, stream.number = self, number
        self.pump(stream)
        self.flush()

    def pump(self, stream: "_Stream") -> None:
        """Hand over as much of a stream's body as the windows let through."""
        if stream.half_closed or self._transport is None or self._paused:
            return
        h2, number, out = self._h2, stream.number, stream.out
        try:
            while out:
                room = min(h2.local_flow_control_window(number), h2.max_outbound_frame_size)
                if room <= 0:
                    break
                h2.send_data(number, bytes(out[:room]))
                del out[:room]
            if stream.closed and not out:
                stream.half_closed = True
                h2.end_stream(number)
        except ProtocolError:  # h2 has read on: the event that says that the stream is over is yet to be handled
            stream.half_closed = True
        self.flush()

    def reset(self, number: int) -> None:
        """Hang up on one stream."""
        if self._streams.pop(number, None) is not None and self._transport is not None:
            self._reset(number, ErrorCodes.CANCEL)
            self._freed()

    def _reset(self, number: int, code: ErrorCodes) -> None:
        with contextlib.suppress(ProtocolError):  # it is closed already
            self._h2.reset_stream(number, code)
            self.flush()

    def _freed(self) -> None:
        self._used_at = self._loop.time()
        if self._draining and not self._streams:
            self._end("")
        else:
            self._origin.room()

    def _acknowledge(self, number: int, size: int) -> None:
        """The endpoint may send as much again."""
        if self._transport is not None:
            try:
                self._h2.acknowledge_received_data(size, number)
            except ProtocolError:
                return
            self.flush()

    # What the endpoint does

    def _on_head(self, event: ResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            headers: dict[str, str] = {}
            for name, value in event.headers:
                headers.setdefault(name.decode("utf-8", "replace"), value.decode("utf-8", "replace"))
            stream.sent = None
            try:
                stream.head(headers)
            except Exception as error:
                self._failed(stream, error)

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        size = event.flow_controlled_length
        if stream is None or stream.listener is None:
            self._acknowledge(event.stream_id, size)
            return
        listener = stream.listener
        try:
            listener.data(event.data)
        except Exception as error:
            self._failed(stream, error)
        if listener.congested:
            self._loop.call_later(CONGESTION_SECONDS, self._when_stored, listener, event.stream_id, size)
        else:
            self._acknowledge(event.stream_id, size)

    def _when_stored(self, listener: Listener, number: int, size: int) -> None:
        if listener.congested and number in self._streams:
            self._loop.call_later(CONGESTION_SECONDS, self._when_stored, listener, number, size)
        else:
            self._acknowledge(number, size)

    def _on_end(self, event: StreamEnded) -> None:
        stream = self._streams.pop(event.stream_id, None)
        if stream is not None:
            if not stream.half_closed and self._transport is not None:  # nothing more of it is of use
                self._reset(event.stream_id, ErrorCodes.NO_ERROR)
            stream.half_closed = True
            stream.connection = None
            try:
                stream.end()
            except Exception as error:
                self._failed(stream, error)
            self._freed()

    def _on_reset(self, event: StreamReset) -> None:
        stream = self._streams.pop(event.stream_id, None)
        if stream is not None:
            stream.connection = None
            if event.error_code == ErrorCodes.REFUSED_STREAM:
                stream.again("the endpoint refuses streams")
            else:
                stream.broken(f"the endpoint reset the stream: {_name_of(event.error_code)}")
            self._freed()

    def _on_goodbye(self, event: ConnectionTerminated) -> None:
        """GOAWAY: streams after the last one it names were never begun; the others go on to their end."""
        self._draining = True
        last = event.last_stream_id if event.last_stream_id is not None else 0
        for number in [number for number in self._streams if number > last]:
            stream = self._streams.pop(number)
            stream.connection = None
            stream.again(f"the endpoint closes its connections: {_name_of(event.error_code)}")
        if not self._streams:
            self._end(f"the endpoint closed the connection: {_name_of(event.error_code)}")
        else:  # one that does not keep its word either closes the connection on this
            self._h2.ping(_PING)

    def _failed(self, stream: "_Stream", error: Exception) -> None:
        """A bug in what hears one stream ends that stream, not all that share its connection."""
        _log.error("a stream broke: %r", error, exc_info=error)
        if self._streams.pop(stream.number, None) is not None:
            self._reset(stream.number, ErrorCodes.CANCEL)
        stream.broken(f"the engine failed: {error!r}")

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)
        else:
            self._origin.room()

    def _on_window(self, event: WindowUpdated) -> None:
        if event.stream_id:
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                self.pump(stream)
        else:
            for stream in list(self._streams.values()):
                self.pump(stream)

    def _on_pong(self, event: PingAckReceived) -> None:
        self._pinged = False


_HANDLERS: dict[type[Event], Callable[[_Connection, Any], None]] = {
    ResponseReceived: _Connection._on_head,
    DataReceived: _Connection._on_data,
    StreamEnded: _Connection._on_end,
    StreamReset: _Connection._on_reset,
    ConnectionTerminated: _Connection._on_goodbye,
    RemoteSettingsChanged: _Connection._on_settings,
    WindowUpdated: _Connection._on_window,
    PingAckReceived: _Connection._on_pong,
}


def _name_of(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)


class _Stream:
    """One request and its response; a `remote.ByteStream`."""

    __slots__ = (
        "_origin",
        "_reopened",
        "closed",
        "connection",
        "half_closed",
        "listener",
        "number",
        "out",
        "path",
        "request",
        "sent",
    )

    def __init__(self, origin: _Origin, request: Request, base: str, listener: Listener) -> None:
        self._origin = origin
        self._reopened = 0
        self.request = request
        self.path = (base + request.path) or "/"
        self.listener: Listener | None = listener
        self.connection: _Connection | None = None
        self.number = 0
        self.out = bytearray()
        self.sent: bytearray | None = bytearray()  # until the endpoint answers, so that it can all be sent again
        self.closed = False  # nothing more will be written
        self.half_closed = False  # and the endpoint was told

    # The engine's side

    @property
    def aborted(self) -> bool:
        return self.listener is None

    @property
    def unsent(self) -> int:
        return len(self.out)

    def write(self, data: bytes) -> None:
        self.out += data
        if self.sent is not None:
            self.sent += data
        if self.connection is not None:
            self.connection.pump(self)

    def close(self) -> None:
        self.closed = True
        if self.connection is not None:
            self.connection.pump(self)

    def abort(self) -> None:
        self.listener = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.reset(self.number)

    # The endpoint's side

    def head(self, headers: dict[str, str]) -> None:
        if self.listener is not None:
            status = headers.pop(":status", "0")
            self.listener.head(int(status) if status.isdecimal() else 0, headers)

    def end(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.end()

    def broken(self, problem: str) -> None:
        self.connection = None
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.broken(problem)

    def again(self, problem: str) -> None:
        """The endpoint did not begin with it: open it anew, unless that happened too often."""
        if self.listener is None:
            return
        self._reopened += 1
        if self._reopened > REOPENINGS or self.sent is None:
            self.broken(problem)
            return
        self.out = bytearray(self.sent)
        self.half_closed = False
        self._origin.admit(self)
