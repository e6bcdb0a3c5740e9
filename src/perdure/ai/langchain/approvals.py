"""Interrupts that people answer by `ctx.approval`: an agent's tool calls, and what a graph asks with `interrupt()`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from langgraph.types import Command, Interrupt
from pydantic_core import to_jsonable_python

from perdure.ai.base import durable_context
from perdure.sdk.approvals import ApprovalTimeout, Decision, Escalation, Notify, Seconds
from perdure.sdk.context import Context
from perdure.sdk.threads import SyncContext

__all__ = ["decide", "decide_sync"]

_INTERRUPT = "__interrupt__"
_LATE = "Nobody answered in time."
_Title = Callable[[Any], str]
_Answer = Callable[[Any, "Decision[Any] | None"], Any]


class _Asked(NamedTuple):
    """One question: a tool call, or a whole interrupt."""

    context: Any
    schema: Any
    title: str
    answer: Callable[[Decision[Any] | ApprovalTimeout], Any]


async def decide(
    result: Any,
    *,
    title: _Title | None = None,
    schema: Any = None,
    answer: _Answer | None = None,
    timeout: Seconds | None = None,
    notify: Notify | None = None,
    escalate: Escalation | Sequence[Escalation] = (),
    to: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Command[Any]:
    """Have people answer everything that interrupted the run, and give the command to go on with.

        state = await agent.ainvoke({"messages": [("user", question)]}, thread)
        while "__interrupt__" in state:
            state = await agent.ainvoke(await decide(state, timeout=timedelta(days=7)), thread)

    `result` is what the run returned, a snapshot of its state, or the interrupts. All are asked at once.

    Each tool call that `HumanInTheLoopMiddleware` holds back is a `ctx.approval` whose context has `tool`, `arguments`
    and `description`. Where its configuration allows it, who approves may give the value `{"arguments": {...}}`, to
    have the call made with these, or `{"message": "..."}`, which the model is told in place of the tool's result. A
    call that is rejected, or that nobody answers in time, is not made, and the model is told why. A rejection that the
    configuration does not allow is the answer to the model if it allows `respond`, else it ends the invocation (403).

    Any other interrupt is an approval whose context is its value. The node is given whether it was approved, in time.
    With a `schema` (see `ctx.approval`), or a `response_schema` of the interrupt's own, it is given the approved value,
    as JSON has it; then a rejection ends the invocation (403), and so does the end of the time (408).
    `answer(value, decision)` makes the node's answer otherwise; `decision` is None if nobody answered in time.

    `title(context)` makes the title; `timeout`, `notify`, `escalate`, `to` and `tags` are those of `ctx.approval`.
    Raises `LookupError` outside of handlers, `TypeError` in plain ones (`decide_sync`) and if nothing was interrupted.
    """
    context = durable_context()
    if context is None:
        raise LookupError("decide() asks people from a handler; outside of one resume the graph with a Command")
    if not isinstance(context, Context):
        raise TypeError("decide() is a coroutine and wants an async handler; in a plain one use decide_sync()")
    options: dict[str, Any] = {"timeout": timeout, "notify": notify, "escalate": escalate, "to": to, "tags": tags}

    async def ask(asked: _Asked) -> Any:
        try:
            decision = await context.approval(asked.title, asked.schema, context=asked.context, **options)
        except ApprovalTimeout as error:
            return asked.answer(error)
        return asked.answer(decision)

    interrupts = _interrupts(result)
    questions = [_questions(each, title, schema, answer) for each in interrupts]
    answers = await asyncio.gather(*(ask(asked) for of_one in questions for asked in of_one))
    return _command(interrupts, questions, answers)


def decide_sync(
    result: Any,
    *,
    title: _Title | None = None,
    schema: Any = None,
    answer: _Answer | None = None,
    timeout: Seconds | None = None,
    notify: Notify | None = None,
    escalate: Escalation | Sequence[Escalation] = (),
    to: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Command[Any]:
    """`decide` for plain handlers, where one is asked after the other."""
    context = durable_context()
    if context is None:
        raise LookupError("decide_sync() asks people from a handler; outside of one resume the graph with a Command")
    if not isinstance(context, SyncContext):
        raise TypeError("decide_sync() is for plain handlers; in an async one use: await decide(...)")
    options: dict[str, Any] = {"timeout": timeout, "notify": notify, "escalate": escalate, "to": to, "tags": tags}
    interrupts = _interrupts(result)
    questions = [_questions(each, title, schema, answer) for each in interrupts]
    answers: list[Any] = []
    for asked in (asked for of_one in questions for asked in of_one):
        try:
            decision = context.approval(asked.title, asked.schema, context=asked.context, **options)
        except ApprovalTimeout as error:
            answers.append(asked.answer(error))
        else:
            answers.append(asked.answer(decision))
    return _command(interrupts, questions, answers)


def _interrupts(result: Any) -> list[Interrupt]:
    if isinstance(result, Interrupt):
        return [result]
    found = result.get(_INTERRUPT) if isinstance(result, Mapping) else getattr(result, "interrupts", result)
    if isinstance(found, list | tuple) and found and all(isinstance(each, Interrupt) for each in found):
        return list(found)
    raise TypeError("nothing was interrupted: decide() takes what a run returned that has interrupts, or these")


def _command(interrupts: list[Interrupt], questions: list[list[_Asked]], answers: list[Any]) -> Command[Any]:
    remaining = iter(answers)
    resume: dict[str, Any] = {}
    for interrupt, of_one in zip(interrupts, questions, strict=True):
        given = [next(remaining) for _ in of_one]
        resume[interrupt.id] = {"decisions": given} if _is_batch(interrupt.value) else given[0]
    return Command(resume=resume)


# -- what is asked -------------------------------------------------------------------------------------


def _questions(interrupt: Interrupt, title: _Title | None, schema: Any, answer: _Answer | None) -> list[_Asked]:
    value = interrupt.value
    if _is_batch(value):
        allowed = {each["action_name"]: each["allowed_decisions"] for each in value["review_configs"]}
        return [_tool_call(each, allowed[each["name"]], None, title) for each in value["action_requests"]]
    known = getattr(interrupt, "response_schema", None)
    if isinstance(value, Mapping) and value.get("type") == "tool_approval":
        branches = _branches(known or {})
        return [_tool_call(value, list(branches), known, title)]
    return [_question(value, known if schema is None else schema, title, answer)]


def _is_batch(value: Any) -> bool:
    return isinstance(value, Mapping) and {"action_requests", "review_configs"} <= value.keys()


def _question(value: Any, schema: Any, title: _Title | None, answer: _Answer | None) -> _Asked:
    context = to_jsonable_python(value, fallback=str)

    def answered(said: Decision[Any] | ApprovalTimeout) -> Any:
        if answer is not None:
            return answer(value, None if isinstance(said, ApprovalTimeout) else said)
        if schema is None:
            return not isinstance(said, ApprovalTimeout) and said.approved
        if isinstance(said, ApprovalTimeout):
            raise said
        return to_jsonable_python(said.value)

    own = value if isinstance(value, str) and value else "Go on?"
    return _Asked(context, schema, own if title is None else title(context), answered)


# -- tool calls ----------------------------------------------------------------------------------------


def _tool_call(request: Any, allowed: Sequence[str], known: Any, title: _Title | None) -> _Asked:
    name = request["name"]
    context = {
        "tool": name,
        "arguments": to_jsonable_python(request["args"], fallback=str),
        "description": request.get("description", ""),
    }

    def answered(said: Decision[Any] | ApprovalTimeout) -> Any:
        if not isinstance(said, ApprovalTimeout) and said:
            value = said.value or {}
            if "arguments" in value:
                return {"type": "edit", "edited_action": {"name": name, "args": value["arguments"]}}
            return {"type": "respond", "message": value["message"]} if "message" in value else {"type": "approve"}
        why = _LATE if isinstance(said, ApprovalTimeout) else said.comment
        if "reject" in allowed:
            return {"type": "reject"} if why is None else {"type": "reject", "message": why}
        if "respond" in allowed:
            return {"type": "respond", "message": why or "The tool call was denied."}
        if isinstance(said, ApprovalTimeout):
            raise said
        return said.value  # raises, and says who rejected and why

    asked = f"Call {name}?" if title is None else title(context)
    return _Asked(context, _schema_of(allowed, known), asked, answered)


def _schema_of(allowed: Sequence[str], known: Any) -> dict[str, Any] | None:
    """What may be given with an approval; None: nothing, it is a yes or no."""
    properties: dict[str, Any] = {}
    if "edit" in allowed:
        properties["arguments"] = _arguments(known)
    if "respond" in allowed:
        properties["message"] = {"type": "string", "description": "told the model in place of the tool's result"}
    if not properties:
        return None
    plain = "approve" in allowed
    schema: dict[str, Any] = {
        "type": ["object", "null"] if plain else "object",
        "properties": properties,
        "additionalProperties": False,
        "maxProperties": 1,
        **({} if plain else {"minProperties": 1}),
    }
    if known and "$defs" in known:
        schema["$defs"] = known["$defs"]
    return schema


def _arguments(known: Any) -> Any:
    """The schema of the tool's arguments, as far as the interrupt says it."""
    if known:
        action = _resolved(_branches(known)["edit"]["properties"]["edited_action"], known)
        return action["properties"]["args"]
    return {"type": "object", "description": "the arguments to call it with instead"}


def _branches(schema: Any) -> dict[str, Any]:
    """The kinds of decision that the schema of an interrupt allows."""
    found = [_resolved(each, schema) for each in schema.get("oneOf") or schema.get("anyOf") or [schema]]
    return {each["properties"]["type"]["const"]: each for each in found}


def _resolved(schema: Any, root: Any) -> Any:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema
