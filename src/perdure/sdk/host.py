"""What a process that serves an `App` gives to the handlers in it: event loop, clock, threads, chance."""

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from perdure.sdk.steps import Handle

__all__ = ["EndpointHost"]


class EndpointHost:
    """One for an event loop. Threads are started when the first plain function needs one."""

    replay_always = False

    def __init__(self, loop: asyncio.AbstractEventLoop, *, step_threads: int = 64, handler_threads: int = 256) -> None:
        self.loop = loop
        self.step_threads: ThreadPoolExecutor | None = ThreadPoolExecutor(step_threads, "perdure-step")
        self.handler_threads: ThreadPoolExecutor | None = ThreadPoolExecutor(handler_threads, "perdure-handler")

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Handle:
        return self.loop.call_later(max(0, delay_ms) / 1000, callback)

    def chance(self) -> float:
        return random.random()

    def close(self) -> None:
        """Wait for no thread: one that hangs must not keep the process from ending."""
        for pool in (self.step_threads, self.handler_threads):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
