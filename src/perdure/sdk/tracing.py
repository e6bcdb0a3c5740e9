"""The handler's side of tracing: what the engine knows is made the current context of the handler's code.

OpenTelemetry is asked for only where an invocation is traced, and done without where it is not installed.
"""

import contextvars
import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from perdure.errors import Invalid
from perdure.model.tracing import STATE_MEMBER, parse_traceparent, step_context
from perdure.protocol.control import Start

if TYPE_CHECKING:
    from perdure.sdk.driver import HandlerRun
    from perdure.sdk.otel import ReplaySafeTracerProvider

__all__ = ["enter_handler", "enter_step", "exporters_of", "handler_is_traced", "provider_from", "trace_of"]

_EXPORTERS = ("otlp", "console")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


@cache
def _otel() -> Any:
    try:
        from perdure.sdk import otel_context
    except ImportError:
        return None
    return otel_context


def enter_handler(run: "HandlerRun") -> None:
    """From here on spans of this task, and of those it makes, are below the invocation's."""
    if (otel := _otel()) is not None:
        otel.attach_invocation(run)


def enter_step(context: contextvars.Context, start: Start, completion_id: int) -> None:
    """Spans made in this context of a step's function are below the step's span.

    A server that is not perdure makes no span for a step: there they are below what it says its own span is.
    """
    above = parse_traceparent(start.trace)
    if above is not None and (otel := _otel()) is not None:
        own = step_context(above, completion_id) if STATE_MEMBER in start.trace_state else above
        context.run(otel.attach, own, start.trace_state)


def handler_is_traced() -> bool:
    """Whether this is a handler's own code, and its invocation is traced."""
    from perdure.sdk import logs, steps

    run = None if steps.in_step() else logs.current_run()
    own = None if run is None else parse_traceparent(run.start.trace)
    return own is not None and own.sampled


def trace_of(headers: Mapping[str, str]) -> tuple[str, str]:
    """`traceparent` and `tracestate` of a request; empty if it is not traced."""
    above = parse_traceparent(headers.get("traceparent"))
    return ("", "") if above is None else (str(above), headers.get("tracestate", ""))


def exporters_of(environ: Mapping[str, str], endpoint: str | None = None) -> list[str]:
    """Where traces go, by the names of exporters: an OTLP collector at `endpoint`, else what OpenTelemetry's variables
    say; empty: nowhere. Raises `Invalid` for what is not supported."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    if endpoint is not None:
        if not endpoint.startswith(("http://", "https://")):
            raise Invalid(f"tracing_endpoint {endpoint!r} is no URL of a collector, such as http://localhost:4318")
        return ["otlp"]
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if named:
        names = [name.strip() for name in named.split(",")]
    else:
        names = ["otlp"] if any(environ.get(variable) for variable in _ENDPOINTS) else []
    names = [name for name in names if name and name != "none"]
    for name in names:
        if name not in _EXPORTERS:
            raise Invalid(f"OTEL_TRACES_EXPORTER={named!r}: {name} is none of {', '.join(_EXPORTERS)}, none")
    for variable in _PROTOCOLS if "otlp" in names else ():
        if environ.get(variable, "http/protobuf") != "http/protobuf":
            raise Invalid(f"{variable}={environ[variable]!r}: traces are sent by http/protobuf only (port 4318)")
    return names


def provider_from(endpoint: str | None, environ: Mapping[str, str] | None = None) -> "ReplaySafeTracerProvider | None":
    """A provider that exports to where `exporters_of` says; None: nowhere. Raises `Invalid`, also where OpenTelemetry
    is not installed."""
    names = exporters_of(os.environ if environ is None else environ, endpoint)
    if not names:
        return None
    try:
        from perdure.sdk.otel import make_provider

        return make_provider(names, endpoint)
    except ImportError as error:
        raise Invalid(f"tracing is on, but cannot be done: {error}; pip install 'perdure[otel]'") from None
