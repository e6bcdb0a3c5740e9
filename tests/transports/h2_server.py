"""A little HTTP/2 server in the test's process, which does what a test tells it to, and a listener that remembers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from perdure.model.deployments import HttpEndpoint
from perdure.transports.http2 import Http2Connector
from perdure.transports.remote import Request

TIMEOUT_S = 20.0


class Heard:
    """A listener that keeps what it is told; `over` is "end" or the problem."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = bytearray()
        self.congested = False
        self.calls: list[str] = []
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.calls.append("head")
        self.status, self.headers = status, headers
        self._news.set()

    def data(self, chunk: bytes) -> None:
        self.calls.append("data")
        self.body += chunk
        self._news.set()

    def end(self) -> None:
        self.calls.append("end")
        self._over.set_result("end")
        self._news.set()

    def broken(self, problem: str) -> None:
        self.calls.append("broken")
        self._over.set_result(problem)
        self._news.set()

    @property
    def is_over(self) -> bool:
        return self._over.done()

    async def over(self) -> str:
        return await asyncio.wait_for(asyncio.shield(self._over), TIMEOUT_S)

    async def until(self, size: int) -> bytes:
        """The body, once it has so many bytes."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.body) < size:
                assert not self._over.done(), f"{self._over.result()} after {bytes(self.body[:100])!r}"
                self._news.clear()
                await self._news.wait()
        return bytes(self.body)


class Served:
    """One stream, seen from the server."""

    def __init__(self, connection: "ServerConnection", number: int, headers: Mapping[str, str]) -> None:
        self.connection = connection
        self.number = number
        self.headers = headers
        self.reset_with: int | None = None
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.window = asyncio.Event()

    def received(self, chunk: bytes | None) -> None:
        self._chunks.put_nowait(chunk)

    async def read(self) -> bytes | None:
        """The next piece of the request; None at its end."""
        return await asyncio.wait_for(self._chunks.get(), TIMEOUT_S)

    async def whole(self) -> bytes:
        body = b""
        while (chunk := await self.read()) is not None:
            body += chunk
        return body

    def head(self, status: int = 200, headers: Mapping[str, str] = {}, end: bool = False) -> None:
        fields = [(":status", str(status)), *headers.items()]
        self.connection.h2.send_headers(self.number, fields, end_stream=end)
        self.connection.flush()

    async def send(self, data: bytes, end: bool = False) -> None:
        h2 = self.connection.h2
        while data:
            room = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size)
            if room <= 0:
                self.window.clear()
                await asyncio.wait_for(self.window.wait(), TIMEOUT_S)
                continue
            h2.send_data(self.number, data[:room])
            data = data[room:]
            self.connection.flush()
        if end:
            h2.end_stream(self.number)
            self.connection.flush()

    def reset(self, code: ErrorCodes | int = ErrorCodes.INTERNAL_ERROR) -> None:
        self.connection.h2.reset_stream(self.number, code)
        self.connection.flush()


Serve = Callable[[Served], Awaitable[None]]


class ServerConnection(asyncio.Protocol):
    """One connection, seen from the server."""

    def __init__(self, server: "H2Server") -> None:
        self.server = server
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        if server.settings is not None:  # enforced from the start, as some servers do
            self.h2.local_settings = Settings(client=False, initial_values=server.settings)
        self.streams: dict[int, Served] = {}
        self.requests = 0
        self.last: int | None = None  # of a GOAWAY
        self.farewell: int | None = None  # the error code of the client's
        self.deaf = False  # answers nothing any more
        self.held = False  # what is to be sent is kept, to go out in one piece
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.append(self)
        if self.server.greets:
            self.h2.initiate_connection()
            self.flush()

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if not self.server.greets:
            self.server.shout(self)
            return
        try:
            events = self.h2.receive_data(data)
        except ProtocolError as error:
            self.server.violations.append(repr(error))
            self.flush()
            self.close()
            return
        for event in events:
            if isinstance(event, RequestReceived):
                self._began(event)
            elif isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id or 0)
                if (stream := self.streams.get(event.stream_id or 0)) is not None:
                    stream.received(event.data)
            elif isinstance(event, StreamEnded):
                if (stream := self.streams.get(event.stream_id or 0)) is not None:
                    stream.received(None)
            elif isinstance(event, StreamReset):
                if (stream := self.streams.get(event.stream_id or 0)) is not None:
                    stream.reset_with = int(event.error_code or 0)
                    stream.received(None)
            elif isinstance(event, WindowUpdated):
                for stream in self.streams.values():
                    stream.window.set()
            elif isinstance(event, ConnectionTerminated):
                self.farewell = int(event.error_code or 0)
            elif isinstance(event, PingReceived):
                self.server.pings += 1
        self.flush()

    def _began(self, event: RequestReceived) -> None:
        number = event.stream_id or 0
        if self.last is not None and number > self.last:
            return
        self.requests += 1
        fields = cast("list[tuple[str, str]]", event.headers)
        stream = self.streams[number] = Served(self, number, dict(fields))
        self.server.begin(stream)

    def flush(self) -> None:
        if self.transport is not None and not self.held and not self.deaf and (data := self.h2.data_to_send()):
            self.transport.write(data)

    def goodbye(self, last: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """GOAWAY, after which the streams up to `last` go on."""
        self.last = last
        self.flush()
        if self.transport is not None:
            self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=code).serialize())

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.closed.done():
            self.closed.set_result(None)
        for stream in self.streams.values():
            stream.received(None)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self.transport is not None:
            self.transport.abort()


class H2Server:
    """`serve` is run for every stream. `settings` are enforced before the client has acknowledged them."""

    def __init__(self, serve: Serve, settings: Mapping[SettingCodes, int] | None = None) -> None:
        self._serve = serve
        self.settings = None if settings is None else dict(settings)
        self.greets = True
        self.shout: Callable[[ServerConnection], None] = lambda connection: None  # what is done instead of greeting
        self.connections: list[ServerConnection] = []
        self.violations: list[str] = []
        self.pings = 0
        self.uri = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    @property
    def endpoint(self) -> HttpEndpoint:
        return HttpEndpoint(self.uri)

    def begin(self, stream: Served) -> None:
        async def run() -> None:
            await self._serve(stream)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def close(self) -> None:
        for connection in self.connections:
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(
    serve: Serve,
    settings: Mapping[SettingCodes, int] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    greets: bool = True,
    lenient: bool = False,
) -> AsyncIterator[H2Server]:
    """A server on a free port. What goes wrong in `serve`, or in the client's HTTP/2, fails the test."""
    server = H2Server(serve, settings)
    server.greets = greets
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: ServerConnection(server), "127.0.0.1", 0, ssl=tls)
    host = "localhost" if tls is not None else "127.0.0.1"
    server.uri = f"{'https' if tls is not None else 'http'}://{host}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await server.close()
        await listener.wait_closed()
    if not lenient:
        assert server.violations == []
        if server._failures:
            raise server._failures[0]


@asynccontextmanager
async def connector(connect_timeout: float = 10.0) -> AsyncIterator[Http2Connector]:
    """A connector, after whose end nothing runs any more."""
    before = asyncio.all_tasks()
    made = Http2Connector(connect_timeout)
    try:
        yield made
    finally:
        await made.close()
        await asyncio.sleep(0)
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]
        assert not [name for name in names if name.startswith(("_Origin", "_Connection", "Http2Connector"))]


def post(path: str = "/invoke/S/h", *headers: tuple[str, str]) -> Request:
    return Request("POST", path, headers, True)
