"""The figures of SQL introspection: queries over a store with many completed invocations, and what they cost handlers.

The store is written directly, in the rows that the engine writes, which takes half a minute a million.
"""

import json
import random
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue

from bench.figures import DATA, NO_OP, Settings, attempt, rates, scratch
from bench.longterm import ROWS
from bench.processes import BenchError
from bench.report import Figure, Sample, Target
from bench.servers import Server, perdure_server
from perdure.core import tables as t
from perdure.model import entries as e
from perdure.model import ids
from perdure.model.invocation import Completed, Invocation, Retention, Suspended, Waiting
from perdure.model.invocation import Target as Callee
from perdure.model.services import HandlerKind
from perdure.storage.base import Batch
from perdure.storage.sqlite import SqliteStorage

POINT = Target("sql.point", "ms", "lower", 20.0)
RECENT = Target("sql.recent", "ms", "lower", 500.0)
OPEN = Target("sql.open", "ms", "lower", 500.0)
COUNTS = Target("sql.counts", "ms", "lower", 500.0)
OLDEST = Target("sql.oldest", "ms", "lower", 500.0)
SAMPLE = Target("sql.sample", "ms", "lower", 500.0)
FIRST = Target("sql.first", "ms", "lower", 2000.0)
COST = Target("sql.cost", "× without", "lower", 1.1)

REPEATS = 7
BATCH = 2_000
RETENTION_MS = 3_650 * 86_400_000
OPEN_SHARE = 1_000  # one invocation in so many is suspended
PAUSE_S = 1.0  # between the queries of a console that is open beside the load

QUERIES = {
    RECENT: "SELECT id, target, status, created_at, modified_at, completed_at, completion_result, retry_count, "
    "pinned_deployment_id, last_failure FROM sys_invocation ORDER BY modified_at DESC LIMIT 100",
    OPEN: "SELECT * FROM sys_invocation WHERE status != 'completed' ORDER BY modified_at DESC LIMIT 100",
    COUNTS: "SELECT target_service_name, status, COUNT(*) AS count FROM sys_invocation GROUP BY 1, 2",
    OLDEST: "SELECT target_service_name, target_handler_name, status, COUNT(1) AS count, MIN(created_at) AS oldest_at, "
    "FIRST_VALUE(id ORDER BY created_at ASC) AS oldest FROM sys_invocation GROUP BY 1, 2, 3",
    SAMPLE: "SELECT * FROM sys_invocation LIMIT 1000",
}


def sql(settings: Settings) -> Iterator[Figure]:
    """The time until an answer is there, of a point query, lists and counts; and the price of a console left open."""
    scaled = "" if settings.rows == ROWS else f"{settings.rows:,} invocations of {ROWS:,}"
    missing = [FIRST, POINT, *QUERIES, COST]
    try:
        with _filled(settings.rows) as work:
            for sample in _measured(work, settings):
                yield Figure(missing.pop(0), sample, scaled=scaled)
    except Exception as error:
        reason = error

        def fail() -> Sample:
            raise reason

        yield from (Figure(target, attempt(fail), scaled=scaled) for target in missing)


@contextmanager
def _filled(rows: int) -> Iterator[Path]:
    """A directory with `data` of that many invocations, made once and copied for each run."""
    kept = DATA / f"sql-{rows}.db"
    if not kept.exists():
        DATA.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".fresh")
        fresh.unlink(missing_ok=True)
        fill(fresh, rows)
        fresh.rename(kept)
    with scratch() as work:
        (work / "data").mkdir()
        shutil.copyfile(kept, work / "data" / "partition-0.db")
        yield work


def fill(path: Path, rows: int) -> None:
    """Write `rows` invocations, all but a few completed, spread over the last day."""
    store = SqliteStorage(path)
    dice = random.Random(1)
    began = time.time_ns() // 1_000_000 - 86_400_000
    for first in range(1, rows + 1, BATCH):
        batch = Batch()
        for number in range(first, min(first + BATCH, rows + 1)):
            _add(batch, number, began + number * 86_400_000 // rows, dice)
        outcome: SimpleQueue[BaseException | None] = SimpleQueue()
        store.commit(batch, outcome.put)
        if (error := outcome.get()) is not None:
            raise error
    store.close()


def _add(batch: Batch, number: int, at: int, dice: random.Random) -> None:
    id = ids.invocation_id(dice.randbytes(8), ids.ulid(at, dice.getrandbits(80)))
    open = number % OPEN_SHARE == 0
    answer = e.Failure(500, "it did not work") if number % 50 == 1 else e.Value(b'{"answer": %d}' % number)
    invocation = Invocation(
        number,
        id,
        Callee(f"Service{number % 7}", f"handler{number % 3}", HandlerKind.PLAIN),
        Suspended(at + 20, Waiting((1,), (1,))) if open else Completed(at + 50, answer),
        at,
        started_at=at + 1,
        attempts=1,
        retention=Retention(RETENTION_MS, RETENTION_MS),
    )
    key = (id[8:] + id[:8],)
    batch.group(t.INVOCATION, (number,)).rows[(number,)] = invocation
    batch.group(t.INVOCATION_ID, key).rows[key] = number
    last: e.Entry = e.Sleep(at + RETENTION_MS, 1) if open else e.Output(answer)
    for index, entry in enumerate((e.Input(b'{"question": %d}' % number), last)):
        batch.group(t.JOURNAL, (number, index)).rows[(number, index)] = (at + index * 50, entry)
    timer = (at + RETENTION_MS, number, t.TimerKind.SLEEP if open else t.TimerKind.EXPIRE, 1 if open else 0)
    batch.group(t.TIMER, timer).rows[timer] = True
    name = ("number",)
    batch.group(t.META, name).rows[name] = number


def _measured(work: Path, settings: Settings) -> Iterator[Sample]:
    with perdure_server(work) as server:
        yield Sample([_timed(server, "SELECT 1")[0]])
        (found,) = json.loads(_timed(server, "SELECT id FROM sys_invocation_status LIMIT 1")[1])["rows"]
        yield _sample(server, f"SELECT * FROM sys_invocation WHERE id = '{found['id']}'")
        for query in QUERIES.values():
            yield _sample(server, query)
        yield _cost(server, settings)


def _sample(server: Server, query: str) -> Sample:
    _timed(server, query)
    answers = [_timed(server, query) for _ in range(REPEATS)]
    return Sample([ms for ms, _ in answers], {"rows": float(len(json.loads(answers[0][1])["rows"]))})


def _timed(server: Server, query: str) -> tuple[float, bytes]:
    """Milliseconds until the whole answer is there, and the answer."""
    headers = {"content-type": "application/json", "accept": "application/json"}
    connection = HTTPConnection("127.0.0.1", server.admin, timeout=60)
    began = time.perf_counter()
    try:
        connection.request("POST", "/query", json.dumps({"query": query}), headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"{query} was answered with {response.status}: {body[:200]!r}")
    return (time.perf_counter() - began) * 1000, body


def _cost(server: Server, settings: Settings) -> Sample:
    """No-op invocations with a console open and without, in turns: how many times slower."""
    plan = replace(settings.plan, windows=1)
    ratios: list[float] = []
    times: list[float] = []
    for _ in range(settings.plan.windows):
        alone, _ = server.load(plan, NO_OP)
        with _console(server, times):
            beside, _ = server.load(plan, NO_OP)
        ratios.append(statistics.median(rates(alone)) / statistics.median(rates(beside)))
    return Sample(ratios, {"queries": float(len(times)), "query_p50_ms": statistics.median(times)})


@contextmanager
def _console(server: Server, times: list[float]) -> Iterator[None]:
    """Asks again and again what a console's overview asks, with a pause between."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            for query in (QUERIES[COUNTS], QUERIES[RECENT]):
                times.append(_timed(server, query)[0])
                if ended.wait(PAUSE_S):
                    return

    thread = threading.Thread(target=ask, name="console")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
