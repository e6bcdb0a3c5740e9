"""A listening socket and the HTTP server behind it: HTTP/1.1 and HTTP/2 on one port, in clear text or over TLS.

The server is granian, embedded: Rust threads read and write the sockets, and the application's coroutines run on
the caller's own event loop, beside the engine. The socket is made here, so that a port in use is an error (granian
would share the port with whoever has it) and port 0 is a free one.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from perdure.errors import PerdureError
from perdure.web.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["STREAMS", "Listener", "PortInUse"]

STREAMS = 200  # restate-server's
_BACKLOG = 1024
_CONNECTIONS = 65_536  # far above what a process may open: a caller who waits must not keep out one who resolves


class PortInUse(PerdureError):
    """The address cannot be listened at."""


class Listener:
    """Serves an ASGI application at `host:port`, from `start` until `stop`; with `tls` over TLS 1.2 or 1.3, and at most
    `streams` requests at once on each HTTP/2 connection."""

    def __init__(
        self,
        app: "Callable[[Any, Any, Any], Awaitable[None]]",
        host: str,
        port: int,
        tls: Tls | None = None,
        streams: int = STREAMS,
    ) -> None:
        self._app = app
        self._tls = tls
        self._streams = streams
        self.host = host
        self.port = port
        self._server: Any = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where a client of this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    def bind(self) -> socket.socket:
        """Takes the port; connections wait until `start`. Raises `PortInUse`."""
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            dualstack = family == socket.AF_INET6 and self.host == "::" and socket.has_dualstack_ipv6()
            bound = socket.create_server(
                (address[0], self.port), family=family, backlog=_BACKLOG, dualstack_ipv6=dualstack
            )
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise PortInUse(f"cannot listen at {self.host}:{self.port}: {why}") from error
        with contextlib.suppress(OSError):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.setblocking(False)
        self.port = bound.getsockname()[1]
        return bound

    def start(self, bound: socket.socket | None = None) -> None:
        """Begins to serve, in the running event loop."""
        self._server = _embedded(self._app, bound or self.bind(), self._tls, self._streams)
        self._task = asyncio.get_running_loop().create_task(self._server.serve(), name=f"listener {self.port}")

    def close(self) -> None:
        """Takes no more connections; those that are open are asked to end after the response they wait for."""
        if self._server is not None:
            self._server.stop()

    async def closed(self, timeout: float | None = None) -> bool:
        """Waits, `timeout` seconds at most, until every response is sent; False if some are not."""
        if self._task is None:
            return True
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        if done:
            await self._task
        return bool(done)


def _embedded(
    app: "Callable[[Any, Any, Any], Awaitable[None]]", bound: socket.socket, tls: Tls | None, streams: int
) -> Any:
    import granian.net
    from granian.constants import Interfaces, SSLProtocols
    from granian.http import HTTP2Settings
    from granian.log import LogLevels
    from granian.server.embed import Server

    class OnSocket(Server):
        """Listens on a socket that is there already, as granian's own worker processes do."""

        def _init_shared_socket(self) -> None:
            hold: Any = vars(granian.net)["SocketHolder"]
            arguments = {"win32": (), "darwin": (False,)}.get(sys.platform, (False, _BACKLOG))
            self._shd = hold(bound.detach(), *arguments)

    logging.getLogger("_granian").addFilter(_not_the_warning)
    quiet = {"incremental": True, "formatters": {}, "handlers": {}, "loggers": {}}  # the process's logging is its own
    return OnSocket(
        app,
        interface=Interfaces.ASGINL,
        websockets=False,
        backlog=_BACKLOG,
        backpressure=_CONNECTIONS,
        http2_settings=HTTP2Settings(max_concurrent_streams=streams),
        log_dictconfig=quiet,
        log_level=LogLevels.warning,
        ssl_cert=None if tls is None else tls.certificate,
        ssl_key=None if tls is None else tls.key,
        ssl_protocol_min=SSLProtocols.tls12,
    )


def _not_the_warning(record: logging.LogRecord) -> bool:
    return "experimental" not in record.getMessage()
