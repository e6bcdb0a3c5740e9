"""MCP over standard input and output, and over HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from mcp.server import Server
from mcp.server.stdio import stdio_server

from perdure.errors import RequestError
from perdure.mcp.gateway import Gateways
from perdure.mcp.server import bearer

__all__ = ["PATH", "bound", "serve_http", "serve_stdio", "url_of"]

PATH = "/mcp"
_CHALLENGE = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
Message = dict[str, Any]


async def serve_stdio(server: Server[Any]) -> None:
    """Serves one client until it closes our standard input. What handlers print goes to stderr meanwhile."""
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def bound(host: str, port: int) -> socket.socket:
    """A socket to serve on; port 0 takes a free one. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # who connects before the first request is served waits
    except BaseException:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Where clients find what is served on it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


async def serve_http(server: Server[Any], gateways: Gateways, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Whoever asks is asked for a key wherever the server of perdure asks for one."""
    host = listener.getsockname()[0]
    app = server.streamable_http_app(streamable_http_path=PATH, host=host)
    config = uvicorn.Config(
        _Guarded(app, gateways), log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
    http = _Quiet(config)
    serving = asyncio.ensure_future(http.serve(sockets=[listener]))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    http.should_exit = True
    await serving


class _Quiet(uvicorn.Server):
    """Signals are the command's, not the HTTP server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Guarded:
    """Lets a request through whose API key the server of perdure takes; the server decides, here nothing is known."""

    def __init__(self, app: Callable[..., Awaitable[None]], gateways: Gateways) -> None:
        self._app = app
        self._gateways = gateways

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            shown = headers.get(b"authorization")
            try:
                status = await self._gateways.admits(bearer(None if shown is None else shown.decode("latin-1")))
            except RequestError:
                status = 200  # nobody can say; the calls themselves will not get further
            if status != 200:
                text = "an API key of perdure is needed: authorization: Bearer KEY"
                if status == 403:
                    text = "this API key may not list services and call them: the role operator may"
                body = msgspec.json.encode({"error": {"code": status, "message": text}})
                await send({"type": "http.response.start", "status": status, "headers": _CHALLENGE})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)
