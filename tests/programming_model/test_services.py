"""Services: what goes in, what comes out, and what happens to errors."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from perdure import Context, Invalid, NotFound, RetryableError, RetryPolicy, Service, TerminalError
from perdure.testing import InvocationPaused
from tests.programming_model.ways import Start, fails


@dataclass
class Point:
    x: int
    y: int


class Report(BaseModel):
    title: str
    at: datetime
    points: list[Point]


async def test_a_handler_takes_and_returns_typed_values(start: Start) -> None:
    service = Service("Geometry")

    @service.handler()
    async def mirror(ctx: Context, point: Point) -> Point:
        return Point(point.y, point.x)

    @service.handler()
    async def describe(ctx: Context, points: list[Point]) -> Report:
        assert all(isinstance(point, Point) for point in points)
        mirrored = [await ctx.call(mirror, point) for point in points]
        return Report(title=f"{len(points)} points", at=datetime(2030, 1, 1, tzinfo=UTC), points=mirrored)

    async with start(service) as engine:
        assert await engine.call(mirror, Point(1, 2)) == Point(2, 1)
        report = await engine.call(describe, [Point(1, 2), Point(3, 4)])
        assert report == Report(
            title="2 points", at=datetime(2030, 1, 1, tzinfo=UTC), points=[Point(2, 1), Point(4, 3)]
        )


async def test_a_handler_without_input_and_one_that_returns_nothing(start: Start) -> None:
    service = Service("Small")

    @service.handler()
    async def nothing(ctx: Context) -> None:
        await ctx.run("think", lambda: None)

    @service.handler()
    async def default(ctx: Context, n: int = 5) -> int:
        return n

    async with start(service) as engine:
        assert await engine.call(nothing) is None
        assert await engine.call(default) == 5
        assert await engine.call(default, 7) == 7
        assert await engine.call("Small/default", 8) == 8
        engine.once("think")


async def test_bytes_pass_as_they_are(start: Start) -> None:
    service = Service("Bytes")

    @service.handler()
    async def double(ctx: Context, data: bytes) -> bytes:
        return await ctx.run("double", lambda: data + data, type=bytes)

    async with start(service) as engine:
        assert await engine.call(double, b"\x00\xff\n") == b"\x00\xff\n\x00\xff\n"
        assert await engine.call(double, b"") == b""


async def test_input_that_cannot_be_read_is_refused(start: Start) -> None:
    service = Service("Strict")

    @service.handler()
    async def square(ctx: Context, n: int) -> int:
        return await ctx.run("square", lambda: n * n)

    async with start(service) as engine:
        with fails(400, "Strict/square"):
            await engine.call("Strict/square", "three")
        with pytest.raises(NotFound, match="no handler 'cube'"):
            await engine.call("Strict/cube", 3)
        with pytest.raises(NotFound, match="'Lax' not found"):
            await engine.call("Lax/square", 3)
        with pytest.raises(Invalid, match="has no keys"):
            await engine.call(square, 3, key="a")
        assert engine.ran("square") == 0


async def test_a_result_that_cannot_be_written_is_a_failure(start: Start) -> None:
    service = Service("Lossy")

    @service.handler()
    async def ratio(ctx: Context) -> float:
        return float("nan")

    async with start(service) as engine:
        with fails(500, "NaN"):
            await engine.call(ratio)


async def test_terminal_errors_carry_code_and_metadata_through_calls(start: Start) -> None:
    service = Service("Refusing")

    @service.handler()
    async def inner(ctx: Context) -> None:
        raise TerminalError("no money", code=402, metadata={"account": "7"})

    @service.handler()
    async def outer(ctx: Context) -> str:
        try:
            await ctx.call(inner)
        except TerminalError as error:
            assert (error.message, error.code, error.metadata) == ("no money", 402, {"account": "7"})
            raise TerminalError("passed on", code=502, metadata=error.metadata) from error
        return "unreachable"

    async with start(service) as engine:
        with fails(502, "passed on") as raised:
            await engine.call(outer)
        assert raised.value.metadata == {"account": "7"}


async def test_a_terminal_error_counts_wherever_it_is_in_the_chain_or_in_all_of_a_group(start: Start) -> None:
    service = Service("Grouped")

    @service.handler()
    async def chained(ctx: Context) -> None:
        try:
            raise TerminalError("deep down", code=418)
        except TerminalError as error:
            raise RuntimeError("wrapped") from error

    @service.handler()
    async def grouped(ctx: Context) -> None:
        raise ExceptionGroup("all of them", [TerminalError("one", code=401), TerminalError("two", code=402)])

    @service.handler(retry_policy=RetryPolicy(max_attempts=1, on_exhausted="fail"))
    async def mixed(ctx: Context) -> None:
        raise ExceptionGroup("some of them", [TerminalError("one", code=401), ValueError("not terminal")])

    async with start(service) as engine:
        with fails(418, "deep down"):
            await engine.call(chained)
        with fails(401, "one"):
            await engine.call(grouped)
        with fails(500, "some of them"):
            await engine.call(mixed)


async def test_a_failed_attempt_is_made_again_under_the_policy(start: Start) -> None:
    service = Service("Flaky", retry_policy=RetryPolicy(initial_interval=1, factor=2, max_attempts=5))
    failures: list[float] = []

    @service.handler()
    async def third_time(ctx: Context) -> str:
        await ctx.run("before", lambda: "kept")
        if len(failures) < 2:
            failures.append(engine.now().timestamp())
            raise ValueError("not yet")
        return await ctx.run("after", lambda: "done")

    async with start(service) as engine:
        begun = engine.now().timestamp()
        assert await engine.call(third_time) == "done"
        assert [round(at - begun) for at in failures] == [0, 1]
        assert round(engine.now().timestamp() - begun) == 3
        engine.once("before", "after")


async def test_retryable_errors_choose_their_delay_and_use_up_no_attempt(start: Start) -> None:
    service = Service("Polite", retry_policy=RetryPolicy(max_attempts=2))
    left = [3]

    @service.handler()
    async def later(ctx: Context) -> str:
        if left[0]:
            left[0] -= 1
            raise RetryableError("too early", retry_after=timedelta(hours=1))
        return "in time"

    async with start(service) as engine:
        begun = engine.now()
        assert await engine.call(later) == "in time"
        assert engine.now() - begun == timedelta(hours=3)


async def test_exhausted_attempts_pause_the_invocation(start: Start) -> None:
    service = Service("Broken", retry_policy=RetryPolicy(initial_interval=0.1, max_attempts=3))
    broken = [True]

    @service.handler()
    async def work(ctx: Context) -> str:
        kept = await ctx.run("kept", lambda: "kept")
        if broken[0]:
            raise ValueError("out of order")
        return kept

    async with start(service) as engine:
        with pytest.raises(InvocationPaused, match=r"Broken/work .* is paused: ValueError: out of order") as paused:
            await engine.call(work)
        invocation = engine.invocation(paused.value.id)
        description = await invocation.describe()
        assert description.status == "paused"
        broken[0] = False
        await invocation.resume()
        assert await invocation.attach() == "kept"
        engine.once("kept")


async def test_exhausted_attempts_fail_the_invocation_if_it_says_so(start: Start) -> None:
    service = Service("Hopeless", retry_policy=RetryPolicy(0.1, max_attempts=2, on_exhausted="fail"))

    @service.handler()
    async def work(ctx: Context) -> None:
        raise ValueError("out of order")

    async with start(service) as engine:
        with fails(500, "ValueError: out of order"):
            await engine.call(work)


async def test_a_caller_of_a_paused_invocation_waits_and_goes_on_after_it_is_resumed(start: Start) -> None:
    service = Service("Chain", retry_policy=RetryPolicy(0.1, max_attempts=1))
    broken = [True]

    @service.handler()
    async def inner(ctx: Context) -> str:
        if broken[0]:
            raise ValueError("out of order")
        return "repaired"

    @service.handler()
    async def outer(ctx: Context) -> str:
        return await ctx.call(inner)

    async with start(service) as engine:
        with pytest.raises(InvocationPaused, match="Chain/inner") as paused:
            await engine.call(outer)
        broken[0] = False
        await engine.invocation(paused.value.id).resume()
        assert await engine.invocation(paused.value.id).attach() == "repaired"


async def test_headers_reach_the_handler_and_go_with_calls(start: Start) -> None:
    service = Service("Headers")

    @service.handler()
    async def tenant(ctx: Context) -> dict[str, str]:
        return dict(ctx.headers)

    @service.handler()
    async def through(ctx: Context) -> dict[str, str]:
        return await ctx.call(tenant, headers={"x-tenant": ctx.headers["x-tenant"] + "!"})

    async with start(service) as engine:
        assert await engine.call(tenant, headers={"X-Tenant": "acme"}) == {"x-tenant": "acme"}
        assert await engine.call(through, headers={"x-tenant": "acme"}) == {"x-tenant": "acme!"}
        assert await engine.call(tenant) == {}


async def test_chance_ids_and_time_are_the_same_on_replay(start: Start) -> None:
    service = Service("Chance")
    seen: list[tuple[float, str, str]] = []

    @service.handler()
    async def draw(ctx: Context) -> list[str]:
        first = (ctx.random.random(), str(ctx.uuid()), ctx.now().isoformat())
        seen.append(first)
        await ctx.run("step", lambda: None)
        await ctx.sleep(2.5)
        second = (ctx.random.random(), str(ctx.uuid()), ctx.now().isoformat())
        await ctx.run("step", lambda: None)
        return [*map(str, first), *map(str, second)]

    async with start(service) as engine:
        a, b = await engine.call(draw), await engine.call(draw)
        assert len({*a[:2], *b[:2], *a[3:5], *b[3:5]}) == 8
        assert len(set(seen)) == 2
        assert (datetime.fromisoformat(a[5]) - datetime.fromisoformat(a[2])).total_seconds() >= 2.5


async def test_concurrency_limits_how_many_run_at_once(start: Start) -> None:
    service = Service("Narrow")
    running: set[str] = set()
    most: list[int] = []

    async def work(name: str) -> None:
        running.add(name)
        most.append(len(running))
        for _ in range(20):
            await asyncio.sleep(0)
        running.discard(name)

    @service.handler(concurrency=2)
    async def narrow(ctx: Context, n: int) -> int:
        await ctx.run(f"work {n}", work, str(n))
        await ctx.sleep(1)
        return n

    async with start(service) as engine:
        handles = [await engine.send(narrow, n) for n in range(9)]
        assert [await handle.attach() for handle in handles] == list(range(9))
        if not start.crashes:
            assert max(most) == 2
        engine.once(*(f"work {n}" for n in range(9)))


async def test_more_invocations_than_may_be_live_at_once(start: Start) -> None:
    service = Service("Crowded")

    @service.handler()
    async def leaf(ctx: Context, n: int) -> int:
        await ctx.sleep(1)
        return await ctx.run("leaf", lambda: n)

    @service.handler()
    async def root(ctx: Context, n: int) -> int:
        return await ctx.call(leaf, n) + await ctx.call(leaf, n)

    async with start(service, attempt_limit=3) as engine:
        handles = [await engine.send(root, n) for n in range(10)]
        assert [await handle.attach() for handle in handles] == [2 * n for n in range(10)]
        engine.once(leaf=20)
