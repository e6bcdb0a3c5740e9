"""A closed loop of workers, looked at through windows of time.

Every rate and latency of this package, perdure's and its peers', comes from this one loop, so that none is flattered by
the way it was counted. Workers never pause between windows: what a window sees is steady state. Standard library only,
because the peers' virtual environment runs it too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Plan:
    """How long to look: `warmup_s` unseen seconds, then `windows` windows of `window_s` seconds each."""

    concurrency: int
    warmup_s: float
    window_s: float
    windows: int


@dataclass(frozen=True)
class Window:
    """One window: operations per second, latencies in milliseconds, CPU seconds of the measuring process per wall
    second.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu: float


@dataclass(frozen=True)
class Loop:
    """What a whole closed loop saw. `operations` counts the warm-up too: CPU time per operation is taken over all of
    it.
    """

    windows: list[Window]
    operations: int

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, for the pipe to the parent process."""
        return asdict(self)


def window(latencies_s: list[float], wall_s: float, cpu_s: float) -> Window:
    """Sum up the operations that ended within one window."""
    if not latencies_s:
        raise RuntimeError(f"no operation ended within {wall_s:.1f} s")
    ordered = sorted(latencies_s)
    last = len(ordered) - 1
    return Window(
        rate=len(ordered) / wall_s,
        p50_ms=ordered[last // 2] * 1e3,
        p99_ms=ordered[int(last * 0.99)] * 1e3,
        cpu=cpu_s / wall_s,
    )


async def closed_loop(operation: Callable[[int], Awaitable[None]], plan: Plan) -> Loop:
    """Run `operation(worker)` again and again on `plan.concurrency` workers; the first exception ends it all."""
    latencies: list[float] = []
    stopped = False

    async def work(worker: int) -> None:
        while not stopped:
            began = time.perf_counter()
            await operation(worker)
            latencies.append(time.perf_counter() - began)

    async def look() -> list[Window]:
        nonlocal stopped
        await asyncio.sleep(plan.warmup_s)
        seen: list[Window] = []
        for _ in range(plan.windows):
            first, wall, cpu = len(latencies), time.perf_counter(), time.process_time()
            await asyncio.sleep(plan.window_s)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            seen.append(window(latencies[first:], wall, cpu))
        stopped = True
        return seen

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        for worker in range(plan.concurrency):
            group.create_task(work(worker))
    return Loop(looking.result(), len(latencies))
