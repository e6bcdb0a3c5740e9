"""OpenTelemetry's current span in handlers and steps. Needs its API alone."""

from opentelemetry import context as contexts
from opentelemetry.trace import NonRecordingSpan, TraceFlags, TraceState, set_span_in_context
from opentelemetry.trace import SpanContext as OtelContext

from perdure.model.tracing import SpanContext, parse_traceparent
from perdure.sdk.driver import HandlerRun

__all__ = ["attach", "attach_invocation", "remember_replays"]

_remembers = False


def remember_replays() -> None:
    """Whoever calls it sees to it that no span is exported twice: spans that begin in a replay are sampled too."""
    global _remembers
    _remembers = True


def _otel(context: SpanContext, state: str) -> OtelContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    trace_state = TraceState.from_header([state]) if state else None
    return OtelContext(int(context.trace_id, 16), int(context.span_id, 16), True, flags, trace_state)


def attach(context: SpanContext, state: str) -> None:
    """Make it the current span's context."""
    contexts.attach(set_span_in_context(NonRecordingSpan(_otel(context, state))))


def attach_invocation(run: HandlerRun) -> None:
    """Make the invocation's span the current one."""
    above = parse_traceparent(run.start.trace)
    if above is not None:
        contexts.attach(set_span_in_context(_InvocationSpan(above, run)))


class _InvocationSpan(NonRecordingSpan):
    """Stands for the invocation's span in its handler. While the code repeats what an earlier attempt did it says that
    the trace is not sampled, so that the usual samplers make no span a second time."""

    def __init__(self, context: SpanContext, run: HandlerRun) -> None:
        state = run.start.trace_state
        super().__init__(_otel(context, state))
        self._again = _otel(context._replace(sampled=False), state)
        self._run = run

    def get_span_context(self) -> OtelContext:
        if not _remembers and self._run.repeating:
            return self._again
        return super().get_span_context()
