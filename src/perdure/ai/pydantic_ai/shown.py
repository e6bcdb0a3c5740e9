"""What readers see of pydantic-ai's model responses: the parts as they stream in, or all of a response at once."""

from __future__ import annotations

from typing import Any

from pydantic_ai.messages import (
    ModelResponse,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)

from perdure.ai.showing import NOT_SHOWN, Showing, showing

__all__ = ["PartsShown", "show_response", "tool_result"]


class PartsShown:
    """Shows the events of one response."""

    def __init__(self) -> None:
        self._showing = showing()
        self._calls: dict[int, ToolCallPart] = {}  # by the part's place in the response
        self.anything = False

    def show(self, event: Any) -> None:
        """The next one."""
        shown = self._showing
        if shown is None:
            return
        self.anything = True
        if isinstance(event, PartStartEvent):
            if isinstance(event.part, ToolCallPart):
                self._calls[event.index] = event.part
                self._piece(shown, event.index, event.part.args)
            else:
                _show_text(shown, event.part)
        elif isinstance(event, PartDeltaEvent):
            delta = event.delta
            if isinstance(delta, TextPartDelta):
                shown.text(delta.content_delta)
            elif isinstance(delta, ThinkingPartDelta):
                shown.reasoning(delta.content_delta or "")
            elif isinstance(delta, ToolCallPartDelta):
                self._piece(shown, event.index, delta.args_delta)
        elif isinstance(event, PartEndEvent) and isinstance(event.part, ToolCallPart):
            _show_call(shown, event.part)

    def _piece(self, shown: Showing, index: int, arguments: object) -> None:
        part = self._calls.get(index)
        if part is not None and part.tool_call_id and isinstance(arguments, str) and arguments:
            shown.tool_call_delta(part.tool_call_id, part.tool_name, arguments)


def show_response(response: object) -> None:
    """All parts of a response that came at once."""
    shown = showing()
    if shown is None or not isinstance(response, ModelResponse):
        return
    for part in response.parts:
        if isinstance(part, ToolCallPart):
            _show_call(shown, part)
        else:
            _show_text(shown, part)


def tool_result(payload: Any) -> Any:
    """Of what a tool's step returns: what the tool did. A call that is deferred, or waits for approval, has none."""
    kind = payload.get("kind") if isinstance(payload, dict) else None
    if kind == "tool_return":
        return payload.get("result")
    return payload if kind is None or kind == "model_retry" else NOT_SHOWN


def _show_text(shown: Showing, part: object) -> None:
    if isinstance(part, TextPart):
        shown.text(part.content)
    elif isinstance(part, ThinkingPart):
        shown.reasoning(part.content)


def _show_call(shown: Showing, part: ToolCallPart) -> None:
    try:
        arguments = part.args_as_dict()
    except ValueError:
        arguments = {"text": part.args}
    shown.tool_call(part.tool_call_id, part.tool_name, arguments)
