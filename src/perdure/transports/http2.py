"""HTTP/2 to endpoints: a conversation is a stream, and streams share connections.

Frames and flow control are `h2`'s; the socket belongs to the engine's own event loop. So what a handler says costs no
hop between threads, and it is known exactly which streams an endpoint never began when it closes a connection (some do
after a thousand requests): these are opened again at once, on another. Without TLS the endpoint is taken to speak
HTTP/2 (prior knowledge); with it ALPN has to say so.

All that is written within one turn of the event loop goes out in one piece.
"""

import asyncio
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

from perdure.model.deployments import Endpoint, HttpEndpoint
from perdure.transports.remote import Answer, Collector, Listener, Request

__all__ = ["Http2Connector"]

STREAMS = 128  # on one connection, if the endpoint allows so many; as restate-server
REOPENINGS = 5
STREAM_WINDOW = 1 << 20  # bytes an endpoint may send ahead on one stream
CONNECTION_WINDOW = 16 << 20
PING_SECONDS = 40.0  # between pings; an answer has to come before the next
IDLE_SECONDS = 300.0
CONGESTION_SECONDS = 0.005

_CONFIG = H2Configuration(
    client_side=True,
    header_encoding="utf-8",
    validate_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)


class Http2Connector:
    """Used within one running event loop. `connect_timeout` is in seconds."""

    def __init__(self, connect_timeout: float = 10.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.connect_timeout = connect_timeout
        self._origins: dict[str, _Origin] = {}

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
        for connection in self._connections:
            while waiting and connection.has_room:
                stream = waiting.popleft()
                if not stream.aborted:
                    connection.begin(stream)
        if waiting and self._connecting is None and all(each.settled for each in self._connections):
            self._connecting = self.connector.loop.create_task(self._connect())

    def gone(self, connection: "_Connection") -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        if self._waiting:
            self.room()

    async def _connect(self) -> None:
        host, port = self._address
        try:
            context = None
            if self.scheme == "https":
                context = ssl.create_default_context()
                context.set_alpn_protocols(["h2"])
            async with asyncio.timeout(self.connector.connect_timeout):
                transport, connection = await self.connector.loop.create_connection(
                    lambda: _Connection(self), host, port, ssl=context
                )
            if context is not None:
                spoken = transport.get_extra_info("ssl_object").selected_alpn_protocol()
                if spoken != "h2":
                    transport.abort()
                    raise ConnectionError("the endpoint does not speak HTTP/2 (no such frame was agreed on)")
        except (OSError, TimeoutError) as error:
            self._connecting = None
            text = str(error) or f"no connection within {self.connector.connect_timeout:g} s"
            waiting, self._waiting = self._waiting, deque()
            for stream in waiting:
                stream.broken(f"can't connect to {host}:{port}: {text}")
            return
        self._connecting = None
        self._connections.append(connection)
        self.room()

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in list(self._connections):
            connection.close()
        for stream in self._waiting:
            stream.broken("the engine stops")
        self._waiting.clear()


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, origin: _Origin) -> None:
        self._origin = origin
        self._loop = origin.connector.loop
        self._h2 = H2Connection(_CONFIG)
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, _Stream] = {}
        self._flushing = False
        self._draining = False
        self._paused = False
        self._pinged = False
        self._timer: asyncio.TimerHandle | None = None
        self._used_at = self._loop.time()
        self._limit = STREAMS
        self.settled = False  # whether the endpoint has said how many streams it takes

    @property
    def has_room(self) -> bool:
        return self._transport is not None and not self._draining and len(self._streams) < self._limit

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        h2 = self._h2
        h2.initiate_connection()
        h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW, SettingCodes.ENABLE_PUSH: 0})
        h2.increment_flow_control_window(CONNECTION_WINDOW - h2.inbound_flow_control_window)
        self.flush()
        self._timer = self._loop.call_later(PING_SECONDS, self._keep_alive)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as error:
            problem = f"the endpoint broke HTTP/2: {error}"
            if not self.settled and data.startswith(b"HTTP/1"):
                problem = "the endpoint answered with HTTP/1.1, not with a frame of HTTP/2"
            self._end(problem)
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
        if transport is not None:
            data = self._h2.data_to_send()
            if data:
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
        self._h2.ping(b"perdure\0")
        self.flush()
        self._timer = self._loop.call_later(PING_SECONDS, self._keep_alive)

    def close(self) -> None:
        """Say good-bye; streams that are open are told that there will be no more."""
        if self._transport is not None:
            try:
                self._h2.close_connection()
            except ProtocolError:
                pass
            else:
                self._flush()
        self._end("the engine has hung up")

    def _end(self, problem: str) -> None:
        self._draining = True
        if self._timer is not None:
            self._timer.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
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
        self._streams[number] = stream
        stream.connection, stream.number = self, number
        self.pump(stream)
        self.flush()

    def pump(self, stream: "_Stream") -> None:
        """Hand over as much of a stream's body as the windows let through."""
        if stream.half_closed or self._transport is None or self._paused:
            return
        h2, number, out = self._h2, stream.number, stream.out
        while out:
            room = min(h2.local_flow_control_window(number), h2.max_outbound_frame_size)
            if room <= 0:
                break
            piece = bytes(out[:room])
            del out[:room]
            h2.send_data(number, piece)
        if stream.closed and not out:
            stream.half_closed = True
            h2.end_stream(number)
        self.flush()

    def reset(self, number: int) -> None:
        """Hang up on one stream."""
        if self._streams.pop(number, None) is not None and self._transport is not None:
            try:
                self._h2.reset_stream(number, ErrorCodes.CANCEL)
            except ProtocolError:  # it is closed already
                return
            self.flush()
            self._freed()

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
            for name, value in cast("list[tuple[str, str]]", event.headers):
                headers.setdefault(name, value)
            stream.sent = None
            stream.head(headers)

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        size = event.flow_controlled_length
        if stream is None or stream.listener is None:
            self._h2.acknowledge_received_data(size, event.stream_id)
            return
        listener = stream.listener
        listener.data(event.data)
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
                self._h2.reset_stream(event.stream_id, ErrorCodes.NO_ERROR)
            stream.half_closed = True
            stream.connection = None
            stream.end()
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
            self._end("the endpoint closed the connection")

    def _on_settings(self, event: RemoteSettingsChanged) -> None:
        self.settled = True
        self._limit = min(STREAMS, self._h2.remote_settings.max_concurrent_streams)
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
