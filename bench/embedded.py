"""`perdure.Engine` in a process of its own (`python -m bench.embedded`, a JSON job on stdin, a JSON answer on stdout).

On uvloop, as `perdure serve` is; on a file, which the engine syncs at every commit.
"""

import asyncio
import time
from typing import Any

import uvloop

from bench.jobs import answer
from bench.services import app, echo, run
from bench.windows import Loop, Plan, closed_loop
from bench.workload import STEPS
from perdure import Engine

POPULATE_CONCURRENCY = 512


async def measure(path: str, plan: Plan) -> Loop:
    """A closed loop of ten-step invocations."""
    async with Engine(app, path=path) as engine:

        async def operation(worker: int) -> None:
            total = await engine.call(run, STEPS)
            if total != STEPS:
                raise RuntimeError(f"the invocation answered {total}")

        return await closed_loop(operation, plan)


async def populate(path: str, rows: int) -> float:
    """Send `rows` invocations and wait for each to complete, which bounds the memory in use; wall seconds."""
    turns = iter(range(rows))
    began = time.perf_counter()
    async with Engine(app, path=path) as engine, asyncio.TaskGroup() as group:

        async def work() -> None:
            for number in turns:
                handle = await engine.send(echo, number)
                await handle.attach()

        for _ in range(POPULATE_CONCURRENCY):
            group.create_task(work())
    return time.perf_counter() - began


def work(job: dict[str, Any]) -> dict[str, object]:
    """Either measure (`{"path", "plan"}`) or populate (`{"path", "rows"}`)."""
    if "plan" in job:
        return uvloop.run(measure(job["path"], Plan(**job["plan"]))).to_dict()
    return {"seconds": uvloop.run(populate(job["path"], job["rows"]))}


if __name__ == "__main__":
    answer(work)
