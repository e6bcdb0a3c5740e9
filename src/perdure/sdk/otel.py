"""A tracer provider whose spans survive replay: made once each, with the ids that earlier attempts gave them.

A handler's code begins its spans anew in every attempt. Here the n-th span that a handler begins has an id that follows
from its invocation and n, so that what was exported below it by an earlier attempt still is below it. A span is
exported by the attempt in which it ends while the handler goes on; one that ends while the code repeats what was done
before, or because the attempt is dropped, is not. A span that begins in such a repetition begins at the journal's time.

Spans made in steps and outside of handlers are as with any other provider.
"""

import sys
import threading
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler

from perdure.model.tracing import span_id, trace_id
from perdure.sdk import otel_context, steps
from perdure.sdk.driver import HandlerRun
from perdure.sdk.logs import current_run

__all__ = ["ReplaySafeTracerProvider", "make_provider"]

_PATH: Final = "/v1/traces"


def _handler() -> HandlerRun | None:
    """The attempt whose handler's own code this is."""
    return None if steps.in_step() else current_run()


class _Ids(IdGenerator):
    def __init__(self, otherwise: IdGenerator) -> None:
        self._otherwise = otherwise

    def generate_span_id(self) -> int:
        run = _handler()
        if run is None:
            return self._otherwise.generate_span_id()
        run.spans += 1
        start = run.start
        return int(span_id(start.id, start.trace.encode(), b"handler", run.spans.to_bytes(8, "big")), 16)

    def generate_trace_id(self) -> int:
        run = _handler()
        return self._otherwise.generate_trace_id() if run is None else int(trace_id(run.start.id, b"handler"), 16)


class _Once(SpanProcessor):
    """Keeps from another processor what is not to be exported."""

    def __init__(self, inner: SpanProcessor) -> None:
        self._inner = inner
        self._open: WeakValueDictionary[tuple[int, int], HandlerRun] = WeakValueDictionary()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        run = _handler()
        if run is not None:
            context = span.get_span_context()
            self._open[context.trace_id, context.span_id] = run
            if run.repeating and (began := run.journal_ms) is not None:
                span._start_time = began * 1_000_000  # there is no other way to say it to a span that has begun
        self._inner.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        run = None if context is None else self._open.pop((context.trace_id, context.span_id), None)
        if run is None or not run.repeating:
            self._inner.on_end(span)

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class ReplaySafeTracerProvider(TracerProvider):
    """OpenTelemetry's `TracerProvider` for processes that run handlers: see the module's docstring.

    ::

        provider = ReplaySafeTracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        async with Engine(app, tracer_provider=provider) as engine: ...

    Takes the arguments of `TracerProvider`; what generates ids (`id_generator`) is asked outside of handlers only.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        resource: Resource | None = None,
        *,
        id_generator: IdGenerator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(sampler, resource, id_generator=_Ids(id_generator or RandomIdGenerator()), **options)
        self._emitters: list[SpanProcessor] = []
        otel_context.remember_replays()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        super().add_span_processor(_Once(span_processor))
        self._emitters.append(span_processor)

    def close(self, timeout: float) -> None:
        """Export what is left, and no more; whatever the collector does, it returns after `timeout` seconds."""
        closing = threading.Thread(target=self.shutdown, name="perdure-tracing", daemon=True)
        closing.start()
        closing.join(timeout)

    def emit(self, span: ReadableSpan) -> None:
        """Export a span that is whole already."""
        for processor in self._emitters:
            processor.on_end(span)


def make_provider(exporters: Sequence[str], endpoint: str | None) -> ReplaySafeTracerProvider:
    """A provider for exporters by name, otlp and console; `endpoint` is the collector's, None: as the variables say."""
    resource = Resource.create({})
    if SERVICE_NAME not in OTELResourceDetector().detect().attributes:
        resource = resource.merge(Resource({SERVICE_NAME: "perdure"}))
    provider = ReplaySafeTracerProvider(resource=resource, shutdown_on_exit=False)
    for name in exporters:
        exporter = _otlp(endpoint) if name == "otlp" else ConsoleSpanExporter(out=sys.stderr)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _otlp(endpoint: str | None) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if endpoint is not None and not endpoint.endswith(_PATH):
        endpoint = endpoint.rstrip("/") + _PATH
    return OTLPSpanExporter(endpoint=endpoint)
