"""A provider's client made durable where all its requests pass: at its HTTP client.

`DurableHttp` is an `httpx` client around the one that the provider's client had. In a handler, each request is a step
that makes it, reads the answer to its end, and keeps status, headers and body; what the provider's library makes of
that (types, streams, pages, raw responses) it makes of the same bytes, live and on replay. So whatever the library can
ask for is durable, what it will learn tomorrow included, and no response type has to be known here.

The library's own retries never see an error that is worth one: the step raises it, and perdure's policy decides.
"""

import contextlib
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from datetime import timedelta
from functools import lru_cache, partial
from importlib import import_module
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

import msgspec

from perdure.ai.base import (
    durable_call,
    durable_call_sync,
    durable_context,
    model_call,
    model_call_sync,
    refuse_in_handler,
)
from perdure.ai.provider_parts import READERS, PartReader
from perdure.ai.records import Usage, usage_of
from perdure.ai.showing import showing
from perdure.errors import PerdureError, RetryableError
from perdure.sdk.serde import serde_for
from perdure.sdk.steps import current_step

__all__ = ["OnEvent", "durable_http", "make_durable", "refuse_sockets"]

C = TypeVar("C")
OnEvent = Callable[[Any], object]

_log = logging.getLogger("perdure.ai")

_LIBRARIES = ("httpx2", "httpx")
_MODEL_PATHS = ("/chat/completions", "/completions", "/responses", "/messages", "/invoke", "/converse")
_ENDS = {
    "/chat/completions": re.compile(rb"\[DONE\]|\"finish_reason\":\s*\""),
    "/responses": re.compile(rb"\[DONE\]|\"response\.(completed|failed|incomplete)\""),
    "/messages": re.compile(rb"message_stop"),
}
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "insufficient_quota": 429,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
}
_NOT_KEPT = {  # of the connection, not of the answer; or a secret
    "alt-svc",
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
}


class Answer(msgspec.Struct, omit_defaults=True):
    """An HTTP answer as the journal keeps it: `json` if that is what the body is, else `text`, else `data` (base64)."""

    status: int
    headers: list[tuple[str, str]]
    json: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    text: str | None = None
    data: bytes | None = None

    @property
    def body(self) -> bytes:
        if self.json is not msgspec.UNSET:
            return bytes(self.json)
        return self.data or b"" if self.text is None else self.text.encode()


_ANSWER: Final = serde_for(Answer)


def durable_http(http: Any, provider: str, on_event: OnEvent | None = None) -> Any:
    """A client like `http` (an `AsyncClient` or a `Client` of httpx) whose requests are steps in a handler.

    Elsewhere every request goes to `http` unchanged. `on_event` sees the events of streamed answers, see `durable`.
    """
    library = import_module(_library(http))
    make = _async_class(library) if isinstance(http, library.AsyncClient) else _sync_class(library)
    return make(http, provider, on_event)


def make_durable(client: C, provider: str, on_event: OnEvent | None = None) -> C:
    """A copy of a client of `openai`'s or `anthropic`'s making whose requests are steps; it shares the connections.

    The copy is of a subclass, so that its own copies (`with_options`) are durable too.
    """
    given: Any = client
    if getattr(given, "__perdure_durable__", False):
        return client
    durable = given.copy(http_client=durable_http(given._client, provider, on_event))
    kind: Any = type(given)
    durable.__class__ = _durable_class(kind)
    return cast(C, durable)


@lru_cache
def _durable_class(cls: Any) -> Any:
    async def request(self: Any, cast_to: Any, options: Any, **others: Any) -> Any:
        if durable_context() is None:
            return await cls.request(self, cast_to, options, **others)
        try:
            return await cls.request(self, cast_to, _without_retries(options), **others)
        except Exception as error:
            _raise_ours(error)
            raise

    def blocking(self: Any, cast_to: Any, options: Any, **others: Any) -> Any:
        if durable_context() is None:
            return cls.request(self, cast_to, options, **others)
        try:
            return cls.request(self, cast_to, _without_retries(options), **others)
        except Exception as error:
            _raise_ours(error)
            raise

    ours = request if inspect.iscoroutinefunction(cls.request) else blocking
    return type(cls.__name__, (cls,), {"request": ours, "__perdure_durable__": True, "__doc__": cls.__doc__})


def _without_retries(options: Any) -> Any:
    options = copy(options)
    options.max_retries = 0
    return options


def _raise_ours(error: BaseException) -> None:
    """Raise what perdure has to say, which some versions of the libraries take for a broken connection, and wrap."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, PerdureError):
            raise link from None
        link = link.__cause__ or link.__context__


def refuse_sockets(client: C, *resources: str) -> C:
    """The client, whose `connect` of these resources (`responses`, ...) is refused in a handler: it opens a WebSocket.

    An async handler refuses sockets by itself; a plain one runs in a thread like any other, where nobody looks.
    """
    for path in resources:
        try:
            resource = attrgetter(path)(client)
            connect = resource.connect
        except (AttributeError, ImportError):  # not in this version
            continue
        resource.connect = partial(_connect, f"{path}.connect", connect)
    return client


def _connect(name: str, connect: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    refuse_in_handler(name)
    return connect(*args, **kwargs)


def _library(http: Any) -> str:
    for cls in type(http).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in _LIBRARIES:
            return root
    raise TypeError(f"the client's HTTP client must be one of httpx, not {type(http).__name__}")


class _Request:
    """One request as a step: its name, and what is done with the answer."""

    def __init__(self, request: Any, provider: str) -> None:
        self.request = request
        self.provider = provider
        self.body = _json_of(request.content)
        model = self.body.get("model")
        path = request.url.path
        self.is_model = request.method == "POST" and path.endswith(_MODEL_PATHS)
        self.model = str(model) if model else path.rpartition("/")[2]
        self.name = f"{provider} {request.method} {path}" + (f" {model}" if model else "")

    @property
    def options(self) -> dict[str, Any]:
        return {"serde": _ANSWER, "provider": self.provider, "usage": self.usage}

    def parts(self) -> PartReader | None:
        """What shows the answer, if it is a model's and somebody reads the handler's stream."""
        if not self.is_model or (shown := showing()) is None:
            return None
        path = self.request.url.path
        reader = next((reader for end, reader in READERS.items() if path.endswith(end)), None)
        return None if reader is None else reader(shown)

    def prepare(self) -> Any:
        """The request to send: with the step's token, so that a provider that looks at it answers once."""
        if self.request.method != "GET":
            self.request.headers["Idempotency-Key"] = current_step().token
        return self.request

    def answer(self, response: Any, content: bytes) -> Answer:
        """What to keep; raises the library's own error for a status that is one, to be told apart by `classify`."""
        if response.status_code >= 400:
            raise _Refused(self.provider, response, content)
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _NOT_KEPT]
        kept = Answer(response.status_code, headers)
        if "json" in response.headers.get("content-type", ""):
            with contextlib.suppress(msgspec.DecodeError):
                msgspec.json.decode(content)
                kept.json = msgspec.Raw(content)
                return kept
        try:
            kept.text = content.decode()
        except UnicodeDecodeError:
            kept.data = content
        _check_stream(self.provider, self.request, response, kept)
        return kept

    def usage(self, answer: Answer) -> Usage | None:
        counts: dict[str, Any] = {}
        model, ended = self.model, ""
        for event in _documents(answer):
            if not isinstance(event, dict):
                continue
            for part in (event, event.get("response"), event.get("message")):
                if isinstance(part, dict):
                    model = part.get("model") or model
                    counts |= {k: v for k, v in (part.get("usage") or {}).items() if v is not None}
            ended = _end_of(event) or ended
        return usage_of(self.provider, str(model), counts, ended) if counts else None


def _end_of(event: dict[str, Any]) -> str:
    """Why the answer ended, if this document of it says so: as OpenAI's chats, as Anthropic's messages."""
    choices = event.get("choices")
    parts = [*(choices if isinstance(choices, list) else ()), event.get("delta"), event]
    for part in parts:
        for name in ("finish_reason", "stop_reason"):
            if isinstance(part, dict) and isinstance(part.get(name), str):
                return str(part[name])
    return ""


class _Refused(Exception):
    """An answer with an error status, as `provider_errors` reads it."""

    def __init__(self, provider: str, response: Any, content: bytes, status: int | None = None) -> None:
        self.response = response
        self.status_code = status or response.status_code
        self.body = _json_of(content) or {"error": {"message": content[:500].decode("utf-8", "replace")}}
        error = self.body.get("error")
        message = error.get("message") if isinstance(error, Mapping) else error
        super().__init__(str(message or response.reason_phrase))


class _Watching:
    """What is seen of an answer while it comes: its events by `on_event`, its parts by who reads the handler's stream.

    `feed` is given the bytes in order; `end` the answer, when these were all.
    """

    def __init__(self, step: _Request, response: Any, on_event: OnEvent | None) -> None:
        parts = step.parts() if response.status_code < 400 else None
        self._is_json = "json" in response.headers.get("content-type", "")
        self._whole = None if parts is None else parts.whole
        self._seers = [each for each in (on_event, None if parts is None else parts.event) if each is not None]
        self._rest: list[bytes] = []  # of a line that goes on

    def feed(self, data: bytes) -> None:
        if self._is_json or not self._seers:
            return
        first, *others = data.split(b"\n")
        self._rest.append(first)
        for line in others:
            event = _event(b"".join(self._rest))
            if event is not None:
                for seer in self._seers:
                    _see(seer, event)
            self._rest = [line]

    def end(self, answer: Answer) -> None:
        if self._whole is not None and answer.json is not msgspec.UNSET:
            _see(self._whole, msgspec.json.decode(answer.json))


def _see(seer: OnEvent, event: Any) -> None:
    """Whoever looks on must not cost another request; but what has no room in the stream has to be known."""
    try:
        seer(event)
    except PerdureError:
        raise
    except Exception:
        _log.exception("what looks at the events of a model's answer failed")


def _documents(answer: Answer) -> Iterator[Any]:
    """The JSON documents of an answer: the one, or those of its server-sent events."""
    if answer.json is not msgspec.UNSET:
        yield msgspec.json.decode(answer.json)
    elif answer.text is not None:
        for line in answer.text.encode().split(b"\n"):
            event = _event(line)
            if event is not None:
                yield event


def _event(line: bytes) -> Any:
    if line.startswith(b"data:"):
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(line[5:])
    return None


def _json_of(content: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _check_stream(provider: str, request: Any, response: Any, answer: Answer) -> None:
    """A streamed answer has to have its end, and no error in it: then the request is worth another try, or is not.

    HTTP tells when a connection was cut; but a proxy in between may close its own as if the answer were whole.
    """
    if "text/event-stream" not in response.headers.get("content-type", ""):
        return
    for event in _documents(answer):
        error = event.get("error") if isinstance(event, dict) and not event.get("choices") else None
        if error is None and isinstance(event, dict) and event.get("type") == "error":
            error = event
        if error:
            raise _Refused(provider, response, msgspec.json.encode({"error": error}), _status_of_kind(error))
    end = next((end for path, end in _ENDS.items() if request.url.path.endswith(path)), None)
    if end is not None and end.search(answer.body) is None:
        raise RetryableError(f"{provider}: the stream was cut before its end", code=502)


def _status_of_kind(error: Any) -> int:
    """The status that an error in the middle of a stream would have had as an answer."""
    details = error if isinstance(error, Mapping) else {}
    kinds = {str(details.get("type")), str(details.get("code"))}
    return next((status for kind, status in _STATUSES.items() if kind in kinds), 500)


@lru_cache
def _async_class(library: Any) -> Any:
    class DurableAsyncHttp(library.AsyncClient):  # type: ignore[misc]  # httpx, or its successor
        """See the module's docstring."""

        def __init__(self, inner: Any, provider: str, on_event: OnEvent | None) -> None:
            super().__init__(timeout=inner.timeout, transport=library.MockTransport(_unreachable), trust_env=False)
            self.inner = inner
            self._provider = provider
            self._on_event = on_event

        def build_request(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner.build_request(*args, **kwargs)

        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            if durable_context() is None:
                return await self.inner.send(request, stream=stream, **options)
            await request.aread()
            step = _Request(request, self._provider)

            async def ask() -> Answer:
                response = await self.inner.send(step.prepare(), stream=True, **options)
                watching = _Watching(step, response, self._on_event)
                content = []
                try:
                    async for part in response.aiter_bytes():
                        watching.feed(part)
                        content.append(part)
                finally:
                    await response.aclose()
                answer = step.answer(response, b"".join(content))
                watching.end(answer)
                return answer

            if step.is_model:
                answer = await model_call(step.model, ask, **step.options)
            else:
                answer = await durable_call(step.name, ask, **step.options)
            return _response(library, answer, request)

        @property
        def is_closed(self) -> bool:
            return bool(self.inner.is_closed)

        async def aclose(self) -> None:
            await self.inner.aclose()

    return DurableAsyncHttp


@lru_cache
def _sync_class(library: Any) -> Any:
    class DurableHttp(library.Client):  # type: ignore[misc]
        """See the module's docstring; for plain `def` handlers."""

        def __init__(self, inner: Any, provider: str, on_event: OnEvent | None) -> None:
            super().__init__(timeout=inner.timeout, transport=library.MockTransport(_unreachable), trust_env=False)
            self.inner = inner
            self._provider = provider
            self._on_event = on_event

        def build_request(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner.build_request(*args, **kwargs)

        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            if durable_context() is None:
                return self.inner.send(request, stream=stream, **options)
            request.read()
            step = _Request(request, self._provider)

            def ask() -> Answer:
                response = self.inner.send(step.prepare(), stream=True, **options)
                watching = _Watching(step, response, self._on_event)
                content = []
                try:
                    for part in response.iter_bytes():
                        watching.feed(part)
                        content.append(part)
                finally:
                    response.close()
                answer = step.answer(response, b"".join(content))
                watching.end(answer)
                return answer

            if step.is_model:
                answer = model_call_sync(step.model, ask, **step.options)
            else:
                answer = durable_call_sync(step.name, ask, **step.options)
            return _response(library, answer, request)

        @property
        def is_closed(self) -> bool:
            return bool(self.inner.is_closed)

        def close(self) -> None:
            self.inner.close()

    return DurableHttp


def _response(library: Any, answer: Answer, request: Any) -> Any:
    response = library.Response(answer.status, headers=answer.headers, content=answer.body, request=request)
    response.elapsed = timedelta(0)  # how long it took is not what the handler may depend on
    return response


def _unreachable(request: Any) -> Any:
    raise AssertionError(f"{request.url} was about to be asked without the client that it belongs to")
