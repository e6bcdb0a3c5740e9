"""W3C trace context, and the ids of spans: made from what is known, so that they are the same in every process.

A span's context is written as in a `traceparent` header: `00-<trace id>-<span id>-<flags>`.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

import msgspec

__all__ = ["SPAN", "SpanContext", "Trace", "follow", "parse_traceparent", "span_id", "step_context", "trace_id"]

STATE_MEMBER = "perdure=1"
"""What the engine adds to `tracestate`: that it makes the spans of an invocation's steps itself."""

SPAN = "perdure.span"
"""In the metadata of a step's failure: the id of the span that the step is below, in place of the invocation's."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class SpanContext(NamedTuple):
    """Ids in lower-case hexadecimal."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02}"


class Trace(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where an invocation stands in a trace: the context of its own span, and the span above it.

    `parent` is that span's id; "": there is none. `state` is the `tracestate` it came with. With `caller`, the
    parent is the span of the call that made the invocation, and the calling invocation's span is the one above that.
    """

    context: str
    parent: str = ""
    state: str = ""
    caller: str = ""


def parse_traceparent(text: str | None) -> SpanContext | None:
    """The context in a header; None if it is none, which is not an error."""
    found = _TRACEPARENT.fullmatch(text.strip()) if text else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not span.strip("0"):
        return None
    return SpanContext(trace, span, bool(int(flags, 16) & 1))


def span_id(*parts: bytes) -> str:
    """An id for whatever these parts name."""
    return _digest(8, parts)


def trace_id(*parts: bytes) -> str:
    return _digest(16, parts)


def _digest(size: int, parts: tuple[bytes, ...]) -> str:
    digest = blake2b(digest_size=size, person=b"perdure-trace")
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.hexdigest()


def follow(context: SpanContext, kind: str, number: int) -> SpanContext:
    """The context of a span below another: the `number`-th of its kind."""
    own = span_id(context.trace_id.encode(), context.span_id.encode(), kind.encode(), number.to_bytes(8, "big"))
    return SpanContext(context.trace_id, own, context.sampled)


def step_context(invocation: SpanContext, completion_id: int) -> SpanContext:
    """The context of a step, for spans that are made in it."""
    return follow(invocation, "step", completion_id)
