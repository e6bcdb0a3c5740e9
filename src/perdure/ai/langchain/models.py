"""Chat models: the request of every one of them is a step in a handler.

The step is at the innermost place, the methods that a provider's class defines (`_agenerate`, `_astream`, ...). What
LangChain does around them (callbacks, ids, streaming of messages, structured output) happens in the handler, and so on
replay as it did live. It does not matter who calls the model: an agent, a middleware such as summarisation, a node.
"""

import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

from perdure.ai.base import collect, durable_context, model_call, model_call_sync
from perdure.ai.instrumented import instrument
from perdure.ai.langchain import messages as written
from perdure.ai.langchain.shown import ChunksShown, show_result
from perdure.errors import RetryableError
from perdure.model.services import RetryPolicy
from perdure.sdk.serde import serde_for
from perdure.sdk.steps import current_step

__all__ = ["install", "retried"]

_RETRY: contextvars.ContextVar[RetryPolicy | None] = contextvars.ContextVar("perdure_langchain_retry", default=None)
_HEADERS = ("langchain_openai", "langchain_anthropic", "langchain_deepseek", "langchain_groq", "langchain_xai")
_CLIENTS = ("root_client", "root_async_client", "_client", "_async_client")


def install() -> None:
    """Make chat models durable in handlers."""
    instrument(
        BaseChatModel,
        {
            "_generate": _generate,
            "_agenerate": _agenerate,
            "_stream": _stream,
            "_astream": _astream,
            "_stream_chat_model_events": _events,
            "_astream_chat_model_events": _aevents,
        },
    )


@contextlib.contextmanager
def retried(policy: RetryPolicy | None) -> Iterator[None]:
    """Model calls within are tried again under this policy, in place of the invocation's."""
    token = _RETRY.set(policy or _RETRY.get())
    try:
        yield
    finally:
        _RETRY.reset(token)


class _Request:
    """One call of a model's method, for a step."""

    def __init__(self, model: BaseChatModel, original: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.name = str(getattr(model, "model_name", None) or getattr(model, "model", None) or type(model).__name__)
        self.provider = model._llm_type
        self._model = model
        self._original = original
        self._args = args[:2]  # messages and stop; after them comes the run manager, whose callbacks are the handler's
        self._kwargs = {**kwargs, "run_manager": None}

    def make(self) -> Any:
        """Make it; in the step."""
        kwargs = self._kwargs
        if type(self._model).__module__.startswith(_HEADERS):
            key = {"Idempotency-Key": current_step().token}
            kwargs = {**kwargs, "extra_headers": {**key, **(kwargs.get("extra_headers") or {})}}
        return self._original(_without_retries(self._model), *self._args, **kwargs)

    def options(self, **others: Any) -> dict[str, Any]:
        return {"provider": self.provider, "retry": _RETRY.get(), **others}


def _without_retries(model: BaseChatModel) -> BaseChatModel:
    """The model, whose provider's client does not try again by itself, if that can be told to.

    The copy has clients of its own only on the outside: the connections are shared.
    """
    clients = {name: client for name in _CLIENTS if (client := getattr(model, name, None)) is not None}
    if not any(getattr(client, "max_retries", 0) and hasattr(client, "with_options") for client in clients.values()):
        return model
    copied = model.model_copy()
    for name, client in clients.items():
        quiet = client.with_options(max_retries=0)
        copied.__dict__[name] = quiet
        if name == "root_client" and hasattr(copied, "client"):
            copied.__dict__["client"] = _same_resource(model.__dict__.get("client"), quiet)
        if name == "root_async_client" and hasattr(copied, "async_client"):
            copied.__dict__["async_client"] = _same_resource(model.__dict__.get("async_client"), quiet)
    return copied


def _same_resource(resource: Any, client: Any) -> Any:
    """`client.chat.completions`, if the resource is that of another client."""
    return client.chat.completions if type(resource).__name__.endswith("Completions") else resource


def _generate(original: Callable[..., Any]) -> Callable[..., Any]:
    def generate(self: BaseChatModel, *args: Any, **kwargs: Any) -> Any:
        if durable_context() is None:
            return original(self, *args, **kwargs)
        call = _Request(self, original, args, kwargs)
        usage = written.usage_of_result(call.provider, call.name)
        options = call.options(serde=written.RESULT, usage=usage)
        return model_call_sync(call.name, lambda: show_result(call.make()), **options)

    return generate


def _agenerate(original: Callable[..., Any]) -> Callable[..., Any]:
    async def agenerate(self: BaseChatModel, *args: Any, **kwargs: Any) -> Any:
        if durable_context() is None:
            return await original(self, *args, **kwargs)
        call = _Request(self, original, args, kwargs)

        async def ask() -> Any:
            return show_result(await call.make())

        usage = written.usage_of_result(call.provider, call.name)
        return await model_call(call.name, ask, **call.options(serde=written.RESULT, usage=usage))

    return agenerate


def _stream(original: Callable[..., Any]) -> Callable[..., Any]:
    def stream(self: BaseChatModel, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if durable_context() is None:
            yield from original(self, *args, **kwargs)
            return
        call = _Request(self, original, args, kwargs)

        def ask() -> Any:
            shown, chunks = ChunksShown(), []
            for chunk in call.make():
                shown.show(chunk)
                chunks.append(chunk)
            shown.end()
            return _whole(chunks)

        usage = written.usage_of_chunks(call.provider, call.name)
        yield from model_call_sync(call.name, ask, **call.options(serde=written.CHUNKS, usage=usage))

    return stream


def _astream(original: Callable[..., Any]) -> Callable[..., Any]:
    async def astream(self: BaseChatModel, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if durable_context() is None:
            async for chunk in original(self, *args, **kwargs):
                yield chunk
            return
        call = _Request(self, original, args, kwargs)

        async def ask() -> Any:
            shown = ChunksShown()
            chunks = await collect(call.make(), shown.show)
            shown.end()
            return _whole(chunks)

        usage = written.usage_of_chunks(call.provider, call.name)
        for chunk in await model_call(call.name, ask, **call.options(serde=written.CHUNKS, usage=usage)):
            yield chunk

    return astream


def _events(original: Callable[..., Any]) -> Callable[..., Any]:
    def events(self: BaseChatModel, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if durable_context() is None:
            yield from original(self, *args, **kwargs)
            return
        call = _Request(self, original, args, kwargs)
        yield from model_call_sync(call.name, lambda: list(call.make()), **call.options(serde=serde_for(list[Any])))

    return events


def _aevents(original: Callable[..., Any]) -> Callable[..., Any]:
    async def aevents(self: BaseChatModel, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if durable_context() is None:
            async for event in original(self, *args, **kwargs):
                yield event
            return
        call = _Request(self, original, args, kwargs)
        options = call.options(serde=serde_for(list[Any]))
        for event in await model_call(call.name, lambda: collect(call.make()), **options):
            yield event

    return aevents


def _whole(chunks: list[Any]) -> list[Any]:
    """A stream that says how it ended, if any chunk of it says such things; one that does not was cut."""
    infos = [{**(each.generation_info or {}), **each.message.response_metadata} for each in chunks]
    known = any("model_name" in info or "model" in info or "model_provider" in info for info in infos)
    ended = any(info.keys() & {"finish_reason", "stop_reason", "done_reason", "status"} for info in infos)
    if known and not ended:
        raise RetryableError("the stream of the model's response ended in the middle", code=503)
    return chunks
