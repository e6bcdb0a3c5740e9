"""The HTTP APIs that `model_server` speaks besides OpenAI's chat completions: OpenAI's responses, Anthropic's messages.

A dialect turns a request into the `ChatRequest` that policies know, and their reply into the API's own shapes.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from perdure.testing.openai_server import (
    JSON,
    ChatRequest,
    Reply,
    _ClientError,
    _parse_chat,
    _tool_calls,
    _usage,
    text_of,
)

__all__ = ["DIALECTS", "Dialect"]

Events = Iterator[tuple[str, JSON]]


class Dialect(NamedTuple):
    """How an API is read and written; `events` are a streamed answer's, by name."""

    parse: Callable[[bytes, str | None], ChatRequest]
    whole: Callable[[ChatRequest, Reply, str], JSON]
    events: Callable[[ChatRequest, Reply, str], Events]


def _document(raw: bytes, field: str) -> JSON:
    try:
        body = json.loads(raw)
    except ValueError:
        raise _ClientError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict) or not body.get(field):
        raise _ClientError(400, f"Missing required parameter: '{field}'.")
    return body


def _as_chat(body: JSON, messages: list[JSON], tools: list[JSON], key: str | None) -> ChatRequest:
    """The request as a chat completion's, with all the checks of that."""
    chat = {"model": body.get("model"), "messages": messages, "tools": tools, "stream": body.get("stream")}
    request = _parse_chat(json.dumps(chat).encode(), key)
    return ChatRequest(request.model, request.messages, request.tools, request.stream, key, body)


def _function(name: str, description: Any, parameters: Any) -> JSON:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _call(id: str, name: str, arguments: str) -> JSON:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _pieces(text: str) -> list[str]:
    return [text[start : start + 16] for start in range(0, len(text), 16)]


# -- OpenAI's responses ----------------------------------------------------------------------------


def _parse_response(raw: bytes, key: str | None) -> ChatRequest:
    body = _document(raw, "input")
    if body.get("previous_response_id") or body.get("conversation"):
        raise _ClientError(400, "this server keeps no conversations; send the whole input")
    messages: list[JSON] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    given = body["input"]
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        _add_item(messages, item)
    tools = [
        _function(tool["name"], tool.get("description"), tool.get("parameters"))
        for tool in body.get("tools") or []
        if tool.get("type") == "function"
    ]
    return _as_chat(body, messages, tools, key)


def _add_item(messages: list[JSON], item: JSON) -> None:
    """One item of the input. What the model said in one turn comes in several: they become one message."""
    said = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    match item.get("type", "message"):
        case "message":
            content = item["content"]
            if item["role"] == "assistant" and said is not None and said["content"] is None:
                said["content"] = content
            else:
                messages.append({"role": item["role"], "content": content})
        case "function_call":
            if said is None:
                said = {"role": "assistant", "content": None}
                messages.append(said)
            said.setdefault("tool_calls", []).append(_call(item["call_id"], item["name"], item["arguments"]))
        case "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})


def _output(reply: Reply, seed: str) -> list[JSON]:
    items: list[JSON] = []
    if reply.text is not None:
        text = {"type": "output_text", "text": reply.text, "annotations": []}
        items.append(
            {"id": f"msg_{seed}", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
        )
    for call in _tool_calls(reply, seed):
        named = {"call_id": call["id"], **call["function"]}
        items.append({"id": f"fc_{call['id']}", "type": "function_call", "status": "completed", **named})
    return items


def _response(request: ChatRequest, reply: Reply, seed: str) -> JSON:
    counts = _usage(request, reply)
    usage = {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts["total_tokens"],
    }
    return {
        "id": f"resp_{seed}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": request.model,
        "output": _output(reply, seed),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": request.body.get("tools") or [],
        "error": None,
        "incomplete_details": None,
        "instructions": request.body.get("instructions"),
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": usage,
    }


def _response_events(request: ChatRequest, reply: Reply, seed: str) -> Events:
    whole = _response(request, reply, seed)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    number = iter(range(1_000_000))

    def event(kind: str, **fields: Any) -> tuple[str, JSON]:
        return kind, {"type": kind, "sequence_number": next(number), **fields}

    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, item in enumerate(whole["output"]):
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] == "message":
            part = item["content"][0]
            yield event("response.output_item.added", output_index=index, item={**item, "content": []})
            yield event("response.content_part.added", content_index=0, part={**part, "text": ""}, **place)
            for word in _words(part["text"]):
                yield event("response.output_text.delta", content_index=0, delta=word, logprobs=[], **place)
            yield event("response.output_text.done", content_index=0, text=part["text"], logprobs=[], **place)
            yield event("response.content_part.done", content_index=0, part=part, **place)
        else:
            yield event("response.output_item.added", output_index=index, item={**item, "arguments": ""})
            for piece in _pieces(item["arguments"]):
                yield event("response.function_call_arguments.delta", delta=piece, **place)
            done = {"arguments": item["arguments"], "name": item["name"], **place}
            yield event("response.function_call_arguments.done", **done)
        yield event("response.output_item.done", output_index=index, item=item)
    yield event("response.completed", response=whole)


# -- Anthropic's messages --------------------------------------------------------------------------


def _parse_message(raw: bytes, key: str | None) -> ChatRequest:
    body = _document(raw, "messages")
    if not body.get("max_tokens"):
        raise _ClientError(400, "max_tokens: Field required")
    messages: list[JSON] = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    for message in body["messages"]:
        _add_blocks(messages, message)
    tools = [
        _function(tool["name"], tool.get("description"), tool["input_schema"])
        for tool in body.get("tools") or []
        if "input_schema" in tool
    ]
    return _as_chat(body, messages, tools, key)


def _add_blocks(messages: list[JSON], message: JSON) -> None:
    content = message["content"]
    blocks: list[JSON] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    messages += [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text_of(block)}
        for block in blocks
        if block["type"] == "tool_result"
    ]
    text = [block for block in blocks if block["type"] == "text"]
    calls = [_call(b["id"], b["name"], json.dumps(b["input"])) for b in blocks if b["type"] == "tool_use"]
    if text or calls:
        spoken = {"role": message["role"], "content": text or None}
        messages.append({**spoken, "tool_calls": calls} if calls else spoken)


def _message(request: ChatRequest, reply: Reply, seed: str) -> JSON:
    counts = _usage(request, reply)
    content: list[JSON] = [{"type": "text", "text": reply.text}] if reply.text is not None else []
    for call in _tool_calls(reply, seed):
        used = {"name": call["function"]["name"], "input": json.loads(call["function"]["arguments"])}
        content.append({"type": "tool_use", "id": call["id"], **used})
    return {
        "id": f"msg_{seed}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": "tool_use" if reply.tool_calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": counts["prompt_tokens"], "output_tokens": counts["completion_tokens"]},
    }


def _message_events(request: ChatRequest, reply: Reply, seed: str) -> Events:
    whole = _message(request, reply, seed)

    def event(kind: str, **fields: Any) -> tuple[str, JSON]:
        return kind, {"type": kind, **fields}

    usage = {**whole["usage"], "output_tokens": 0}
    yield event("message_start", message={**whole, "content": [], "stop_reason": None, "usage": usage})
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            begun, deltas = {**block, "text": ""}, [{"type": "text_delta", "text": w} for w in _words(block["text"])]
        else:
            begun = {**block, "input": {}}
            pieces = _pieces(json.dumps(block["input"]))
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        yield event("content_block_start", index=index, content_block=begun)
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=stop, usage={"output_tokens": whole["usage"]["output_tokens"]})
    yield event("message_stop")


DIALECTS: dict[str, Dialect] = {
    "/v1/responses": Dialect(_parse_response, _response, _response_events),
    "/v1/messages": Dialect(_parse_message, _message, _message_events),
}
