"""Handlers that are spoken to in bytes: an endpoint of the service protocol without a network.

So the simulator's seeds also try the way to deployments, both ends of the protocol, its acks and suspensions, what is
not on the wire (times, the tries of steps), and that a handler replays from a journal that messages wrote.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from perdure.model.deployments import Deployment, Endpoint, HttpEndpoint, ProtocolMode, Revision
from perdure.model.invocation import Target
from perdure.model.services import HandlerInfo, ServiceInfo
from perdure.protocol.control import End, Error, Said, Start, Suspension
from perdure.protocol.exchange import HandlerEnd
from perdure.protocol.versions import NEWEST, OLDEST, version_of
from perdure.transports.base import Duplex, Receive, Transport
from perdure.transports.remote import Answer, Listener, Remote, RemoteDuplex, Request

__all__ = ["DEPLOYMENT", "HandlerConnector", "WrappedRemote", "deployment_of"]

DEPLOYMENT = "dp_simulated"


def deployment_of(services: Iterable[ServiceInfo], mode: ProtocolMode) -> Deployment:
    """All services, as though another process served them."""
    revisions = {info.name: Revision(1, info) for info in services}
    return Deployment(DEPLOYMENT, HttpEndpoint("http://simulated"), mode, OLDEST, NEWEST, 0, revisions)


class HandlerConnector:
    """A connector to the handlers that `serve` opens; everything happens in callbacks of `loop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        serve: Callable[[Start, Receive], Duplex],
        handlers: Mapping[tuple[str, str], HandlerInfo],
    ) -> None:
        self.loop = loop
        self.serve = serve
        self.handlers = handlers

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> "_Stream":
        return _Stream(self, request, listener)

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        raise ConnectionError("nothing is to be found out here")

    async def close(self) -> None:
        pass


class _Stream:
    """One request, and the handler's run that answers it."""

    unsent = 0

    def __init__(self, connector: HandlerConnector, request: Request, listener: Listener) -> None:
        self._connector = connector
        self._listener: Listener | None = listener
        self._headers = dict(request.headers)
        version = version_of(self._headers["content-type"])
        assert version is not None
        _, _, service, handler = request.path.split("/")
        info = connector.handlers[service, handler]
        self._end = HandlerEnd(Target(service, handler, info.kind), version, info.retry_policy)
        self._run: Duplex | None = None
        self._soon(self._answer)

    def _soon(self, callback: Callable[[], None]) -> None:
        self._connector.loop.call_soon(lambda: callback() if self._listener is not None else None)

    def _answer(self) -> None:
        if self._listener is not None:
            self._listener.head(200, {"content-type": self._headers["content-type"]})

    def write(self, data: bytes) -> None:
        self._soon(lambda: self._read(data))

    def _read(self, data: bytes) -> None:
        for message in self._end.feed(data):
            if isinstance(message, Start):
                self._run = self._connector.serve(message, self._say)
                self._run.begin()
            elif self._run is not None:
                self._run.notify(message)

    def _say(self, message: Said) -> None:
        data = self._end.encode(message)
        if data and self._listener is not None:
            self._listener.data(data)
        if isinstance(message, Suspension | Error | End):
            self._soon(self._over)

    def _over(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.end()

    def close(self) -> None:
        self._soon(self._close_input)

    def _close_input(self) -> None:
        if self._run is not None:
            self._run.close_input()

    def abort(self) -> None:
        self._listener = None
        if self._run is not None:
            self._run.abort()


class WrappedRemote(Remote):
    """Ways to deployments, each wrapped by `wrap` as the one in process is."""

    wrap: Callable[[Transport, Start, Receive], Duplex]

    def open(  # type: ignore[override]  # the invoker asks no more of it than of any other way
        self, deployment: Deployment, version: int, info: HandlerInfo, start: Start, receive: Receive
    ) -> Duplex:
        return self.wrap(_Opener(super().open, deployment, version, info), start, receive)


class _Opener:
    """A transport to one handler of a deployment."""

    def __init__(
        self, opener: Callable[..., RemoteDuplex], deployment: Deployment, version: int, info: HandlerInfo
    ) -> None:
        self._opener = opener
        self._arguments = (deployment, version, info)

    def open(self, start: Start, receive: Receive) -> Duplex:
        return self._opener(*self._arguments, start, receive)
