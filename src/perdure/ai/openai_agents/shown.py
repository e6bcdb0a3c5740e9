"""What readers of the handler's stream see of a run: model responses and tools' results, as `perdure.ai.showing` says.

The steps show what they do. What the framework answers by itself to a tool call has no step (a handoff, a rejection, a
guardrail's word): it is shown by the step that tells the model.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, cast
from weakref import WeakKeyDictionary

from pydantic_core import to_jsonable_python

from perdure.ai.base import durable_context
from perdure.ai.provider_parts import ResponseParts
from perdure.ai.showing import nothing_shown, showing

__all__ = ["asked", "out_of_sight", "show_answers", "show_event", "show_response", "show_result", "unanswered"]

_ASKED: "WeakKeyDictionary[Any, set[str]]" = WeakKeyDictionary()  # calls that were shown, and their results not yet


def show_response(output: Iterable[Any]) -> None:
    """In the model step: a response that came at once."""
    shown = showing()
    if shown is not None:
        ResponseParts(shown).items(output)


def show_event() -> Callable[[Any], None] | None:
    """In the model step: what shows the events of one streamed response, if anybody reads."""
    shown = showing()
    return None if shown is None else ResponseParts(shown).event


def show_result(call_id: str, output: Any, failed: bool) -> None:
    """What the model is told by a tool; `failed` if it is the framework's message about an exception."""
    shown = showing()
    if shown is None:
        return
    if failed:
        shown.tool_error(call_id, str(output))
    else:
        shown.tool_result(call_id, to_jsonable_python(output, fallback=str))


# -- in the handler ----------------------------------------------------------------------------------


def asked(output: Iterable[Any]) -> None:
    """The model has asked for these calls."""
    if showing() is not None:
        calls = _ASKED.setdefault(durable_context(), set())
        calls |= {item.call_id for item in output if getattr(item, "type", None) == "function_call"}


def answered(call_id: str) -> None:
    """That call's result is shown."""
    calls = _ASKED.get(durable_context())
    if calls is not None:
        calls.discard(call_id)


def unanswered(input: Any) -> list[tuple[str, Any]]:
    """Results in the input of a model that nobody has shown, to be shown with it: ids of the calls, and outputs."""
    calls = _ASKED.get(durable_context()) if showing() is not None else None
    if not calls or not isinstance(input, list):
        return []
    found = [
        (cast(str, item["call_id"]), item.get("output"))
        for item in input
        if isinstance(item, dict) and item.get("type") == "function_call_output" and item.get("call_id") in calls
    ]
    calls.difference_update(id for id, _ in found)
    return found


def show_answers(answers: list[tuple[str, Any]]) -> None:
    """In the model step: what `unanswered` has found."""
    shown = showing() if answers else None
    if shown is not None:
        for id, output in answers:
            shown.tool_result(id, output)


def out_of_sight(original: Callable[..., Any]) -> Callable[..., Any]:
    """A guardrail's `run`, of which readers see nothing: what its agents say is no part of the answer."""

    @functools.wraps(original)
    async def run(*args: Any, **kwargs: Any) -> Any:
        with nothing_shown():
            return await original(*args, **kwargs)

    return run
