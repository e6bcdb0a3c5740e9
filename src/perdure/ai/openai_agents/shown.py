"""What readers see of a model's response: its events as parts of a message, or the whole of it at once."""

from typing import Any, TypeVar

import msgspec

from perdure.ai.showing import Showing, showing

__all__ = ["EventsShown", "show_response"]

R = TypeVar("R")

_TEXT = ("response.output_text.delta", "response.refusal.delta")
_REASONING = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")


class EventsShown:
    """Shows the events of one response (of either API: the framework makes those of chat completions alike)."""

    def __init__(self) -> None:
        self._showing = showing()
        self._calls: dict[Any, tuple[str, str]] = {}  # by the item's place in the response: call id and tool

    def show(self, event: Any) -> None:
        """The next one."""
        shown = self._showing
        kind = getattr(event, "type", None)
        if shown is None or kind is None:
            return
        if kind in _TEXT:
            shown.text(event.delta)
        elif kind in _REASONING:
            shown.reasoning(event.delta)
        elif kind == "response.output_item.added" and _is_call(event.item):
            self._calls[event.output_index] = (event.item.call_id, event.item.name)
        elif kind == "response.function_call_arguments.delta" and event.output_index in self._calls:
            if event.delta:
                shown.tool_call_delta(*self._calls[event.output_index], event.delta)
        elif kind == "response.output_item.done" and _is_call(event.item):
            _show_call(shown, event.item)


def show_response(response: R) -> R:
    """All parts of a response that came at once."""
    shown = showing()
    if shown is not None:
        for item in getattr(response, "output", ()):
            _show_item(shown, item)
    return response


def _show_item(shown: Showing, item: Any) -> None:
    kind = getattr(item, "type", None)
    if kind == "message":
        for content in item.content:
            shown.text(getattr(content, "text", None) or getattr(content, "refusal", None) or "")
    elif kind == "reasoning":
        for part in [*(item.content or ()), *(item.summary or ())]:
            shown.reasoning(part.text)
    elif _is_call(item):
        _show_call(shown, item)


def _is_call(item: Any) -> bool:
    return getattr(item, "type", None) == "function_call"


def _show_call(shown: Showing, item: Any) -> None:
    try:
        arguments = msgspec.json.decode(item.arguments or "{}")
    except msgspec.DecodeError:
        arguments = item.arguments
    shown.tool_call(item.call_id, item.name, arguments)
