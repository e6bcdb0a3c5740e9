"""Steps: run once, recorded, tried again; never again once recorded."""

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import (
    Context,
    RetryableError,
    RetryPolicy,
    Service,
    TerminalError,
    current_context,
    current_step,
)
from perdure.testing import InvocationPaused
from tests.programming_model.ways import Start, fails, until


@dataclass
class Point:
    x: int
    y: int


class Model(BaseModel):
    name: str
    tags: list[str] = []


async def async_point(x: int, *, y: int) -> Point:
    await asyncio.sleep(0)
    return Point(x, y)


def plain_models(n: int) -> list[Model]:
    return [Model(name=str(i), tags=["t"]) for i in range(n)]


def later() -> datetime:
    return datetime(2030, 1, 2, tzinfo=UTC)


def delayed_lambda(n: int) -> Awaitable[int]:
    async def inner() -> int:
        await asyncio.sleep(0)
        return n

    return inner()


class Callable_:
    async def __call__(self, n: int) -> int:
        return n + 1

    def method(self, n: int) -> Point:
        return Point(n, n)


async def test_functions_of_every_kind_and_results_of_every_type(start: Start) -> None:
    service = Service("Kinds")

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        point = await ctx.run("async", async_point, 1, y=2)
        models = await ctx.run("plain", plain_models, 2)
        when = await ctx.run("datetime", later)
        assert (point, models, when) == (Point(1, 2), plain_models(2), later())
        results: list[Any] = [
            await ctx.run("lambda", lambda: [1, 2]),
            await ctx.run("coroutine of a lambda", lambda: async_point(3, y=4), type=Point),
            await ctx.run("awaitable", delayed_lambda, 5),
            await ctx.run("partial", partial(async_point, 5, y=6)),
            await ctx.run("partial plain", partial(plain_models, 1)),
            await ctx.run("object", Callable_(), 1),
            await ctx.run("method", Callable_().method, 7),
            await ctx.run("builtin", len, [1, 2, 3]),
            await ctx.run("none", print, end=""),
            await ctx.run("bytes", lambda: b"\xff", type=bytes),
            await ctx.run("typed", lambda: {"x": 1, "y": 2}, type=Point),
        ]
        assert results[3:5] == [Point(5, 6), plain_models(1)]
        return [repr(result) for result in results]

    async with start(service) as engine:
        assert await engine.call(work) == [
            "[1, 2]", "Point(x=3, y=4)", "5", "Point(x=5, y=6)", "[Model(name='0', tags=['t'])]",
            "2", "Point(x=7, y=7)", "3", "None", "b'\\xff'", "Point(x=1, y=2)",
        ]  # fmt: skip
        engine.once("async", "plain", "datetime", "lambda", "coroutine of a lambda", "awaitable", "partial")
        engine.once("partial plain", "object", "method", "builtin", "none", "bytes", "typed")


async def test_plain_functions_run_in_threads_and_async_ones_on_the_real_loop(start: Start) -> None:
    service = Service("Places")
    main = threading.get_ident()
    variable = contextvars.ContextVar("variable", default="unset")

    async def on_the_loop() -> list[Any]:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return [threading.get_ident() == main, variable.get()]

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        variable.set("set by the handler")
        thread = await ctx.run("thread", lambda: [threading.get_ident() == main, variable.get()])
        return [thread, await ctx.run("loop", on_the_loop)]

    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, start(service) as engine:
        assert await engine.call(work) == [[False, "set by the handler"], [True, "set by the handler"]]
        engine.once("thread", "loop")


async def test_a_step_is_tried_until_it_succeeds(start: Start) -> None:
    service = Service("Tries")
    tokens: set[str] = set()

    def fourth() -> str:
        tokens.add(current_step().token)
        if current_step().attempt < 4:
            raise ValueError("not yet")
        return "done"

    @service.handler(retry_policy=RetryPolicy(initial_interval=1, factor=3, max_attempts=10))
    async def work(ctx: Context) -> str:
        await ctx.run("before", lambda: None)
        return await ctx.run("fourth", fourth)

    async with start(service) as engine:
        begun = engine.now()
        assert await engine.call(work) == "done"
        if not start.crashes:  # of which a step does not wait out its delay
            assert engine.now() - begun == timedelta(seconds=1 + 3 + 9)
        assert engine.tries("fourth") == [1, 2, 3, 4]
        assert len(tokens) == 1
        engine.once("before")


async def test_a_policy_of_the_steps_own_ends_in_a_terminal_error(start: Start) -> None:
    service = Service("Own")

    def fail() -> None:
        raise ValueError("always")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = []
        for name, policy in (("attempts", attempts), ("duration", duration)):
            try:
                await ctx.run(name, fail, retry=policy)
            except TerminalError as error:
                seen.append(f"{name}: {error.message} ({error.code})")
        return [*seen, await ctx.run("after", lambda: "after")]

    attempts = RetryPolicy(initial_interval=1, max_attempts=3)
    # Where the process dies of every commit no time passes between the tries.
    duration = RetryPolicy(10, factor=1, max_attempts=3 if start.crashes else None, max_duration=15)
    async with start(service) as engine:
        assert await engine.call(work) == [
            "attempts: ValueError: always (500)", "duration: ValueError: always (500)", "after"
        ]  # fmt: skip
        assert engine.tries("attempts") == engine.tries("duration") == [1, 2, 3]
        engine.once("after")


async def test_a_step_that_exhausts_the_handlers_policy_pauses_the_invocation(start: Start) -> None:
    service = Service("Exhausted")
    broken = [True]

    def work_once() -> str:
        if broken[0]:
            raise ConnectionError("no route")
        return "worked"

    @service.handler(retry_policy=RetryPolicy(initial_interval=1, max_attempts=3))
    async def pausing(ctx: Context) -> str:
        first = await ctx.run("first", lambda: "first")
        return first + await ctx.run("second", work_once)

    @service.handler(retry_policy=RetryPolicy(initial_interval=1, max_attempts=3, on_exhausted="fail"))
    async def failing(ctx: Context) -> str:
        return await ctx.run("third", work_once)

    async with start(service) as engine:
        with pytest.raises(InvocationPaused, match="ConnectionError: no route") as paused:
            await engine.call(pausing)
        assert engine.tries("second") == [1, 2, 3]
        with fails(500, "ConnectionError: no route"):
            await engine.call(failing)
        assert engine.tries("third") == [1, 2, 3]
        broken[0] = False
        handle = engine.invocation(paused.value.id)
        await handle.resume()
        assert await handle.attach() == "firstworked"
        engine.once("first")


async def test_a_terminal_error_in_a_step_is_raised_where_it_is_awaited(start: Start) -> None:
    service = Service("Final")

    def refuse() -> None:
        raise TerminalError("refused", code=403, metadata={"why": "because"})

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        try:
            await ctx.run("refuse", refuse)
        except TerminalError as error:
            return [error.message, error.code, error.metadata]
        return []

    async with start(service) as engine:
        assert await engine.call(work) == ["refused", 403, {"why": "because"}]
        engine.once("refuse")


async def test_a_retryable_error_in_a_step_chooses_the_delay(start: Start) -> None:
    service = Service("Throttled")
    times: list[datetime] = []

    def throttled() -> int:
        times.append(engine.now())
        if len(times) < 3:
            raise RetryableError("429", retry_after=timedelta(minutes=len(times)))
        return len(times)

    @service.handler()
    async def work(ctx: Context) -> int:
        return await ctx.run("throttled", throttled)

    async with start(service) as engine:
        assert await engine.call(work) == 3
        if not start.crashes:  # of which a step does not wait out its delay
            assert [after - before for before, after in itertools.pairwise(times)] == [
                timedelta(minutes=1), timedelta(minutes=2)
            ]  # fmt: skip


async def test_tokens_are_stable_over_tries_and_unique_over_steps_and_invocations(start: Start) -> None:
    service = Service("Tokens")
    tokens: dict[str, set[str]] = {}

    def note(invocation: str, name: str) -> None:
        known = tokens.setdefault(f"{invocation} {name}", set())
        known.add(current_step().token)
        assert current_step().name == name
        if current_step().attempt < 3:
            raise ValueError("again")

    @service.handler(retry_policy=RetryPolicy(0.1, max_attempts=5))
    async def work(ctx: Context) -> None:
        for name in ("a", "b", "c"):
            await ctx.run(name, note, ctx.invocation_id, name)
        await asyncio.gather(*(ctx.run("same name", note, f"{ctx.invocation_id} {n}", "same name") for n in range(3)))

    async with start(service) as engine:
        await asyncio.gather(engine.call(work), engine.call(work))
        assert len(tokens) == 12
        assert all(len(each) == 1 for each in tokens.values())
        assert len(set.union(*tokens.values())) == 12


async def test_steps_side_by_side_are_really_side_by_side(start: Start) -> None:
    service = Service("Beside")
    arrived: list[int] = []

    async def meet(n: int) -> int:
        arrived.append(n)
        await until(lambda: len(set(arrived)) == 3)
        return n

    @service.handler()
    async def work(ctx: Context) -> list[int]:
        return await asyncio.gather(*(ctx.run(f"meet {n}", meet, n) for n in range(3)))

    # A crash after every commit lets one result through at a time, and what was cut off meets again.
    async with start(service) as engine:
        assert await engine.call(work) == [0, 1, 2]
        engine.once("meet 0", "meet 1", "meet 2")


async def test_a_failing_step_does_not_disturb_its_neighbours(start: Start) -> None:
    service = Service("Neighbours")
    failures = [3]

    def flaky() -> str:
        if failures[0]:
            failures[0] -= 1
            raise ValueError("not yet")
        return "flaky"

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        async def chain(name: str) -> str:
            result = ""
            for n in range(3):
                result += await ctx.run(f"{name}{n}", lambda n=n: f"{name}{n} ")
                await ctx.sleep(0.1)
            return result

        return [*await asyncio.gather(ctx.run("flaky", flaky), chain("a"), chain("b"))]

    async with start(service) as engine:
        assert await engine.call(work) == ["flaky", "a0 a1 a2 ", "b0 b1 b2 "]
        engine.once("a0", "a1", "a2", "b0", "b1", "b2")


async def test_when_a_step_is_beyond_hope_the_work_of_the_others_is_kept(start: Start) -> None:
    service = Service("Hopeless", retry_policy=RetryPolicy(0.1, max_attempts=1))
    broken = [True]

    async def slow() -> str:
        await asyncio.sleep(0.005)
        return "slow"

    def hopeless() -> str:
        if broken[0]:
            raise ValueError("beyond hope")
        return "hopeful"

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        async def wakes_up() -> str:
            await ctx.signal("wake")
            return await ctx.run("late", lambda: "late")

        return [*await asyncio.gather(ctx.run("slow", slow), ctx.run("hopeless", hopeless), wakes_up())]

    async with start(service) as engine:
        handle = await engine.send(work)
        await until(lambda: engine.ran("hopeless"))
        await handle.signal("wake")
        with pytest.raises(InvocationPaused, match="beyond hope"):
            await handle.attach()
        broken[0] = False
        await handle.resume()
        assert await handle.attach() == ["slow", "hopeful", "late"]
        engine.once("late")
        if not start.crashes:
            engine.once("slow")


async def test_a_steps_result_that_comes_too_late_is_not_looked_at(start: Start) -> None:
    service = Service("Late")
    release = asyncio.Event()

    async def slow() -> str:
        await release.wait()
        return "too late"

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = []
        try:
            async with asyncio.timeout(10):
                seen.append(await ctx.run("slow", slow))
        except TimeoutError:
            seen.append("timeout")
        seen.append(await ctx.run("after", lambda: "after"))
        await ctx.sleep(5)
        return [*seen, await ctx.run("end", lambda: "end")]

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await until(lambda: engine.ran("slow"))
        clock = engine._living().clock
        await until(lambda: engine._living().clock.next_ms() is not None)
        clock = engine._living().clock
        clock.move_to(clock.now_ms() + 10_000)
        clock.run_due()
        await until(lambda: engine.ran("after"))
        release.set()
        await engine.advance(5)
        assert await handle.attach() == ["timeout", "after", "end"]
        engine.once("after", "end")


async def test_a_step_may_not_use_the_context(start: Start) -> None:
    service = Service("Nested")

    @service.handler()
    async def nested(ctx: Context) -> str:
        async def inner() -> str:
            return await ctx.run("inner", lambda: "inner")

        return await ctx.run("outer", inner)

    @service.handler()
    async def current(ctx: Context) -> str:
        def inner() -> str:
            current_context()
            return "known"

        return await ctx.run("outer", inner, retry=RetryPolicy(max_attempts=1))

    @service.handler()
    async def outside(ctx: Context) -> str:
        assert current_context() is ctx
        with pytest.raises(LookupError):
            current_step()
        return "fine"

    async with start(service) as engine:
        with fails(500, "a step cannot have steps of its own"):
            await engine.call(nested)
        with fails(500, "LookupError"):
            await engine.call(current)
        assert await engine.call(outside) == "fine"


async def test_a_step_that_returns_what_cannot_be_written_or_read_fails_for_good(start: Start) -> None:
    service = Service("Unwritable")

    @service.handler()
    async def work(ctx: Context) -> list[int]:
        codes = []
        for fn, type in ((object, None), (lambda: "text", int), (lambda: float("inf"), None)):
            try:
                await ctx.run("step", fn, type=type)
            except TerminalError as error:
                codes.append(error.code)
        return codes

    async with start(service) as engine:
        assert await engine.call(work) == [500, 500, 500]


async def test_odd_exceptions_end_no_more_than_their_step(start: Start) -> None:
    service = Service("Odd")

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    class BigCode(Exception):
        code = 1 << 70

    class Negative(Exception):
        code = -32000

    def stop() -> None:
        raise StopIteration("sync")

    async def cancel_yourself() -> None:
        raise asyncio.CancelledError

    def throw(error: BaseException) -> None:
        raise error

    async def throw_async(error: BaseException) -> None:
        raise error

    once = RetryPolicy(max_attempts=1)

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = []
        for name, fn, args in (
            ("stop", stop, ()),
            ("cancel", cancel_yourself, ()),
            ("unprintable", throw, (Unprintable(),)),
            ("big", throw, (BigCode("big"),)),
            ("negative", throw_async, (Negative("negative"),)),
            ("exit", throw, (SystemExit(3),)),
            ("exit async", throw_async, (SystemExit(3),)),
            ("surrogate", throw, (ValueError("\ud800"),)),
            ("terminal", throw, (TerminalError("\udfff", code=-1, metadata={"k\ud800": "\ud800"}),)),
            ("terminal int", throw, (TerminalError(5, code="x", metadata={1: 2}),)),  # type: ignore[arg-type,dict-item]
        ):
            try:
                await ctx.run(name, fn, *args, retry=once)
            except TerminalError as error:
                seen.append(name)
                assert 0 <= error.code < 1 << 32 and error.message is not None
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == [
            "stop", "cancel", "unprintable", "big", "negative", "exit", "exit async", "surrogate", "terminal",
            "terminal int",
        ]  # fmt: skip
