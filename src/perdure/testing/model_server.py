"""A model provider on loopback that speaks all the APIs that agent frameworks use.

`ModelServer` is `OpenAIServer` (see `openai_server`: policies, faults, the request count) with more routes:

| route | answer |
| --- | --- |
| `POST /v1/responses` | OpenAI's responses API, whole or as server-sent events |
| `POST /v1/messages` | Anthropic's messages API, whole or as server-sent events |
| `POST /v1/embeddings` | vectors that depend on the text alone |

All of them go to the same policy, are counted together, and are struck by the same faults. Point the `openai` client at
`base_url`, the `anthropic` client at `url`.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence

from perdure.testing.model_dialects import DIALECTS, Dialect
from perdure.testing.openai_server import (
    JSON,
    ChatRequest,
    ConnectionCut,
    Fault,
    OpenAIApp,
    OpenAIServer,
    Policy,
    Receive,
    Reply,
    Scope,
    SeenRequest,
    Send,
    ToolCall,
    _body,
    _ClientError,
    _digest,
    _send_json,
    _start,
    echo,
    script,
)

__all__ = ["ChatRequest", "Fault", "ModelApp", "ModelServer", "Policy", "Reply", "ToolCall", "echo", "script"]


class ModelApp(OpenAIApp):
    """The provider as an ASGI application; see the module."""

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/")
        dialect = DIALECTS.get(path) if scope["method"] == "POST" else None
        if dialect is not None:
            await self._speak(dialect, scope, await _body(receive), send)
        elif (scope["method"], path) == ("POST", "/v1/embeddings"):
            await self._embed(scope, await _body(receive), send)
        else:
            await super()._route(scope, receive, send)

    async def _speak(self, dialect: Dialect, scope: Scope, raw: bytes, send: Send) -> None:
        request = dialect.parse(raw, self._key(scope))
        seen = self._saw(request.model, request.key, raw, stream=request.stream)
        try:
            fault = await self._struck(seen, raw)
            try:
                reply = self.policy(request)
            except Exception as error:
                raise _ClientError(500, f"the policy failed: {error!r}") from error
            if request.stream:
                await _send_events(send, dialect.events(request, reply, seen.body_hash), seen, fault.cut_after)
            else:
                seen.outcome = "answered"
                await _send_json(send, dialect.whole(request, reply, seen.body_hash), cut_after=fault.cut_after)
        except ConnectionCut:
            seen.outcome = "cut"
            raise
        except _ClientError as error:
            seen.outcome = str(error.status)
            raise
        except (ConnectionError, asyncio.CancelledError):
            seen.outcome = "abandoned"
            raise

    async def _embed(self, scope: Scope, raw: bytes, send: Send) -> None:
        body = json.loads(raw)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        seen = self._saw(body["model"], self._key(scope), raw, stream=False)
        vectors = [[byte / 255 for byte in bytes.fromhex(_digest(text.encode())[:16])] for text in texts]
        data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
        words = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": words, "total_tokens": words}
        seen.outcome = "answered"
        await _send_json(send, {"object": "list", "model": body["model"], "data": data, "usage": usage})

    def _key(self, scope: Scope) -> str | None:
        return next((value.decode("latin-1") for name, value in scope["headers"] if name == self.key_header), None)

    def _saw(self, model: str, key: str | None, raw: bytes, *, stream: bool) -> SeenRequest:
        seen = SeenRequest(len(self.requests) + 1, key, _digest(raw), model, stream, time.time())
        self.requests.append(seen)
        return seen

    async def _struck(self, seen: SeenRequest, raw: bytes) -> Fault:
        """What is to be done to this request; what is an error is raised."""
        fault = self._strike(seen.number, raw.decode("utf-8", "replace"))
        low, high = self.latency
        await asyncio.sleep(low + (high - low) * int(seen.body_hash, 16) / 16 ** len(seen.body_hash) + fault.delay)
        if fault.cut_after == 0:
            raise ConnectionCut
        if fault.status is not None:
            raise _ClientError(fault.status, "This fault was injected by the test", retry_after=fault.retry_after)
        return fault


async def _send_events(
    send: Send, events: Iterator[tuple[str, JSON]], seen: SeenRequest, cut_after: int | None
) -> None:
    """Server-sent events with names. That it is answered is said before the last one leaves."""
    await _start(send, 200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
    for sent, (name, document) in enumerate(events):
        if sent == cut_after:
            raise ConnectionCut
        data = f"event: {name}\ndata: {json.dumps(document, ensure_ascii=False)}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        await asyncio.sleep(0)
    if cut_after is not None:
        raise ConnectionCut
    seen.outcome = "answered"
    await send({"type": "http.response.body", "body": b""})


class ModelServer(OpenAIServer):
    """The provider with a port of its own on 127.0.0.1, for as long as a `with` or an `async with` lasts."""

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
        super().__init__(policy, port=port)
        self.app = ModelApp(policy, models=models, latency=latency, faults=faults, key_header=key_header)
