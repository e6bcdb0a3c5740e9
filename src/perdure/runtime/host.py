"""What this process gives to the handlers in it: event loop, clock, threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from perdure.runtime.clock import Clock, TimerHandle

__all__ = ["ProcessHost"]


class ProcessHost:
    """One for a node. Threads are started when the first plain function needs one."""

    def __init__(
        self,
        clock: Clock,
        chance: Callable[[], float],
        *,
        replay_always: bool = False,
        step_threads: int = 64,
        handler_threads: int = 256,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.chance = chance
        self.replay_always = replay_always
        self.step_threads: ThreadPoolExecutor | None = ThreadPoolExecutor(step_threads, "perdure-step")
        self.handler_threads: ThreadPoolExecutor | None = ThreadPoolExecutor(handler_threads, "perdure-handler")

    def now_ms(self) -> int:
        return self.clock.now_ms()

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> TimerHandle:
        return self.clock.call_at(self.clock.now_ms() + delay_ms, callback)

    def close(self) -> None:
        """Wait for no thread: one that hangs must not keep the process from ending."""
        for pool in (self.step_threads, self.handler_threads):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
