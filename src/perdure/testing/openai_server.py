"""A model provider on loopback: it speaks the OpenAI HTTP API, counts what it is asked, and fails on demand.

Agents are tested against real HTTP without a key, a bill or a network. The model is a *policy*: a plain function from
a request to a reply. It must be deterministic and look at nothing but its request; then an agent that is killed and
replayed gets the same answers again, and the request count is an honest witness: "the provider was asked N times
although we killed the agent K times".

    with OpenAIServer(script(Reply(tool_calls=(ToolCall("search", {"query": "log"}),)), Reply("done"))) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="loopback")
        ...
        assert server.count(key=step_token) == 1

`async with` works too. As a process of its own, so that it outlives the program under test:

    python -m perdure.testing.openai_server --port 4010 --policy my_module:my_policy --latency 0.02 0.2

| route | answer |
| --- | --- |
| `POST /v1/chat/completions` | one answer, or server-sent events with `"stream": true`; text and tool calls |
| `GET /v1/models`, `GET /v1/models/{id}` | the configured model names |
| `GET /_requests`, `DELETE /_requests` | what was seen, counted by key and by body; forget it |
| `POST /_faults` | arm one fault, the fields of `Fault` as JSON |

`OpenAIApp` is an ASGI application and runs under any server. The small HTTP/1.1 runner below it exists because a test
must be able to cut a connection in the middle of an answer, which ASGI servers take care never to do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import importlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import responses as PHRASES
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

__all__ = [
    "ChatRequest",
    "Fault",
    "OpenAIApp",
    "OpenAIServer",
    "Policy",
    "Reply",
    "SeenRequest",
    "ToolCall",
    "echo",
    "script",
]

JSON: TypeAlias = dict[str, Any]
Scope: TypeAlias = Mapping[str, Any]
Event: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024


# -- the model: a function from a request to a reply -----------------------------------------------


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model asks for. An id that is not given is made from the request, and so the same again."""

    name: str
    arguments: JSON = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Reply:
    """What the model answers: text, tool calls, or both."""

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion request, as the policy sees it."""

    model: str
    messages: list[JSON]
    tools: list[JSON]
    stream: bool
    key: str | None
    """The value of the idempotency header, if the client sent one."""
    body: JSON

    @property
    def turn(self) -> int:
        """How often the model has spoken in this conversation: 0 at its first request."""
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def tool_names(self) -> list[str]:
        """The names of the functions that the client offers."""
        return [str(tool["function"]["name"]) for tool in self.tools if "function" in tool]

    def text(self, role: str) -> str:
        """The text of the last message of that role, or an empty string."""
        return next((text_of(m) for m in reversed(self.messages) if m.get("role") == role), "")


Policy: TypeAlias = Callable[[ChatRequest], Reply]


def text_of(message: JSON) -> str:
    """The text of a message, whether its content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else ""


def echo(request: ChatRequest) -> Reply:
    """The default policy: say the last user message again."""
    return Reply(request.text("user"))


def script(*replies: Reply) -> Policy:
    """A policy that gives its n-th reply in the n-th turn of a conversation, and its last one ever after.

    It counts the assistant's messages in the request and keeps no state: asked the same again, it answers the same.
    """
    if not replies:
        raise ValueError("a script needs at least one reply")
    return lambda request: replies[min(request.turn, len(replies) - 1)]


# -- what is counted, and what goes wrong on demand ------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something to do to a model request instead of, or besides, answering it."""

    at: int | None = None
    """Strike from the n-th model request on, counted from 1. None: from the next one."""
    containing: str | None = None
    """Strike only requests whose body contains this text."""
    times: int = 1
    """How many requests to strike."""
    status: int | None = None
    """Answer with this HTTP error (429, 500, ...)."""
    retry_after: float | None = None
    """Send this many seconds as `Retry-After`."""
    delay: float = 0.0
    """Wait this many seconds first."""
    cut_after: int | None = None
    """Close the connection after so many events of a stream or bytes of a plain body; 0: before the first byte."""

    def matches(self, number: int, body: str) -> bool:
        """Whether the `number`-th request, with that body, is one to strike."""
        return (self.at is None or number >= self.at) and (self.containing is None or self.containing in body)


@dataclass
class SeenRequest:
    """One model request. It is counted when it arrives, before anything can go wrong with its answer."""

    number: int
    key: str | None
    body_hash: str
    model: str
    stream: bool
    at: float
    outcome: str = "in progress"
    """`in progress`, `answered`, `cut`, `abandoned` (the client went away), or the status of an error: `429`."""


class ConnectionCut(Exception):
    """Raised out of the application to make the runner drop the connection at once."""


class _ClientError(Exception):
    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


# -- the application -------------------------------------------------------------------------------


class OpenAIApp:
    """The provider as an ASGI application.

    `latency` is the least and the most seconds before an answer; where a request falls between the two depends on its
    body alone.
    """

    def __init__(
        self,
        policy: Policy = echo,
        *,
        models: Sequence[str] = ("loopback",),
        latency: tuple[float, float] = (0.0, 0.0),
        faults: Sequence[Fault] = (),
        key_header: str = "idempotency-key",
    ) -> None:
        self.policy = policy
        self.models = list(models)
        self.latency = latency
        self.key_header = key_header.lower().encode()
        self.requests: list[SeenRequest] = []
        self._armed: list[Fault] = []
        for fault in faults:
            self.inject(fault)

    def inject(self, fault: Fault) -> None:
        """Arm a fault. Several may be armed; each request is struck by the first that matches and is not used up."""
        self._armed.extend([fault] * fault.times)

    def count(self, *, key: str | None = None, body_hash: str | None = None) -> int:
        """How many model requests were seen: all, those with that key, or those with that body."""
        return sum(
            (key is None or seen.key == key) and (body_hash is None or seen.body_hash == body_hash)
            for seen in self.requests
        )

    def report(self) -> JSON:
        """The document that `GET /_requests` serves."""
        return {
            "total": len(self.requests),
            "by_key": dict(Counter(seen.key for seen in self.requests if seen.key is not None)),
            "by_body": dict(Counter(seen.body_hash for seen in self.requests)),
            "requests": [dataclasses.asdict(seen) for seen in self.requests],
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            try:
                await self._route(scope, receive, send)
            except _ClientError as error:
                await _send_error(send, error)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["method"], scope["path"].rstrip("/").split("/")[1:]:
            case "POST", ["v1", "chat", "completions"]:
                await self._chat(scope, await _body(receive), send)
            case "GET", ["v1", "models"]:
                await _send_json(send, {"object": "list", "data": [_model(name) for name in self.models]})
            case "GET", ["v1", "models", name]:
                if name not in self.models:
                    raise _ClientError(404, f"The model '{name}' does not exist")
                await _send_json(send, _model(name))
            case "GET", ["_requests"]:
                await _send_json(send, self.report())
            case "DELETE", ["_requests"]:
                self.requests.clear()
                await _send_json(send, self.report())
            case "POST", ["_faults"]:
                self.inject(_fault_from_json(await _body(receive)))
                await _send_json(send, {"armed": len(self._armed)}, status=201)
            case method, _:
                raise _ClientError(404, f"Invalid URL ({method} {scope['path']})")

    async def _chat(self, scope: Scope, raw: bytes, send: Send) -> None:
        key = next((value.decode("latin-1") for name, value in scope["headers"] if name == self.key_header), None)
        request = _parse_chat(raw, key)
        seen = SeenRequest(
            number=len(self.requests) + 1,
            key=key,
            body_hash=_digest(raw),
            model=request.model,
            stream=request.stream,
            at=time.time(),
        )
        self.requests.append(seen)
        try:
            await self._answer(request, seen, raw, send)
        except ConnectionCut:
            seen.outcome = "cut"
            raise
        except _ClientError as error:
            seen.outcome = str(error.status)
            raise
        except (ConnectionError, asyncio.CancelledError):
            seen.outcome = "abandoned"
            raise

    async def _answer(self, request: ChatRequest, seen: SeenRequest, raw: bytes, send: Send) -> None:
        fault = self._strike(seen.number, raw.decode("utf-8", "replace"))
        low, high = self.latency
        await asyncio.sleep(low + (high - low) * int(seen.body_hash, 16) / 16 ** len(seen.body_hash) + fault.delay)
        if fault.cut_after == 0:
            raise ConnectionCut
        if fault.status is not None:
            raise _ClientError(fault.status, "This fault was injected by the test", retry_after=fault.retry_after)
        try:
            reply = self.policy(request)
        except Exception as error:
            raise _ClientError(500, f"the policy failed: {error!r}") from error
        # Said before the last byte leaves: whoever has the whole answer must not find it "in progress".
        if request.stream:
            await _send_stream(send, _chunks(request, reply, seen.body_hash), fault.cut_after)
            seen.outcome = "answered"
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        else:
            seen.outcome = "answered"
            await _send_json(send, _completion(request, reply, seen.body_hash), cut_after=fault.cut_after)

    def _strike(self, number: int, body: str) -> Fault:
        fault = next((armed for armed in self._armed if armed.matches(number, body)), None)
        if fault is None:
            return Fault()
        self._armed.remove(fault)
        return fault


def _parse_chat(raw: bytes, key: str | None) -> ChatRequest:
    try:
        body = json.loads(raw)
    except ValueError:
        raise _ClientError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise _ClientError(400, "you must provide a model parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise _ClientError(400, "'messages' must be a non-empty array of messages with a role")
    _check_tool_results(messages)
    return ChatRequest(
        model=body["model"],
        messages=messages,
        tools=body.get("tools") or [],
        stream=bool(body.get("stream")),
        key=key,
        body=body,
    )


def _check_tool_results(messages: list[JSON]) -> None:
    """Refuse what the real API refuses: a tool call without its result, a result without its call.

    An agent that loses a message in a crash is caught here and nowhere else.
    """
    open_calls: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise _ClientError(400, "messages with role 'tool' must follow the tool call that they answer")
            open_calls.discard(message["tool_call_id"])
            continue
        if open_calls:
            break
        open_calls = {call["id"] for call in message.get("tool_calls") or []}
    if open_calls:
        raise _ClientError(400, f"tool calls without an answering message: {', '.join(sorted(open_calls))}")


def _fault_from_json(raw: bytes | str) -> Fault:
    try:
        return Fault(**json.loads(raw))
    except (TypeError, ValueError) as error:
        raise _ClientError(400, f"not a fault: {error}") from None


# -- the shapes of the API -------------------------------------------------------------------------


def _model(name: str) -> JSON:
    return {"id": name, "object": "model", "created": 0, "owned_by": "perdure"}


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:24]


def _tool_calls(reply: Reply, seed: str) -> list[JSON]:
    return [
        {
            "id": call.id or "call_" + _digest(f"{seed}/{index}".encode()),
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for index, call in enumerate(reply.tool_calls)
    ]


def _usage(request: ChatRequest, reply: Reply) -> JSON:
    """Words, not tokens: good enough to add up, and not to be mistaken for a price."""
    asked = sum(len(text_of(message).split()) for message in request.messages)
    answered = len((reply.text or "").split()) + sum(
        len(json.dumps(call.arguments).split()) for call in reply.tool_calls
    )
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _completion(request: ChatRequest, reply: Reply, seed: str) -> JSON:
    message: JSON = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(reply, seed)
    return {
        "id": f"chatcmpl-{seed}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}],
        "usage": _usage(request, reply),
    }


def _finish_reason(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _chunks(request: ChatRequest, reply: Reply, seed: str) -> Iterator[JSON]:
    """A streamed answer: the text word by word, each tool call's arguments in pieces, then the reason to stop."""

    def chunk(delta: JSON, finish_reason: str | None = None) -> JSON:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
        return {**frame, "choices": choices}

    frame = {
        "id": f"chatcmpl-{seed}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.model,
    }
    yield chunk({"role": "assistant", "content": "" if reply.text is not None else None})
    for word in re.findall(r"\s*\S+|\s+$", reply.text or ""):
        yield chunk({"content": word})
    for index, call in enumerate(_tool_calls(reply, seed)):
        arguments = call["function"]["arguments"]
        head = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield chunk({"tool_calls": [head]})
        for start in range(0, len(arguments), 16):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments[start : start + 16]}}]})
    yield chunk({}, _finish_reason(reply))
    if (request.body.get("stream_options") or {}).get("include_usage"):
        yield {**frame, "choices": [], "usage": _usage(request, reply)}


# -- ASGI in a few functions -----------------------------------------------------------------------


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError("the client left before its request was complete")
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return b"".join(parts)


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def _send_json(
    send: Send,
    document: JSON,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    cut_after: int | None = None,
) -> None:
    payload = json.dumps(document, ensure_ascii=False).encode()
    length = str(len(payload))
    await _start(send, status, {"content-type": "application/json", "content-length": length, **(headers or {})})
    if cut_after is not None:
        await send({"type": "http.response.body", "body": payload[:cut_after], "more_body": True})
        raise ConnectionCut
    await send({"type": "http.response.body", "body": payload})


async def _send_error(send: Send, error: _ClientError) -> None:
    kinds = {429: "rate_limit_error", 401: "authentication_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
    document = {"error": {"message": error.message, "type": kind, "param": None, "code": None}}
    await _send_json(send, document, status=error.status, headers=headers)


async def _send_stream(send: Send, chunks: Iterator[JSON], cut_after: int | None) -> None:
    """Everything but the end of the stream, which is the caller's to say."""
    await _start(send, 200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
    for sent, chunk in enumerate(chunks):
        if sent == cut_after:
            raise ConnectionCut
        data = f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        await asyncio.sleep(0)
    if cut_after is not None:
        raise ConnectionCut


# -- the runner: HTTP/1.1 with keep-alive, on asyncio streams --------------------------------------


class _Response:
    """The `send` side of one exchange. The head waits for the first piece of the body, which tells how to frame it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keep_alive: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.keep_alive = keep_alive
        self.done = False
        self._start: Event | None = None
        self._chunked = False

    async def send(self, event: Event) -> None:
        if self.reader.at_eof():  # a write to somebody who has left seems to succeed
            raise ConnectionResetError("the client left before its answer")
        if event["type"] == "http.response.start":
            self._start = event
            return
        body: bytes = event.get("body", b"")
        last = not event.get("more_body", False)
        if self._start is not None:
            self.writer.write(self._head(self._start, len(body) if last else None))
            self._start = None
        if not self._chunked:
            self.writer.write(body)
        elif body:
            self.writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        if last and self._chunked:
            self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        self.done = last

    def _head(self, start: Event, length: int | None) -> bytes:
        headers = dict(start["headers"])
        if b"content-length" not in headers:
            if length is not None:
                headers[b"content-length"] = b"%d" % length
            else:
                headers[b"transfer-encoding"] = b"chunked"
                self._chunked = True
        headers[b"connection"] = b"keep-alive" if self.keep_alive else b"close"
        status = int(start["status"])
        lines = [b"HTTP/1.1 %d %b" % (status, PHRASES.get(status, "").encode())]
        lines += [name + b": " + value for name, value in headers.items()]
        return b"\r\n".join(lines) + b"\r\n\r\n"


async def _serve_connection(app: AsgiApp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await _exchange(app, reader, writer):
            pass
    except (ConnectionError, ConnectionCut, asyncio.CancelledError):
        # Abort rather than close: a cut answer must look cut, not merely end after its last buffered byte.
        writer.transport.abort()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()


async def _exchange(app: AsgiApp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One request and its answer. False when the connection must not be used again."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return False
    request_line, *header_lines = head[:-4].split(b"\r\n")
    method, target, version = request_line.decode("latin-1").split(" ")
    headers: list[tuple[bytes, bytes]] = []
    for line in header_lines:
        name, _, value = line.partition(b":")
        headers.append((name.strip().lower(), value.strip()))
    fields = dict(headers)
    if fields.get(b"expect", b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(reader, fields)
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": version.removeprefix("HTTP/"),
        "method": method,
        "scheme": "http",
        "path": path,
        "query_string": query.encode(),
        "headers": headers,
    }
    events = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Event:
        return next(events, {"type": "http.disconnect"})

    keep_alive = version == "HTTP/1.1" and fields.get(b"connection", b"").lower() != b"close"
    response = _Response(reader, writer, keep_alive=keep_alive)
    await app(scope, receive, response.send)
    return keep_alive and response.done


async def _read_body(reader: asyncio.StreamReader, fields: Mapping[bytes, bytes]) -> bytes:
    if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
        length = int(fields.get(b"content-length", b"0"))
        if not 0 <= length <= MAX_BODY_BYTES:
            raise ValueError("body too large")
        return await reader.readexactly(length)
    return b"".join([part async for part in _read_chunks(reader)])


async def _read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    total = 0
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        total += size
        if total > MAX_BODY_BYTES:
            raise ValueError("body too large")
        yield (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass


class OpenAIServer:
    """The provider with a port of its own on 127.0.0.1, for as long as a `with` or an `async with` lasts.

    In `async with` it runs on the current event loop. In a plain `with` it runs in a thread, so that blocking code can
    call it. The options are those of `OpenAIApp`; `port=0` takes a free one.
    """

    def __init__(
        self,
        policy: Policy = echo,
        *,
        port: int = 0,
        models: Sequence[str] = ("loopback",),
        latency: tuple[float, float] = (0.0, 0.0),
        faults: Sequence[Fault] = (),
        key_header: str = "idempotency-key",
    ) -> None:
        self.app = OpenAIApp(policy, models=models, latency=latency, faults=faults, key_header=key_header)
        self.port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self._leave: Callable[[], object] | None = None

    @property
    def url(self) -> str:
        """Where the server listens; `/_requests` and `/_faults` are here."""
        return f"http://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        """What the `openai` client wants as `base_url`."""
        return f"{self.url}/v1"

    @property
    def requests(self) -> list[SeenRequest]:
        """Every model request seen so far, oldest first."""
        return self.app.requests

    def count(self, *, key: str | None = None, body_hash: str | None = None) -> int:
        """How many model requests were seen: all, those with that key, or those with that body."""
        return self.app.count(key=key, body_hash=body_hash)

    def inject(self, fault: Fault) -> None:
        """Arm a fault."""
        self.app.inject(fault)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, self.port, limit=MAX_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        try:
            await _serve_connection(self.app, reader, writer)
        finally:
            self._connections.discard(task)

    def __enter__(self) -> Self:
        ready = threading.Event()
        failure: list[BaseException] = []

        async def serve() -> None:
            leave = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._leave = lambda: loop.call_soon_threadsafe(leave.set)
            async with self:
                ready.set()
                await leave.wait()

        def run() -> None:
            try:
                asyncio.run(serve())
            except OSError as error:
                failure.append(error)
            finally:
                ready.set()

        self._thread = threading.Thread(target=run, name="openai-server", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            raise failure[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None and self._leave is not None
        self._leave()
        self._thread.join()


# -- as a process ----------------------------------------------------------------------------------


def load_policy(name: str) -> Policy:
    """Import `module:function`."""
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"a policy is named module:function, not {name!r}")
    return cast(Policy, getattr(importlib.import_module(module), attribute))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(
        prog="python -m perdure.testing.openai_server", description="An OpenAI-compatible model provider on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; by default a free one")
    parser.add_argument("--policy", default="", metavar="MODULE:FUNCTION", help="the model; by default it echoes")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="a name for GET /v1/models; may be repeated"
    )
    parser.add_argument(
        "--latency", type=float, nargs=2, default=(0.0, 0.0), metavar=("MIN", "MAX"), help="seconds per answer"
    )
    parser.add_argument("--fault", action="append", default=[], metavar="JSON", help="a fault to arm; may be repeated")
    options = parser.parse_args(arguments)
    try:
        server = OpenAIServer(
            load_policy(options.policy) if options.policy else echo,
            port=options.port,
            models=options.model or ("loopback",),
            latency=(options.latency[0], options.latency[1]),
            faults=[_fault_from_json(fault) for fault in options.fault],
        )
    except (_ClientError, ImportError, AttributeError, ValueError) as error:
        parser.error(str(error))

    async def serve() -> None:
        async with server:
            sys.stdout.write(f"{server.base_url}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
