"""The admin port's routes for sessions (`perdure.ai.sessions`).

* `GET /sessions/{id}/items?limit=&tokens=&keep_first=0`: `{"items", "first", "end", "revision"}`;
* `POST /sessions/{id}/add` `{"items", "ttl"?, "to_empty"?}`, `/pop`, `/clear`, `/replace` `{"upto", "items",
  "revision"}`: each takes its turn among those who use the session. With an `idempotency-key` it may be sent again.
"""

from typing import TYPE_CHECKING

import msgspec

from perdure.errors import Invalid, NotFound
from perdure.protocol.sessions import SESSIONS, VERBS, Window
from perdure.runtime.builtin import call_builtin
from perdure.web.http import JSON, Request, Response, Router

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["SessionRoutes"]


class SessionRoutes:
    """`size_limit` is of a request's body, in bytes."""

    def __init__(self, node: "Node", size_limit: int) -> None:
        self._node = node
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        router.add("GET", "/sessions/{id}/items", self._items)
        router.add("POST", "/sessions/{id}/{verb}", self._change)

    async def _items(self, request: Request, id: str) -> Response:
        try:
            wanted = msgspec.convert(request.parameters(), Window, strict=False)
        except msgspec.ValidationError as error:
            raise Invalid(f"query: {error}") from None
        body = msgspec.json.encode(wanted)
        return Response(200, [JSON], await call_builtin(self._node, SESSIONS, "items", id, body))

    async def _change(self, request: Request, id: str, verb: str) -> Response:
        if verb not in VERBS or verb == "items":
            raise NotFound(f"{verb!r}: a session can {', '.join(VERBS[1:])}")
        body = await request.body(self._size_limit)
        key = request.fields.get(b"idempotency-key")
        given = None if key is None else key.decode("latin-1")
        return Response(200, [JSON], await call_builtin(self._node, SESSIONS, verb, id, body, given))
