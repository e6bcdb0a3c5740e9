"""What is counted, and what Prometheus is shown of it."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from perdure import App, Context, Engine, ObjectContext, RetryPolicy, Service, TerminalError, VirtualObject, prices
from perdure.ai import Usage
from perdure.ai.base import model_call
from perdure.embedded import open_stores
from perdure.runtime.node import Node
from perdure.storage.census import census
from perdure.telemetry import metrics as counting
from perdure.telemetry.metrics import MODELS, OTHER, STEPS_PER_HANDLER, HandlerMetrics, Histogram, Metrics
from perdure.testing import TestEngine
from perdure.web.admin import Admin
from perdure.web.ingress import Ingress
from tests.web.fakes import FakeNode, Web

work = Service("work")
room = VirtualObject("room")


@work.handler()
async def steps(ctx: Context, n: int) -> int:
    for i in range(n):
        await ctx.run(f"page {i}", lambda: None)
    return n


@work.handler(inactivity_timeout=0)
async def wait(ctx: Context) -> None:
    await ctx.signal("go")


@work.handler()
async def refuse(ctx: Context) -> None:
    raise TerminalError("no", 404)


@work.handler(retry_policy=RetryPolicy(initial_interval=3600))
async def broken(ctx: Context) -> None:
    raise RuntimeError("no luck")


@work.handler(retry_policy=RetryPolicy(max_attempts=1, on_exhausted="pause"))
async def hopeless(ctx: Context) -> None:
    raise RuntimeError("no luck")


@work.handler()
async def flaky(ctx: Context) -> int:
    tries = 0

    async def step() -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("not yet")
        return tries

    return await ctx.run("step", step, retry=RetryPolicy(initial_interval=2.0, max_attempts=5))


@room.handler(inactivity_timeout=0)
async def enter(ctx: ObjectContext) -> None:
    await ctx.signal("go")


APP = App(work, room)
Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(node: Node, *headers: tuple[str, str | bytes]) -> str:
    reply = await Web(Admin(node, version="1.2.3"))("GET", "/metrics", b"", *headers)
    assert reply is not None and reply.status == 200
    return reply.body.decode()


async def numbers(node: Node) -> Found:
    """Every sample, by name and labels."""
    node.metrics.statuses = node.metrics.statuses or {}
    families = parse(await scrape(node))
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def of(found: Found, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


async def test_invocations_attempts_and_steps() -> None:
    async with TestEngine(APP) as engine:
        for n in (3, 4):
            await engine.call(steps, n)
        with pytest.raises(TerminalError):
            await engine.call(refuse)
        await engine.call(flaky)
        found = await numbers(engine.node)
    mine = {"service": "work", "handler": "steps"}
    assert of(found, "perdure_invocation_duration_seconds_count", **mine, result="success") == 2
    assert ("perdure_invocation_duration_seconds_count", frozenset({**mine, "result": "failure"}.items())) not in found
    assert of(found, "perdure_attempts_total", **mine, outcome="completed") == 2
    assert of(found, "perdure_step_duration_seconds_count", **mine, step="page #") == 7
    refused = {"service": "work", "handler": "refuse", "result": "failure"}
    assert of(found, "perdure_invocation_duration_seconds_count", **refused) == 1
    flaky_one = {"service": "work", "handler": "flaky"}
    assert of(found, "perdure_step_failures_total", **flaky_one) == 2
    seconds = of(found, "perdure_step_duration_seconds_sum", **flaky_one, step="step")
    assert seconds == of(found, "perdure_invocation_duration_seconds_sum", **flaky_one, result="success") == 6.0
    assert of(found, "perdure_step_duration_seconds_bucket", **flaky_one, step="step", le="5") == 0
    assert of(found, "perdure_step_duration_seconds_bucket", **flaky_one, step="step", le="10") == 1


async def test_model_calls() -> None:
    known = Usage("acme", "big", input_tokens=1000, output_tokens=100, cached_tokens=400, reasoning_tokens=7)
    service = Service("models")

    @service.handler()
    async def ask(ctx: Context, model: str) -> None:
        await model_call(model, lambda: "answer", usage=lambda _: replace(known, model=model))
        await ctx.run("model railway", lambda: {"usage": "none"})

    prices.use(prices.Prices("t", {"big": prices.Price(input=2.0, output=10.0)}))
    try:
        async with TestEngine(App(service), replay=True) as engine:
            for model in ("big", "big", *(f"m{number}" for number in range(MODELS + 5))):
                await engine.call(ask, model)
            found = await numbers(engine.node)
    finally:
        prices.use(None)
    assert of(found, "perdure_model_calls_total", model="big") == 2
    assert of(found, "perdure_model_cost_usd_total", model="big") == pytest.approx(2 * 0.003)
    assert of(found, "perdure_model_unpriced_total", model="big") == 0
    counts = {"input": 2000, "cached": 800, "cache_write": 0, "output": 200, "reasoning": 14}
    assert {kind: of(found, "perdure_model_tokens_total", model="big", kind=kind) for kind in counts} == counts
    assert of(found, "perdure_model_unpriced_total", model="m1") == 1
    assert of(found, "perdure_model_calls_total", model="other") == 6  # names of models are bounded
    assert len([name for name, _ in found if name == "perdure_model_calls_total"]) == MODELS + 1


async def test_where_invocations_stand() -> None:
    async with TestEngine(APP, skip=False) as engine:
        await engine.send(wait)
        await engine.send(wait, delay=60)
        for _ in range(3):
            await engine.send(enter, key="k")
        await engine.send(broken)
        await engine.send(hopeless)
        await engine.settle()
        found = await numbers(engine.node)
        status = {each: of(found, "perdure_invocations", status=each) for each in STATUSES}
        assert status == STATUSES
        outcomes = {"service": "work", "handler": "wait", "outcome": "suspended"}
        assert of(found, "perdure_attempts_total", **outcomes) == 1
        assert of(found, "perdure_attempts_total", **{**outcomes, "handler": "broken", "outcome": "failed"}) == 1


STATUSES = {
    "scheduled": 1,
    "inboxed": 2,
    "suspended": 2,
    "paused": 1,
    "backing-off": 1,
    "running": 0,
    "ready": 0,
}


async def test_what_was_there_before_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    async with Engine(APP, path, grace=0) as engine:
        await engine.send(wait, delay=3600)
        for _ in range(3):
            await engine.send(enter, key="k")
        await engine.call(steps, 1)
    (store,) = open_stores(path)
    count = census(store)
    store.close()
    assert count() == {"scheduled": 1, "inboxed": 2, "suspended": 1}


async def test_what_was_there_before_and_what_has_changed() -> None:
    async with TestEngine(APP, skip=False) as engine:
        for _ in range(2):
            await engine.send(enter, key="k")
        await engine.settle()
        store = engine._stores[0]
        engine.crash()
        await engine.settle()
        engine.node.metrics.statuses = {"suspended": 1, "inboxed": 1}
        assert census(store)() == engine.node.metrics.statuses
        await engine.send(enter, key="k")
        await engine.settle()
        found = await numbers(engine.node)
    assert of(found, "perdure_invocations", status="suspended") == 1
    assert of(found, "perdure_invocations", status="inboxed") == 2


async def test_until_they_are_counted_nothing_is_said_of_statuses() -> None:
    async with TestEngine(APP) as engine:
        assert "perdure_invocations{" not in await scrape(engine.node)


async def test_commits_and_the_disk(tmp_path: Path) -> None:
    async with Engine(APP, tmp_path / "engine.db") as engine:
        await engine.call(steps, 5)
        found = await numbers(engine.node)
        commits = engine.node.partitions[0].commits
    zero = {"partition": "0"}
    assert of(found, "perdure_batch_commands_count", **zero) == commits
    assert of(found, "perdure_batch_commands_sum", **zero) > 12
    assert 0 < of(found, "perdure_fsync_duration_seconds_count", **zero) <= commits
    synced = of(found, "perdure_fsync_duration_seconds_sum", **zero)
    assert 0 < synced < of(found, "perdure_commit_duration_seconds_sum", **zero)
    assert of(found, "perdure_storage_bytes", **zero, file="wal") > 0
    assert of(found, "perdure_ready") == of(found, "perdure_build_info", version="1.2.3") == 1


async def test_an_event_loop_that_is_held_up() -> None:
    async with Engine(APP) as engine:
        lag = engine.node.metrics.loop_lag
        async with asyncio.timeout(10):
            while not any(lag.counts[9:]):
                time.sleep(0.3)  # noqa: ASYNC251 - which is what it is about
                await asyncio.sleep(0.01)
        found = await numbers(engine.node)
    assert of(found, "perdure_event_loop_lag_seconds_count") >= 1


async def test_attempts_that_run_now() -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    service = Service("service")

    @service.handler()
    async def busy(ctx: Context) -> None:
        async def step() -> None:
            began.set()
            await may_end.wait()

        await ctx.run("step", step)

    async with Engine(App(service), attempt_limit=1) as engine:
        calls = [asyncio.create_task(engine.call(busy)) for _ in range(2)]
        await began.wait()
        found = await numbers(engine.node)
        assert (found[RUNNING], of(found, "perdure_attempts_waiting")) == (1, 1)
        may_end.set()
        await asyncio.gather(*calls)
        assert RUNNING not in await numbers(engine.node)


RUNNING = ("perdure_attempts_running", frozenset({("service", "service"), ("handler", "busy")}))


async def test_answers_of_the_ingress() -> None:
    shared = Metrics()
    web = Web(Ingress(cast(Node, FakeNode()), metrics=shared))
    await web("POST", "/Greeter/greet", b"")
    await web("POST", "/Nobody/greet", b"")
    assert shared.responses == {200: 1, 404: 1} and shared.open_requests() == 0


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "text/plain"])
async def test_both_formats(accept: str) -> None:
    async with TestEngine(APP) as engine:
        await engine.call(steps, 2)
        text = await scrape(engine.node, ("accept", accept))
    families = list((parse_openmetrics if "openmetrics" in accept else parse)(text))
    assert {"perdure_step_duration_seconds", "process_start_time_seconds"} <= {family.name for family in families}
    assert text.endswith("# EOF\n") is ("openmetrics" in accept)


def test_ranges() -> None:
    histogram = Histogram((1, 10))
    for value in (0, 1, 2, 10, 11, 500):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2] and histogram.total == 524


@pytest.fixture
def handler() -> Iterator[HandlerMetrics]:
    yield HandlerMetrics("service", "handler")


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        ("fetch", "fetch"),
        ("fetch 17", "fetch #"),
        ("v2.1 of 3", "v#.# of #"),
        ("get 0190f2c4-77a0-7d2e-9d0b-0c6f5a2f9a11", "get #"),
        ("x" * 500, "x" * 80),
    ],
)
def test_names_of_steps(given: str, counted: str, handler: HandlerMetrics) -> None:
    handler.step(given, 1)
    handler.step(given, 1)
    assert {name: sum(found.counts) for name, found in handler.steps.items()} == {counted: 2}


def names(n: int) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(letters[i // 26**place % 26] for place in range(3)) for i in range(n)]


def test_names_of_steps_are_not_without_number(handler: HandlerMetrics) -> None:
    for name in names(1_000):
        handler.step(name, 1)
    assert len(handler.steps) == STEPS_PER_HANDLER + 1
    assert sum(handler.steps[OTHER].counts) == 1_000 - STEPS_PER_HANDLER
    assert len(handler._found) <= 256
    for i in range(10_000):
        handler.step(f"page {i}", 1)
    assert sum(sum(found.counts) for found in handler.steps.values()) == 11_000


def test_nor_are_those_of_all_handlers_nor_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "HANDLERS", 50)
    metrics = Metrics()
    for handler in names(100):
        for step in names(20):
            metrics.handler("service", handler).step(step, 1)
    handlers = metrics.all_handlers()
    assert len(handlers) == 51 and metrics.handler("another", "one").service == OTHER
    assert sum(len(each.steps) for each in handlers) <= counting.STEPS + 51
    assert sum(sum(found.counts) for each in handlers for found in each.steps.values()) == 2_000
