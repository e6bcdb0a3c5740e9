"""Traces made from the journal. Imported only where tracing is on, for it needs OpenTelemetry.

    invocation                     from when it was accepted until it was completed
    |-- attempt                    one for each time the handler ran, with what it did as events
    |-- step                       from its beginning until its result was journaled
    `-- call service/handler       a call, from its beginning until the callee was completed
        `-- invocation             the callee

Steps and calls hang on the invocation and not on an attempt, because an attempt can be cut off by a crash and then is
not heard of; an invocation is completed some day. A span is made when what it tells is over and on disk, so an
invocation that waits for days keeps nothing in memory. Its context is stored with it; all other ids follow from that
and from the journal's. What a crash interrupts between the commit and the export is lost, and nothing is made twice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanKind, TraceFlags, TraceState, set_span_in_context
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace.status import Status, StatusCode

from perdure.model import entries as e
from perdure.model.ids import format_invocation_id
from perdure.model.invocation import AttemptFailure, Completed, Invocation, Target
from perdure.model.tracing import SpanContext, Trace, follow, parse_traceparent, span_id, trace_id
from perdure.telemetry import genai

__all__ = ["AttemptTrace", "Provider", "Tracing"]

EVENT_LIMIT: Final = 128  # of one attempt, as OpenTelemetry's own
_NS: Final = 1_000_000  # in a ms


class Provider(Protocol):
    """What spans are made for; `sdk.otel` has one."""

    @property
    def resource(self) -> Resource: ...

    @property
    def sampler(self) -> Sampler: ...

    def emit(self, span: ReadableSpan) -> None: ...


class Tracing:
    """Makes the spans of a node. `counts` counts them, by kind. All methods run on the event loop's thread."""

    def __init__(self, provider: Provider, counts: dict[str, int], version: str = "") -> None:
        self._provider = provider
        self._counts = counts
        self._scope = InstrumentationScope("perdure", version)

    # Contexts

    def accepted(self, id: bytes, target: Target, at: int, headers: Iterable[tuple[str, str]]) -> Trace:
        """The place of an invocation that comes from outside, by the headers it comes with."""
        fields = dict(headers)
        parent = parse_traceparent(fields.get("traceparent"))
        state = fields.get("tracestate", "") if parent is not None else ""
        if state:
            state = TraceState.from_header([state]).to_header()  # without what is not valid
        return self._place(id, target, at, parent, state)

    def called(self, id: bytes, target: Target, at: int, caller: Trace, entry: e.Call | e.OneWayCall) -> Trace:
        """The place of an invocation that a handler makes: below its call, or below what the code says it is."""
        for name, value in entry.headers:
            if name.lower() == "traceparent" and (parent := parse_traceparent(value)) is not None:
                return self._place(id, target, at, parent, caller.state)
        above = parse_traceparent(caller.context)
        assert above is not None, "the engine wrote it"
        if isinstance(entry, e.Call):
            call = follow(above, "call", entry.completion_id)
            return self._place(id, target, at, call, caller.state, above.span_id)
        return self._place(id, target, at, above, caller.state)

    def _place(
        self, id: bytes, target: Target, at: int, parent: SpanContext | None, state: str, caller: str = ""
    ) -> Trace:
        # The time is in it because ids of workflows and of idempotency keys come back.
        trace = trace_id(id, at.to_bytes(8, "big")) if parent is None else parent.trace_id
        above = None if parent is None else set_span_in_context(NonRecordingSpan(_otel(parent, state, remote=True)))
        name = _name(target)
        sampled = self._provider.sampler.should_sample(above, int(trace, 16), name, SpanKind.SERVER)
        own = SpanContext(trace, span_id(id, at.to_bytes(8, "big")), sampled.decision is Decision.RECORD_AND_SAMPLE)
        return Trace(str(own), "" if parent is None else parent.span_id, state, caller)

    # Spans

    def attempt(self, invocation: Invocation, at: int, deployment: str | None) -> "AttemptTrace | None":
        """An attempt begins; None if its invocation is not traced."""
        trace = invocation.trace
        own = None if trace is None else parse_traceparent(trace.context)
        if trace is None or own is None or not own.sampled:
            return None
        return AttemptTrace(self, invocation, own, trace.state, at, deployment)

    def completed(self, invocations: Iterable[Invocation]) -> None:
        """These have ended, and that is on disk."""
        for invocation in invocations:
            trace = invocation.trace
            own = None if trace is None else parse_traceparent(trace.context)
            if trace is not None and own is not None and own.sampled:
                self._completed(invocation, trace, own)

    def _completed(self, invocation: Invocation, trace: Trace, own: SpanContext) -> None:
        status = invocation.status
        assert isinstance(status, Completed)
        target = invocation.target
        failure = status.result if isinstance(status.result, e.Failure) else None
        began, ended = invocation.created_at, status.at
        attributes = about(invocation) | {"perdure.attempts": invocation.attempts}
        if invocation.started_at is not None:
            attributes["perdure.queued_seconds"] = (invocation.started_at - began) / 1000
        if invocation.restarted_from is not None:
            attributes["perdure.restarted_from"] = format_invocation_id(invocation.restarted_from)
        self.emit("invocation", _name(target), own, trace.parent, trace.state, began, ended, attributes, failure)
        if trace.caller and invocation.caller is not None:
            call = own._replace(span_id=trace.parent)
            about_call = {"perdure.caller": format_invocation_id(invocation.caller)} | about(invocation)
            name, above, state = f"call {_name(target)}", trace.caller, trace.state
            self.emit("call", name, call, above, state, began, ended, about_call, failure)

    def emit(
        self,
        kind: str,
        name: str,
        context: SpanContext,
        parent: str,
        state: str,
        began: int,
        ended: int,
        attributes: Mapping[str, Any],
        failure: e.Failure | AttemptFailure | None = None,
        events: Sequence[Event] = (),
    ) -> None:
        """Make a span; times are in ms."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        above = SpanContext(context.trace_id, parent, True) if parent else None
        status = Status(StatusCode.OK) if failure is None else Status(StatusCode.ERROR, failure.message)
        self._provider.emit(
            ReadableSpan(
                name,
                _otel(context, state),
                None if above is None else _otel(above, state, remote=kind == "invocation"),
                self._provider.resource,
                attributes,
                events,
                kind=_KINDS.get(kind, SpanKind.INTERNAL),
                status=status,
                start_time=began * _NS,
                end_time=max(began, ended) * _NS,
                instrumentation_scope=self._scope,
            )
        )


_KINDS: Final = {"invocation": SpanKind.SERVER, "call": SpanKind.CLIENT, "model call": SpanKind.CLIENT}


def _name(target: Target) -> str:
    """Without the key: names of spans are to be few."""
    return f"{target.service}/{target.handler}"


def about(invocation: Invocation) -> dict[str, Any]:
    """The attributes that every span of an invocation has."""
    target = invocation.target
    attributes: dict[str, Any] = {
        "perdure.invocation.id": format_invocation_id(invocation.id),
        "perdure.service": target.service,
        "perdure.handler": target.handler,
    }
    return attributes if target.key is None else attributes | {"perdure.key": target.key}


def _otel(context: SpanContext, state: str, remote: bool = False) -> OtelContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    trace_state = TraceState.from_header([state]) if state else None
    return OtelContext(int(context.trace_id, 16), int(context.span_id, 16), remote, flags, trace_state)


class AttemptTrace:
    """What is known of an attempt that runs: kept until it ends, at most `EVENT_LIMIT` events of it."""

    __slots__ = (
        "_context",
        "_deployment",
        "_dropped",
        "_events",
        "_invocation",
        "_proposed",
        "_since",
        "_state",
        "_tracing",
        "tries",
    )

    def __init__(
        self,
        tracing: Tracing,
        invocation: Invocation,
        context: SpanContext,
        state: str,
        since: int,
        deployment: str | None,
    ) -> None:
        self._tracing = tracing
        self._invocation = invocation
        self._context = context
        self._state = state
        self._since = since
        self._deployment = deployment
        self._events: list[Event] = []
        self._dropped = 0
        self._proposed: dict[int, tuple[str, int]] = {}
        self.tries: dict[int, int] = {}
        """How often steps have failed, by completion id."""

    @property
    def settled(self) -> bool:
        """Whether every result that it proposed is on disk."""
        return not self._proposed

    def said(self, message: object, at: int) -> None:
        """The handler said something."""
        describe = _SAID.get(type(message))
        if describe is not None:
            self._event(*describe(message), at)

    def proposed(self, completion_id: int, name: str, since: int) -> None:
        """A step has a result, which is not on disk yet."""
        self._proposed[completion_id] = (name, since)

    def told(self, notification: e.Notification) -> None:
        """A notification is on disk, and the handler is given it."""
        if isinstance(notification, e.Signal):
            self._event("signal", {"perdure.signal": notification.signal}, notification.at)
        elif notification.type == e.RUN_COMPLETION:
            step = self._proposed.pop(notification.completion_id, None)
            if step is not None:
                self._step(notification, *step)
        elif name := _TOLD.get(notification.type):
            self._event(name, {"perdure.completion_id": notification.completion_id}, notification.at)

    def _step(self, completion: e.Completion, name: str, since: int) -> None:
        invocation, number = self._invocation, completion.completion_id
        attributes = about(invocation) | {
            "perdure.step": name,
            "perdure.step.tries": self.tries.get(number, 0) + 1,
            "perdure.attempt": invocation.attempts,
            "perdure.completion_id": number,
        }
        failure = completion.result if isinstance(completion.result, e.Failure) else None
        own = follow(self._context, "step", number)
        above, state = self._context.span_id, self._state
        known = genai.of_step(name, completion.result)
        if known is not None:
            name, above = known.name, known.parent or above
            attributes |= known.attributes
        kind = "model call" if known is not None and known.is_model else "step"
        self._tracing.emit(kind, name or "step", own, above, state, since, completion.at, attributes, failure)

    def ended(self, outcome: str, at: int, failure: AttemptFailure | None = None) -> None:
        """The attempt is over: completed, suspended, failed, or aborted."""
        invocation = self._invocation
        attributes = about(invocation) | {"perdure.attempt": invocation.attempts, "perdure.attempt.outcome": outcome}
        if self._deployment is not None:
            attributes["perdure.deployment.id"] = self._deployment
        if self._dropped:
            attributes["perdure.events_dropped"] = self._dropped
        own = follow(self._context, "attempt", invocation.attempts)
        above, state = self._context.span_id, self._state
        self._tracing.emit("attempt", "attempt", own, above, state, self._since, at, attributes, failure, self._events)

    def _event(self, name: str, attributes: dict[str, Any], at: int) -> None:
        if len(self._events) >= EVENT_LIMIT:
            self._dropped += 1
        else:
            self._events.append(Event(name, attributes, at * _NS))


def _call(entry: Any) -> tuple[str, dict[str, Any]]:
    name = "call" if isinstance(entry, e.Call) else "send"
    return name, {"perdure.target": f"{entry.service}/{entry.handler}"}


def _simply(name: str, **fields: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    """An event with some of the entry's fields."""

    def describe(entry: Any) -> tuple[str, dict[str, Any]]:
        return name, {f"perdure.{attribute}": getattr(entry, field) for attribute, field in fields.items()}

    return describe


_SAID: Final[dict[type, Callable[[Any], tuple[str, dict[str, Any]]]]] = {
    e.Sleep: _simply("sleep", completion_id="completion_id", until_ms="wake_up_time"),
    e.Call: _call,
    e.OneWayCall: _call,
    e.GetPromise: _simply("wait for promise", completion_id="completion_id", promise="key"),
    e.CompletePromise: _simply("complete promise", promise="key"),
    e.SendSignal: _simply("send signal", target="target", signal="signal"),
    e.CompleteAwakeable: _simply("complete awakeable", awakeable="awakeable_id"),
    e.AttachInvocation: _simply("attach", completion_id="completion_id"),
}
_TOLD: Final = {
    e.SLEEP_COMPLETION: "sleep is over",
    e.CALL_COMPLETION: "call is answered",
    e.GET_PROMISE_COMPLETION: "promise is complete",
    e.ATTACH_COMPLETION: "attached",
}
