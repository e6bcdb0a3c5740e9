"""What readers see of a chat model's message: its chunks as they come, or all of it at once."""

from typing import Any, TypeVar

from langchain_core.messages import AIMessage, ToolMessage

from perdure.ai.showing import NOT_SHOWN, Showing, showing

__all__ = ["ChunksShown", "show_result", "tool_result"]

R = TypeVar("R")


class ChunksShown:
    """Shows the chunks of one message."""

    def __init__(self) -> None:
        self._showing = showing()
        self._calls: dict[Any, tuple[str, str]] = {}  # by their index: id and name, which only the first piece has
        self._whole: Any = None

    def show(self, chunk: Any) -> None:
        """The next one."""
        shown = self._showing
        if shown is None:
            return
        self._whole = chunk.message if self._whole is None else self._whole + chunk.message
        for block in _blocks(chunk.message):
            if block["type"] == "tool_call_chunk":
                index = block.get("index")
                if block.get("id"):
                    self._calls[index] = (block["id"], block.get("name") or "")
                if index in self._calls and block.get("args"):
                    shown.tool_call_delta(*self._calls[index], block["args"])
            else:
                _show(shown, block)

    def end(self) -> None:
        """There are no more: its tool calls are whole."""
        if self._showing is not None and self._whole is not None:
            for call in self._whole.tool_calls:
                self._showing.tool_call(call["id"] or "", call["name"], call["args"])


def show_result(result: R) -> R:
    """All parts of a message that came at once."""
    shown = showing()
    if shown is not None:
        for generation in getattr(result, "generations", ())[:1]:
            message = generation.message
            for block in _blocks(message):
                _show(shown, block)
            for call in getattr(message, "tool_calls", ()):
                shown.tool_call(call["id"] or "", call["name"], call["args"])
    return result


def tool_result(result: Any) -> Any:
    """Of what a tool's call returns: what the model will read. A command has nothing to be read."""
    return result.content if isinstance(result, ToolMessage) else NOT_SHOWN


def _blocks(message: Any) -> list[Any]:
    return list(message.content_blocks) if isinstance(message, AIMessage) else []


def _show(shown: Showing, block: Any) -> None:
    if block["type"] == "text":
        shown.text(block.get("text") or "")
    elif block["type"] == "reasoning":
        shown.reasoning(block.get("reasoning") or "")
