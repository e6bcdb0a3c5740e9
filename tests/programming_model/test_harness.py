"""`TestEngine` itself: time, crashes and failures by script, and what it says of calls that cannot end."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perdure import App, Context, Invalid, ObjectContext, RetryPolicy, Service, StorageError, Unavailable, VirtualObject
from perdure.model.commands import ChangeState
from perdure.testing import InvocationPaused, InvocationStuck, TestEngine
from tests.programming_model.ways import fails

service = Service("S", retry_policy=RetryPolicy(0.1, max_attempts=5))


@service.handler()
async def work(ctx: Context, n: int) -> list[int]:
    return [await ctx.run(f"step {i}", lambda i=i: i) for i in range(n)]


@service.handler()
async def nap(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return ctx.now().isoformat()


@service.handler()
async def waits(ctx: Context) -> None:
    await ctx.awakeable()


app = App(service)


def test_it_is_no_test_class() -> None:
    assert TestEngine.__test__ is False


async def test_handlers_are_suspended_whenever_they_wait() -> None:
    async with TestEngine(app, suspend=True, skip=False) as engine:
        handle = await engine.send(waits)
        await engine.settle()
        assert (await handle.describe()).status == "suspended"


async def test_time_stands_still_until_it_is_moved() -> None:
    async with TestEngine(app, skip=False, start=datetime(2031, 5, 6, tzinfo=UTC)) as engine:
        handle = await engine.send(nap, 3600)
        await engine.settle()
        assert engine.now() == datetime(2031, 5, 6, tzinfo=UTC)
        await engine.advance(3599.999)
        assert (await handle.describe()).status == "suspended"
        await engine.advance(timedelta(milliseconds=1))
        assert await handle.attach() == "2031-05-06T01:00:00+00:00"


async def test_time_skips_ahead_while_a_result_is_awaited_and_no_further() -> None:
    async with TestEngine(app) as engine:
        begun = engine.now()
        later = await engine.send(nap, 86400)
        await engine.call(nap, 60)
        assert engine.now() - begun == timedelta(seconds=60)
        await engine.settle()
        assert engine.now() - begun == timedelta(seconds=60)
        await later.attach()
        assert engine.now() - begun == timedelta(days=1)


async def test_the_end_of_a_retention_is_no_reason_to_skip_ahead() -> None:
    async with TestEngine(app, stuck_after=0.05) as engine:
        await engine.call(work, 1)
        begun = engine.now()
        with pytest.raises(InvocationStuck, match="S/waits"):
            await engine.call(waits)
        assert engine.now() - begun == timedelta(seconds=60)  # when it was suspended


async def test_what_is_stuck_says_so_and_what_comes_from_the_test_in_time_is_fine() -> None:
    told: list[str] = []
    asks = Service("Asks")

    @asks.handler()
    async def ask(ctx: Context) -> str:
        awakeable = ctx.awakeable(str)
        await ctx.run("tell", told.append, awakeable.id)
        return await awakeable

    async with TestEngine(App(asks)) as engine:
        call = asyncio.ensure_future(engine.call(ask))
        await asyncio.sleep(0.05)
        await engine.resolve_awakeable(told[0], "answer")
        assert await call == "answer"


async def test_timeouts_are_of_the_engines_time() -> None:
    async with TestEngine(app, timeout=100) as engine:
        begun = engine.now()
        with pytest.raises(TimeoutError):
            await engine.call(nap, 1000)
        assert engine.now() - begun == timedelta(seconds=100)
        with pytest.raises(TimeoutError):
            await engine.call(nap, 1000, timeout=timedelta(seconds=5))
        assert engine.now() - begun == timedelta(seconds=105)


@pytest.mark.parametrize(
    ("fault", "runs"),
    [
        (lambda engine: engine.crash_before("step 1"), 1),
        (lambda engine: engine.crash_during("step 1"), 2),
        (lambda engine: engine.crash_after("step 1"), 1),
        (lambda engine: engine.fail_step("step 1", times=3), 1),
        (lambda engine: engine.fail_step("step 1", KeyError("scripted"), times=1), 1),
    ],
    ids=["before", "during", "after", "fail", "fail with"],
)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_steps_by_script(fault: Callable[[TestEngine], None], runs: int, store: str) -> None:
    async with TestEngine(app, store=store) as engine:  # type: ignore[arg-type]
        fault(engine)
        assert await engine.call(work, 3) == [0, 1, 2]
        assert (engine.ran("step 0"), engine.ran("step 1"), engine.ran("step 2")) == (1, runs, 1)
        assert len({run.token for run in engine.steps if run.name == "step 1"}) == 1
        assert not any(run.again for run in engine.steps)


async def test_async_steps_by_script() -> None:
    steps = Service("Async")

    async def fetch() -> str:
        await asyncio.sleep(0.001)
        return "fetched"

    @steps.handler()
    async def twice(ctx: Context) -> str:
        return await ctx.run("fetch", fetch) + await ctx.run("fetch", fetch)

    async with TestEngine(App(steps)) as engine:
        engine.crash_before("fetch", nth=1)
        engine.crash_during("fetch", nth=2)
        assert await engine.call(twice) == "fetchedfetched"
        assert (engine.crashes, engine.ran("fetch")) == (2, 3)


async def test_crashes_at_commits_stored_and_lost() -> None:
    for lost in (False, True):
        for nth in range(1, 9):
            async with TestEngine(app) as engine:
                engine.crash_at_commit(nth, lost=lost)
                assert await engine.call(work, 3) == [0, 1, 2]
                assert engine.crashes == (1 if nth <= engine.commits else 0)
                assert not any(run.again for run in engine.steps)


async def test_a_crash_between_two_calls_loses_nothing() -> None:
    counter = VirtualObject("Counter")

    @counter.handler()
    async def add(ctx: ObjectContext, n: int) -> int:
        total = await ctx.get("total", int, default=0) + n
        ctx.set("total", total)
        return total

    for store in ("memory", "sqlite"):
        async with TestEngine(App(counter), store=store, partitions=2) as engine:
            for n in range(5):
                assert await engine.call(add, 1, key="k") == n + 1
                engine.crash()
            assert await engine.state(counter, "k").get("total") == 5
            assert engine.crashes == 5


async def test_a_call_that_waits_is_answered_after_a_crash() -> None:
    async with TestEngine(app) as engine:
        calls = [asyncio.ensure_future(engine.call(nap, 100 + n)) for n in range(3)]
        await asyncio.sleep(0)
        engine.crash()
        assert len(await asyncio.gather(*calls)) == 3


async def test_pauses_are_raised_not_waited_for() -> None:
    async with TestEngine(app) as engine:
        engine.fail_step("step 0", ValueError("scripted"), times=100)
        with pytest.raises(InvocationPaused, match=r"S/work \(inv_1.*\) is paused: ValueError: scripted") as paused:
            await engine.call(work, 1)
        assert paused.value.failure is not None
        assert any("Traceback" in note for note in paused.value.__notes__)
        with pytest.raises(InvocationPaused):
            await engine.invocation(paused.value.id).attach()


async def test_what_sqlite_could_not_hold_is_not_held_in_memory_either(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Unavailable, match="the engine has stopped"):
        async with TestEngine(app) as engine:
            engine.node.submit(0, ChangeState(1, "S", "\ud800", {"a": b"b"}))
            await engine.call(work, 1)
    assert isinstance(engine._failure, StorageError)
    caplog.clear()


async def test_wrong_use_says_so() -> None:
    with pytest.raises(TypeError, match=r"put services into one: App"):
        TestEngine(service)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="at least 1"):
        TestEngine(app, partitions=0)
    engine = TestEngine(app)
    with pytest.raises(Unavailable, match="async with TestEngine"):
        engine.node  # noqa: B018
    engine = await TestEngine(app)
    assert await engine.call(work, 1) == [0]
    await engine.stop()
    await engine.stop()


async def test_a_cancelled_call_is_not_waited_for() -> None:
    async with TestEngine(app, skip=False) as engine:
        call = asyncio.ensure_future(engine.call(nap, 5))
        await engine.settle()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not engine._calls
        with fails(400):
            await engine.call("S/work", "not a number")


PLUGIN_TEST = """
import asyncio
from perdure import App, Context, Service

service = Service("S")

@service.handler()
async def greet(ctx: Context, name: str) -> str:
    await ctx.sleep(3600)
    return f"hello {name}"

def test_in_a_scenario(perdure_engine):
    async def scenario():
        async with perdure_engine(App(service), replay=True) as engine:
            assert await engine.call(greet, "ada") == "hello ada"

    asyncio.run(scenario())

def test_left_running(perdure_engine):
    async def scenario():
        engine = await perdure_engine(App(service), store="sqlite", partitions=2)
        await engine.send(greet, "ada")

    asyncio.run(scenario())
"""


def test_the_fixture_needs_no_other_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


async def test_suspend_does_suspend_whoever_waits() -> None:
    service = Service("Waits")

    @service.handler()
    async def wait(ctx: Context) -> int:
        await ctx.signal("go")
        return ctx.attempt

    async with TestEngine(App(service), suspend=True) as engine:
        handle = await engine.send(wait)
        await engine.settle()
        assert (await handle.describe()).status == "suspended"
        await handle.signal("go")
        assert await handle.attach() == 2
