"""Tools that need approval: the run is interrupted, somebody is asked, and the answer may take weeks."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from agents import RunResult, RunResultStreaming, RunState, ToolApprovalItem

from perdure.errors import TerminalError
from perdure.sdk.context import Context, current_context

__all__ = ["ApprovalRequest", "Decision", "decide"]


class ApprovalRequest(msgspec.Struct, frozen=True):
    """What a human is asked: may `agent` call `tool` with `arguments` (JSON)?

    To answer, complete the awakeable `id` with a `Decision`, as JSON `{"approved": true}`, or with true or false.
    """

    id: str
    tool: str
    arguments: str
    agent: str
    call_id: str


class Decision(msgspec.Struct, frozen=True):
    """The answer; `always` is for later calls of that tool in the run too. The model is told the `message` of a no."""

    approved: bool
    always: bool = False
    message: str | None = None


@dataclass
class _Asked:
    item: ToolApprovalItem
    request: ApprovalRequest
    answer: Any


async def decide(
    result: RunResult | RunResultStreaming, ask: Callable[[ApprovalRequest], Any], *, timeout: float | None = None
) -> "RunState[Any]":
    """Ask about everything that interrupted the run, wait for the answers, and give the state to go on with.

        result = await DurableRunner.run(agent, prompt)
        while result.interruptions:
            result = await DurableRunner.run(agent, await decide(result, ask))

    `ask` tells a human of it (a message, a row in a database); each call of it is a step. All are asked at once. A
    rejected awakeable is a no. Without an answer within `timeout` seconds, a durable time, it is a no as well.
    Raises `LookupError` outside of a handler.
    """
    context = current_context()
    if not isinstance(context, Context):
        raise TypeError("decide() is a coroutine and wants an async handler")
    asked: list[_Asked] = []
    for item in result.interruptions:
        answer = context.awakeable(Any)
        name, call_id = str(item.tool_name or ""), str(item.call_id or "")
        asked.append(
            _Asked(item, ApprovalRequest(answer.id, name, item.arguments or "", item.agent.name, call_id), answer)
        )
    await asyncio.gather(*(context.run(f"ask about {each.request.tool}", ask, each.request) for each in asked))
    decisions = await asyncio.gather(*(_decision(each.answer, timeout) for each in asked))
    state: RunState[Any] = result.to_state()
    for each, decision in zip(asked, decisions, strict=True):
        if decision.approved:
            state.approve(each.item, always_approve=decision.always)
        else:
            state.reject(each.item, always_reject=decision.always, rejection_message=decision.message)
    return state


async def _decision(answer: Any, timeout: float | None) -> Decision:
    try:
        async with asyncio.timeout(timeout):
            value = await answer
    except TimeoutError:
        return Decision(False, message=f"Nobody answered within {timeout:g} seconds.")
    except TerminalError as error:
        return Decision(False, message=error.message)
    return Decision(value) if isinstance(value, bool) else msgspec.convert(value, Decision)
