"""The admin port's routes of what virtual objects and workflows keep.

`POST /services/{service}/state` is restate-server's. Reading, and changing a part, are ours:

* `GET /services/{service}/state/{key}`: `{"state": {name: base64}}`;
* `PATCH` of the same with `{"changes": {name: base64 or null}, "replace": false}`: sets, and clears what is null; with
  `replace`, also everything that is not named. It takes its turn among the exclusive handlers of that key: 200 when it
  is done, 202 when it is stored and waits.
"""

from typing import TYPE_CHECKING, Annotated

import msgspec

from perdure.errors import Invalid, NotFound
from perdure.model.keys import Role
from perdure.web.http import Request, Response, Router, json_response, read_json
from perdure.web.operations import BODY_ERRORS, Operation

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["StateRoutes"]

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class StateReplacement(msgspec.Struct):
    """The whole new state, its values as lists of bytes; `version` is that of the old one, or the change is dropped."""

    object_key: str
    new_state: dict[str, list[_Byte]]
    version: str | None = None


class StateChange(msgspec.Struct):
    """Values in base64; null clears. With `replace`, what is not named is cleared too."""

    changes: dict[str, bytes | None]
    replace: bool = False


class StateAnswer(msgspec.Struct):
    state: dict[str, bytes]


class StateRoutes:
    """`size_limit` is of a request's body, in bytes."""

    def __init__(self, node: "Node", size_limit: int) -> None:
        self._node = node
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        tag, refusals = "state", (404, *BODY_ERRORS)
        operation = Operation(tag, "Replace the state of a key", {202: None}, refusals, StateReplacement)
        router.add("POST", "/services/{service}/state", self._replace, role=Role.OPERATOR, operation=operation)
        operation = Operation(tag, "The state of a key", {200: StateAnswer}, (404,))
        router.add("GET", "/services/{service}/state/{key}", self._show, role=Role.READ, operation=operation)
        operation = Operation(tag, "Change the state of a key", {200: None, 202: None}, refusals, StateChange)
        router.add("PATCH", "/services/{service}/state/{key}", self._change, role=Role.OPERATOR, operation=operation)

    async def _show(self, request: Request, service: str, key: str) -> Response:
        self._check_keyed(service)
        return json_response(200, StateAnswer(await self._node.state(service, key)))

    async def _replace(self, request: Request, service: str) -> Response:
        body = await read_json(request, StateReplacement, self._size_limit)
        request.affected = {"object_key": body.object_key}
        if self._node.registry.service(service) is not None or body.new_state:
            self._check_keyed(service)
        changes: dict[str, bytes | None] = {name: bytes(value) for name, value in body.new_state.items()}
        await self._node.change_state(service, body.object_key, changes, replace=True, version=body.version)
        return Response(202, [])

    async def _change(self, request: Request, service: str, key: str) -> Response:
        self._check_keyed(service)
        change = await read_json(request, StateChange, self._size_limit)
        done = await self._node.change_state(service, key, change.changes, change.replace)
        return Response(202 if done.pending else 200, [])

    def _check_keyed(self, name: str) -> None:
        service = self._node.registry.service(name)
        if service is None:
            raise NotFound(f"service {name!r} not found")
        if not service.keyed:
            raise Invalid(f"{name} is a service: only virtual objects and workflows have state")
