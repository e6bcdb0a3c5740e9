"""Spans: one for what happened once, however often it was replayed, each below what it belongs to."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace import TracerProvider as AnyProvider

from perdure import App, Context, Engine, Invalid, ReplaySafeTracerProvider, RetryPolicy, Service, TerminalError
from perdure.model.ids import parse_invocation_id
from perdure.model.tracing import SpanContext, parse_traceparent, span_id
from perdure.sdk import otel_context
from perdure.sdk.tracing import exporters_of, provider_from
from perdure.testing import TestEngine

TRACE = "0af7651916cd43dd8448eb211c80319c"
ABOVE = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{ABOVE}-01"

agent = Service("agent")
tool = Service("tool")
providers: list[AnyProvider] = []  # whom handlers ask for a tracer


def tracer() -> trace.Tracer:
    return providers[-1].get_tracer("app")


@tool.handler()
async def look_up(ctx: Context, what: str) -> str:
    async def fetch() -> str:
        with tracer().start_as_current_span("GET /what"):
            return what.upper()

    return await ctx.run("fetch", fetch)


@agent.handler()
async def research(ctx: Context, topics: list[str]) -> list[str]:
    def think() -> str:
        with tracer().start_as_current_span("model call"):
            return "thought"

    with tracer().start_as_current_span("agent loop"):
        await ctx.run("think", think)
        found = await asyncio.gather(*[ctx.call(look_up, topic) for topic in topics])
        with tracer().start_as_current_span("digest"):
            await ctx.sleep(60)
    await ctx.send(look_up, "later")
    return found


@agent.handler(retry_policy=RetryPolicy(max_attempts=3, initial_interval=1))
async def unlucky(ctx: Context) -> None:
    tries = 0

    async def flaky() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("not yet")

    await ctx.run("flaky", flaky, retry=RetryPolicy(max_attempts=5, initial_interval=0.01))
    if ctx.attempt == 1:
        raise RuntimeError("no luck")

    async def refused() -> None:
        raise TerminalError("no", 403)

    await ctx.run("refused", refused)


APP = App(agent, tool)


class Seen:
    """A provider, and the spans that it exported."""

    def __init__(self, make: Callable[..., TracerProvider] = ReplaySafeTracerProvider, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider: Any = make(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        providers.append(self.provider)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def names(self) -> Counter[str]:
        return Counter(span.name for span in self.spans if span.name != "attempt")

    def path(self, span: ReadableSpan) -> list[str]:
        """The names of a span and of all above it."""
        by_id = {own_id(each): each for each in self.spans}
        names = [span.name]
        while span.parent is not None and (above := by_id.get(span.parent.span_id)) is not None:
            names.append(above.name)
            span = above
        return names


def own_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}"


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


WAYS: dict[str, dict[str, Any]] = {
    "live": {},
    "replay": {"replay": True},
    "suspend": {"suspend": True},
    "both": {"replay": True, "suspend": True, "partitions": 3},
}


@pytest.mark.parametrize("way", WAYS)
async def test_one_span_for_each_thing_below_what_it_belongs_to(way: str) -> None:
    seen = Seen()
    async with TestEngine(APP, tracer_provider=seen.provider, **WAYS[way]) as engine:
        assert await engine.call(research, ["a", "b"], headers={"traceparent": TRACEPARENT}) == ["A", "B"]
        await engine.settle()
    assert seen.names() == {
        "agent/research": 1,
        "agent loop": 1,
        "think": 1,
        "model call": 1,
        "call tool/look_up": 2,
        "digest": 1,
        "tool/look_up": 3,
        "fetch": 3,
        "GET /what": 3,
    }
    assert len({own_id(span) for span in seen.spans}) == len(seen.spans)
    assert {trace_of(span) for span in seen.spans} == {TRACE}
    root = seen.named("agent/research")
    assert root.parent is not None and f"{root.parent.span_id:016x}" == ABOVE and root.parent.is_remote
    assert seen.path(seen.named("model call")) == ["model call", "think", "agent/research"]
    assert seen.path(seen.named("digest")) == ["digest", "agent loop", "agent/research"]
    paths = [tuple(seen.path(span)) for span in seen.spans if span.name == "GET /what"]
    through_a_call = ("GET /what", "fetch", "tool/look_up", "call tool/look_up", "agent/research")
    assert sorted(paths, key=len) == [("GET /what", "fetch", "tool/look_up", "agent/research"), *[through_a_call] * 2]
    kinds = {span.name: span.kind for span in seen.spans}
    assert kinds["agent/research"] is SpanKind.SERVER and kinds["call tool/look_up"] is SpanKind.CLIENT


@pytest.mark.parametrize("way", WAYS)
async def test_spans_have_the_journals_times(way: str) -> None:
    seen = Seen()
    async with TestEngine(APP, tracer_provider=seen.provider, **WAYS[way]) as engine:
        began = int(engine.now().timestamp() * 1000)
        await engine.call(research, [])
    root, step = seen.named("agent/research"), seen.named("think")
    assert (root.start_time, root.end_time) == (began * 1_000_000, (began + 60_000) * 1_000_000)
    assert (step.start_time, step.end_time) == (began * 1_000_000, began * 1_000_000)
    if WAYS[way]:  # begun in a replay, so at the journal's time; live it is that of the machine
        assert (seen.named("digest").start_time, seen.named("agent loop").start_time) == (began * 1_000_000,) * 2


async def test_attempts_failures_and_tries() -> None:
    seen = Seen()
    async with TestEngine(APP, tracer_provider=seen.provider) as engine:
        with pytest.raises(TerminalError, match="no"):
            await engine.call(unlucky)
    root = seen.named("agent/unlucky")
    assert root.status.status_code is StatusCode.ERROR and root.status.description == "no"
    attempts = [span for span in seen.spans if span.name == "attempt"]
    assert [attributes_of(span)["perdure.attempt.outcome"] for span in attempts] == ["failed", "completed"]
    assert [attributes_of(span)["perdure.attempt"] for span in attempts] == [1, 2]
    assert attempts[0].status.description == "RuntimeError: no luck"
    assert {span.parent.span_id for span in attempts if span.parent} == {own_id(root)}
    flaky, refused = seen.named("flaky"), seen.named("refused")
    assert attributes_of(flaky)["perdure.step.tries"] == 3 and flaky.status.status_code is StatusCode.OK
    assert attributes_of(refused)["perdure.attempt"] == 2 and refused.status.status_code is StatusCode.ERROR


async def test_what_an_attempt_did_is_told_as_events() -> None:
    seen = Seen()
    async with TestEngine(APP, tracer_provider=seen.provider) as engine:
        await engine.call(research, ["a"])
        await engine.settle()
    first = next(
        span for span in seen.spans if span.name == "attempt" and span.events and span.events[0].name == "call"
    )
    names = {event.name for span in seen.spans if span.name == "attempt" for event in span.events}
    assert names >= {"call", "call is answered", "sleep", "send"}
    assert first.events[0].attributes == {"perdure.target": "tool/look_up"}


@pytest.mark.parametrize("step", ["think", "fetch"])
@pytest.mark.parametrize("moment", ["before", "during", "after"])
async def test_a_crash_makes_nothing_twice_and_breaks_no_tree(moment: str, step: str) -> None:
    """What was interrupted between commit and export is lost; everything else is there once."""
    seen = Seen()
    async with TestEngine(APP, tracer_provider=seen.provider) as engine:
        getattr(engine, f"crash_{moment}")(step)
        await engine.call(research, ["a"])
        await engine.settle()
    made = [span for span in seen.spans if span.instrumentation_scope and span.instrumentation_scope.name == "perdure"]
    assert max(Counter(map(own_id, made)).values()) == 1
    assert seen.names()["think"] == (0 if moment == "after" and step == "think" else 1)
    assert seen.names()["agent/research"] == 1
    ids = {own_id(span) for span in made}
    lost = moment == "after"
    assert all(span.parent is None or span.parent.span_id in ids for span in made if span.name != "fetch") or lost


async def test_an_invocation_without_a_parent_begins_a_trace() -> None:
    seen = Seen()
    async with TestEngine(APP, tracer_provider=seen.provider) as engine:
        await engine.call(look_up, "a")
        await engine.call(look_up, "b", headers={"traceparent": "nonsense"})
    roots = [span for span in seen.spans if span.name == "tool/look_up"]
    assert all(span.parent is None for span in roots)
    assert len({trace_of(span) for span in roots}) == 2


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ParentBased(ALWAYS_OFF)])
async def test_what_is_not_sampled_makes_no_spans(sampler: Sampler) -> None:
    seen = Seen(sampler=sampler)
    async with TestEngine(APP, tracer_provider=seen.provider, replay=True) as engine:
        await engine.call(research, ["a"])
        unsampled = TRACEPARENT[:-1] + "0"
        await engine.call(research, ["a"], headers={"traceparent": unsampled})
    assert seen.spans == ()


async def test_a_trace_can_be_set_by_hand() -> None:
    seen = Seen()
    other = Service("other")

    @other.handler()
    async def hand_on(ctx: Context) -> None:
        await ctx.call(look_up, "a", headers={"traceparent": TRACEPARENT})

    async with TestEngine(App(other, tool), tracer_provider=seen.provider) as engine:
        await engine.call(hand_on)
    callee = seen.named("tool/look_up")
    assert trace_of(callee) == TRACE and callee.parent is not None and f"{callee.parent.span_id:016x}" == ABOVE
    assert "call tool/look_up" not in seen.names()


async def test_a_plain_provider_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that knows nothing of replay: what repeats is not sampled, so nothing is made twice."""
    monkeypatch.setattr(otel_context, "_remembers", False)
    engines, users = Seen(), Seen(TracerProvider)
    monkeypatch.setattr(otel_context, "_remembers", False)
    async with TestEngine(APP, tracer_provider=engines.provider, suspend=True) as engine:
        await engine.call(research, ["a"])
    assert users.names()["agent loop"] == users.names()["model call"] == 1


async def test_without_tracing_nothing_is_stored_and_nothing_made() -> None:
    seen = Seen()
    async with TestEngine(APP) as engine:
        id = (await engine.send(look_up, "a", headers={"traceparent": TRACEPARENT})).id
        await engine.invocation(id).attach()
        described = await engine.node.describe(parse_invocation_id(id))
    assert described.invocation.trace is None  # type: ignore[union-attr]
    assert seen.names() == {"GET /what": 1}  # the user's own, with the user's own provider


async def test_restarted_invocations_have_a_trace_of_their_own() -> None:
    seen = Seen()
    async with TestEngine(APP, tracer_provider=seen.provider) as engine:
        id = (await engine.send(look_up, "a")).id
        await engine.invocation(id).attach()
        again = await engine.invocation(id).restart()
        await again.attach()
    first, second = [span for span in seen.spans if span.name == "tool/look_up"]
    assert trace_of(first) != trace_of(second)
    assert attributes_of(second)["perdure.restarted_from"] == id


async def test_in_an_engine() -> None:
    seen = Seen()
    async with Engine(APP, tracer_provider=seen.provider) as engine:
        await engine.call(look_up, "a")
        assert engine.node.metrics.spans == {"step": 1, "attempt": 1, "invocation": 1}
    assert seen.path(seen.named("GET /what")) == ["GET /what", "fetch", "tool/look_up"]


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        TRACEPARENT.upper(),
        f"ff-{TRACE}-{ABOVE}-01",
        f"00-{'0' * 32}-{ABOVE}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        TRACEPARENT + "-more",
    ],
)
def test_what_is_no_context(header: str | None) -> None:
    assert parse_traceparent(header) is None


def test_contexts_in_headers() -> None:
    assert parse_traceparent(TRACEPARENT) == SpanContext(TRACE, ABOVE, True)
    assert str(SpanContext(TRACE, ABOVE, True)) == TRACEPARENT
    assert parse_traceparent(f"cc-{TRACE}-{ABOVE}-02-what-comes") == SpanContext(TRACE, ABOVE, False)
    assert span_id(b"a", b"b") != span_id(b"ab") and len(span_id(b"")) == 16


@pytest.mark.parametrize(
    ("environ", "endpoint", "names"),
    [
        ({}, None, []),
        ({}, "http://collector:4318", ["otlp"]),
        ({"OTEL_SDK_DISABLED": "true"}, "http://collector:4318", []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, None, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, None, ["otlp"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, None, []),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, None, ["console", "otlp"]),
    ],
)
def test_where_traces_go(environ: dict[str, str], endpoint: str | None, names: list[str]) -> None:
    assert exporters_of(environ, endpoint) == names


@pytest.mark.parametrize(
    ("environ", "endpoint", "problem"),
    [
        ({}, "collector:4318", "tracing_endpoint 'collector:4318' is no URL"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, None, "zipkin is none of otlp, console, none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None, "http/protobuf only"),
    ],
)
def test_where_traces_cannot_go(environ: dict[str, str], endpoint: str | None, problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        provider_from(endpoint, environ)
