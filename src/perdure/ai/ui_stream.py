"""The UI message stream of the Vercel AI SDK (version 1), for pages that use `useChat`.

`GET /restate/streams/{invocation}/{name}?protocol=vercel` speaks it, and `POST /restate/stream/...&protocol=vercel`.
Text, reasoning, tool calls and their results become parts of the message; data becomes a part `data-{name}`.

The protocol cannot take back a part. When a stream is regenerated, a part `data-regenerated` follows those that are
void: its `keep` says how many of the parts before it, without those that were void already, are still to be shown.
"""

from typing import Any, Final

import msgspec

from perdure.ai.parts import JsonObject, PartKind, PartRendering, Void
from perdure.model.entries import Failure

__all__ = ["UIMessageStream"]

HEADER: Final = (b"x-vercel-ai-ui-message-stream", b"v1")


class UIMessageStream(PartRendering):
    """A stream's events as a UI message stream."""

    headers: tuple[tuple[bytes, bytes], ...] = (HEADER,)

    def __init__(self) -> None:
        super().__init__(_Dialect(), b"data: [DONE]\n\n")


class _Dialect:
    def begin(self, invocation_id: str) -> list[JsonObject]:
        return [{"type": "start", "messageId": invocation_id}, {"type": "start-step"}]

    def opened(self, kind: PartKind, id: str, name: str) -> list[JsonObject]:
        if kind == "tool":
            return [{"type": "tool-input-start", "toolCallId": id, "toolName": name}]
        return [{"type": f"{kind}-start", "id": id}]

    def delta(self, kind: PartKind, id: str, text: str) -> list[JsonObject]:
        if kind == "tool":
            return [{"type": "tool-input-delta", "toolCallId": id, "inputTextDelta": text}]
        return [{"type": f"{kind}-delta", "id": id, "delta": text}]

    def closed(self, kind: PartKind, id: str, name: str, text: str) -> list[JsonObject]:
        if kind != "tool":
            return [{"type": f"{kind}-end", "id": id}]
        available = {"type": "tool-input-available", "toolCallId": id, "toolName": name}
        return [{**available, "input": _json_or_text(text)}]

    def tool_result(self, id: str, output: Any, error: str | None) -> list[JsonObject]:
        if error is not None:
            return [{"type": "tool-output-error", "toolCallId": id, "errorText": error}]
        return [{"type": "tool-output-available", "toolCallId": id, "output": output}]

    def data(self, id: str, name: str, value: Any) -> list[JsonObject]:
        return [{"type": f"data-{name}", "id": id, "data": value}]

    def void(self, void: Void) -> list[JsonObject]:
        return [{"type": "data-regenerated", "data": {"keep": void.kept}}]

    def end(self, failure: Failure | None) -> list[JsonObject]:
        if failure is not None:
            return [{"type": "error", "errorText": failure.message}, {"type": "finish"}]
        return [{"type": "finish-step"}, {"type": "finish"}]


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
