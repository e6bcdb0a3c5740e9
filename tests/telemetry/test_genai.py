"""Model calls, tools and agents in traces, by OpenTelemetry's conventions: each once, each below its agent."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from perdure import App, Context, Engine, RetryPolicy, Service, TerminalError
from perdure.ai import Usage, in_handler, usage_session
from perdure.ai.base import model_call, tool_call
from perdure.ai.spans import agent_run, span_of_handler
from perdure.prices import Price, Prices, use
from perdure.testing import TestEngine
from tests.telemetry.test_tracing import Seen

agent = Service("agent", retry_policy=RetryPolicy(initial_interval=0.01))


async def ask(model: str) -> Any:
    counts = Usage("acme", f"{model}-2026-01-01", input_tokens=10, output_tokens=2, cached_tokens=4)
    return await model_call(model, lambda: "hm", usage=lambda _: counts)


@in_handler
async def delegate(ctx: Context) -> Any:
    with agent_run("Helper", "test"):
        return await ask("small")


@agent.handler()
async def work(ctx: Context) -> None:
    with agent_run("Planner", "test"), usage_session("chat"):
        await ask("big")
        await asyncio.gather(
            tool_call("search", lambda: "found", call_id="c1"),
            tool_call("delegate", lambda: delegate(ctx), function=delegate, call_id="c2"),
        )
        await ctx.sleep(60)
        await ask("big")
    await ctx.run("model railway", lambda: "a step of another kind")
    await ctx.run("model agency", lambda: ["another"])


@agent.handler()
async def refused(ctx: Context) -> None:
    def deny() -> str:
        raise TerminalError("no such model", 404)

    await model_call("none", deny)


@agent.handler()
async def recovers(ctx: Context) -> list[str]:
    def deny() -> str:
        raise TerminalError("no", 409, {"why": "so"})

    told: list[str] = []
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: model_call("none", deny),
        lambda: tool_call("broken", deny, call_id="c1"),
    ]
    with agent_run("Planner", "test"):
        for call in calls:
            try:
                await call()
            except TerminalError as error:
                told += error.metadata
        await ctx.sleep(60)
    return told


APP = App(agent)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen()
    monkeypatch.setattr(trace, "get_tracer", found.provider.get_tracer)
    use(Prices("t", {"big": Price(input=2.0, output=10.0)}))
    yield found
    use(None)


@pytest.mark.parametrize("options", [{}, {"replay": True}, {"suspend": True}])
def test_calls_and_tools_are_below_their_agent_once(seen: Seen, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with TestEngine(APP, tracer_provider=seen.provider, **options) as engine:
            await engine.call(work)

    asyncio.run(main())
    names = [name for name in seen.names().elements() if name != "attempt"]
    assert sorted(names) == [
        "agent/work",
        *["chat big", "chat big", "chat small", "execute_tool search"],
        *["invoke_agent Helper", "invoke_agent Planner", "model agency", "model railway"],
    ]
    planner = ["invoke_agent Planner", "agent/work"]
    assert seen.path(seen.named("execute_tool search")) == ["execute_tool search", *planner]
    assert seen.path(seen.named("chat small")) == ["chat small", "invoke_agent Helper", *planner]
    assert {tuple(seen.path(span)) for span in seen.spans if span.name == "chat big"} == {("chat big", *planner)}
    assert seen.path(seen.named("model railway")) == ["model railway", "agent/work"]
    about = dict(next(span for span in seen.spans if span.name == "chat big").attributes or {})
    assert {name: value for name, value in about.items() if not name.startswith("perdure.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "acme",
        "gen_ai.request.model": "big",
        "gen_ai.response.model": "big-2026-01-01",
        "gen_ai.conversation.id": "chat",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }
    assert about["perdure.usage.cost"] == pytest.approx(40e-6) and about["perdure.step"] == "model big"
    tool = seen.named("execute_tool search")
    assert (tool.attributes or {})["gen_ai.tool.call.id"] == "c1" and tool.kind is SpanKind.INTERNAL
    assert (seen.named("invoke_agent Planner").attributes or {})["gen_ai.agent.name"] == "Planner"
    assert seen.named("chat small").kind is SpanKind.CLIENT


def test_a_call_that_failed_says_so(seen: Seen) -> None:
    async def main() -> None:
        async with Engine(APP, tracer_provider=seen.provider) as engine:
            with pytest.raises(TerminalError):
                await engine.call(refused)

    asyncio.run(main())
    span = seen.named("chat none")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "404" and (span.attributes or {})["gen_ai.request.model"] == "none"


@pytest.mark.parametrize("options", [{}, {"replay": True}, {"suspend": True}])
def test_a_call_that_failed_is_below_its_agent(seen: Seen, options: dict[str, Any]) -> None:
    async def main() -> Any:
        async with TestEngine(APP, tracer_provider=seen.provider, **options) as engine:
            return await engine.call(recovers)

    assert asyncio.run(main()) == ["why", "why"]  # what is for the trace is not the handler's
    for name in ("chat none", "execute_tool broken"):
        assert seen.path(seen.named(name)) == [name, "invoke_agent Planner", "agent/recovers"]


def test_why_an_answer_ended_is_told(seen: Seen) -> None:
    async def main() -> None:
        service = Service("Ends")

        @service.handler()
        async def handler(ctx: Context) -> None:
            await model_call("big", lambda: "hm", usage=lambda _: Usage("acme", "big", 1, 1, finish_reason="length"))

        async with Engine(App(service), tracer_provider=seen.provider) as engine:
            await engine.call(handler)

    asyncio.run(main())
    assert (seen.named("chat big").attributes or {})["gen_ai.response.finish_reasons"] == ("length",)


def test_what_is_not_traced_costs_nothing_and_keeps_nothing(seen: Seen) -> None:
    spans: list[str] = []

    async def main() -> None:
        service = Service("Untraced")

        @service.handler()
        async def handler(ctx: Context) -> None:
            with agent_run("Planner", "test"):
                spans.append(span_of_handler())

        async with TestEngine(App(service)) as engine:
            await engine.call(handler)

    asyncio.run(main())
    assert spans == [""] and not seen.spans and span_of_handler() == ""
