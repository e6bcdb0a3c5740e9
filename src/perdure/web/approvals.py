"""The admin port's routes for approvals. Reading changes nothing; `approve` and `reject` answer.

* `GET /approvals?status=open&service=&handler=&to=&tag=&limit=100`: `{"approvals": [...]}`, the newest first;
* `GET /approvals/{id}`: one;
* `POST /approvals/{id}/approve` and `/reject`, `{"value"?, "comment"?, "by"?}`: 200 and how it stands, 400 naming what
  does not fit the schema, 404, 409 if it was answered before or nobody waits any more. With an `idempotency-key` it
  may be sent again.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import Invalid
from perdure.model.keys import Role
from perdure.protocol.approvals import Answer, shown
from perdure.runtime import approvals
from perdure.runtime.approvals import Wanted
from perdure.web.http import Request, Response, Router, json_response, read_json
from perdure.web.operations import BODY_ERRORS, Operation, Parameter

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["ApprovalRoutes"]


class ApprovalAnswer(msgspec.Struct, forbid_unknown_fields=True):
    value: Any = msgspec.UNSET
    comment: str | None = None
    by: str | None = None


class ApprovalList(msgspec.Struct):
    approvals: list[dict[str, Any]]


_FILTERS = (
    Parameter(
        "status", "How they stand: open, approved, rejected, expired, withdrawn, closed or all.", {"type": "string"}
    ),
    *(Parameter(name, f"Only with this {name}.", {"type": "string"}) for name in ("service", "handler", "to", "tag")),
    Parameter("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 100}),
)


class ApprovalRoutes:
    """`size_limit` is of a request's body, in bytes."""

    def __init__(self, node: "Node", size_limit: int) -> None:
        self._node = node
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        tag = "approval"
        operation = Operation(tag, "The approvals, the newest first", {200: ApprovalList}, parameters=_FILTERS)
        router.add("GET", "/approvals", self._list, role=Role.READ, operation=operation)
        operation = Operation(tag, "An approval", {200: dict[str, Any]}, (404,))
        router.add("GET", "/approvals/{id}", self._one, role=Role.READ, operation=operation)
        refusals = (404, 409, *BODY_ERRORS)
        operation = Operation(tag, "Approve: 200 and how it stands", {200: dict[str, Any]}, refusals, ApprovalAnswer)
        router.add("POST", "/approvals/{id}/approve", self._approve, role=Role.OPERATOR, operation=operation)
        operation = Operation(tag, "Reject: 200 and how it stands", {200: dict[str, Any]}, refusals, ApprovalAnswer)
        router.add("POST", "/approvals/{id}/reject", self._reject, role=Role.OPERATOR, operation=operation)

    async def _list(self, request: Request) -> Response:
        given = request.parameters()
        for name in given:
            if name not in Wanted._fields:
                raise Invalid(f"{name}: no such parameter; there are {', '.join(Wanted._fields)}")
        limit = given.pop("limit", "100")
        if not limit.isdecimal() or len(limit) > 9:
            raise Invalid(f"limit={limit!r}: it has to be a number")
        found = await approvals.list_approvals(self._node, Wanted(**given, limit=int(limit)))
        return json_response(200, {"approvals": [shown(each) for each in found]})

    async def _one(self, request: Request, id: str) -> Response:
        return json_response(200, shown(await approvals.find(self._node, id)))

    async def _approve(self, request: Request, id: str) -> Response:
        return await self._answer(request, id, approved=True)

    async def _reject(self, request: Request, id: str) -> Response:
        return await self._answer(request, id, approved=False)

    async def _answer(self, request: Request, id: str, *, approved: bool) -> Response:
        said = ApprovalAnswer()
        if request.fields.get(b"content-type") is not None or request.fields.get(b"content-length", b"0") != b"0":
            said = await read_json(request, ApprovalAnswer, self._size_limit)
        answer = Answer(approved=approved, value=said.value, comment=said.comment, by=said.by)
        key = request.fields.get(b"idempotency-key")
        answered = await approvals.answer(self._node, id, answer, None if key is None else key.decode("latin-1"))
        return json_response(200, shown(answered))
