"""Tools that need approval: the run is interrupted, and a person decides by `ctx.approval`, be it after weeks."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from agents import RunResult, RunResultStreaming, RunState, ToolApprovalItem

from perdure.ai.base import durable_context
from perdure.sdk.approvals import ApprovalTimeout, Decision, Escalation, Notify, Seconds
from perdure.sdk.context import Context

__all__ = ["decide"]

_CHOICE = Literal["once", "always"]


async def decide(
    result: RunResult | RunResultStreaming,
    *,
    title: Callable[[ToolApprovalItem], str] | None = None,
    timeout: Seconds | None = None,
    notify: Notify | None = None,
    escalate: Escalation | Sequence[Escalation] = (),
    to: Sequence[str] = (),
    tags: Sequence[str] = (),
    always: bool = False,
) -> "RunState[Any]":
    """Have people decide about everything that interrupted the run, and give the state to go on with.

        result = await DurableRunner.run(agent, prompt)
        while result.interruptions:
            result = await DurableRunner.run(agent, await decide(result, timeout=timedelta(days=7)))

    Each tool call is a `ctx.approval` whose context has `tool`, `arguments` and `agent`; all are asked at once. A call
    that is rejected, or that nobody answers within `timeout`, is not made, and the model is told why. `title` makes the
    title of a call; `timeout`, `notify`, `escalate`, `to` and `tags` are those of `ctx.approval`. With `always` the
    person chooses whether it holds "once", or "always": for later calls of that tool in the run too, unless another
    call of it was rejected at the same time.

    Raises `LookupError` outside of handlers and `TypeError` in plain ones.
    """
    context = durable_context()
    if context is None:
        raise LookupError("decide() asks people from a handler; outside of one use RunState.approve and .reject")
    if not isinstance(context, Context):
        raise TypeError("decide() is a coroutine and wants an async handler")
    schema = _CHOICE if always else None
    options = {"timeout": timeout, "notify": notify, "escalate": escalate, "to": to, "tags": tags, "schema": schema}

    async def ask(item: ToolApprovalItem) -> Decision[Any] | None:
        about = {"tool": str(item.tool_name or ""), "arguments": _arguments(item), "agent": item.agent.name}
        asked = f"Call {about['tool']}?" if title is None else title(item)
        try:
            return await context.approval(asked, context=about, **options)  # type: ignore[arg-type]
        except ApprovalTimeout:
            return None

    decisions = await asyncio.gather(*(ask(item) for item in result.interruptions))
    state: RunState[Any] = result.to_state()
    # For the framework "always" is about the tool, and would undo what was said of its other calls.
    refused = {item.tool_name for item, each in zip(result.interruptions, decisions, strict=True) if not each}
    for item, decision in zip(result.interruptions, decisions, strict=True):
        if decision is None:
            state.reject(item, rejection_message="Nobody answered in time.")
        elif decision:
            state.approve(item, always_approve=decision.value == "always" and item.tool_name not in refused)
        else:
            state.reject(item, rejection_message=decision.comment)
    return state


def _arguments(item: ToolApprovalItem) -> Any:
    try:
        return msgspec.json.decode(item.arguments or "{}")
    except msgspec.DecodeError:
        return item.arguments
