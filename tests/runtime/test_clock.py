"""The machine's clock in stretches, and a clock that stands still until it is moved."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from perdure.runtime.clock import SystemClock, VirtualClock

MINUTE = SystemClock.LONGEST_MS


class Loop:
    """Just enough of an event loop: takes timers down."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None], Any]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        handle = asyncio.Handle(callback, (), cast(asyncio.AbstractEventLoop, self))
        self.timers.append((delay, callback, handle))
        return handle

    def get_debug(self) -> bool:
        return False


class Stopped(SystemClock):
    """A system clock whose time the test sets."""

    now = 1_000_000

    def now_ms(self) -> int:
        return self.now


def stopped() -> tuple[Stopped, Loop]:
    loop = Loop()
    return Stopped(cast(asyncio.AbstractEventLoop, loop)), loop


def test_now_is_ms_since_the_epoch() -> None:
    clock = SystemClock(cast(asyncio.AbstractEventLoop, Loop()))
    assert abs(clock.now_ms() - time.time() * 1000) < 5000


def test_a_near_timer_is_one_of_the_loop() -> None:
    clock, loop = stopped()
    clock.call_at(clock.now + 1500, lambda: None)
    clock.call_at(clock.now - 5, lambda: None)
    clock.call_at(clock.now + MINUTE, lambda: None)
    assert [delay for delay, _, _ in loop.timers] == [1.5, 0, MINUTE / 1000]


def test_a_far_timer_looks_at_the_clock_every_while() -> None:
    clock, loop = stopped()
    rung: list[int] = []
    clock.call_at(clock.now + 2 * MINUTE + 500, lambda: rung.append(clock.now))
    delays = []
    while loop.timers:
        delay, callback, _ = loop.timers.pop()
        delays.append(delay)
        clock.now += int(delay * 1000)
        callback()
    assert delays == [MINUTE / 1000, MINUTE / 1000, 0.5]
    assert rung == [1_000_000 + 2 * MINUTE + 500]


def test_a_far_timer_is_in_time_when_the_machine_slept_meanwhile() -> None:
    clock, loop = stopped()
    rung: list[int] = []
    clock.call_at(clock.now + 100 * MINUTE, lambda: rung.append(clock.now))
    _, callback, _ = loop.timers.pop()
    clock.now += 100 * MINUTE + 7
    callback()
    delay, callback, _ = loop.timers.pop()
    assert delay == 0
    callback()
    assert rung == [clock.now] and not loop.timers


def test_a_far_timer_can_be_cancelled_in_any_stretch() -> None:
    clock, loop = stopped()
    far = clock.call_at(clock.now + 2 * MINUTE, lambda: None)
    _, callback, first = loop.timers.pop()
    clock.now += MINUTE
    callback()
    _, _, second = loop.timers.pop()
    far.cancel()
    assert second.cancelled() and not first.cancelled()


def test_a_timer_of_the_real_loop_rings() -> None:
    async def body() -> None:
        clock = SystemClock(asyncio.get_running_loop())
        rung = asyncio.Event()
        clock.call_at(clock.now_ms() + 1, rung.set)
        await asyncio.wait_for(rung.wait(), 5)

    asyncio.run(body())


def test_virtual_time_stands_still_and_timers_ring_in_order() -> None:
    clock = VirtualClock(1000)
    rung: list[str] = []
    for name, at in (("c", 1030), ("a", 1010), ("b", 1010), ("past", 5)):
        clock.call_at(at, lambda name=name: rung.append(name))  # type: ignore[misc]
    assert clock.next_ms() == 5
    assert clock.run_due() == 1
    assert clock.now_ms() == 1000 and clock.next_ms() == 1010
    clock.move_to(1020)
    assert clock.run_due() == 2
    clock.move_to(1000)  # never back
    assert clock.now_ms() == 1020
    assert clock.run_due() == 0 and clock.next_ms() == 1030
    clock.move_to(1030)
    assert clock.run_due() == 1
    assert rung == ["past", "a", "b", "c"] and clock.next_ms() is None and clock.run_due() == 0


def test_a_virtual_timer_that_is_cancelled_does_not_ring() -> None:
    clock = VirtualClock(1000)
    rung: list[int] = []
    first = clock.call_at(1010, lambda: rung.append(1))
    clock.call_at(1020, lambda: rung.append(2))
    first.cancel()
    assert clock.next_ms() == 1020
    clock.move_to(2000)
    assert clock.run_due() == 1 and rung == [2]


def test_a_timer_may_set_another_that_is_due() -> None:
    clock = VirtualClock(1000)
    rung: list[int] = []

    def again() -> None:
        rung.append(clock.now_ms())
        if len(rung) < 3:
            clock.call_at(clock.now_ms(), again)

    clock.call_at(1000, again)
    assert clock.run_due() == 3


def test_a_virtual_clock_may_be_set_back() -> None:
    clock = VirtualClock(1000)
    clock.call_at(1005, lambda: None)
    clock.jump(10)
    clock.jump(-20)
    assert clock.now_ms() == 990 and clock.run_due() == 0
