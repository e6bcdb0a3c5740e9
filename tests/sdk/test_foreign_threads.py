"""Threads that come back to a handler's loop: what waits for one works, or fails aloud; it never hangs in silence."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from perdure import App, Context, NonDurableOperation, Service
from perdure.testing import TestEngine


def outcome(handler: Callable[[Context], Any], **options: Any) -> Any:
    """The handler's result, or what it is paused with."""

    async def main() -> Any:
        service = Service("S")
        service.handler(name="go")(handler)
        async with TestEngine(App(service), **options) as engine:
            sent = await engine.send("S/go")
            result = asyncio.ensure_future(sent.attach())
            async with asyncio.timeout(30):
                while not result.done():
                    await asyncio.sleep(0.001)
                    described = await sent.describe()
                    if described.status == "paused":
                        result.cancel()
                        assert described.last_failure is not None
                        return described.last_failure["message"]
                return await result

    return asyncio.run(main())


NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name")


@pytest.mark.parametrize("replay", [False, True])
def test_anyios_threads_are_none_in_a_handler(replay: bool) -> None:
    """As with asyncio.to_thread the function runs at once, where its timing is nothing that has to replay."""

    async def handler(ctx: Context) -> list[Any]:
        NAME.set("ann")
        here = threading.get_ident()

        def blocking(number: int) -> tuple[int, str, bool]:
            return number, NAME.get(), threading.get_ident() == here

        one = await anyio.to_thread.run_sync(blocking, 1)
        step = await ctx.run("step", lambda: 2)
        results: list[Any] = []

        async def child(number: int) -> None:
            results.append(await anyio.to_thread.run_sync(blocking, number, abandon_on_cancel=True))

        async with anyio.create_task_group() as group:
            group.start_soon(child, 3)
            group.start_soon(child, 4)
        try:
            await anyio.to_thread.run_sync(int, "x")
        except ValueError:
            return [one, step, *results]
        return []

    assert outcome(handler, replay=replay) == [[1, "ann", True], 2, [3, "ann", True], [4, "ann", True]]


def test_in_a_step_they_are_threads() -> None:
    async def blocking() -> bool:
        return await anyio.to_thread.run_sync(threading.get_ident) != threading.get_ident()

    async def handler(ctx: Context) -> bool:
        return await ctx.run("step", blocking)

    assert outcome(handler) is True


def test_waiting_for_a_future_of_a_thread_is_refused_at_once() -> None:
    async def handler(ctx: Context) -> Any:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return await asyncio.wrap_future(pool.submit(int, "5"))

    assert "waiting for a thread" in outcome(handler)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a sleep"])
def test_a_thread_that_wakes_a_handler_fails_it(beside: bool) -> None:
    """As aiosqlite does, or a library with a thread of its own."""

    async def handler(ctx: Context) -> Any:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()

        def wake() -> None:
            with contextlib.suppress(NonDurableOperation):
                loop.call_soon_threadsafe(answer.set_result, 5)

        threading.Timer(0.02, wake).start()
        if beside:
            await asyncio.gather(answer, ctx.sleep(3600))
        return await answer

    message = outcome(handler, skip=False)
    assert "NonDurableOperation" in message and "another thread" in message


def test_a_thread_cannot_slip_in_while_the_handler_runs() -> None:
    """A loop that is running is not one that may be touched: `running` is of a thread."""
    refused: list[BaseException] = []

    async def handler(ctx: Context) -> Any:
        loop = asyncio.get_running_loop()

        def poke() -> None:
            try:
                loop.call_soon_threadsafe(print, "poked")
            except Exception as error:
                refused.append(error)

        thread = threading.Thread(target=poke)
        thread.start()
        thread.join()
        await ctx.sleep(3600)

    assert "another thread" in outcome(handler, skip=False)
    assert len(refused) == 1


def test_waiting_for_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Only a cancellation ends it; so it may be meant, or a thread was to end it that nobody knows of."""

    async def handler(ctx: Context) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        service = Service("S", inactivity_timeout=0)
        service.handler(name="go")(handler)
        async with TestEngine(App(service)) as engine:
            sent = await engine.send("S/go")
            async with asyncio.timeout(30):
                while (await sent.describe()).status != "suspended":  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.001)
            await sent.kill()

    with caplog.at_level(logging.WARNING, "perdure.handler"):
        asyncio.run(main())
    assert "waits for nothing that" in caplog.text
