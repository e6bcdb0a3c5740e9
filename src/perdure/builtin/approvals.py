"""The virtual objects behind `ctx.approval`: one for each approval, and an index of them.

Engines serve them by themselves. On another server of the protocol they can be deployed as they are::

    app = App(*approval_services(private=False))

An approval is open until the first of these: an answer that suits its schema, its time is over, who asked gives up, or
who asked has ended in whatever way, which a watcher waits for. What is closed is forgotten after `retention`.
"""

import contextlib
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

from perdure.errors import TerminalError
from perdure.protocol.approvals import (
    APPROVALS,
    INDEX,
    STATE,
    Answer,
    Approval,
    Closing,
    Escalated,
    Links,
    Opened,
    Question,
    Verdict,
    closed_key,
    open_key,
)
from perdure.sdk.context import ObjectContext, SharedContext
from perdure.sdk.service import VirtualObject

__all__ = ["RETENTION", "approval_services", "check_value"]

RETENTION: Final = timedelta(days=30)
_ERRORS_SHOWN: Final = 5


def approval_services(
    links: Links | None = None, *, private: bool = True, retention: timedelta = RETENTION
) -> list[VirtualObject]:
    """The objects. `links` signs the links to their pages; `private` keeps them from being called over the ingress."""
    approvals = VirtualObject(
        APPROVALS,
        description="Questions that wait for a person.",
        private=private,
        journal_retention=0,
        inactivity_timeout=1,
    )

    _add_asking(approvals, links, retention)
    _add_answering(approvals, retention)
    return [approvals, _index(private, retention)]


def _add_asking(approvals: VirtualObject, links: Links | None, retention: timedelta) -> None:
    """What who asks needs, and what ends with them."""

    @approvals.handler()
    async def open(ctx: ObjectContext, question: Question) -> Opened:
        """Ask, or ask once more after an answer that was of no use."""
        known = await ctx.get(STATE, Approval)
        if known is None or known.status == "approved":
            approval = await _opened(ctx, question, known)
            ctx.set(STATE, approval)
            await ctx.call(f"{INDEX}/put", approval, key=open_key(ctx.key))
            if known is not None and known.closed_at is not None:
                await ctx.call(f"{INDEX}/remove", ctx.key, key=closed_key(known.closed_at, ctx.key))
            known = approval
        made = {} if links is None else links.links(ctx.key, known.created_at, known.expires_at)
        return Opened(ctx.key, made)

    @approvals.handler()
    async def close(ctx: ObjectContext, closing: Closing) -> Approval:
        """Nobody waits any more. Whoever closes is told how it stands: it may have been answered just before."""
        known = await _known(ctx)
        if known.status == "open" and closing.awakeable in (None, known.awakeable):
            known.status, known.closed_at = closing.status, _now(ctx)
            await _close(ctx, known, retention, cancel_watcher=not closing.from_watcher)
        return known

    @approvals.handler()
    async def escalate(ctx: ObjectContext, escalated: Escalated) -> None:
        """Others are asked too."""
        known = await _known(ctx)
        if known.status == "open":
            known.escalations += 1
            known.to = list(dict.fromkeys((*known.to, *escalated.to)))
            ctx.set(STATE, known)
            await ctx.call(f"{INDEX}/put", known, key=open_key(ctx.key))

    @approvals.shared()
    async def watch(ctx: SharedContext, invocation: str) -> None:
        """Wait for the end of who asks, however it comes, and close what it can't close itself."""
        with contextlib.suppress(TerminalError):  # it failed, was cancelled or killed, or is forgotten
            await ctx.invocation(invocation, bytes).attach()
        await ctx.call(f"{APPROVALS}/close", Closing("withdrawn", from_watcher=True), key=ctx.key)


def _add_answering(approvals: VirtualObject, retention: timedelta) -> None:
    """What who answers needs, and what is left of it."""

    @approvals.handler()
    async def answer(ctx: ObjectContext, answer: Answer) -> Approval:
        """The first answer counts: 404 if nothing was asked, 409 if it is closed, 400 for a value that does not fit."""
        known = await _known(ctx)
        if known.status != "open":
            raise TerminalError(_closed(known), 409)
        now = _now(ctx)
        if known.expires_at is not None and now >= known.expires_at:
            raise TerminalError("it is too late: the time to answer is over", 409)
        if answer.approved:
            check_value(known.schema, answer.value)
        known.status = "approved" if answer.approved else "rejected"
        known.value = answer.value if answer.approved and answer.value is not msgspec.UNSET else None
        known.comment, known.by, known.closed_at = answer.comment, answer.by, now
        verdict = Verdict(
            approved=answer.approved, value=known.value, comment=known.comment, by=known.by, at=known.closed_at
        )
        await ctx.resolve_awakeable(known.awakeable, verdict)
        await _close(ctx, known, retention, cancel_watcher=True)
        return known

    @approvals.shared()
    async def get(ctx: SharedContext) -> Approval:
        """How it stands; 404 if nothing was asked."""
        return await _known(ctx)

    @approvals.handler()
    async def forget(ctx: ObjectContext) -> None:
        """Nobody will ask for it any more."""
        known = await ctx.get(STATE, Approval)
        kept_for = retention // timedelta(milliseconds=1)
        if known is not None and known.closed_at is not None and _now(ctx) >= known.closed_at + kept_for:
            ctx.clear_all()


def _index(private: bool, retention: timedelta) -> VirtualObject:
    """What there is, to be listed without asking each: under `open/...`, and under the day it was closed."""
    index = VirtualObject(
        INDEX,
        description="Which approvals there are.",
        private=private,
        journal_retention=0,
        inactivity_timeout=1,
        lazy_state=True,
    )

    @index.handler()
    async def put(ctx: ObjectContext, approval: Approval) -> None:
        if not ctx.key.startswith("open/") and await ctx.get("kept") is None:
            ctx.set("kept", True)
            await ctx.send(f"{INDEX}/forget", key=ctx.key, delay=retention + timedelta(days=1))
        ctx.set(approval.id, approval)

    @index.handler()
    async def remove(ctx: ObjectContext, id: str) -> None:
        await ctx.clear(id)

    @index.handler()
    async def forget(ctx: ObjectContext) -> None:
        ctx.clear_all()

    return index


def _now(ctx: SharedContext) -> int:
    return round(ctx.now().timestamp() * 1000)


async def _known(ctx: SharedContext) -> Approval:
    known = await ctx.get(STATE, Approval)
    if known is None:
        raise TerminalError(f"approval {ctx.key!r} not found", 404)
    return known


async def _opened(ctx: ObjectContext, question: Question, known: Approval | None) -> Approval:
    watcher = await ctx.send(f"{APPROVALS}/watch", question.invocation, key=ctx.key)
    facts: dict[str, Any] = {name: getattr(question, name) for name in Question.__struct_fields__}
    opened = Approval(id=ctx.key, created_at=_now(ctx), watcher=watcher.id, **facts)
    if known is not None:
        opened.created_at, opened.escalations = known.created_at, known.escalations
    return opened


async def _close(ctx: ObjectContext, approval: Approval, retention: timedelta, *, cancel_watcher: bool) -> None:
    watcher, approval.watcher = approval.watcher, None
    ctx.set(STATE, approval)
    assert approval.closed_at is not None
    await ctx.call(f"{INDEX}/remove", ctx.key, key=open_key(ctx.key))
    await ctx.call(f"{INDEX}/put", approval, key=closed_key(approval.closed_at, ctx.key))
    await ctx.send(f"{APPROVALS}/forget", key=ctx.key, delay=retention)
    if watcher is not None and cancel_watcher:
        await ctx.invocation(watcher).cancel()


def _closed(approval: Approval) -> str:
    if approval.status in ("approved", "rejected"):
        by = "" if approval.by is None else f" by {approval.by}"
        return f"it was {approval.status}{by} before: the first answer counts"
    if approval.status == "expired":
        return "it is too late: the time to answer is over"
    return "nobody waits for the answer any more: who asked has ended"


# ---- values


def check_value(schema: dict[str, Any] | None, value: Any) -> None:
    """Passes if a value (or `msgspec.UNSET`) suits a schema. Raises `TerminalError` (400) that names what does not."""
    if schema is None:
        if value is not msgspec.UNSET and value is not None:
            raise TerminalError("value: none is asked for, this is a yes or no", 400)
        return
    validator = _validator(msgspec.json.encode(schema))
    if value is msgspec.UNSET:
        value = None
        if not validator.is_valid(None):
            raise TerminalError("value: it is missing; the schema says what it has to be", 400)
    errors = []
    for error in validator.iter_errors(value):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        errors.append(f"value{path}: {error.message}")
        if len(errors) == _ERRORS_SHOWN:
            break
    if errors:
        raise TerminalError("; ".join(errors), 400)


def _nothing(uri: str) -> Any:
    """A schema is whole: the server fetches nothing for it."""
    raise ValueError(f"{uri} is not part of it")


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(msgspec.json.decode(schema), validate_formats=True, retriever=_nothing)
    except Exception as error:
        raise TerminalError(f"the schema of this approval can't be used: {error}", 500) from error
