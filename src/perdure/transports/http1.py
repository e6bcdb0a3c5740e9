"""HTTP/1.1 to endpoints: one request with all that is known, one response. The connections are pyqwest's."""

import asyncio

import pyqwest

from perdure.model.deployments import Endpoint, HttpEndpoint
from perdure.transports.remote import Answer, Collector, Listener, Request
from perdure.transports.tasks import Tasks

__all__ = ["Http1Connector"]

CONGESTION_SECONDS = 0.005
IDLE_CONNECTIONS = 128


class Http1Connector:
    """Used within one running event loop. `connect_timeout` is in seconds."""

    def __init__(self, connect_timeout: float = 10.0) -> None:
        self._connect_timeout = connect_timeout
        self._transport: pyqwest.HTTPTransport | None = None
        self._tasks = Tasks()

    @property
    def transport(self) -> pyqwest.HTTPTransport:
        """Its pool of connections, made when it is first needed."""
        if self._transport is None:
            self._transport = pyqwest.HTTPTransport(
                http_version=pyqwest.HTTPVersion.HTTP1,
                tls_include_system_certs=True,
                connect_timeout=self._connect_timeout,
                pool_max_idle_per_host=IDLE_CONNECTIONS,
                enable_gzip=False,
                enable_brotli=False,
                enable_zstd=False,
                follow_redirects=False,
                enable_otel=False,
            )
        return self._transport

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> "_Exchange":
        assert isinstance(endpoint, HttpEndpoint)
        return _Exchange(self, endpoint, request, listener)

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        assert isinstance(endpoint, HttpEndpoint)
        collector = Collector(f"{endpoint.uri}{request.path}")
        exchange = self.open(endpoint, request, collector)
        exchange.close()
        try:
            return (await collector.answer(self._connect_timeout))._replace(http_version="1.1")
        finally:
            exchange.abort()

    def run(self, exchange: "_Exchange") -> "asyncio.Task[None]":
        return self._tasks.start(exchange.run())

    async def close(self) -> None:
        await self._tasks.close()
        if self._transport is not None:
            await self._transport.aclose()


class _Exchange:
    """Collects the request, sends it once it is whole, and reads the response; a `remote.ByteStream`."""

    __slots__ = ("_body", "_connector", "_endpoint", "_listener", "_request", "_task")

    def __init__(self, connector: Http1Connector, endpoint: HttpEndpoint, request: Request, listener: Listener) -> None:
        self._connector = connector
        self._endpoint = endpoint
        self._request = request
        self._listener: Listener | None = listener
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None

    @property
    def unsent(self) -> int:
        return 0 if self._task is not None else len(self._body)

    def write(self, data: bytes) -> None:
        self._body += data

    def close(self) -> None:
        if self._task is None and self._listener is not None:
            self._task = self._connector.run(self)

    def abort(self) -> None:
        self._listener = None
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        try:
            await self._exchange()
        except asyncio.CancelledError:
            if self._listener is not None:  # it was not us: the engine stops
                raise
        except Exception as error:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.broken(f"{type(error).__name__}: {error}")

    async def _exchange(self) -> None:
        request = self._request
        url, headers = self._endpoint.uri + request.path, pyqwest.Headers(request.headers)
        body = bytes(self._body) if self._body else None
        response = await self._connector.transport.execute(pyqwest.Request(request.method, url, headers, body))
        found: dict[str, str] = {}
        for name, value in response.headers.items():
            found.setdefault(name.lower(), value)
        if self._listener is not None:
            self._listener.head(response.status, found)
        async for chunk in response.content:
            listener = self._listener
            if listener is None:
                return
            listener.data(bytes(chunk))
            while listener.congested:  # noqa: ASYNC110  # rare, and nobody could set an event for it
                await asyncio.sleep(CONGESTION_SECONDS)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.end()
