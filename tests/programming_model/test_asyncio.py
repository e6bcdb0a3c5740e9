"""Plain asyncio in handlers: live, replayed, suspended and resumed, it comes to the same."""

import asyncio
import contextvars
import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Context, RetryPolicy, Service, TerminalError, current_context
from perdure.testing import TestEngine
from tests.programming_model.ways import Start, fails


async def value(n: int) -> int:
    await asyncio.sleep(0)
    return n


async def test_gather_keeps_the_order_and_passes_errors_on(start: Start) -> None:
    service = Service("Gather")

    def refuse() -> None:
        raise TerminalError("refused", code=418)

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        seen: list[Any] = await asyncio.gather(*(ctx.run(f"step {n}", value, n) for n in range(6)))
        mixed = await asyncio.gather(
            ctx.run("good", value, 1), ctx.run("bad", refuse), ctx.sleep(3, "nap"), return_exceptions=True
        )
        seen += [type(each).__name__ for each in mixed]
        try:
            await asyncio.gather(ctx.run("good again", value, 1), ctx.run("bad again", refuse))
        except TerminalError as error:
            seen.append(error.code)
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == [0, 1, 2, 3, 4, 5, "int", "TerminalError", "NoneType", 418]
        engine.once("good", "bad", "good again", "bad again", *(f"step {n}" for n in range(6)))


async def test_a_task_group_collects_and_cancels(start: Start) -> None:
    service = Service("Groups")

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.run(f"step {n}", value, n)) for n in range(4)]
        seen: list[Any] = [task.result() for task in tasks]

        async def cleanup(n: int) -> None:
            try:
                await ctx.sleep(1000)
            except asyncio.CancelledError:
                await ctx.run(f"cleanup {n}", value, n)
                seen.append(f"cleaned {n}")
                raise

        async def breaks() -> None:
            await ctx.sleep(1)
            raise TerminalError("broken", code=410)

        try:
            async with asyncio.TaskGroup() as group:
                for n in range(6):
                    group.create_task(cleanup(n))
                group.create_task(breaks())
        except* TerminalError as errors:
            seen.append([error.code for error in errors.exceptions if isinstance(error, TerminalError)])
        return [*seen, await ctx.run("after", value, 7)]

    async with start(service) as engine:
        begun = engine.now()
        result = await engine.call(work)
        assert result[:4] == [0, 1, 2, 3] and result[-2:] == [[410], 7]
        assert sorted(result[4:10]) == [f"cleaned {n}" for n in range(6)]
        assert engine.now() - begun < timedelta(seconds=1000)
        engine.once("after", *(f"cleanup {n}" for n in range(6)), *(f"step {n}" for n in range(4)))


async def test_wait_and_as_completed_follow_the_journals_order(start: Start) -> None:
    service = Service("Waiting")

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        async def nap(n: int) -> int:
            await ctx.sleep(10 - n)
            return await ctx.run(f"nap {n}", value, n)

        seen: list[Any] = []
        tasks = {asyncio.create_task(nap(n)) for n in range(5)}
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                seen.append(await ctx.run("first", value, task.result()))

        async def plain(n: int) -> int:
            return await ctx.run(f"plain {n}", value, n)

        async def nap2(n: int) -> int:
            await asyncio.sleep(10 - n)
            return n

        for each in asyncio.as_completed([plain(n) for n in range(8)]):
            await ctx.run("collect", value, await each)
        for each in asyncio.as_completed([nap2(n) for n in range(5)], timeout=100):
            seen.append(await each)
        done, pending = await asyncio.wait([asyncio.create_task(nap2(n)) for n in range(5)], timeout=7.5)
        seen.append((sorted(task.result() for task in done), len(pending)))
        for task in pending:
            task.cancel()
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == [4, 3, 2, 1, 0, 4, 3, 2, 1, 0, [[3, 4], 3]]
        engine.once(*(f"nap {n}" for n in range(5)), *(f"plain {n}" for n in range(8)))


async def test_timeouts_of_every_kind(start: Start) -> None:
    service = Service("Timeouts")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen: list[str] = []
        try:
            async with asyncio.timeout(5):
                await ctx.sleep(10)
        except TimeoutError:
            seen.append("timeout")
        try:
            await asyncio.wait_for(asyncio.sleep(10), 5)
        except TimeoutError:
            seen.append("wait_for")
        seen.append(str(await asyncio.wait_for(ctx.run("quick", value, 1), 5)))
        async with asyncio.timeout(5) as deadline:
            await ctx.sleep(4)
            deadline.reschedule(asyncio.get_running_loop().time() + 5)
            await ctx.sleep(4)
        seen.append("rescheduled")
        try:
            async with asyncio.timeout(5):
                async with asyncio.timeout(1):
                    await ctx.sleep(10)
        except TimeoutError:
            seen.append("inner")
        try:
            async with asyncio.timeout(0):
                await ctx.sleep(1)
        except TimeoutError:
            seen.append("at once")
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + 2):
                await ctx.awakeable()
        except TimeoutError:
            seen.append("awakeable")
        async with asyncio.timeout(None):
            await ctx.sleep(1)
        return seen

    async with start(service) as engine:
        begun = engine.now()
        assert await engine.call(work) == ["timeout", "wait_for", "1", "rescheduled", "inner", "at once", "awakeable"]
        assert engine.now() - begun == timedelta(seconds=5 + 5 + 8 + 1 + 2 + 1)
        engine.once("quick")


async def test_sleeps_are_durable_and_of_any_length(start: Start) -> None:
    service = Service("Sleeps")

    @service.handler()
    async def work(ctx: Context) -> float:
        begun = ctx.now()
        await ctx.sleep(timedelta(days=30), name="a month")
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.0001)
        await asyncio.sleep(0)
        await ctx.sleep(0)
        await ctx.sleep(-1)
        await ctx.sleep(2)
        return (ctx.now() - begun).total_seconds()

    async with start(service) as engine:
        begun = engine.now()
        slept = await engine.call(work)
        assert timedelta(days=30, seconds=2) <= engine.now() - begun <= timedelta(days=30, seconds=2.01)
        assert 30 * 86400 + 2 <= slept <= 30 * 86400 + 2.01


async def test_a_sleep_for_ever_ends_when_something_else_does(start: Start) -> None:
    service = Service("ForEver")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = []
        for forever in (float("inf"), 1e300, 10**15):
            sleeper = asyncio.create_task(asyncio.sleep(forever))
            await ctx.sleep(1)
            seen.append("asleep" if not sleeper.done() else "awake")
            sleeper.cancel()
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == ["asleep"] * 3


async def test_events_queues_locks_semaphores_and_conditions(start: Start) -> None:
    service = Service("Primitives")

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        seen: list[Any] = []
        queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)
        event, lock, gate = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2)
        condition = asyncio.Condition()
        inside = 0

        async def produce() -> None:
            for n in range(5):
                await ctx.run(f"make {n}", value, n)
                await queue.put(n)
            await queue.put(None)

        async def consume() -> None:
            while (n := await queue.get()) is not None:
                await ctx.sleep(1)
                seen.append(n)
                queue.task_done()

        async def locked(n: int) -> None:
            async with lock:
                await ctx.sleep(2 - n)
                seen.append(f"lock {n}")

        async def gated(n: int) -> None:
            nonlocal inside
            async with gate:
                inside += 1
                assert inside <= 2
                await ctx.run(f"gate {n}", value, n)
                inside -= 1

        async def wakes() -> None:
            await event.wait()
            async with condition:
                condition.notify_all()

        async def conditional() -> None:
            async with condition:
                event.set()
                await condition.wait()
                seen.append("notified")

        await asyncio.gather(produce(), consume())
        await asyncio.gather(*(locked(n) for n in range(2)))
        await asyncio.gather(*(gated(n) for n in range(5)))
        await asyncio.gather(wakes(), conditional())
        barrier = asyncio.Barrier(3)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(barrier.wait())
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == [0, 1, 2, 3, 4, "lock 0", "lock 1", "notified"]
        engine.once(*(f"make {n}" for n in range(5)), *(f"gate {n}" for n in range(5)))


async def test_shield_protects_what_it_shields(start: Start) -> None:
    service = Service("Shield")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = []
        protected = asyncio.create_task(ctx.sleep(10))
        try:
            async with asyncio.timeout(1):
                await asyncio.shield(protected)
        except TimeoutError:
            seen.append("gave up")
        await protected
        seen.append(await ctx.run("after", lambda: "it went on"))
        return seen

    async with start(service) as engine:
        begun = engine.now()
        assert await engine.call(work) == ["gave up", "it went on"]
        assert engine.now() - begun == timedelta(seconds=10)


async def test_tasks_are_cancelled_as_anywhere(start: Start) -> None:
    service = Service("Cancel")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = []

        async def worker(n: int) -> str:
            try:
                await ctx.sleep(100)
            except asyncio.CancelledError:
                seen.append(await ctx.run(f"tidy {n}", lambda: f"tidied {n}"))
                if n == 1:
                    return "refused to die"
                raise
            return "slept"

        tasks = [asyncio.create_task(worker(n), name=f"worker {n}") for n in range(3)]
        await ctx.sleep(1)
        for task in tasks:
            assert task.cancel()
        seen += [type(each).__name__ for each in await asyncio.gather(*tasks, return_exceptions=True)]
        never = asyncio.create_task(worker(9))
        never.cancel()
        await asyncio.gather(never, return_exceptions=True)
        return [*seen, str(never.cancelled()), tasks[1].get_name()]

    async with start(service) as engine:
        assert await engine.call(work) == [
            "tidied 0", "tidied 1", "tidied 2", "CancelledError", "str", "CancelledError", "True", "worker 1",
        ]  # fmt: skip
        engine.once("tidy 0", "tidy 1", "tidy 2")


async def test_a_step_that_is_cancelled_is_not_run_again(start: Start) -> None:
    service = Service("Abandoned")
    cancelled: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append("endless")
            raise

    @service.handler()
    async def work(ctx: Context) -> str:
        step = asyncio.create_task(ctx.run("endless", endless))
        await ctx.run("beside", value, 1)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        await ctx.sleep(5)
        return await ctx.run("after", lambda: "done")

    async with start(service) as engine:
        assert await engine.call(work) == "done"
        engine.once("beside", "after")
        if not start.crashes:
            assert engine.ran("endless") <= 1
            assert len(cancelled) == engine.ran("endless")


async def test_threads_run_inline(start: Start) -> None:
    service = Service("Inline")
    variable = contextvars.ContextVar("variable", default=0)

    @service.handler()
    async def work(ctx: Context) -> list[int]:
        variable.set(4)
        first = await asyncio.to_thread(lambda: variable.get() + 1)
        second = await asyncio.get_running_loop().run_in_executor(None, int, "6")
        try:
            await asyncio.to_thread(int, "x")
        except ValueError:
            return [first, second, await ctx.run("step", value, 7)]
        return []

    async with start(service) as engine:
        assert await engine.call(work) == [5, 6, 7]


async def test_context_variables_belong_to_tasks(start: Start) -> None:
    service = Service("Variables")
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def named() -> str:
        assert current_context() is not None
        return variable.get()

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = [variable.get()]
        variable.set("main")

        async def child(name: str) -> str:
            before = variable.get()
            variable.set(name)
            await ctx.run(name, value, 1)
            await ctx.sleep(1)
            return f"{before} {await named()}"

        seen += await asyncio.gather(child("a"), child("b"))
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[str] = loop.create_future()
        loop.call_soon(lambda: heard.set_result(f"soon {variable.get()}"))
        seen.append(await heard)
        heard = loop.create_future()
        loop.call_later(3, lambda: heard.set_result(f"later {variable.get()}"))
        seen.append(await heard)
        return [*seen, variable.get()]

    variable.set("the test's")
    async with start(service) as engine:
        assert await engine.call(work) == ["unset", "main a", "main b", "soon main", "later main", "main"]


async def test_async_generators_and_context_managers(start: Start) -> None:
    service = Service("Generators")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen: list[str] = []

        async def numbers(name: str) -> AsyncIterator[int]:
            try:
                for n in range(5):
                    yield await ctx.run(f"{name} {n}", value, n)
                    await ctx.sleep(1)
            finally:
                seen.append(f"{name} closed")

        @asynccontextmanager
        async def resource() -> AsyncIterator[str]:
            await ctx.run("open", value, 1)
            try:
                yield "resource"
            finally:
                await ctx.run("close", value, 1)
                seen.append("released")

        async for n in numbers("all"):
            seen.append(str(n))
        async for n in numbers("some"):
            if n == 2:
                break
        await ctx.sleep(1)
        async with resource() as name:
            seen.append(name)
            await ctx.sleep(1)
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == [
            "0", "1", "2", "3", "4", "all closed", "some closed", "resource", "released",
        ]  # fmt: skip
        engine.once("open", "close", *(f"all {n}" for n in range(5)), *(f"some {n}" for n in range(3)))


async def test_a_generator_that_is_left_is_closed_with_its_durable_work(start: Start) -> None:
    service = Service("Left")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen: list[str] = []

        async def stream() -> AsyncIterator[int]:
            try:
                while True:
                    yield await ctx.run("chunk", value, 1)
            finally:
                await ctx.run("hang up", value, 1)
                seen.append("hung up")

        async for _ in stream():
            break
        await ctx.sleep(1)
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == ["hung up"]
        engine.once("chunk", "hang up")


async def test_tasks_left_behind_are_cancelled_and_tidy_up(start: Start) -> None:
    service = Service("LeftBehind")

    @service.handler()
    async def work(ctx: Context) -> str:
        async def background(n: int) -> None:
            try:
                await ctx.sleep(1000)
            finally:
                await ctx.run(f"tidy {n}", value, n)

        tasks = [asyncio.create_task(background(n)) for n in range(3)]
        await ctx.sleep(1)
        return f"left {len(tasks)} tasks"

    @service.handler()
    async def failing(ctx: Context) -> str:
        task = asyncio.create_task(ctx.sleep(1000))
        await ctx.sleep(1)
        raise TerminalError(f"failed before {task.done()}", code=404)

    async with start(service) as engine:
        begun = engine.now()
        assert await engine.call(work) == "left 3 tasks"
        assert engine.now() - begun == timedelta(seconds=1)
        engine.once("tidy 0", "tidy 1", "tidy 2")
        with fails(404, "failed before False"):
            await engine.call(failing)


async def test_nested_tasks_and_recursion(start: Start) -> None:
    service = Service("Nested")

    @service.handler()
    async def work(ctx: Context, depth: int) -> int:
        async def tree(depth: int, path: str) -> int:
            if depth == 0:
                return await ctx.run(path, value, 1)
            async with asyncio.TaskGroup() as group:
                left = group.create_task(tree(depth - 1, path + "l"))
                right = group.create_task(tree(depth - 1, path + "r"))
                await ctx.sleep(0.5)
            return left.result() + right.result()

        return await tree(depth, "")

    async with start(service) as engine:
        assert await engine.call(work, 4) == 16
        assert len({run.name for run in engine.steps}) == 16


async def test_a_handler_that_fails_within_tasks_runs_again(start: Start) -> None:
    service = Service("Failing", retry_policy=RetryPolicy(0.1, max_attempts=9))
    left = [3]

    @service.handler()
    async def work(ctx: Context) -> list[int]:
        async def fragile(n: int) -> int:
            await ctx.run(f"step {n}", value, n)
            await ctx.sleep(n)
            if n == 2 and left[0]:
                left[0] -= 1
                raise ValueError("not yet")
            return await ctx.run(f"then {n}", value, n)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fragile(n)) for n in range(4)]
        return [task.result() for task in tasks]

    async with start(service) as engine:
        assert await engine.call(work) == [0, 1, 2, 3]
        engine.once(*(f"step {n}" for n in range(4)), *(f"then {n}" for n in range(4)))


async def test_races_between_timers_due_at_the_same_moment(start: Start) -> None:
    service = Service("SameTime")

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen: list[str] = []

        async def at(name: str, delay: float) -> None:
            await ctx.sleep(delay)
            seen.append(name)
            await ctx.run(f"after {name}", value, 1)
            seen.append(f"after {name}")

        await asyncio.gather(at("a", 1), at("b", 1), at("c", 0.5), at("d", 1))
        try:
            async with asyncio.timeout(1):
                await ctx.sleep(1)
            seen.append("slept")
        except TimeoutError:
            seen.append("timed out")
        return seen

    async with start(service) as engine:
        seen = await engine.call(work)
        assert seen[:2] == ["c", "after c"]
        assert {name for name in seen if not name.startswith("after")} >= {"a", "b", "c", "d"}
        assert seen[-1] in ("slept", "timed out")
        engine.once("after a", "after b", "after c", "after d")


async def test_a_dropped_handler_resets_its_context_variables(start: Start) -> None:
    service = Service("ContextVariables")
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    wrong: list[BaseException] = []

    async def with_variable(ctx: Context, n: int) -> int:
        token = variable.set(n)
        try:
            return await ctx.run(f"step {n}", value, n)
        finally:
            try:
                variable.reset(token)
            except ValueError as error:
                wrong.append(error)

    @service.handler()
    async def work(ctx: Context) -> list[int]:
        first = await with_variable(ctx, 1)
        return [first, *await asyncio.gather(with_variable(ctx, 2), with_variable(ctx, 3))]

    async with start(service) as engine:
        assert await engine.call(work) == [1, 2, 3]
    assert wrong == []


async def test_a_dropped_handler_closes_its_generators(start: Start) -> None:
    service = Service("Generators")
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    wrong: list[BaseException] = []
    begun: list[int] = []
    ended: list[int] = []

    async def numbers(ctx: Context) -> AsyncIterator[int]:
        token = variable.set(1)
        begun.append(1)
        try:
            yield 1
            yield 2
        finally:
            ended.append(1)
            try:
                variable.reset(token)
            except ValueError as error:
                wrong.append(error)

    @service.handler()
    async def work(ctx: Context) -> list[int]:
        seen: list[Any] = []
        generator = numbers(ctx)
        seen.append(generator)  # a circle: nothing but the collector would find it
        generator_and_self = [seen, generator]
        seen.append(generator_and_self)
        return [await ctx.run(f"after {n}", value, n) async for n in generator]

    async with start(service) as engine:
        assert await engine.call(work) == [1, 2]
    assert len(ended) == len(begun)
    assert wrong == []


async def test_a_dropped_handler_that_handles_every_exception_is_dropped(start: Start) -> None:
    service = Service("Catches")
    ended: list[int] = []
    begun: list[int] = []

    async def report(ctx: Context) -> None:
        await asyncio.gather(ctx.run("report", value, 1), asyncio.sleep(0))

    @service.handler()
    async def work(ctx: Context) -> int:
        begun.append(1)
        try:
            try:
                return await ctx.run("step", value, 1) + await ctx.run("another", value, 2)
            except BaseException:
                await report(ctx)
                raise
        finally:
            ended.append(1)

    async with start(service) as engine:
        assert await engine.call(work) == 3
    assert len(ended) == len(begun)


def test_a_dropped_handler_leaves_its_blocks_as_a_task_does(caplog: pytest.LogCaptureFixture) -> None:
    """Its own context variables, its own current task, awaits in `finally`, async generators: none of it complains."""
    wrong: list[str] = []
    left: list[str] = []
    variable = contextvars.ContextVar[int]("variable")

    @asynccontextmanager
    async def block(name: str) -> AsyncIterator[None]:
        task = asyncio.current_task()
        token = variable.set(1)
        try:
            yield
        finally:
            left.append(name)
            if asyncio.current_task() is not task:
                wrong.append(f"{name}: another task")
            try:
                variable.reset(token)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
            await asyncio.sleep(1)
            left.append(f"{name} after its await")

    async def numbers() -> AsyncIterator[int]:
        async with block("generator"):
            yield 1
            await asyncio.sleep(60)
            yield 2

    service = Service("Dropped")

    @service.handler()
    async def work(ctx: Context) -> int:
        async with block("outer"), block("inner"):
            return [n async for n in numbers()][-1]

    async def main() -> None:
        async with TestEngine(App(service), replay=True) as engine:
            left.clear()
            assert await engine.call(work) == 2

    unraisable: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda report: unraisable.append(report.exc_value)
    try:
        with caplog.at_level(logging.DEBUG, "perdure.handler"):
            asyncio.run(main())
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert [record.getMessage() for record in caplog.records if record.name == "perdure.handler"] == []
    assert wrong == []
    assert unraisable == []
    assert left.count("outer") > 1
