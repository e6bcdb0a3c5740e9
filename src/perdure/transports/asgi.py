"""Endpoints that are ASGI applications of this process: the same bytes as over HTTP/2, and no network."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from perdure.model.deployments import AsgiEndpoint, Endpoint
from perdure.transports.remote import Answer, Collector, Listener, Request
from perdure.transports.tasks import Tasks

__all__ = ["AsgiApp", "AsgiConnector"]

Message: TypeAlias = MutableMapping[str, Any]
AsgiApp: TypeAlias = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

CONGESTION_SECONDS = 0.005
FETCH_SECONDS = 10.0


class AsgiConnector:
    """Runs requests on `apps`, by the name of their endpoint, as tasks of the running event loop."""

    def __init__(self, apps: Mapping[str, AsgiApp]) -> None:
        self._apps = apps
        self._tasks = Tasks()

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> "_AsgiStream":
        assert isinstance(endpoint, AsgiEndpoint)
        stream = _AsgiStream(self._apps[endpoint.name], request, listener)
        stream.task = self._tasks.start(stream.run())
        return stream

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        assert isinstance(endpoint, AsgiEndpoint)
        collector = Collector(f"{endpoint.address}{request.path}")
        stream = self.open(endpoint, request, collector)
        stream.close()
        try:
            return await collector.answer(FETCH_SECONDS)
        finally:
            stream.abort()

    async def close(self) -> None:
        await self._tasks.close()


class _AsgiStream:
    """One request to an application."""

    __slots__ = ("_app", "_closed", "_ended", "_listener", "_out", "_over", "_request", "_wake", "task", "unsent")

    def __init__(self, app: AsgiApp, request: Request, listener: Listener) -> None:
        self._app = app
        self._request = request
        self._listener: Listener | None = listener
        self._out: deque[bytes] = deque()
        self._closed = False
        self._over = False  # the whole body was handed over
        self._ended = False  # the whole response was
        self._wake: asyncio.Future[None] | None = None
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
        if self.task is not None and not self._ended:
            self.task.cancel()

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _scope(self) -> MutableMapping[str, Any]:
        request = self._request
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in request.headers],
            "client": None,
            "server": None,
            "extensions": {},
        }

    async def run(self) -> None:
        try:
            await self._app(self._scope(), self._next_message, self._answer)
        except asyncio.CancelledError:
            if self._listener is not None:  # it was not us: the process stops
                raise
        except Exception as error:
            if self._listener is not None:
                self._listener.broken(f"the application failed: {type(error).__name__}: {error}")
        else:
            if self._listener is not None and not self._ended:
                self._listener.broken("the application returned before its response was whole")

    async def _next_message(self) -> Message:
        while not self._out and not self._closed:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self.unsent = 0
            self._over = self._closed
            return {"type": "http.request", "body": data, "more_body": not self._closed}
        if not self._over:
            self._over = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.get_running_loop().create_future()  # until the task is cancelled: nobody hangs up otherwise
        raise AssertionError("unreachable")

    async def _answer(self, message: Message) -> None:
        listener = self._listener
        if listener is None:
            return
        if message["type"] == "http.response.start":
            headers: dict[str, str] = {}
            for name, value in message.get("headers", ()):
                headers.setdefault(bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1"))
            listener.head(message["status"], headers)
        elif message["type"] == "http.response.body":
            if body := message.get("body", b""):
                listener.data(bytes(body))
            if not message.get("more_body", False):
                self._ended = True
                if self._listener is not None:
                    self._listener = None
                    listener.end()
            while listener.congested:  # noqa: ASYNC110  # rare, and nobody could set an event for it
                await asyncio.sleep(CONGESTION_SECONDS)
