"""Tools that need approval: the run is interrupted, and a person decides by `ctx.approval`, be it after weeks."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from agents import RunResult, RunResultStreaming, RunState, ToolApprovalItem

from perdure.ai.base import durable_context
from perdure.sdk.approvals import ApprovalTimeout, Decision, Escalation, Notify, Seconds
from perdure.sdk.context import Context
from perdure.sdk.threads import SyncContext

__all__ = ["Approvals", "decide"]

Result = RunResult | RunResultStreaming
_CHOICE: Final[Any] = Literal["once", "always"]


class Approvals(msgspec.Struct, frozen=True, kw_only=True):
    """Has people decide about the tools of a run that need approval: `DurableRunner.run(..., approvals=Approvals())`.

    Each call is a `ctx.approval` (docs/approvals.md) whose context has `tool`, `arguments` and `agent`; all that the
    model asks for together are asked together. A call that is rejected, or that nobody answers within `timeout`, is not
    made, and the model is told why: the comment, else what the framework says. `title` makes the title of a call;
    `timeout`, `notify`, `escalate`, `to` and `tags` are those of `ctx.approval`. With `always` the person chooses
    whether it holds "once", or "always": for later calls of that tool in the run too, unless another call of it was
    rejected at the same time.
    """

    title: Callable[[ToolApprovalItem], str] | None = None
    timeout: Seconds | None = None
    notify: Notify | None = None
    escalate: Escalation | Sequence[Escalation] = ()
    to: Sequence[str] = ()
    tags: Sequence[str] = ()
    always: bool = False

    async def decide(self, result: Result) -> "RunState[Any]":
        """Ask about everything that interrupted the run, wait for the answers, and give the state to go on with.

            result = await DurableRunner.run(agent, prompt)
            while result.interruptions:
                result = await DurableRunner.run(agent, await Approvals().decide(result))

        is what the option `approvals` does. Raises `LookupError` outside of handlers, `TypeError` in plain ones, and
        the `TerminalError` of a `notify` that fails for good.
        """
        context = durable_context()
        if context is None:
            raise LookupError("people are asked from a handler; outside of one use RunState.approve and .reject")
        if not isinstance(context, Context):
            raise TypeError("decide() is a coroutine and wants an async handler; in a plain one use decide_sync()")

        async def ask(item: ToolApprovalItem) -> Decision[Any] | None:
            try:
                decision: Decision[Any] = await context.approval(self._title(item), **self._options(item))
            except ApprovalTimeout:
                return None
            return decision

        asked = [asyncio.ensure_future(ask(item)) for item in result.interruptions]
        try:
            return _state(result, await asyncio.gather(*asked))
        except Exception:  # nobody is to answer the others any more
            for each in asked:
                each.cancel()
            raise

    def decide_sync(self, result: Result) -> "RunState[Any]":
        """`decide` for plain `def` handlers: one after the other."""
        context = durable_context()
        if not isinstance(context, SyncContext):
            raise TypeError("decide_sync() is for plain def handlers; elsewhere await decide()")
        decisions: list[Decision[Any] | None] = []
        for item in result.interruptions:
            try:
                decisions.append(context.approval(self._title(item), **self._options(item)))
            except ApprovalTimeout:
                decisions.append(None)
        return _state(result, decisions)

    def _title(self, item: ToolApprovalItem) -> str:
        return f"Call {item.tool_name}?" if self.title is None else self.title(item)

    def _options(self, item: ToolApprovalItem) -> dict[str, Any]:
        return {
            "schema": _CHOICE if self.always else None,
            "context": {"tool": str(item.tool_name or ""), "arguments": _arguments(item), "agent": item.agent.name},
            "timeout": self.timeout,
            "notify": self.notify,
            "escalate": self.escalate,
            "to": self.to,
            "tags": self.tags,
        }


async def decide(result: Result, **options: Any) -> "RunState[Any]":
    """`Approvals(**options).decide(result)`."""
    return await Approvals(**options).decide(result)


def _state(result: Result, decisions: Sequence[Decision[Any] | None]) -> "RunState[Any]":
    state: RunState[Any] = result.to_state()
    # For the framework "always" is about the tool, and would undo what was said of its other calls.
    refused = {item.tool_name for item, each in zip(result.interruptions, decisions, strict=True) if not each}
    for item, decision in zip(result.interruptions, decisions, strict=True):
        if decision is None:
            state.reject(item, rejection_message="Nobody answered in time.")
        elif decision:
            state.approve(item, always_approve=decision.value == "always" and item.tool_name not in refused)
        else:
            state.reject(item, rejection_message=decision.comment or None)
    return state


def _arguments(item: ToolApprovalItem) -> Any:
    try:
        return msgspec.json.decode(item.arguments or "{}")
    except msgspec.DecodeError:
        return item.arguments
