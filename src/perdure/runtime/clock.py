"""Where time comes from. The core and the handlers never look at a clock; they are told."""

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "SystemClock", "TimerHandle", "VirtualClock", "wall_clock_ms"]


class TimerHandle(Protocol):
    def cancel(self) -> object: ...


class Clock(Protocol):
    """`now_ms` is the time in ms since the epoch; `call_at` runs a callback on the event loop when it has come."""

    def now_ms(self) -> int: ...

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> TimerHandle: ...


def wall_clock_ms() -> int:
    """The machine's time, ms since the epoch, for what runs without an event loop."""
    return time.time_ns() // 1_000_000


class SystemClock:
    """The machine's clock, over an event loop's timers."""

    LONGEST_MS = 60_000  # the loop's clock stands still while a machine sleeps, so look at the real one every minute

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> TimerHandle:
        delay_ms = at_ms - self.now_ms()
        if delay_ms <= self.LONGEST_MS:
            return self._loop.call_later(max(0, delay_ms) / 1000, callback)
        return _Again(self, at_ms, callback)


class _Again:
    """A timer far away: waits in stretches."""

    def __init__(self, clock: SystemClock, at_ms: int, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._at_ms = at_ms
        self._callback = callback
        self._wait()

    def _wait(self) -> None:
        stretch = min(self._at_ms, self._clock.now_ms() + SystemClock.LONGEST_MS)
        self._handle = self._clock.call_at(stretch, self._callback if stretch == self._at_ms else self._wait)

    def cancel(self) -> None:
        self._handle.cancel()


class VirtualClock:
    """Time that stands still until it is moved: for tests and the simulator."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now = start_ms
        self._heap: list[tuple[int, int, _VirtualTimer]] = []
        self._count = 0

    def now_ms(self) -> int:
        return self._now

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> TimerHandle:
        timer = _VirtualTimer(callback)
        self._count += 1
        heapq.heappush(self._heap, (at_ms, self._count, timer))
        return timer

    def next_ms(self) -> int | None:
        """When the next timer is due, or None."""
        while self._heap and self._heap[0][2].gone:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def move_to(self, at_ms: int) -> None:
        """Set the time; does not run anything."""
        self._now = max(self._now, at_ms)

    def jump(self, delta_ms: int) -> None:
        """Step the clock, backwards too, as an administrator or NTP would."""
        self._now += delta_ms

    def run_due(self) -> int:
        """Run what is due, in order; returns how many callbacks ran."""
        ran = 0
        while True:
            following = self.next_ms()
            if following is None or following > self._now:
                return ran
            _, _, timer = heapq.heappop(self._heap)
            timer.gone = True
            timer.callback()
            ran += 1


class _VirtualTimer:
    __slots__ = ("callback", "gone")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.gone = False

    def cancel(self) -> None:
        self.gone = True
