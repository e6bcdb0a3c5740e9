"""A service that asks for approvals, on an engine in memory with the web in front of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from perdure import App, ApprovalRequest, Context, Service
from perdure.assembly import LocalNode, assemble
from perdure.protocol.approvals import Links
from perdure.storage.memory import MemoryStorage
from perdure.web.admin import Admin
from perdure.web.ingress import Ingress
from tests.web.fakes import Reply, Web

desk = Service("Desk")
requests: list[ApprovalRequest] = []


@dataclass
class Refund:
    amount: Annotated[int, msgspec.Meta(ge=1, le=1000, description="In whole euros.")]
    kind: Literal["cash", "credit"] = "cash"
    note: str | None = None
    urgent: bool = False
    lines: list[int] | None = None


async def note(request: ApprovalRequest) -> None:
    requests.append(request)


@desk.handler()
async def refund(ctx: Context, title: str = "Refund <b>120</b> EUR?") -> list[Any]:
    context = {"customer": "<script>alert(1)</script>", "order": {"id": 7}}
    decision = await ctx.approval(title, Refund, context=context, notify=note, to=["ann"], tags=["money"])
    return [decision.approved, decision.value if decision else None, decision.comment, decision.by]


@desk.handler()
async def sure(ctx: Context, seconds: float | None = None) -> bool:
    return (await ctx.approval("Sure?", timeout=seconds)).approved


class Desk:
    def __init__(self, node: LocalNode, stores: list[MemoryStorage], links: Links) -> None:
        self.node = node
        self.stores = stores
        self.links = links
        self.admin = Web(Admin(node, version="1"))
        self.ingress = Web(Ingress(node, links=links))

    async def send(self, handler: str, body: bytes = b"") -> str:
        """Has it asked, and waits until that is listed; the approval's id."""
        known = {each["id"] for each in await self.listed("all")}
        headers = [("content-type", "application/json")] if body else []
        reply = await self.ingress("POST", f"/Desk/{handler}/send", body, *headers)
        assert reply is not None and reply.status == 202
        for _ in range(2000):
            fresh = [each["id"] for each in await self.listed("all") if each["id"] not in known]
            if fresh and (handler != "refund" or any(request.id == fresh[0] for request in requests)):
                return str(fresh[0])
            await asyncio.sleep(0.001)
        raise AssertionError("nothing was asked")

    async def listed(self, status: str = "open", more: str = "") -> list[dict[str, Any]]:
        reply = await self.ask("GET", f"/approvals?status={status}{more}")
        assert reply.status == 200, reply.body
        return list(reply.json["approvals"])

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        headers = [] if body is None else [("content-type", "application/json")]
        reply = await self.admin(method, path, b"" if body is None else msgspec.json.encode(body), *headers)
        assert reply is not None
        return reply

    async def open(self, link: str, method: str = "GET", form: str = "") -> Reply:
        parts = urlsplit(link)
        headers = [("content-type", "application/x-www-form-urlencoded")] if form else []
        reply = await self.ingress(method, f"{parts.path}?{parts.query}", form.encode(), *headers)
        assert reply is not None
        return reply

    def request(self, id: str) -> ApprovalRequest:
        return next(request for request in requests if request.id == id)


@contextlib.asynccontextmanager
async def at_the_desk() -> AsyncIterator[Desk]:
    links = Links(lambda: b"secret", lambda: "https://ops.example")
    stores = [MemoryStorage()]
    node = assemble([App(desk)], stores, links=links)
    await node.start()
    try:
        yield Desk(node, stores, links)
    finally:
        node.close()
