"""AG-UI, the protocol between agents and pages.

`GET /restate/streams/{invocation}/{name}?protocol=ag-ui` speaks it, and `POST /restate/stream/...&protocol=ag-ui`. Each
run of text is a message of the assistant; tool calls, their results, reasoning and state have events of their own;
data is a `CUSTOM` event.

The protocol cannot take back a message. When a stream is regenerated, the `CUSTOM` event `perdure.regenerated` names
the messages and tool calls that are void: `{"ids": [...]}`. What is valid of them follows as new ones.
"""

from typing import Any

import msgspec

from perdure.ai.parts import JsonObject, PartKind, PartRendering, Void
from perdure.model.entries import Failure

__all__ = ["AgUiEvents"]


class AgUiEvents(PartRendering):
    """A stream's events as those of AG-UI."""

    def __init__(self) -> None:
        super().__init__(_Dialect())


class _Dialect:
    def __init__(self) -> None:
        self._run: JsonObject = {}

    def begin(self, invocation_id: str) -> list[JsonObject]:
        self._run = {"threadId": invocation_id, "runId": invocation_id}
        return [{"type": "RUN_STARTED", **self._run}]

    def _id(self, id: str) -> str:
        """Messages of several runs meet on a page."""
        return f"{self._run['runId']}/{id}"

    def opened(self, kind: PartKind, id: str, name: str) -> list[JsonObject]:
        if kind == "tool":
            return [{"type": "TOOL_CALL_START", "toolCallId": id, "toolCallName": name}]
        if kind == "reasoning":
            message = self._id(id)
            return [
                {"type": "REASONING_START", "messageId": message},
                {"type": "REASONING_MESSAGE_START", "messageId": message, "role": "reasoning"},
            ]
        return [{"type": "TEXT_MESSAGE_START", "messageId": self._id(id), "role": "assistant"}]

    def delta(self, kind: PartKind, id: str, text: str) -> list[JsonObject]:
        if kind == "tool":
            return [{"type": "TOOL_CALL_ARGS", "toolCallId": id, "delta": text}]
        event = "REASONING_MESSAGE_CONTENT" if kind == "reasoning" else "TEXT_MESSAGE_CONTENT"
        return [{"type": event, "messageId": self._id(id), "delta": text}]

    def closed(self, kind: PartKind, id: str, name: str, text: str) -> list[JsonObject]:
        if kind == "tool":
            return [{"type": "TOOL_CALL_END", "toolCallId": id}]
        message = self._id(id)
        if kind == "reasoning":
            return [
                {"type": "REASONING_MESSAGE_END", "messageId": message},
                {"type": "REASONING_END", "messageId": message},
            ]
        return [{"type": "TEXT_MESSAGE_END", "messageId": message}]

    def tool_result(self, id: str, output: Any, error: str | None) -> list[JsonObject]:
        value = {"error": error} if error is not None else output
        content = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        result = {"messageId": self._id(f"{id}/result"), "toolCallId": id, "content": content, "role": "tool"}
        return [{"type": "TOOL_CALL_RESULT", **result}]

    def data(self, id: str, name: str, value: Any) -> list[JsonObject]:
        if name == "state":
            return [{"type": "STATE_SNAPSHOT", "snapshot": value}]
        return [{"type": "CUSTOM", "name": name, "value": value}]

    def void(self, void: Void) -> list[JsonObject]:
        ids = [each for id in void.ids for each in (id, self._id(id))]
        return [{"type": "CUSTOM", "name": "perdure.regenerated", "value": {"ids": ids}}]

    def end(self, failure: Failure | None) -> list[JsonObject]:
        if failure is not None:
            return [{"type": "RUN_ERROR", "message": failure.message, "code": str(failure.code)}]
        return [{"type": "RUN_FINISHED", **self._run}]
