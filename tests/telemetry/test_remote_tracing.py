"""Traces over the wire: what an endpoint is told, and where the spans that are made there belong."""

from typing import Any

import pytest
from opentelemetry import trace

from perdure import App, Context, Service
from perdure.model.entries import Value
from perdure.protocol.control import Start
from perdure.runtime.clock import VirtualClock
from perdure.runtime.deployments import Deployments, Registration
from perdure.sdk.tracing import trace_of
from tests.runtime.elsewhere import World, at, running
from tests.telemetry.test_tracing import ABOVE, TRACE, TRACEPARENT, Seen, attributes_of, own_id
from tests.telemetry.test_tracing import trace_of as trace_id_of

ADDRESS = "http://one:9080"
tracers: list[trace.Tracer] = []


def app() -> App:
    remote = Service("Remote")

    @remote.handler()
    async def work(ctx: Context) -> str:
        async def step() -> str:
            with tracers[-1].start_as_current_span("in the step"):
                return "done"

        with tracers[-1].start_as_current_span("in the handler"):
            return await ctx.run("step", step)

    return App(remote, protocol="bidi")


class Listening:
    """An app, and the headers that its invocations came with."""

    def __init__(self) -> None:
        self._app = app()
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if "/invoke/" in scope.get("path", ""):
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await self._app(scope, receive, send)


async def run(seen: Seen, headers: tuple[tuple[str, str], ...], traced: bool = True) -> Listening:
    world, listening = World(), Listening()
    world.apps[ADDRESS] = listening
    provider = seen.provider if traced else None
    async with running(world, clock=VirtualClock(1_700_000_000_000), tracer_provider=provider) as node:
        await Deployments(node).register(Registration(at(ADDRESS)))
        answer = await node.call(node.registry.target("Remote", "work", None), b"", headers=headers)
        assert answer.result == Value(b'"done"')  # type: ignore[union-attr]
    return listening


@pytest.fixture
def seen() -> Seen:
    seen = Seen()
    tracers.append(seen.provider.get_tracer("app"))
    return seen


async def test_an_endpoint_is_told_of_the_invocations_span(seen: Seen) -> None:
    listening = await run(seen, (("traceparent", TRACEPARENT), ("tracestate", "vendor=1")))
    (headers,) = listening.headers
    root = seen.named("Remote/work")
    assert headers["traceparent"] == f"00-{TRACE}-{own_id(root):016x}-01"
    assert headers["tracestate"] == "perdure=1,vendor=1"
    assert root.parent is not None and f"{root.parent.span_id:016x}" == ABOVE


async def test_spans_made_there_are_below_the_engines(seen: Seen) -> None:
    await run(seen, (("traceparent", TRACEPARENT),))
    assert {trace_id_of(span) for span in seen.spans} == {TRACE}
    assert seen.path(seen.named("in the step")) == ["in the step", "step", "Remote/work"]
    assert seen.path(seen.named("in the handler")) == ["in the handler", "Remote/work"]
    (attempt,) = [span for span in seen.spans if span.name == "attempt"]
    assert attributes_of(attempt)["perdure.deployment.id"].startswith("dp_")


async def test_without_tracing_nothing_is_told(seen: Seen) -> None:
    listening = await run(seen, (("traceparent", TRACEPARENT),), traced=False)
    assert "traceparent" not in listening.headers[0]


async def test_a_server_that_makes_no_spans_of_steps(seen: Seen) -> None:
    """What is made in a step is below what the server says, not below a span that nobody makes."""
    from perdure.sdk import otel_context
    from perdure.sdk.tracing import enter_step

    assert trace_of({"traceparent": TRACEPARENT, "tracestate": "other=1"}) == (TRACEPARENT, "other=1")
    assert trace_of({"traceparent": "nonsense", "tracestate": "other=1"}) == ("", "")
    assert otel_context is not None
    import contextvars

    for state, below in (("other=1", True), ("perdure=1", False)):
        context = contextvars.copy_context()
        start: Any = Start(b"", None, (), None, 0, 1, 0, 0, {}, None, trace=TRACEPARENT, trace_state=state)  # type: ignore[arg-type]
        enter_step(context, start, 1)
        current = context.run(trace.get_current_span).get_span_context()
        assert (f"{current.span_id:016x}" == ABOVE) is below and f"{current.trace_id:032x}" == TRACE
