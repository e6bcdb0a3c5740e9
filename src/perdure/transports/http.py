"""Endpoints over HTTP, by the version they were found to speak."""

from perdure.model.deployments import Endpoint, HttpEndpoint
from perdure.transports.http1 import Http1Connector
from perdure.transports.http2 import Http2Connector
from perdure.transports.remote import Answer, ByteStream, Listener, Request

__all__ = ["HttpConnector"]


class HttpConnector:
    """Used within one running event loop. `connect_timeout` is in seconds."""

    def __init__(self, connect_timeout: float = 10.0) -> None:
        self._http1 = Http1Connector(connect_timeout)
        self._http2 = Http2Connector(connect_timeout)

    def _of(self, endpoint: Endpoint) -> Http1Connector | Http2Connector:
        assert isinstance(endpoint, HttpEndpoint)
        return self._http1 if endpoint.http_version == "1.1" else self._http2

    @property
    def connections(self) -> int:
        """How many are open; those of HTTP/1.1 are its client's own affair."""
        return self._http2.connections

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> ByteStream:
        return self._of(endpoint).open(endpoint, request, listener)

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        return await self._of(endpoint).fetch(endpoint, request)

    async def close(self) -> None:
        await self._http1.close()
        await self._http2.close()
