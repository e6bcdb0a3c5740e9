"""What providers' answers show: of streams and of whole answers the same, as they come from the loopback provider."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from perdure import Context, SyncContext
from perdure.ai import anthropic, openai
from perdure.ai.base import tool_call
from perdure.ai.provider_parts import ChatParts, MessageParts, PartReader, ResponseParts
from perdure.ai.showing import Showing
from perdure.testing.model_server import ChatRequest, Fault, ModelServer, Reply, ToolCall
from tests.ai.harness import closed_by_run, run

MESSAGES: Any = [{"role": "user", "content": "what is a log?"}]
CALLS = [
    {"type": "tool-call", "id": "a", "name": "search", "input": {"query": "a log, of all things"}},
    {"type": "tool-call", "id": "b", "name": "now", "input": {}},
]


def policy(request: ChatRequest) -> Reply:
    calls = (ToolCall("search", {"query": "a log, of all things"}, "a"), ToolCall("now", {}, "b"))
    return Reply("let me see for a while", calls)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(policy) as server:
        yield server


def joined(chunks: list[Any]) -> list[Any]:
    """Text and pieces of tool calls in one piece each."""
    parts: list[Any] = []
    for chunk in chunks:
        last = parts[-1] if parts else None
        if isinstance(chunk, str) and isinstance(last, str):
            parts[-1] += chunk
        elif not isinstance(chunk, dict) or chunk["type"] != "tool-call-delta":
            parts.append(chunk)
    return parts


async def chat(url: str, streamed: bool) -> None:
    client = closed_by_run(openai.durable(AsyncOpenAI(api_key="k", base_url=f"{url}/v1")))
    if streamed:
        async with client.chat.completions.stream(model="loopback", messages=MESSAGES) as events:
            await events.get_final_completion()
    else:
        await client.chat.completions.create(model="loopback", messages=MESSAGES)


async def responses(url: str, streamed: bool) -> None:
    client = closed_by_run(openai.durable(AsyncOpenAI(api_key="k", base_url=f"{url}/v1")))
    if streamed:
        async with client.responses.stream(model="loopback", input="x") as events:
            await events.get_final_response()
    else:
        await client.responses.create(model="loopback", input="x")


async def messages(url: str, streamed: bool) -> None:
    client = closed_by_run(anthropic.durable(AsyncAnthropic(api_key="k", base_url=url)))
    options: Any = {"model": "loopback", "max_tokens": 100, "messages": MESSAGES}
    if streamed:
        async with client.messages.stream(**options) as stream:
            await stream.get_final_message()
    else:
        await client.messages.create(**options)


@pytest.mark.pattern("token streaming")
@pytest.mark.parametrize("ask", [chat, responses, messages])
@pytest.mark.parametrize(("streamed", "cut"), [(False, None), (True, None), (True, 3), (True, 9)])
def test_durable_clients_show_their_answers_once(
    server: ModelServer, ask: Callable[[str, bool], Any], streamed: bool, cut: int | None
) -> None:
    if cut is not None:
        server.inject(Fault(cut_after=cut))

    async def handler(ctx: Context) -> None:
        with ctx.stream("answer").default():
            await ask(server.url, streamed)
        await ask(server.url, streamed)  # and nobody sees it

    chunks: list[Any] = []
    run(handler, shown=chunks)
    assert server.count() == 2 + (cut is not None)
    assert joined(chunks) == ["let me see for a while", *CALLS]
    assert (len(chunks) > 8) is streamed
    pieces = "".join(chunk["delta"] for chunk in chunks if isinstance(chunk, dict) and chunk.get("delta"))
    assert pieces.startswith('{"query": "a log, of all things"}' if streamed else "")


@pytest.mark.parametrize("streamed", [False, True])
def test_blocking_clients_show_too(server: ModelServer, streamed: bool) -> None:
    with OpenAI(api_key="k", base_url=server.base_url) as one, Anthropic(api_key="k", base_url=server.url) as two:
        first, second = openai.durable(one), anthropic.durable(two)

        def handler(ctx: SyncContext) -> None:
            with ctx.stream("answer").default():
                if streamed:
                    for _ in first.chat.completions.create(model="loopback", messages=MESSAGES, stream=True):
                        pass
                    with second.messages.stream(model="loopback", max_tokens=100, messages=MESSAGES) as stream:
                        stream.get_final_message()
                else:
                    first.chat.completions.create(model="loopback", messages=MESSAGES)
                    second.messages.create(model="loopback", max_tokens=100, messages=MESSAGES)

        chunks: list[Any] = []
        run(handler, shown=chunks)
    assert joined(chunks) == ["let me see for a while", *CALLS] * 2


def test_what_a_step_asks_is_not_shown_and_neither_is_what_is_no_answer_of_a_model(server: ModelServer) -> None:
    client = closed_by_run(openai.durable(AsyncOpenAI(api_key="k", base_url=server.base_url)))

    async def tool() -> str:
        await client.responses.create(model="loopback", input="x")
        return "done"

    async def handler(ctx: Context) -> None:
        with ctx.stream("answer").default():
            await client.embeddings.create(model="embed", input=["a"], encoding_format="float")
            await tool_call("tool", tool, call_id="t")

    chunks: list[Any] = []
    run(handler, shown=chunks)
    assert chunks == [{"type": "tool-result", "id": "t", "output": "done"}]


class _Kept:
    """In the place of a stream."""

    def __init__(self) -> None:
        self.chunks: list[Any] = []

    def write(self, chunk: Any) -> None:
        self.chunks.append(chunk)


def read(reader: Callable[[Showing], PartReader], *events: Any, whole: Any = None) -> list[Any]:
    kept: Any = _Kept()
    made = reader(Showing(kept))
    for event in events:
        made.event(event)
    if whole is not None:
        made.whole(whole)
    return joined(kept.chunks)


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "text": text}


def test_reasoning_and_refusals() -> None:
    deltas: list[Any] = [{"reasoning_content": "hm"}, {"content": None, "refusal": "no"}, {"content": {"odd": 1}}, None]
    chunks = [{"choices": [{"index": 0, "delta": delta}, {"index": 1, "delta": {"content": "no"}}]} for delta in deltas]
    assert read(ChatParts, *chunks, {"usage": {}}, {"choices": []}) == [thought("hm"), "no"]
    message = {"role": "assistant", "reasoning": "hm", "content": "yes", "tool_calls": [{"id": "x", "type": "custom"}]}
    assert read(ChatParts, whole={"choices": [{"message": message}]}) == [thought("hm"), "yes"]
    assert read(ChatParts, whole={}) == []

    begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}
    ended = {"type": "content_block_stop", "index": 0}
    assert read(MessageParts, begun, delta, ended, {"type": "ping"}) == [thought("hm")]
    used: dict[str, Any] = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "log"}}
    found: dict[str, Any] = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    content: list[Any] = [
        {"type": "thinking", "thinking": "hm"},
        used,
        found,
        {"type": "redacted_thinking", "data": "x"},
    ]
    assert read(MessageParts, whole={"content": content}) == [
        thought("hm"),
        {"type": "tool-call", "id": "s", "name": "web_search", "input": {"query": "log"}},
        {"type": "tool-result", "id": "s", "output": []},
    ]


def test_items_of_responses() -> None:
    summary = [{"type": "summary_text", "text": "hm"}, {"type": "summary_text", "text": "so"}]
    mcp = {"type": "mcp_call", "id": "m", "name": "look", "arguments": "{}", "output": "seen"}
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "paint", "input": "a cat"}
    broken = {"type": "function_call", "call_id": "f", "name": "f", "arguments": '{"a":'}
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    items = [{"type": "reasoning", "summary": summary}, mcp, {**mcp, "error": {"code": 1}}, custom, broken, refusal]
    parts = [
        {"type": "tool-call", "id": "m", "name": "look", "input": {}},
        {"type": "tool-result", "id": "m", "output": "seen"},
        {"type": "tool-call", "id": "m", "name": "look", "input": {}},
        {"type": "tool-result", "id": "m", "error": "{'code': 1}"},
        {"type": "tool-call", "id": "c", "name": "paint", "input": "a cat"},
        {"type": "tool-call", "id": "f", "name": "f", "input": '{"a":'},
    ]
    whole = {"output": items}
    assert read(ResponseParts, whole=whole) == [thought("hm\n\nso"), *parts, "no"]
    only_at_its_end = {"type": "response.completed", "response": whole}
    assert read(ResponseParts, only_at_its_end) == [thought("hm\n\nso"), *parts, "no"]
    pieces: list[Any] = [{"type": "response.reasoning_summary_text.delta", "delta": "hm"}]
    pieces += [{"type": "response.output_item.done", "item": item} for item in items]
    assert read(ResponseParts, *pieces, only_at_its_end) == [thought("hm"), *parts]
