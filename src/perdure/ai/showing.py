"""What readers see of an agent while it works: its integration writes to the stream that the handler has named.

    with ctx.stream("answer").default():
        result = await agent.run(question)          # any integration of perdure.ai

Text, reasoning and tool calls are shown by the step that asks the model, as they arrive if the framework's streaming
API is used, else when the answer is whole; results by the step that uses the tool. Each is a part as `perdure.ai.parts`
has it, so chat pages can read the stream as it is. Without such a stream nothing is written.

An integration asks `showing()` inside the step, and writes to what it gets:

    async def ask() -> Response:
        shown = showing()
        async for event in request():
            if shown is not None and event.text:
                shown.text(event.text)
"""

from typing import Any, Final, NamedTuple

from perdure.errors import TerminalError
from perdure.sdk.streams import Stream, current_stream

__all__ = ["NOT_SHOWN", "Showing", "showing"]

NOT_SHOWN: Final[Any] = object()
"""In place of a tool's result: there is none to be seen yet."""


class Showing(NamedTuple):
    """Writes the parts of a message to a stream. In a step they belong to this try of it, as every chunk does."""

    stream: Stream

    def text(self, text: str) -> None:
        """A piece of the answer."""
        if text:
            self.stream.write(text)

    def reasoning(self, text: str) -> None:
        """A piece of what the model thinks."""
        if text:
            self.stream.write({"type": "reasoning", "text": text})

    def tool_call_delta(self, id: str, name: str, delta: str) -> None:
        """A piece of a tool call's input, as JSON text; `name` is the tool's. Close it with `tool_call`."""
        self.stream.write({"type": "tool-call-delta", "id": id, "name": name, "delta": delta})

    def tool_call(self, id: str, name: str, input: Any) -> None:
        """A tool call that is whole. `input` is shown only if no pieces of it were."""
        self._write({"type": "tool-call", "id": id, "name": name}, "input", input)

    def tool_result(self, id: str, output: Any) -> None:
        """What the tool said to the call with this id; what is not JSON is shown as its `str`."""
        self._write({"type": "tool-result", "id": id}, "output", output)

    def tool_error(self, id: str, error: str) -> None:
        """That the call with this id failed."""
        self.stream.write({"type": "tool-result", "id": id, "error": error})

    def _write(self, part: dict[str, Any], field: str, value: Any) -> None:
        if value is NOT_SHOWN:
            return
        if hasattr(value, "model_dump"):  # pydantic's, which the stream takes as a chunk but not within one
            value = value.model_dump(mode="json")
        try:
            self.stream.write({**part, field: value})
        except TerminalError as error:
            if error.code != 400:
                raise
            self.stream.write({**part, field: str(value)})


def showing() -> Showing | None:
    """Where to show it; None unless this runs within `with stream.default():`, or in a step started there."""
    try:
        return Showing(current_stream())
    except LookupError:
        return None
