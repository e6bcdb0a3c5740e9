"""pydantic-ai's tools that need approval, decided by people: `ctx.approval` within the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import (
    AgentDepsT,
    DeferredToolRequests,
    DeferredToolResults,
    RunContext,
    ToolApproved,
    ToolDenied,
)

from perdure.ai.base import durable_context
from perdure.sdk.approvals import ApprovalTimeout, Escalation, Notify, Seconds
from perdure.sdk.context import Context

__all__ = ["PerdureApprovals"]


class PerdureApprovals(AbstractCapability[AgentDepsT]):
    """Has people decide about the calls of tools with `requires_approval=True`, or that raise `ApprovalRequired`.

        Agent(model, capabilities=[PerdureDurability(), PerdureApprovals(timeout=timedelta(days=2), notify=mail)])

    In a handler each such call is a `ctx.approval` whose context has `tool`, `arguments` and what `ApprovalRequired`
    said of it; all of a response are asked at once. The run goes on with the answers, be it after days and crashes. An
    approved call is made; a rejected one is not, and the model is told why: the comment, else `denied`. Without an
    answer in time it is rejected, with a message that says so.

    `title` makes the title of a call; `timeout`, `notify`, `escalate`, `to` and `tags` are those of `ctx.approval`.
    Outside of async handlers nothing is done: the run ends with `DeferredToolRequests` as ever. Calls that wait for
    another execution are left to others too.
    """

    def __init__(
        self,
        *,
        title: Callable[[ToolCallPart], str] | None = None,
        timeout: Seconds | None = None,
        notify: Notify | None = None,
        escalate: Escalation | Sequence[Escalation] = (),
        to: Sequence[str] = (),
        tags: Sequence[str] = (),
        denied: str = "The tool call was denied.",
    ) -> None:
        self._title = title or (lambda call: f"Call {call.tool_name}?")
        self._denied = denied
        self._options: dict[str, Any] = {
            "timeout": timeout, "notify": notify, "escalate": escalate, "to": to, "tags": tags
        }  # fmt: skip

    @classmethod
    def get_serialization_name(cls) -> str | None:
        return None

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[AgentDepsT], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Ask, and wait."""
        context = durable_context()
        if not isinstance(context, Context) or not requests.approvals:
            return None
        answers = await asyncio.gather(*(self._ask(context, call, requests) for call in requests.approvals))
        decided = {call.tool_call_id: answer for call, answer in zip(requests.approvals, answers, strict=True)}
        return requests.build_results(approvals=decided)

    async def _ask(
        self, context: Context, call: ToolCallPart, requests: DeferredToolRequests
    ) -> ToolApproved | ToolDenied:
        about = {"tool": call.tool_name, "arguments": call.args_as_dict()}
        if metadata := requests.metadata.get(call.tool_call_id):
            about["metadata"] = metadata
        try:
            decision = await context.approval(self._title(call), context=about, **self._options)
        except ApprovalTimeout:
            return ToolDenied("Nobody answered in time.")
        return ToolApproved() if decision else ToolDenied(decision.comment or self._denied)
