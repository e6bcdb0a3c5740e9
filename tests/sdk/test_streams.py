"""`ctx.stream`: what handlers and steps may write, when it is void, and what is stored."""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from perdure import (
    App,
    Context,
    Engine,
    NotFound,
    Regenerated,
    RetryPolicy,
    Service,
    StreamChunk,
    SyncContext,
    TerminalError,
    Unavailable,
    Workflow,
    WorkflowContext,
    current_stream,
)
from perdure.model import streams as limits
from perdure.model.entries import Failure
from perdure.model.ids import parse_invocation_id
from perdure.runtime import streams as runtime
from perdure.testing import TestEngine
from tests.sdk.endpoint_engine import SmallEngine

SOON = RetryPolicy(initial_interval=0.001, factor=1.0, max_attempts=10, on_exhausted="fail")


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def app_of(*handlers: Any) -> App:
    service = Service("Talk", retry_policy=SOON)
    for handler in handlers:
        service.handler()(handler)
    return App(service)


async def values(engine: Any, handler: str = "Talk/run", arg: Any = None) -> list[Any]:
    invocation = await engine.send(handler, arg)
    return await invocation.stream("answer").values()  # type: ignore[no-any-return]


@in_loop
async def test_text_bytes_and_json() -> None:
    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")
        assert stream.path == f"/restate/streams/{ctx.invocation_id}/answer"
        for chunk in ("text\n", b"\x00raw", {"a": [1, None]}, 1.5, None, ""):
            stream.write(chunk)

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == ["text\n", b"\x00raw", {"a": [1, None]}, 1.5, None, ""]


@pytest.mark.parametrize("chunk", [object(), float("nan"), "\ud800", 1j])
@in_loop
async def test_what_is_no_json_is_refused(chunk: Any) -> None:
    async def run(ctx: Context) -> str:
        ctx.stream("answer").write("before")
        with pytest.raises(TerminalError, match="cannot be written to a stream") as refused:
            ctx.stream("answer").write(chunk)
        assert refused.value.code == 400
        return "ok"

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == ["before"]


@pytest.mark.parametrize("name", ["", "x" * 201, "\ud800"])
@in_loop
async def test_what_is_no_name_is_refused(name: str) -> None:
    async def run(ctx: Context) -> str:
        with pytest.raises(TerminalError) as refused:
            ctx.stream(name)
        return str(refused.value.code)

    async with Engine(app_of(run)) as engine:
        assert await engine.call("Talk/run") == "400"


@in_loop
async def test_a_try_that_fails_is_void_and_readers_are_told() -> None:
    tries: list[int] = []
    seen = asyncio.Event()

    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")
        stream.write("begin ")

        async def ask() -> None:
            tries.append(1)
            stream.write(f"try {len(tries)} ")
            if len(tries) == 1:
                await seen.wait()
                raise RuntimeError("the connection broke")
            stream.write("whole ")

        await ctx.run("ask", ask)
        stream.write("end")

    async with Engine(app_of(run)) as engine:
        invocation = await engine.send("Talk/run")
        events = []
        async for event in invocation.stream("answer"):
            events.append(event)
            if isinstance(event, StreamChunk) and event.value == "try 1 ":
                seen.set()
        told = [event.value if isinstance(event, StreamChunk) else event.position for event in events]
        assert told == ["begin ", "try 1 ", 1, "try 2 ", "whole ", "end"]
        assert isinstance(events[2], Regenerated)
        assert await invocation.stream("answer").text() == "begin try 2 whole end"


@in_loop
async def test_a_reader_goes_on_behind_an_event() -> None:
    async def run(ctx: Context) -> None:
        for number in range(5):
            ctx.stream("answer").write(number)

    async with Engine(app_of(run)) as engine:
        invocation = await engine.send("Talk/run")
        await invocation.attach()
        events = [event async for event in engine.stream(invocation.id, "answer")]
        rest = engine.stream(invocation.id, "answer", last_event_id=events[2].id)
        assert [event.value async for event in rest if isinstance(event, StreamChunk)] == [3, 4]
        assert await engine.stream(invocation.id, "answer", start=4).values() == [4]
        over = engine.stream(invocation.id, "answer", last_event_id=rest.last_event_id)
        assert [event async for event in over] == []


@in_loop
async def test_plain_handlers_plain_steps_and_their_threads() -> None:
    def run(ctx: SyncContext) -> None:
        stream = ctx.stream("answer")
        stream.write("handler ")

        def step() -> None:
            for number in range(100):
                stream.write(f"{number} ")

        ctx.run("step", step)
        stream.write("end")

    async with Engine(app_of(run)) as engine:
        assert "".join(await values(engine)) == "handler " + "".join(f"{n} " for n in range(100)) + "end"


@in_loop
async def test_a_step_may_write_from_tasks_and_threads() -> None:
    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            stream.write(0)
            await asyncio.to_thread(stream.write, 1)
            await asyncio.gather(asyncio.to_thread(stream.write, 2))
            stream.write(3)

        await ctx.run("step", step)

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == [0, 1, 2, 3]


@in_loop
async def test_nothing_is_written_when_the_step_is_over() -> None:
    late: list[Any] = []

    async def run(ctx: Context, writes: bool) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            if writes:
                stream.write("in time")

            async def write_late() -> None:
                await asyncio.sleep(0.01)
                try:
                    stream.write("late")
                except TerminalError as error:
                    late.append(error.code)

            late.append(asyncio.create_task(write_late()))

        await ctx.run("step", step)

    async with Engine(app_of(run)) as engine:
        for writes in (True, False):
            late.clear()
            assert await values(engine, arg=writes) == ["in time"] * writes
            await late[0]
            assert late[1:] == [409]
            assert engine.node.streams._outlets == {}


@in_loop
async def test_what_a_failed_step_has_written_stays_with_its_failure() -> None:
    async def run(ctx: Context) -> str:
        stream = ctx.stream("answer")

        async def step() -> None:
            stream.write("some")
            raise TerminalError("no more")

        try:
            await ctx.run("step", step)
        except TerminalError as error:
            stream.write(error.message)
        return "ok"

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == ["some", "no more"]


@in_loop
async def test_what_an_abandoned_step_has_written_is_void() -> None:
    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            stream.write("never mind")
            await asyncio.sleep(3600)

        try:
            async with asyncio.timeout(0.05):
                await ctx.run("step", step)
        except TimeoutError:
            stream.write("enough")

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == ["enough"]


@in_loop
async def test_the_handlers_own_writes_are_not_made_again() -> None:
    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")
        for number in range(3):
            stream.write(f"{number}.")
            await ctx.sleep(10)
            await ctx.run(f"step {number}", stream.write, f"{number}!")

    app = app_of(run)
    for options in ({"replay": True}, {"suspend": True}, {"crash": True}, {"crash": True, "partitions": 3}):
        async with TestEngine(app, **options) as engine:
            invocation = await engine.send("Talk/run")
            assert await invocation.stream("answer").text() == "0.0!1.1!2.2!"


@in_loop
async def test_readers_of_the_test_engine_live_through_crashes() -> None:
    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            stream.write("a")
            await asyncio.sleep(0)
            stream.write("b")

        await ctx.run("step", step)

    async with TestEngine(app_of(run)) as engine:
        engine.crash_during("step")
        invocation = await engine.send("Talk/run")
        assert await invocation.stream("answer").text() == "ab"
        assert engine.crashes == 1


@in_loop
async def test_close_ends_the_stream_before_the_invocation() -> None:
    go = asyncio.Event()

    async def run(ctx: Context) -> str:
        stream = ctx.stream("answer")
        stream.write("all")
        stream.close()
        with pytest.raises(TerminalError, match="is closed") as refused:
            stream.write("more")
        assert refused.value.code == 409
        with pytest.raises(TerminalError, match="is closed"):
            stream.close()

        async def step() -> int:
            with pytest.raises(TerminalError, match="closed by the handler"):
                ctx.stream("other").close()
            with pytest.raises(TerminalError, match="is closed"):
                stream.write("more")
            await go.wait()
            return 1

        await ctx.run("step", step)
        return "ok"

    async with Engine(app_of(run)) as engine:
        invocation = await engine.send("Talk/run")
        assert await invocation.stream("answer").values() == ["all"]
        assert await invocation.stream("answer").values() == ["all"]  # read from what is stored
        go.set()
        assert await invocation.attach() == "ok"


@in_loop
async def test_the_end_tells_the_failure() -> None:
    async def run(ctx: Context) -> None:
        ctx.stream("answer").write("some")
        raise TerminalError("not today", 418)

    async with Engine(app_of(run)) as engine:
        invocation = await engine.send("Talk/run")
        reader = invocation.stream("answer")
        with pytest.raises(TerminalError, match="not today") as failed:
            await reader.text()
        assert failed.value.code == 418


@in_loop
async def test_cancelled_and_killed_invocations_end_their_streams() -> None:
    async def run(ctx: Context) -> None:
        ctx.stream("answer").write("begun")

        async def step() -> None:
            ctx.stream("answer").write("void")
            await asyncio.sleep(3600)

        await ctx.run("step", step)

    async with Engine(app_of(run)) as engine:
        for end in ("cancel", "kill"):
            invocation = await engine.send("Talk/run")
            told = []
            with pytest.raises(TerminalError):
                async for event in invocation.stream("answer"):
                    told.append(event.value if isinstance(event, StreamChunk) else event.position)
                    if told == ["begun", "void"]:
                        await getattr(invocation, end)()
            assert told == ["begun", "void", 1]


@in_loop
async def test_a_paused_invocation_shows_only_what_is_stored() -> None:
    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            stream.write("cut")
            await asyncio.sleep(3600)

        await ctx.run("step", step)

    async with Engine(app_of(run), grace=0) as engine:
        invocation = await engine.send("Talk/run")
        told: list[Any] = []
        async for event in invocation.stream("answer"):
            told.append(event.value if isinstance(event, StreamChunk) else event.position)
            if told == ["cut"]:
                await invocation.pause()
            if told == ["cut", 0]:
                await invocation.resume()
            if told == ["cut", 0, "cut"]:
                break


@in_loop
async def test_a_workflows_stream_and_who_is_not_there() -> None:
    workflow = Workflow("Report")

    @workflow.main()
    async def main(ctx: WorkflowContext) -> str:
        ctx.stream("answer").write(ctx.key)
        return "done"

    async with Engine(App(workflow)) as engine:
        handle = engine.workflow(workflow, "k 1")
        with pytest.raises(NotFound):
            await handle.stream("answer").text()
        await handle.submit()
        assert await handle.stream("answer").text() == "k 1"
        with pytest.raises(NotFound):
            await engine.workflow("Nobody", "k").stream("answer").text()
    with pytest.raises(Unavailable):
        await handle.stream("answer").text()


@in_loop
async def test_the_default_stream() -> None:
    async def deep_inside() -> None:
        current_stream().write("here")

    async def run(ctx: Context) -> None:
        with pytest.raises(LookupError):
            current_stream()
        with ctx.stream("answer").default() as stream:
            assert current_stream() is stream
            await ctx.run("step", deep_inside)

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == ["here"]


@in_loop
async def test_the_default_stream_of_a_plain_handler() -> None:
    def run(ctx: SyncContext) -> None:
        with ctx.stream("answer").default():
            current_stream().write("here")
            ctx.run("step", lambda: current_stream().write("there"))
        with pytest.raises(TerminalError, match="no stream"):
            ctx.run("step", nobody)

    def nobody() -> None:
        try:
            current_stream()
        except LookupError:
            raise TerminalError("no stream") from None

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == ["here", "there"]


@in_loop
async def test_other_invocations_streams_are_not_to_be_written() -> None:
    leaked: list[Any] = []

    async def first(ctx: Context) -> None:
        leaked.append(ctx.stream("answer"))

    async def second(ctx: Context) -> None:
        async def step() -> None:
            with pytest.raises(TerminalError, match="another invocation"):
                leaked[0].write("x")

        await ctx.run("step", step)

    async with Engine(app_of(first, second)) as engine:
        await engine.call("Talk/first")
        await engine.call("Talk/second")


@in_loop
async def test_a_thread_of_ones_own_is_refused() -> None:
    problems: list[BaseException] = []

    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            def body() -> None:
                try:
                    stream.write("x")
                except TerminalError as error:
                    problems.append(error)

            thread = threading.Thread(target=body)
            thread.start()
            thread.join()

        await ctx.run("step", step)

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == []
        assert len(problems) == 1


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("limit", ["STEP_LIMIT", "STREAM_LIMIT"])
@in_loop
async def test_too_much_for_a_step_or_a_stream(monkeypatch: pytest.MonkeyPatch, limit: str, plain: bool) -> None:
    monkeypatch.setattr(runtime, limit, 1000)

    async def run(ctx: Context) -> str:
        stream = ctx.stream("answer")

        def write() -> None:
            for _ in range(10):
                stream.write("x" * 198)

        async def write_async() -> None:
            write()

        try:
            await ctx.run("step", write if plain else write_async)
        except TerminalError as error:
            return str(error.code)
        return "no error"

    async with Engine(app_of(run)) as engine:
        assert await engine.call("Talk/run") == "413"
        assert engine.node.streams.size == 0


@in_loop
async def test_too_much_in_memory_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    full = [True]

    async def run(ctx: Context) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            engine.node.streams._memory_limit = 5 if full.pop() else 1000
            full.append(False)
            stream.write("a chunk")

        await ctx.run("step", step)

    async with Engine(app_of(run)) as engine:
        assert await values(engine) == ["a chunk"]


@in_loop
async def test_a_step_that_writes_is_one_row_more_and_others_are_none() -> None:
    async def run(ctx: Context, writes: bool) -> None:
        stream = ctx.stream("answer")

        async def step() -> None:
            if writes:
                for _ in range(1000):
                    stream.write("token ")

        await ctx.run("step", step)

    async with TestEngine(app_of(run)) as engine:
        for writes in (True, False):
            invocation = await engine.send("Talk/run", writes)
            await invocation.attach()
            tables = engine._stores[0].snapshot()  # type: ignore[attr-defined]
            assert [len(tables[name]) for name in ("stream", "stream_part")] == [1, 1]
        await invocation.purge()
        assert len(engine._stores[0].snapshot()["stream"]) == 1  # type: ignore[attr-defined]


@in_loop
async def test_streams_go_with_the_journal() -> None:
    async def run(ctx: Context) -> None:
        ctx.stream("answer").write("x")

    async with TestEngine(app_of(run)) as engine:
        first, second, third = [await engine.send("Talk/run") for _ in range(3)]
        await asyncio.gather(*(each.attach() for each in (first, second, third)))
        await first.purge()
        await second.purge(journal_only=True)
        assert await second.stream("answer").values() == []
        with pytest.raises(NotFound):
            await first.stream("answer").values()
        assert await third.stream("answer").values() == ["x"]
        await engine.advance(2 * 86_400)
        tables = engine._stores[0].snapshot()  # type: ignore[attr-defined]
        assert (tables["stream"], tables["stream_part"]) == ({}, {})


def test_the_limits_are_what_the_documentation_says() -> None:
    assert (limits.STEP_LIMIT, limits.STREAM_LIMIT, limits.NAME_LIMIT) == (8 << 20, 16 << 20, 200)
    assert (runtime.MEMORY_LIMIT, runtime.READER_LIMIT) == (256 << 20, 10_000)


@in_loop
async def test_a_handler_that_is_called_over_the_network_has_no_streams() -> None:
    async def run(ctx: Context) -> None:
        ctx.stream("answer")

    engine = await SmallEngine(app_of(run), "Talk/run").run()
    assert isinstance(engine.result, Failure)
    assert (engine.result.code, "in the engine's process" in engine.result.message) == (501, True)


@in_loop
async def test_a_reader_that_leaves_while_the_stream_is_loaded() -> None:
    async def run(ctx: Context) -> None:
        ctx.stream("answer").write("x" * 1000)

    async with Engine(app_of(run)) as engine:
        invocation = await engine.send("Talk/run")
        await invocation.attach()
        streams = engine.node.streams
        reading = asyncio.ensure_future(streams.read(parse_invocation_id(invocation.id), "answer"))
        while not streams._logs:  # noqa: ASYNC110 - it takes a turn of the loop
            await asyncio.sleep(0)
        loading = streams._logs[parse_invocation_id(invocation.id)]["answer"].loading
        assert loading is not None
        reading.cancel()
        await asyncio.wait([reading, loading])
        assert (streams.size, streams.readers, streams._logs) == (0, 0, {})
