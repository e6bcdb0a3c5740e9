"""Endpoints over HTTP: HTTP/2 (prior knowledge without TLS, ALPN with it) as a conversation, HTTP/1.1 as one exchange.

A connection carries at most so many streams, because endpoints allow only so many (hypercorn a hundred) and a stream
beyond them would wait unseen; more open another connection. An endpoint may end a connection at any time (hypercorn
does after a thousand requests): streams that it never began are opened again at once, on another.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pyqwest

from perdure.model.deployments import Endpoint, HttpEndpoint
from perdure.transports.remote import Answer, Listener, Request

__all__ = ["HttpConnector"]

STREAMS_PER_CONNECTION = 100
REOPENINGS = 3
CONGESTION_SECONDS = 0.005
DISCOVERY_SECONDS = 10.0
DISCOVERY_BYTES = 32 << 20


class _Connection:
    """One connection of HTTP/2, or the pool of HTTP/1.1."""

    __slots__ = ("streams", "transport")

    def __init__(self, version: str, tls: bool, connect_timeout: float) -> None:
        wanted = pyqwest.HTTPVersion.HTTP1 if version == "1.1" else pyqwest.HTTPVersion.HTTP2
        self.transport = pyqwest.HTTPTransport(
            http_version=None if tls and version != "1.1" else wanted,
            tls_include_system_certs=tls,
            connect_timeout=connect_timeout,
            pool_max_idle_per_host=STREAMS_PER_CONNECTION,
            enable_gzip=False,
            enable_brotli=False,
            enable_zstd=False,
            follow_redirects=False,
            enable_otel=False,
        )
        self.streams = 0


class HttpConnector:
    """Used within one running event loop. `connect_timeout` is in seconds."""

    def __init__(self, connect_timeout: float = 10.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_timeout = connect_timeout
        self._connections: dict[tuple[str, str], list[_Connection]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def _connection(self, endpoint: HttpEndpoint) -> _Connection:
        """One with room for another stream."""
        parts = urlsplit(endpoint.uri)
        known = self._connections.setdefault((f"{parts.scheme}://{parts.netloc}", endpoint.http_version), [])
        for connection in known:
            if connection.streams < STREAMS_PER_CONNECTION or endpoint.http_version == "1.1":
                return connection
        connection = _Connection(endpoint.http_version, parts.scheme == "https", self._connect_timeout)
        known.append(connection)
        return connection

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> "_HttpStream":
        assert isinstance(endpoint, HttpEndpoint)
        stream = _HttpStream(self, endpoint, request, listener)
        task = stream.task = self._loop.create_task(stream.run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return stream

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        assert isinstance(endpoint, HttpEndpoint)
        transport = self._connection(endpoint).transport
        url = endpoint.uri + request.path
        body = bytearray()
        try:
            async with asyncio.timeout(DISCOVERY_SECONDS):
                response = await transport.execute(
                    pyqwest.Request(request.method, url, pyqwest.Headers(request.headers))
                )
                async for chunk in response.content:
                    body += chunk
                    if len(body) > DISCOVERY_BYTES:
                        raise ConnectionError(f"{url}: the answer has more than {DISCOVERY_BYTES} bytes")
        except TimeoutError as error:
            raise ConnectionError(f"{url}: no answer ({error or f'{DISCOVERY_SECONDS:.0f} s have passed'})") from error
        except ConnectionError:
            raise
        except Exception as error:
            raise ConnectionError(f"{url}: {_words(error)}") from error
        return Answer(response.status, _headers(response), bytes(body), _version_of(response))

    async def close(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for connections in self._connections.values():
            for connection in connections:
                await connection.transport.aclose()
        self._connections.clear()


class _HttpStream:
    """One request and its response."""

    __slots__ = (
        "_aborted",
        "_closed",
        "_connector",
        "_endpoint",
        "_listener",
        "_out",
        "_request",
        "_sent",
        "_wake",
        "task",
        "unsent",
    )

    def __init__(self, connector: HttpConnector, endpoint: HttpEndpoint, request: Request, listener: Listener) -> None:
        self._connector = connector
        self._endpoint = endpoint
        self._request = request
        self._listener: Listener | None = listener
        self._out: deque[bytes] = deque()
        self._sent: list[bytes] | None = []  # until the endpoint answers, so that it can all be sent again
        self._wake: asyncio.Future[None] | None = None
        self._closed = False
        self._aborted = False
        self.unsent = 0
        self.task: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self.unsent += len(data)
        self._stir()

    def close(self) -> None:
        self._closed = True
        self._stir()

    def abort(self) -> None:
        self._listener = None
        if not self._aborted:
            self._aborted = True
            if self.task is not None:
                self.task.cancel()

    def _stir(self) -> None:
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    async def _body(self) -> AsyncIterator[bytes]:
        out = self._out
        while True:
            if out:
                data = b"".join(out) if len(out) > 1 else out[0]
                out.clear()
                self.unsent -= len(data)
                if self._sent is not None:
                    self._sent.append(data)
                yield data
            elif self._closed:
                return
            else:
                self._wake = self._connector._loop.create_future()
                await self._wake

    async def run(self) -> None:
        try:
            for reopenings in range(REOPENINGS + 1):
                connection = self._connector._connection(self._endpoint)
                connection.streams += 1
                try:
                    await self._exchange(connection)
                    return
                except Exception as error:
                    listener = self._listener
                    if listener is None:
                        return
                    if self._sent is None or reopenings == REOPENINGS or not _never_begun(error):
                        listener.broken(_words(error))
                        return
                    self._out.extendleft(reversed(self._sent))
                    self.unsent += sum(map(len, self._sent))
                    self._sent.clear()
                finally:
                    connection.streams -= 1
        except asyncio.CancelledError:
            if not self._aborted:
                raise

    async def _exchange(self, connection: _Connection) -> None:
        request = self._request
        content: Any = self._body()
        if not request.bidirectional:
            content = b"".join([part async for part in content])
        url = self._endpoint.uri + request.path
        response = await connection.transport.execute(
            pyqwest.Request(request.method, url, pyqwest.Headers(request.headers), content)
        )
        self._sent = None
        try:
            if self._listener is not None:
                self._listener.head(response.status, _headers(response))
            async for chunk in response.content:
                listener = self._listener
                if listener is None:
                    return
                listener.data(bytes(chunk))
                while listener.congested:  # noqa: ASYNC110  # rare, and nobody could set an event for it
                    await asyncio.sleep(CONGESTION_SECONDS)
            if self._listener is not None:
                self._listener.end()
        finally:
            with contextlib.suppress(Exception):
                await response.aclose()


def _never_begun(error: Exception) -> bool:
    """Whether the endpoint says that it did not begin with the request: sending it again does nothing twice."""
    return isinstance(error, pyqwest.StreamError) and error.code in (
        pyqwest.StreamErrorCode.REFUSED_STREAM,
        pyqwest.StreamErrorCode.NO_ERROR,
    )


def _headers(response: pyqwest.Response) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in response.headers.items():
        found.setdefault(name.lower(), value)
    return found


def _version_of(response: pyqwest.Response) -> str:
    return "1.1" if response.http_version == pyqwest.HTTPVersion.HTTP1 else "2"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
