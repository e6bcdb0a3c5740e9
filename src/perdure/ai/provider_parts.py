"""What a model's answer shows (`perdure.ai.showing`), as OpenAI and Anthropic write it: as it comes, or whole.

Each reader is made for one answer. `event` takes the events of a stream in order, `whole` an answer that came at once.
Both take the JSON documents of the API, or the objects that the provider's library makes of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from perdure.ai.showing import Showing

__all__ = ["READERS", "ChatParts", "MessageParts", "PartReader", "ResponseParts"]

_BETWEEN_SUMMARIES: Final = "\n\n"


class PartReader(Protocol):
    """Shows one answer."""

    def event(self, event: Any) -> None:
        """The next event of a streamed answer."""
        ...

    def whole(self, answer: Any) -> None:
        """An answer that was not streamed."""
        ...


class ResponseParts:
    """OpenAI's responses."""

    def __init__(self, shown: Showing) -> None:
        self._shown = shown
        self._calls: dict[Any, tuple[str, str]] = {}  # by the item's place: id and name of a function call
        self._anything = False

    def event(self, event: Any) -> None:
        kind = _get(event, "type")
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            self._anything = True
            self._shown.text(_get(event, "delta"))
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            self._anything = True
            self._shown.reasoning(_get(event, "delta"))
        elif kind == "response.reasoning_summary_part.added" and _get(event, "summary_index"):
            self._shown.reasoning(_BETWEEN_SUMMARIES)
        elif kind == "response.function_call_arguments.delta":
            call = self._calls.get(_get(event, "output_index"))
            if call is not None and _get(event, "delta"):
                self._shown.tool_call_delta(*call, _get(event, "delta"))
        elif kind == "response.output_item.added":
            item = _get(event, "item")
            if _get(item, "type") == "function_call":
                self._calls[_get(event, "output_index")] = _get(item, "call_id"), _get(item, "name")
        elif kind == "response.output_item.done":
            self._call(_get(event, "item"))
        elif kind in ("response.completed", "response.incomplete") and not self._anything:
            self.whole(_get(event, "response"))  # from what says nothing before it has said all

    def whole(self, answer: Any) -> None:
        self.items(_get(answer, "output") or [])

    def items(self, items: Any) -> None:
        """The items of a whole response."""
        for item in items:
            kind = _get(item, "type")
            if kind == "message":
                for content in _get(item, "content") or []:
                    self._shown.text(_get(content, "text") or _get(content, "refusal") or "")
            elif kind == "reasoning":
                summary = _texts(_get(item, "summary"), _BETWEEN_SUMMARIES)
                self._shown.reasoning(summary or _texts(_get(item, "content")))
            else:
                self._call(item)

    def _call(self, item: Any) -> None:
        kind = _get(item, "type")
        if kind == "function_call":
            self._anything = True
            self._shown.tool_call(_get(item, "call_id"), _get(item, "name"), _json(_get(item, "arguments")))
        elif kind == "custom_tool_call":
            self._anything = True
            self._shown.tool_call(_get(item, "call_id"), _get(item, "name"), _get(item, "input"))
        elif kind == "mcp_call":  # made by the provider
            self._anything = True
            id, error = _get(item, "id"), _get(item, "error")
            self._shown.tool_call(id, _get(item, "name"), _json(_get(item, "arguments")))
            if error is None:
                self._shown.tool_result(id, _get(item, "output"))
            else:
                self._shown.tool_error(id, error if isinstance(error, str) else repr(error))


class ChatParts:
    """OpenAI's chat completions, and what others make after them. Of several choices the first is shown."""

    def __init__(self, shown: Showing) -> None:
        self._shown = shown
        self._calls: dict[int, list[str]] = {}  # by index: id, name and arguments so far

    def event(self, event: Any) -> None:
        for choice in _get(event, "choices") or []:
            if _get(choice, "index"):
                continue
            delta = _get(choice, "delta")
            self._said(delta)
            for place, piece in enumerate(_get(delta, "tool_calls") or []):
                index = _get(piece, "index")
                self._piece(place if index is None else index, piece)
            if _get(choice, "finish_reason"):
                self._finish()

    def whole(self, answer: Any) -> None:
        message = _get(next(iter(_get(answer, "choices") or []), None), "message")
        self._said(message)
        for call in _get(message, "tool_calls") or []:
            function = _get(call, "function")
            if function is not None:
                self._shown.tool_call(_get(call, "id"), _get(function, "name"), _json(_get(function, "arguments")))

    def _said(self, message: Any) -> None:
        self._shown.reasoning(_text(_get(message, "reasoning_content")) or _text(_get(message, "reasoning")))
        self._shown.text(_text(_get(message, "content")) or _text(_get(message, "refusal")))

    def _piece(self, index: int, piece: Any) -> None:
        function = _get(piece, "function")
        id, name, delta = _text(_get(piece, "id")), _text(_get(function, "name")), _text(_get(function, "arguments"))
        call = self._calls.setdefault(index, ["", "", ""])
        call[0], call[1] = call[0] or id, call[1] or name
        call[2] += delta
        if delta:
            self._shown.tool_call_delta(call[0], call[1], delta)

    def _finish(self) -> None:
        for id, name, arguments in self._calls.values():
            self._shown.tool_call(id, name, _json(arguments))
        self._calls.clear()


class MessageParts:
    """Anthropic's messages."""

    def __init__(self, shown: Showing) -> None:
        self._shown = shown
        self._calls: dict[Any, list[str]] = {}  # by the block's index: id, name and input so far

    def event(self, event: Any) -> None:
        kind, index = _get(event, "type"), _get(event, "index")
        if kind == "content_block_start":
            block = _get(event, "content_block")
            if _get(block, "type") in _USES:
                self._calls[index] = [_get(block, "id"), _get(block, "name"), ""]
            else:
                self._block(block)
        elif kind == "content_block_delta":
            self._delta(index, _get(event, "delta"))
        elif kind == "content_block_stop" and index in self._calls:
            id, name, input = self._calls.pop(index)
            self._shown.tool_call(id, name, _json(input or "{}"))

    def _delta(self, index: Any, delta: Any) -> None:
        kind = _get(delta, "type")
        if kind == "text_delta":
            self._shown.text(_get(delta, "text"))
        elif kind == "thinking_delta":
            self._shown.reasoning(_get(delta, "thinking"))
        elif kind == "input_json_delta" and index in self._calls and _get(delta, "partial_json"):
            call = self._calls[index]
            call[2] += _get(delta, "partial_json")
            self._shown.tool_call_delta(call[0], call[1], _get(delta, "partial_json"))

    def whole(self, answer: Any) -> None:
        for block in _get(answer, "content") or []:
            self._block(block)

    def _block(self, block: Any) -> None:
        kind = _get(block, "type")
        if kind == "text":
            self._shown.text(_get(block, "text"))
        elif kind == "thinking":
            self._shown.reasoning(_get(block, "thinking"))
        elif kind in _USES:
            self._shown.tool_call(_get(block, "id"), _get(block, "name"), _get(block, "input"))
        elif isinstance(kind, str) and kind.endswith("_tool_result"):  # of a tool that the provider has used
            self._shown.tool_result(_get(block, "tool_use_id"), _get(block, "content"))


_USES: Final = ("tool_use", "server_tool_use", "mcp_tool_use")

READERS: Final[dict[str, Callable[[Showing], PartReader]]] = {
    "/chat/completions": ChatParts,
    "/responses": ResponseParts,
    "/messages": MessageParts,
}
"""By how the path of the request ends."""


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _text(value: Any) -> str:
    """What is no text is nothing to show: some gateways send objects where others send text."""
    return value if isinstance(value, str) else ""


def _texts(parts: Any, between: str = "") -> str:
    return between.join(_text(_get(part, "text")) for part in parts or [])


def _json(arguments: Any) -> Any:
    try:
        return msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, TypeError):
        return arguments
