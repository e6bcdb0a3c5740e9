"""The event loop is really held up here, for a moment, and the log says by whom."""

import asyncio
import logging
import time

import pytest

from perdure import App, Context, Service
from perdure.assembly import assemble
from perdure.runtime import watchdog as watchdog_module
from perdure.runtime.watchdog import Watchdog
from perdure.storage.memory import MemoryStorage

blocker = Service("blocker")


@blocker.handler()
async def block(ctx: Context, ms: int) -> str:
    time.sleep(ms / 1000)  # noqa: ASYNC251
    return "done"


@blocker.handler()
async def block_in_step(ctx: Context, ms: int) -> str:
    async def careless() -> str:
        time.sleep(ms / 1000)  # noqa: ASYNC251
        return "done"

    return await ctx.run("careless", careless)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "BEAT_SECONDS", 0.01)


def held_up(records: list[logging.LogRecord], who: str) -> list[str]:
    """The warnings about somebody; a slow machine may hold up the loop too, and is none of our business."""
    return [record.getMessage() for record in records if f"{who} has held up" in record.getMessage()]


@pytest.mark.parametrize(
    ("handler", "who"),
    [("block", "handler blocker/block (inv_1"), ("block_in_step", "step 'careless' of blocker/block_in_step (inv_1")],
)
def test_it_names_who_blocks_the_loop_and_where(handler: str, who: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        node = assemble([App(blocker)], [MemoryStorage()], lag_threshold=0.05)
        await node.start()
        await node.call(node.registry.target("blocker", handler, None), b"300")
        await node.stop()
        assert node.watchdog is not None and 0.1 < node.watchdog.longest < 5

    asyncio.run(body())
    (name,) = {record.getMessage().split(" has held up")[0] for record in caplog.records if who in record.getMessage()}
    (message,) = held_up(caplog.records, name)  # once for each time
    assert "time.sleep(ms / 1000)" in message and "test_watchdog.py" in message
    assert any("the event loop turns again" in record.getMessage() for record in caplog.records)


def test_a_loop_that_turns_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), lambda: "nobody", threshold=2.0)
        watchdog.start()
        await asyncio.sleep(0.05)
        watchdog.stop()

    asyncio.run(body())
    assert caplog.records == []


def test_what_no_handler_does_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), lambda: None, threshold=0.05)
        watchdog.start()
        time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0.03)
        watchdog.stop()
        watchdog.stop()

    asyncio.run(body())
    assert held_up(caplog.records, "something outside any handler")


def test_it_can_be_stopped_before_it_begins() -> None:
    async def body() -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), lambda: None)
        watchdog.stop()
        watchdog.start()
        await asyncio.sleep(0.02)

    asyncio.run(body())
