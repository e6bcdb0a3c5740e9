"""The admin port's routes of API keys. *Ours*: restate-server has no keys.

* `POST /keys` with `{"name", "role", "expires_in"?}`: 201, the key's facts and under `key` its text, this once;
* `GET /keys`: `{"keys": [...]}`, oldest first, without their secrets;
* `DELETE /keys/{id}`: it opens nothing from now on. 200, or 404.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import Invalid, NotFound
from perdure.model.actions import Refused
from perdure.model.keys import ApiKey, Role
from perdure.web.durations import parse_duration_ms
from perdure.web.http import Request, Response, Router, format_time_ns, json_response, read_json
from perdure.web.operations import BODY_ERRORS, Operation

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["KeyRoutes", "key_to_json", "lasts_ms"]


class KeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    role: Role
    expires_in: str | None = None


class KeyFacts(msgspec.Struct):
    """What is told of a key: nothing of its secret."""

    id: str
    name: str
    role: Role
    status: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class NewKey(KeyFacts):
    """A key that was just made. `key` is its text, which is not kept."""

    key: str


class KeyList(msgspec.Struct):
    keys: list[KeyFacts]


class KeyRoutes:
    """What of the admin port is about API keys. `size_limit` is of a request's body, in bytes."""

    def __init__(self, node: "Node", size_limit: int) -> None:
        self._node = node
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        tag = "key"
        operation = Operation(tag, "The API keys, oldest first", {200: KeyList})
        router.add("GET", "/keys", self._list, role=Role.ADMIN, operation=operation)
        operation = Operation(tag, "Make an API key", {201: NewKey}, BODY_ERRORS, KeyRequest)
        router.add("POST", "/keys", self._create, role=Role.ADMIN, operation=operation)
        operation = Operation(tag, "Revoke an API key", {200: None}, (404,))
        router.add("DELETE", "/keys/{id}", self._revoke, role=Role.ADMIN, operation=operation)

    async def _list(self, request: Request) -> Response:
        now = self._node.clock.now_ms()
        return json_response(200, {"keys": [key_to_json(key, now) for key in self._node.keyring.all()]})

    async def _create(self, request: Request) -> Response:
        wanted = await read_json(request, KeyRequest, self._size_limit)
        key, text = await self._node.create_key(wanted.name, wanted.role, lasts_ms(wanted.expires_in))
        request.affected = {"id": key.id, "name": key.name, "role": key.role.value}
        facts = {**key_to_json(key, key.created_at), "key": text}
        return json_response(201, facts, (b"cache-control", b"no-store"), (b"location", f"keys/{key.id}".encode()))

    async def _revoke(self, request: Request, id: str) -> Response:
        outcome = await self._node.revoke_key(id)
        if isinstance(outcome, Refused):
            raise NotFound(outcome.message)
        return Response(200, [])


def lasts_ms(text: str | None) -> int | None:
    """How long a key is good, ms; None: for ever. Raises `Invalid`."""
    if text is None:
        return None
    try:
        return parse_duration_ms(text)
    except Invalid as error:
        raise Invalid(f"expires_in: {error.message}") from None


def key_to_json(key: ApiKey, now: int) -> dict[str, Any]:
    """What is told of a key: nothing of its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "status": key.standing(now),
        "created_at": format_time_ns(key.created_at),
        "expires_at": None if key.expires_at is None else format_time_ns(key.expires_at),
        "revoked_at": None if key.revoked_at is None else format_time_ns(key.revoked_at),
    }
