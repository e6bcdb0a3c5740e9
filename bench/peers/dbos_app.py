"""`Steps.run` of `bench.services` as a DBOS workflow on SQLite, run by `python -m bench.peers.dbos_app` in the peers'
environment.

DBOS is a library, so it is measured as `perdure.Engine` is: in the process that calls it. The workflow is called
directly, which is the least that DBOS can do for a durable one. Its file is in WAL mode (`synchronous=FULL`), as
perdure's is: DBOS leaves SQLite's rollback journal on, which was a third slower here.
"""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import uvloop
from dbos import DBOS  # type: ignore[import-not-found]

from bench.jobs import answer
from bench.windows import Loop, Plan, closed_loop
from bench.workload import STEPS


async def one() -> int:
    """A step that does nothing: what is left is the price of a step."""
    return 1


async def run(count: int) -> int:
    """`count` steps, one after the other."""
    total = 0
    for _ in range(count):
        total += await durable_one()
    return total


durable_one = DBOS.step()(one)
durable_run = DBOS.workflow()(run)


async def measure(plan: Plan) -> Loop:
    """The closed loop over the workflow."""

    async def operation(worker: int) -> None:
        total = await durable_run(STEPS)
        if total != STEPS:
            raise RuntimeError(f"the workflow answered {total}")

    return await closed_loop(operation, plan)


def work(job: dict[str, Any]) -> dict[str, object]:
    """Measure `job["plan"]` on a new file in `job["directory"]`."""
    database = Path(job["directory"]) / "dbos.db"
    connection = sqlite3.connect(database)
    connection.execute("pragma journal_mode=wal")  # kept in the file's header
    connection.close()
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{database}", "log_level": "ERROR"})
    DBOS.launch()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measure(Plan(**job["plan"]))).to_dict()
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    answer(work)
