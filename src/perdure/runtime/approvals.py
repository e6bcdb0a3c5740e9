"""What can be asked of a node about approvals: which there are, how one stands, and to answer it.

They are read from the state of the built-in objects, which writes nothing; an answer is a call of one of them.
"""

import asyncio
from typing import Final, NamedTuple

import msgspec

from perdure.errors import Invalid, NotFound
from perdure.protocol.approvals import APPROVALS, DAY_MS, INDEX, STATE, Answer, Approval, closed_keys, open_keys
from perdure.runtime.builtin import call_builtin
from perdure.runtime.node import Node

__all__ = ["LIST_LIMIT", "Wanted", "answer", "find", "list_approvals"]

LIST_LIMIT: Final = 1000
_DAYS: Final = 32  # that what is closed is looked for, today first; longer it is not kept
STATUSES: Final = ("open", "approved", "rejected", "expired", "withdrawn", "closed", "all")
_decode = msgspec.json.Decoder(Approval).decode


class Wanted(NamedTuple):
    """Which approvals: of a status (`closed` and `all` are several), asked by a service, of a person, with a tag."""

    status: str = "open"
    service: str | None = None
    handler: str | None = None
    to: str | None = None
    tag: str | None = None
    limit: int = 100

    def check(self) -> None:
        """Raises `Invalid` naming what can't be."""
        if self.status not in STATUSES:
            raise Invalid(f"status={self.status!r}: it has to be one of {', '.join(STATUSES)}")
        if not 1 <= self.limit <= LIST_LIMIT:
            raise Invalid(f"limit={self.limit}: it has to be from 1 to {LIST_LIMIT}")

    def takes(self, it: Approval) -> bool:
        return (
            (self.status in ("all", it.status) or (self.status == "closed" and it.status != "open"))
            and self.service in (None, it.service)
            and self.handler in (None, it.handler)
            and (self.to is None or self.to in it.to)
            and (self.tag is None or self.tag in it.tags)
        )


async def list_approvals(node: Node, wanted: Wanted) -> list[Approval]:
    """The newest first, open ones before those that are closed. Raises `Invalid`."""
    wanted.check()
    found: list[Approval] = []
    if wanted.status in ("open", "all"):
        found = await _under(node, open_keys(), wanted)
    if wanted.status != "open":
        now = node.clock.now_ms()
        for days in (range(2), range(2, _DAYS)):  # most lists are filled by the newest
            if len(found) >= wanted.limit:
                break
            keys = [key for day in days for key in closed_keys(now - day * DAY_MS)]
            found += await _under(node, keys, wanted)
    return found[: wanted.limit]


async def _under(node: Node, keys: list[str], wanted: Wanted) -> list[Approval]:
    states = await asyncio.gather(*(node.state(INDEX, key) for key in keys))
    each = [_decode(value) for state in states for name, value in state.items() if name != "kept"]
    taken = [it for it in each if wanted.takes(it)]
    return sorted(taken, key=lambda it: (it.closed_at or it.created_at, it.id), reverse=True)


async def find(node: Node, id: str) -> Approval:
    """Raises `NotFound`."""
    record = (await node.state(APPROVALS, id)).get(STATE) if id else None
    if record is None:
        raise NotFound(f"approval {id!r} not found")
    return _decode(record)


async def answer(node: Node, id: str, said: Answer, idempotency_key: str | None = None) -> Approval:
    """Answer it, and how it stands then. Raises `NotFound`, `Invalid` naming what does not fit, `Conflict`.

    With a key, an answer may be sent again: it is told the same.
    """
    await find(node, id)
    return _decode(await call_builtin(node, APPROVALS, "answer", id, msgspec.json.encode(said), idempotency_key))
