"""The virtual object behind `perdure.ai.sessions`: a chat's history, one object per session.

Its handlers are exclusive and short, so what is said at once from several places has an order and nothing is lost. A
session with a time to live is forgotten when it was not used for so long.
"""

import msgspec

from perdure.errors import TerminalError
from perdure.protocol.sessions import SESSIONS, Add, At, Page, Replace, Window
from perdure.sdk.context import ObjectContext
from perdure.sdk.history import Head, History
from perdure.sdk.service import VirtualObject

__all__ = ["session_service"]

_PREFIX = "items"


def session_service(*, private: bool = True) -> VirtualObject:
    """The object. `private` keeps it from being called over the ingress."""
    sessions = VirtualObject(
        SESSIONS,
        description="Chat histories.",
        private=private,
        journal_retention=0,
        inactivity_timeout=1,
        lazy_state=True,
    )

    @sessions.handler(idempotency_retention=60)
    async def items(ctx: ObjectContext, wanted: Window) -> Page:
        """The items of a window, in order."""
        history, head = await _used(ctx)
        return await history.window(head, wanted)

    @sessions.handler()
    async def add(ctx: ObjectContext, added: Add) -> At:
        """Append items. 409 if there are some and there should be none."""
        history, head = await _used(ctx, added.ttl)
        if added.to_empty and head.chunks:
            raise TerminalError(f"session {ctx.key!r} has items already; give the branch another id", 409)
        await history.append(head, added.items)
        return At(head.end)

    @sessions.handler()
    async def pop(ctx: ObjectContext) -> list[msgspec.Raw]:
        """Take the last item away: a list of it, or of nothing."""
        history, head = await _used(ctx)
        last = await history.pop(head)
        return [] if last is None else [last]

    @sessions.handler()
    async def clear(ctx: ObjectContext) -> None:
        """Drop all items."""
        history, head = await _used(ctx)
        await history.clear(head)

    @sessions.handler()
    async def replace(ctx: ObjectContext, wanted: Replace) -> bool:
        """Put other items in the place of the oldest ones; False if the session is no longer what it was."""
        history, head = await _used(ctx)
        if wanted.revision != head.revision:
            return False
        return await history.replace(head, wanted.upto, wanted.items)

    @sessions.handler()
    async def expire(ctx: ObjectContext) -> None:
        """Forget it if it was not used for its time to live; else look again when that may be."""
        history = History(ctx, _PREFIX)
        head = await history.head()
        head.timed = False
        if head.ttl:
            left = head.used_at + head.ttl * 1000 - _now(ctx)
            if left <= 0:
                await history.forget(head)
                return
            await _time(ctx, head, left / 1000)
        history.keep(head)

    return sessions


async def _used(ctx: ObjectContext, ttl: float | None = None) -> tuple[History, Head]:
    """The history of the session, which from now on lives for its time again."""
    history = History(ctx, _PREFIX)
    head = await history.head()
    if ttl is not None:
        head.ttl = ttl or None
    if head.ttl:
        head.used_at = _now(ctx)
        if not head.timed:
            await _time(ctx, head, head.ttl)
        history.keep(head)
    return history, head


async def _time(ctx: ObjectContext, head: Head, seconds: float) -> None:
    head.timed = True
    await ctx.send(f"{SESSIONS}/expire", key=ctx.key, delay=seconds)


def _now(ctx: ObjectContext) -> int:
    return round(ctx.now().timestamp() * 1000)
