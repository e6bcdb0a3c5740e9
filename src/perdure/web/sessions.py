"""The admin port's routes for sessions (`perdure.ai.sessions`).

* `GET /sessions/{id}/items?limit=&tokens=&keep_first=0`: `{"items", "first", "end", "revision"}`;
* `POST /sessions/{id}/add` `{"items", "ttl"?, "to_empty"?}`, `/pop`, `/clear`, `/replace` `{"upto", "items",
  "revision"}`: each takes its turn among those who use the session. With an `idempotency-key` it may be sent again.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import Invalid, NotFound
from perdure.model.keys import Role
from perdure.protocol.sessions import SESSIONS, VERBS, Window
from perdure.runtime.builtin import call_builtin
from perdure.web.http import JSON, Request, Response, Router
from perdure.web.operations import Operation, Parameter

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
        tag = "session"
        window = tuple(
            Parameter(name, about, {"type": "integer", "minimum": 0})
            for name, about in (
                ("limit", "At most so many, the newest."),
                ("tokens", "At most about so many tokens."),
                ("keep_first", "So many of the oldest beside them."),
            )
        )
        operation = Operation(tag, "What is in a session", {200: dict[str, Any]}, parameters=window)
        router.add("GET", "/sessions/{id}/items", self._items, role=Role.READ, operation=operation)
        operation = Operation(
            tag, "Change a session: add, pop, clear or replace", {200: Any}, (404, 409, 413), dict[str, Any]
        )
        router.add("POST", "/sessions/{id}/{verb}", self._change, role=Role.OPERATOR, operation=operation)

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
