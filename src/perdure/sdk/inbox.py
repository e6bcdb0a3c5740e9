"""Approvals and sessions from outside: what clients ask of the built-in objects. `client.approvals()`."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from perdure.protocol.sessions import Verb
from perdure.sdk.operations import HttpReply, HttpRequest, Operation, _checked, _json, _segment
from perdure.sdk.serde import serde_for

if TYPE_CHECKING:
    from perdure.sdk.caller import Caller

__all__ = [
    "AnswerApproval",
    "ApprovalDescription",
    "Approvals",
    "AskSession",
    "GetApproval",
    "ListApprovals",
    "Requester",
]


class Requester(msgspec.Struct, frozen=True):
    """Who asked."""

    invocation_id: str
    service: str = ""
    handler: str = ""
    key: str | None = None


class ApprovalDescription(msgspec.Struct, frozen=True, kw_only=True):
    """An approval as it stands."""

    id: str
    status: str
    """open, approved, rejected, expired, or withdrawn: who asked has ended or given up"""
    title: str
    requester: Requester
    created_at: datetime
    context: Any = None
    schema: dict[str, Any] | None = None
    to: list[str] = []
    tags: list[str] = []
    escalations: int = 0
    problem: str | None = None
    """Why it was asked once more: what the value of the last answer lacked."""
    expires_at: datetime | None = None
    closed_at: datetime | None = None
    value: Any = None
    comment: str | None = None
    by: str | None = None


class ListApprovals(Operation[list[ApprovalDescription]], frozen=True):
    """Which there are, the newest first."""

    status: str = "open"
    service: str | None = None
    handler: str | None = None
    to: str | None = None
    tag: str | None = None
    limit: int = 100

    def to_http(self) -> HttpRequest:
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        return HttpRequest("GET", f"/approvals?{query}", admin=True)

    def from_http(self, reply: HttpReply) -> list[ApprovalDescription]:
        return msgspec.convert(_json(reply)["approvals"], list[ApprovalDescription])


class GetApproval(Operation[ApprovalDescription], frozen=True):
    """One of them."""

    id: str

    def to_http(self) -> HttpRequest:
        return HttpRequest("GET", f"/approvals/{_segment(self.id)}", admin=True)

    def from_http(self, reply: HttpReply) -> ApprovalDescription:
        return msgspec.json.decode(_checked(reply), type=ApprovalDescription)


class AnswerApproval(Operation[ApprovalDescription], frozen=True):
    """Approve or reject; `value` is JSON, b"" for none. Sent again with the same `token`, it is the same answer."""

    id: str
    approved: bool
    token: str
    value: bytes = b""
    comment: str | None = None
    by: str | None = None

    def to_http(self) -> HttpRequest:
        body: dict[str, Any] = {"comment": self.comment, "by": self.by}
        if self.value:
            body["value"] = msgspec.Raw(self.value)
        verb = "approve" if self.approved else "reject"
        fields = (("content-type", "application/json"), ("idempotency-key", self.token))
        return HttpRequest(
            "POST", f"/approvals/{_segment(self.id)}/{verb}", fields, msgspec.json.encode(body), admin=True
        )

    def from_http(self, reply: HttpReply) -> ApprovalDescription:
        return msgspec.json.decode(_checked(reply), type=ApprovalDescription)


class AskSession(Operation[bytes], frozen=True):
    """Read or change a session; see `perdure.protocol.sessions`. `body` and the answer are JSON."""

    id: str
    verb: Verb
    body: bytes
    token: str
    """This request's own: sent again, it is the same one."""

    def to_http(self) -> HttpRequest:
        path = f"/sessions/{_segment(self.id)}/{self.verb}"
        if self.verb == "items":
            given = {name: value for name, value in msgspec.json.decode(self.body).items() if value is not None}
            return HttpRequest("GET", f"{path}?{urlencode(given)}", admin=True)
        fields = (("content-type", "application/json"), ("idempotency-key", self.token))
        return HttpRequest("POST", path, fields, self.body, admin=True)

    def from_http(self, reply: HttpReply) -> bytes:
        return _checked(reply)


class Approvals:
    """What waits for a person, and what people said."""

    def __init__(self, client: "Caller") -> None:
        self._client = client

    async def list(
        self,
        *,
        status: str = "open",
        service: str | None = None,
        handler: str | None = None,
        to: str | None = None,
        tag: str | None = None,
        limit: int = 100,
    ) -> Sequence[ApprovalDescription]:
        """The newest first: those of a status (or `closed`, or `all`), asked by a service, of a person, with a tag.

        What is closed is listed for 30 days. Raises `Invalid` for a status that is none.
        """
        return await self._client.execute(ListApprovals(status, service, handler, to, tag, limit))

    async def get(self, id: str) -> ApprovalDescription:
        """One of them. Raises `NotFound`."""
        return await self._client.execute(GetApproval(id))

    async def approve(
        self, id: str, value: Any = msgspec.UNSET, *, comment: str | None = None, by: str | None = None
    ) -> ApprovalDescription:
        """Say yes. Raises `Invalid` naming what of `value` does not suit the schema, `NotFound`, and `Conflict` if
        somebody was first or nobody waits any more."""
        body = b"" if value is msgspec.UNSET else serde_for(None).serialize(value) or b"null"
        return await self._client.execute(AnswerApproval(id, True, secrets.token_hex(16), body, comment, by))

    async def reject(self, id: str, *, comment: str | None = None, by: str | None = None) -> ApprovalDescription:
        """Say no. Raises `NotFound`, and `Conflict` if somebody was first or nobody waits any more."""
        return await self._client.execute(AnswerApproval(id, False, secrets.token_hex(16), b"", comment, by))
