"""The ingress through the admin port, for the console: a browser that reaches one port need not reach the other.

`/ingress/...` is handed to the ingress as it is, within the process; what the ingress asks for (a key, a body's type)
it asks for here too. Streams of invocations can be read with a key that may only look, as all that is stored can.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from perdure.model.ids import parse_invocation_id
from perdure.model.keys import Role
from perdure.web.http import CallerGone, Departures, Receive, Request, Response, Router, Scope, Send
from perdure.web.operations import Operation
from perdure.web.streams import read_stream

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["Application", "ForwardingRoutes"]

_PREFIX: Final = "/ingress"
_PIECES: Final = 16  # of a body that wait until they are read; then the ingress waits
_NOT_OURS: Final = (b"access-control-", b"server", b"vary")

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class ForwardingRoutes:
    """`ingress` is the ASGI application of the ingress port."""

    def __init__(self, node: "Node", ingress: Application) -> None:
        self._node = node
        self._ingress = ingress
        self._departures = Departures()

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        for method in ("GET", "POST"):
            operation = Operation("ingress", "The ingress, for the console", {}, public=False)
            router.add(method, f"{_PREFIX}/{{*path}}", self._forward, role=Role.OPERATOR, operation=operation)
        operation = Operation(
            "invocation",
            "A stream of an invocation, as server-sent events",
            {200: str},
            (404, 429),
            answer_type="text/event-stream",
        )
        path = "/invocations/{invocation_id}/streams/{name}"
        router.add("GET", path, self._stream, role=Role.READ, operation=operation)

    async def _stream(self, request: Request, invocation_id: str, name: str) -> Response:
        id = parse_invocation_id(invocation_id)
        return await read_stream(self._node, request, id, name, {}, self._departures)

    async def _forward(self, request: Request, path: str) -> Response:
        # As it was sent: what the router decoded may have had an encoded slash in it.
        _, _, rest = request.path.partition(_PREFIX)
        scope = {**request.scope, "path": rest or "/", "raw_path": (rest or "/").encode()}
        return await _asked(self._ingress, scope, request.receive)


async def _asked(app: Application, scope: Mapping[str, Any], receive: Receive) -> Response:
    """The application's response; its body comes in pieces, and closing it ends the application's work on it."""
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
    started: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.set_result(message)
        elif message["type"] == "http.response.body" and message.get("body"):
            await pieces.put(message["body"])

    async def work() -> None:
        try:
            await app(scope, receive, send)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await pieces.put(None)

    task = asyncio.get_running_loop().create_task(work(), name="forwarded to the ingress")
    try:
        await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not started.done():
        await task  # raises what it raised
        raise CallerGone
    message = started.result()
    headers = [header for header in message["headers"] if not header[0].startswith(_NOT_OURS)]
    return Response(message["status"], headers, _body(pieces, task))


async def _body(pieces: "asyncio.Queue[bytes | None]", task: "asyncio.Task[None]") -> AsyncGenerator[bytes, None]:
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        await task
    finally:
        task.cancel()
