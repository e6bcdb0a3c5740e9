"""Agents in traces: a run of one is a span, and the model calls and tools of it are below it.

The engine makes the spans of steps from the journal (`perdure.telemetry`), so a record says below which span of the
handler's its step belongs. The span of a run is the handler's own, and with `ReplaySafeTracerProvider` it has the same
id in every attempt and is exported once. Nothing is done, and OpenTelemetry not loaded, unless the handler is traced.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from perdure.sdk.tracing import handler_is_traced

__all__ = ["AgentRun", "agent_run", "span_of_handler"]


def _api() -> Any:
    """OpenTelemetry's API, if this is a handler whose invocation is traced."""
    if not handler_is_traced():
        return None
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


class AgentRun:
    """A run of the agent of that name: a span `invoke_agent NAME`, in a handler that is traced."""

    def __init__(self, name: str | None, framework: str) -> None:
        self._api = _api()
        self._span: Any = None
        if self._api is not None:
            attributes = {"gen_ai.operation.name": "invoke_agent", "perdure.agent.framework": framework}
            if name:
                attributes["gen_ai.agent.name"] = name
            title = f"invoke_agent {name}" if name else "invoke_agent"
            self._span = self._api.get_tracer("perdure.ai").start_span(title, attributes=attributes)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """What is asked and used in the block, and in tasks that begin in it, is below the run."""
        if self._span is None:
            yield
            return
        with self._api.use_span(self._span, record_exception=False):
            yield

    def end(self) -> None:
        """It is over."""
        if self._span is not None:
            self._span.end()


@contextlib.contextmanager
def agent_run(name: str | None, framework: str) -> Iterator[None]:
    """The block is a run of the agent of that name."""
    run = AgentRun(name, framework)
    try:
        with run.current():
            yield
    finally:
        run.end()


def span_of_handler() -> str:
    """The id (16 hex digits) of the span that what the handler does now is below; "" if it is not traced."""
    api = _api()
    if api is None:
        return ""
    context = api.get_current_span().get_span_context()
    return format(context.span_id, "016x") if context.is_valid else ""
