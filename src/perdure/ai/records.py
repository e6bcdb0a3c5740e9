"""What the journal keeps of a model or tool call: its value, and beside it what others want to add up.

A record is one JSON object, whatever the framework's own format, so that SQL can read it:

    {"usage": {"provider": "openai", "model": "gpt-4o", "input_tokens": 812, "output_tokens": 40}, "value": ...}

| field | meaning |
| --- | --- |
| `value` | the result as its serde writes it; base64 if that is not JSON; absent for None |
| `plain` | true: the value did not fit the type it was declared with, and is plain JSON |
| `raised` | `[name, data]` in place of a value: the framework's control flow (`ControlFlow`), raised again on replay |
| `usage` | of a model call: its tokens, as `Usage` |
| `span` | the id of the span that the call is below, if the handler is traced |
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from perdure.model.usage import Usage
from perdure.sdk.serde import Serde, SerdeError, serde_for

__all__ = ["ControlFlow", "Record", "RecordSerde", "Usage", "usage_of"]

E = TypeVar("E", bound=BaseException)
_UNTYPED = serde_for(None)


def usage_of(provider: str, model: str, counts: Mapping[str, Any], finish_reason: str = "") -> Usage:
    """The tokens in a provider's own `usage`, as OpenAI (chat and responses) and Anthropic write it."""

    def count(*names: str) -> int:
        for name in names:
            outer, _, inner = name.partition(".")
            value = counts.get(outer)
            if inner:
                value = value.get(inner) if isinstance(value, Mapping) else None
            if type(value) is int:
                return value
        return 0

    read, written = count("cache_read_input_tokens"), count("cache_creation_input_tokens")  # not in Anthropic's input
    return Usage(
        provider,
        model,
        input_tokens=count("input_tokens", "prompt_tokens") + read + written,
        output_tokens=count("output_tokens", "completion_tokens"),
        cached_tokens=read or count("input_tokens_details.cached_tokens", "prompt_tokens_details.cached_tokens"),
        cache_write_tokens=written,
        reasoning_tokens=count("output_tokens_details.reasoning_tokens", "completion_tokens_details.reasoning_tokens"),
        finish_reason=finish_reason,
    )


@dataclass(frozen=True)
class ControlFlow(Generic[E]):
    """An exception by which a framework says what happens next: `ModelRetry`, an interrupt, a deferred call.

    It is no failure: a step that raises one has a result. It is kept as `dump(error)`, plain JSON values, under `name`,
    and whoever awaits the step gets `load(data)` raised, live and on replay.
    """

    kind: type[E]
    dump: Callable[[E], Any]
    load: Callable[[Any], E]
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.kind.__name__


@dataclass(frozen=True)
class Record:
    """A call's outcome: a value, or control flow as (name, data); a model call's tokens; the span it is below."""

    value: Any = None
    raised: tuple[str, Any] | None = None
    usage: Usage | None = None
    span: str = ""


class _Written(msgspec.Struct, omit_defaults=True):
    usage: Usage | None = None  # first: by how a result begins model calls are found
    span: str = ""
    raised: tuple[str, Any] | None = None
    plain: bool = False
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_DECODE = msgspec.json.Decoder(_Written).decode


class RecordSerde:
    """Writes a `Record`, its value by another serde.

    A value that does not fit that serde is kept as plain JSON and comes back as such, if `lenient`: Python's
    annotations promise nothing, and a tool that returns a dict where it said str works without perdure too.
    """

    __slots__ = ("_inner", "_lenient")
    content_type: Final = "application/json"

    def __init__(self, inner: Serde[Any], *, lenient: bool = False) -> None:
        self._inner = inner
        self._lenient = lenient and inner is not _UNTYPED

    def serialize(self, record: Record) -> bytes:
        if record.raised is not None:
            return msgspec.json.encode(_Written(record.usage, record.span, record.raised))
        inner, plain = self._inner, False
        try:
            data = inner.serialize(record.value)
            if self._lenient:
                inner.deserialize(data)
        except SerdeError:
            if not self._lenient:
                raise
            inner, plain = _UNTYPED, True
            data = inner.serialize(record.value)
        if not data:
            value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        elif _is_json(inner):
            value = msgspec.Raw(data)
        else:
            value = msgspec.Raw(msgspec.json.encode(base64.b64encode(data).decode()))
        return msgspec.json.encode(_Written(record.usage, record.span, None, plain, value))

    def deserialize(self, data: bytes) -> Record:
        try:
            written = _DECODE(data)
        except msgspec.MsgspecError as error:
            raise SerdeError("deserialize", "Record", str(error)) from error
        if written.raised is not None:
            return Record(raised=written.raised, usage=written.usage)
        inner = _UNTYPED if written.plain else self._inner
        if written.value is msgspec.UNSET:
            return Record(inner.deserialize(b""), usage=written.usage)
        raw = bytes(written.value)
        return Record(
            inner.deserialize(raw if _is_json(inner) else base64.b64decode(msgspec.json.decode(raw, type=str))),
            usage=written.usage,
        )

    def schema(self) -> dict[str, Any] | None:
        return None


def _is_json(serde: Serde[Any]) -> bool:
    return serde.content_type == "application/json"
