"""Tools that need approval: a run that is interrupted goes on when somebody has decided, which may take weeks."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from agents import RunResult, RunResultStreaming, RunState, ToolApprovalItem

from perdure.ai.base import durable_context
from perdure.sdk.approvals import ApprovalTimeout, Decision, Escalation, Notify, Seconds
from perdure.sdk.context import Context
from perdure.sdk.threads import SyncContext

__all__ = ["Approvals", "ToolRequest"]

Result = RunResult | RunResultStreaming


class ToolRequest(msgspec.Struct, frozen=True):
    """What a person decides about: may `agent` call `tool` with `arguments`? It is the `context` of the approval."""

    tool: str
    arguments: Any
    agent: str
    call_id: str


class _Approved(msgspec.Struct, frozen=True):
    always: bool = False


class Approvals(msgspec.Struct, frozen=True, kw_only=True):
    """Has people decide about the tools of a run that need approval: `DurableRunner.run(..., approvals=Approvals())`.

    Each call is an approval (`ctx.approval`, docs/approvals.md) whose `context` is a `ToolRequest`; what the model
    wants to call together is asked together. `timeout`, `notify`, `escalate`, `to`, `tags` are of `ctx.approval`, and
    `title` makes the title. Whoever approves may say `{"always": true}`, which is for later calls of that tool in the
    run too. The model is told the comment of a rejection, else what the framework says; without an answer in time it is
    a rejection that says so.
    """

    title: Callable[[ToolRequest], str] | None = None
    timeout: Seconds | None = None
    notify: Notify | None = None
    escalate: Escalation | Sequence[Escalation] = ()
    to: Sequence[str] = ()
    tags: Sequence[str] = ()

    async def decide(self, result: Result) -> "RunState[Any]":
        """Ask about everything that interrupted the run, wait for the answers, and give the state to go on with.

            result = await DurableRunner.run(agent, prompt)
            while result.interruptions:
                result = await DurableRunner.run(agent, await Approvals().decide(result))

        is what the option `approvals` does. Raises `LookupError` outside of a handler, and the `TerminalError` of a
        `notify` that fails for good.
        """
        context = _async_context()
        items = result.interruptions
        asked = [asyncio.ensure_future(_decision(self._ask(context, item))) for item in items]
        try:
            decisions = await asyncio.gather(*asked)
        except Exception:  # nobody is to answer the others any more
            for each in asked:
                each.cancel()
            raise
        return _state(result, decisions)

    def decide_sync(self, result: Result) -> "RunState[Any]":
        """`decide` for plain `def` handlers: one after the other."""
        context = durable_context()
        if not isinstance(context, SyncContext):
            raise TypeError("decide_sync() is for plain def handlers; elsewhere await decide()")
        decisions: list[Decision[Any] | ApprovalTimeout] = []
        for item in result.interruptions:
            try:
                decisions.append(self._ask(context, item))
            except ApprovalTimeout as error:
                decisions.append(error)
        return _state(result, decisions)

    def _ask(self, context: Context | SyncContext, item: ToolApprovalItem) -> Any:
        """A decision; of a `Context` a coroutine that gives one."""
        request = request_of(item)
        title = f"{request.agent}: call {request.tool}?" if self.title is None else self.title(request)
        return context.approval(
            title,
            _Approved | None,
            context=msgspec.to_builtins(request),
            timeout=self.timeout,
            notify=self.notify,
            escalate=self.escalate,
            to=self.to,
            tags=self.tags,
        )


def request_of(item: ToolApprovalItem) -> ToolRequest:
    """What an interruption asks for; the arguments as JSON values, or as the text they are."""
    arguments: Any = item.arguments or ""
    with contextlib.suppress(msgspec.DecodeError):
        arguments = msgspec.json.decode(arguments)
    return ToolRequest(str(item.tool_name or ""), arguments, item.agent.name, str(item.call_id or ""))


def _async_context() -> Context:
    context = durable_context()
    if context is None:
        raise LookupError("approvals are asked for in a handler: there is none here, or this is a step")
    if not isinstance(context, Context):
        raise TypeError("decide() is a coroutine and wants an async handler; in plain ones use decide_sync()")
    return context


async def _decision(asking: Any) -> Decision[Any] | ApprovalTimeout:
    try:
        decision: Decision[Any] = await asking if inspect.isawaitable(asking) else asking
    except ApprovalTimeout as error:
        return error
    return decision


def _state(result: Result, decisions: Sequence[Decision[Any] | ApprovalTimeout]) -> "RunState[Any]":
    state: RunState[Any] = result.to_state()
    for item, decision in zip(result.interruptions, decisions, strict=True):
        if isinstance(decision, ApprovalTimeout):
            state.reject(item, rejection_message="Nobody answered in time.")
        elif decision:
            state.approve(item, always_approve=decision.value is not None and decision.value.always)
        else:
            state.reject(item, rejection_message=decision.comment or None)
    return state
