"""Streams as the parts of a message, in the protocols of pages; the protocols' own packages read what comes out."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.ai.ag_ui import AgUiEvents
from perdure.ai.parts import PartRendering
from perdure.ai.ui_stream import UIMessageStream
from perdure.model.entries import Failure
from perdure.model.streams import RAW, ChunkEvent, Cursor, EndEvent, RegeneratedEvent, StreamEvent

CURSOR = Cursor(1, 1, 1, 0, 0)
WEATHER = {"type": "tool-call", "id": "call_1", "name": "weather", "input": {"city": "Ulm"}}
SUNNY = {"type": "tool-result", "id": "call_1", "output": {"sky": "blue"}}


def chunk(position: int, value: Any) -> ChunkEvent:
    return ChunkEvent(position, RAW + value if isinstance(value, bytes) else msgspec.json.encode(value))


def rendered(rendering: PartRendering, *events: StreamEvent) -> list[dict[str, Any]]:
    """Everything that is sent, `[DONE]` left out."""
    raw = rendering.begin("inv_1", created=True) + rendering.events(list(events), CURSOR)
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


CONVERSATION = (
    chunk(0, {"type": "reasoning", "text": "Hm. "}),
    chunk(1, {"type": "reasoning", "text": "Weather?"}),
    chunk(2, "Let me "),
    chunk(3, {"type": "text", "text": "look."}),
    chunk(4, {"type": "tool-call-delta", "id": "call_1", "name": "weather", "delta": '{"city":'}),
    chunk(5, {"type": "tool-call-delta", "id": "call_2", "name": "news", "delta": "{"}),
    chunk(6, {"type": "tool-call-delta", "id": "call_1", "name": "weather", "delta": '"Ulm"}'}),
    chunk(7, {"type": "tool-call-delta", "id": "call_2", "name": "news", "delta": "}"}),
    chunk(8, WEATHER),
    chunk(9, SUNNY),
    chunk(10, {"type": "tool-result", "id": "call_2", "error": "no news"}),
    chunk(11, {"type": "data", "name": "chart", "data": [1, 2]}),
    chunk(12, {"type": "state", "state": {"step": 3}}),
    chunk(13, {"odd": 1}),
    chunk(14, b"\xff"),
    chunk(15, "Sunny."),
)
CUT = (  # the last text was regenerated from its middle, the tool call before it from its beginning
    chunk(0, "Let me look. "),
    chunk(1, WEATHER),
    chunk(2, "It"),
    chunk(3, " rains"),
    RegeneratedEvent(3),
    chunk(4, "'s sunny."),
    RegeneratedEvent(1),
    chunk(5, WEATHER),
    chunk(6, SUNNY),
    chunk(7, "Blue sky."),
)
END = EndEvent(None)


def test_a_ui_message_stream() -> None:
    events = rendered(UIMessageStream(), *CONVERSATION, END)
    assert [event["type"] for event in events] == [
        *("start", "start-step", "reasoning-start", "reasoning-delta", "reasoning-delta", "reasoning-end"),
        *("text-start", "text-delta", "text-delta", "text-end"),
        *("tool-input-start", "tool-input-delta", "tool-input-start", "tool-input-delta"),
        *("tool-input-delta", "tool-input-delta", "tool-input-available", "tool-output-available"),
        *("tool-input-available", "tool-output-error", "data-chart", "data-state", "data-chunk", "data-bytes"),
        *("text-start", "text-delta", "text-end", "finish-step", "finish"),
    ]
    assert events[0]["messageId"] == "inv_1"
    assert next(event["input"] for event in events if event["type"] == "tool-input-available") == {"city": "Ulm"}


def shown(events: list[dict[str, Any]]) -> list[Any]:
    """What a page shows that heeds `data-regenerated`, as docs/streaming.md says it."""
    parts: list[Any] = []
    texts: dict[str, list[str]] = {}
    for event in events:
        if event["type"] == "text-start":
            texts[event["id"]] = []
            parts.append(texts[event["id"]])
        elif event["type"] == "text-delta":
            texts[event["id"]].append(event["delta"])
        elif event["type"] == "tool-input-start":
            parts.append(event["toolName"])
        elif event["type"] == "data-regenerated":
            del parts[event["data"]["keep"] :]
        elif event["type"].startswith("data-"):
            parts.append(event["data"])
    return ["".join(part) if isinstance(part, list) else part for part in parts]


def test_what_is_void_in_a_ui_message_stream() -> None:
    events = rendered(UIMessageStream(), *CUT, END)
    assert shown(events) == ["Let me look. ", "weather", "Blue sky."]
    calls = [event["toolCallId"] for event in events if event["type"] == "tool-input-start"]
    assert calls == ["call_1", "call_1#2"]
    results = [event["toolCallId"] for event in events if event["type"] == "tool-output-available"]
    assert results == ["call_1#2"]


@given(st.lists(st.sampled_from("abc") | st.integers(0, 30), max_size=30))
def test_whatever_is_regenerated_a_page_shows_what_is_valid(program: list[Any]) -> None:
    valid: list[tuple[int, str]] = []
    events: list[StreamEvent] = []
    for position, step in enumerate(program):
        if isinstance(step, str):
            valid.append((position, step))
            value = {"type": "data", "name": "x", "data": step} if step == "c" else step
            events.append(chunk(position, value))
        elif step < position:
            valid = [each for each in valid if each[0] < step]
            events.append(RegeneratedEvent(step))
    assert "".join(shown(rendered(UIMessageStream(), *events, END))) == "".join(text for _, text in valid)


def test_a_failure() -> None:
    failed = EndEvent(Failure(418, "no more"))
    assert rendered(UIMessageStream(), failed)[2:] == [{"type": "error", "errorText": "no more"}, {"type": "finish"}]
    assert rendered(AgUiEvents(), failed)[1:] == [{"type": "RUN_ERROR", "message": "no more", "code": "418"}]


@pytest.mark.parametrize("events", [CONVERSATION, CUT], ids=["whole", "cut"])
def test_ag_ui_reads_its_events(events: tuple[StreamEvent, ...]) -> None:
    core = pytest.importorskip("ag_ui.core")
    from pydantic import TypeAdapter

    read: TypeAdapter[Any] = TypeAdapter(core.Event)
    told = rendered(AgUiEvents(), *events, END)
    for event in told:
        assert read.validate_python(event).type.value == event["type"]
    opened = {event["messageId"] for event in told if event["type"] == "TEXT_MESSAGE_START"}
    assert opened == {event["messageId"] for event in told if event["type"] == "TEXT_MESSAGE_END"}
    assert (told[0]["type"], told[-1]["type"]) == ("RUN_STARTED", "RUN_FINISHED")


def test_what_is_void_in_ag_ui() -> None:
    messages: dict[str, str] = {}
    for event in rendered(AgUiEvents(), *CUT, END):
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            messages[event["messageId"]] = messages.get(event["messageId"], "") + event["delta"]
        elif event["type"] == "CUSTOM" and event["name"] == "perdure.regenerated":
            for id in event["value"]["ids"]:
                messages.pop(id, None)
    assert list(messages.values()) == ["Let me look. ", "Blue sky."]


READER = """
import { readUIMessageStream, uiMessageChunkSchema, parseJsonEventStream } from "ai";
let text = "";
for await (const piece of process.stdin) text += piece;
const chunks = parseJsonEventStream({ stream: new Blob([text]).stream(), schema: uiMessageChunkSchema })
  .pipeThrough(new TransformStream({ transform(part, out) {
    if (!part.success) throw part.error;
    out.enqueue(part.value);
  } }));
let last;
for await (const message of readUIMessageStream({ stream: chunks, terminateOnError: true })) last = message;
console.log(JSON.stringify(last));
"""
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "ai"
AI = "ai@6.0.326"


def page(raw: bytes) -> dict[str, Any]:
    """The message that the AI SDK itself makes of a response."""
    mark = CACHE / ".installed"
    if not mark.exists() or mark.read_text() != AI:
        CACHE.mkdir(parents=True, exist_ok=True)
        quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        subprocess.run(["npm", "install", "--prefix", str(CACHE), *quiet, AI], check=True, timeout=300)
        mark.write_text(AI)
    (CACHE / "read.mjs").write_text(READER)
    done = subprocess.run(["node", "read.mjs"], cwd=CACHE, input=raw, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    message: dict[str, Any] = json.loads(done.stdout)
    return message


@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs node and npm")
def test_the_ai_sdk_reads_its_stream() -> None:
    rendering = UIMessageStream()
    raw = rendering.begin("inv_1", created=True) + rendering.events([*CONVERSATION, END], CURSOR)
    message = page(raw)
    assert message["id"] == "inv_1"
    assert [part["type"] for part in message["parts"]] == [
        *("step-start", "reasoning", "text", "tool-weather", "tool-news"),
        *("data-chart", "data-state", "data-chunk", "data-bytes", "text"),
    ]
    weather, news = message["parts"][3:5]
    assert (weather["state"], weather["input"], weather["output"]) == (
        "output-available",
        {"city": "Ulm"},
        {"sky": "blue"},
    )
    assert (news["state"], news["errorText"]) == ("output-error", "no news")
    assert message["parts"][-1]["text"] == "Sunny."

    rendering = UIMessageStream()
    parts = page(rendering.begin("inv_1", created=True) + rendering.events([*CUT, END], CURSOR))["parts"]
    visible: list[Any] = []
    for part in parts:
        if part["type"] == "data-regenerated":
            del visible[part["data"]["keep"] :]
        elif part["type"] != "step-start":
            visible.append(part)
    assert [part.get("text", part["type"]) for part in visible] == ["Let me look. ", "tool-weather", "Blue sky."]
