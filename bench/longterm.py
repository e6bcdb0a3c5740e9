"""The figures of age: many suspended invocations, many completed ones, and how quickly a process is there and how idle
it stays.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.figures import NO_OP, Settings, attempt, failure, in_engine, scratch, step_rates
from bench.load import Request
from bench.processes import BenchError, free_port, http, python_job, running
from bench.report import Figure, Sample, Target
from bench.servers import Server, perdure_command, perdure_server
from bench.workload import AWAKEABLES_ENV, CONCURRENCY

SUSPENDED = 100_000
WOKEN = 1_000
ROWS = 1_000_000

SUSPENDED_RSS = Target("suspended.rss", "MB more", "lower", 60.0)
SUSPENDED_RESTART = Target("suspended.restart", "s", "lower", 3.0)
SUSPENDED_WAKE = Target("suspended.wake", "s", "lower", 1.0)
ROWS_COST = Target("rows.cost", "× empty", "lower", 1.2)
STARTUP_IMPORT = Target("startup.import", "s", "lower", 0.25)
STARTUP_READY = Target("startup.ready", "s", "lower", 1.5)
STARTUP_IDLE = Target("startup.idle", "% of a core", "lower", 1.0)

SEND_TIMEOUT_S = 900.0
WAKE_TIMEOUT_S = 120.0
POPULATE_TIMEOUT_S = 3600.0
LEAST_BYTES_PER_ROW = 50
NOT_READY = 470  # the ingress's status for the output of an invocation that has not ended
FRESH_PROCESSES = 11
FRESH_SERVERS = 5
SETTLE_S = 2.0
IMPORT = """
import time
began = time.perf_counter()
import perdure
imported = time.perf_counter()
perdure.App, perdure.Engine, perdure.Service
print(imported - began, time.perf_counter() - began)
"""


def suspended(settings: Settings) -> Iterator[Figure]:
    """Memory of suspended invocations, the restart after kill -9 with all of them, and waking some of them then."""
    whole = settings.suspended == SUSPENDED
    scaled = "" if whole else f"{settings.suspended:,} suspended of {SUSPENDED:,}, {settings.woken:,} of them woken"
    missing = [SUSPENDED_RSS, SUSPENDED_RESTART, SUSPENDED_WAKE]
    try:
        for sample in _suspend_restart_wake(settings):
            yield Figure(missing.pop(0), sample, scaled=scaled)
    except Exception as error:
        yield from (Figure(target, failure(error), scaled=scaled) for target in missing)


def _suspend_restart_wake(settings: Settings) -> Iterator[Sample]:
    """The three samples in the order of their targets; each is taken once, its set-up is too long to repeat."""
    with scratch() as work:
        awakeables = work / "awakeables"
        env = {AWAKEABLES_ENV: str(awakeables)}
        with perdure_server(work, env) as server:
            (child,) = server.children
            server.chains([NO_OP], 1, SEND_TIMEOUT_S)
            child.wait_quiet()
            idle_mb = child.rss_mb()
            seconds, invocations = _send_sleepers(server, settings)
            child.wait_quiet(SEND_TIMEOUT_S)
            _check_suspended(server, invocations)
            rate = settings.suspended / seconds
            yield Sample([child.rss_mb() - idle_mb], {"idle_mb": idle_mb, "sends_per_s": rate})
        # Leaving the block was kill -9.
        ingress, admin = free_port(), free_port()
        with running(perdure_command(work / "data", ingress, admin), work / "restarted.log", env) as child:
            restart_s = child.wait_ready(ingress, "POST", NO_OP[0].path, 1)
            child.wait_quiet()
            yield Sample([restart_s], {"rss_mb": child.rss_mb()})
            yield _wake(Server(ingress, admin, (child,)), invocations, awakeables, settings.woken)


def _send_sleepers(server: Server, settings: Settings) -> tuple[float, list[str]]:
    """Send all sleepers, those that wait for an awakeable first: wall seconds, invocation ids in the order sent."""
    waits = [[Request("/Sleeper/wait/send", str(number))] for number in range(settings.woken)]
    naps = [[Request("/Sleeper/nap/send", "30")]] * (settings.suspended - settings.woken)
    seconds, bodies = server.chains(waits + naps, CONCURRENCY, SEND_TIMEOUT_S)
    return seconds, [json.loads(body)["invocationId"] for body in bodies]


def _check_suspended(server: Server, invocations: list[str]) -> None:
    """Look at some: none may have ended, or the memory measured would be that of nothing."""
    for invocation in invocations[:: max(1, len(invocations) // 20)]:
        status, body = http(server.ingress, "GET", f"/restate/invocation/{invocation}/output")
        if status != NOT_READY:
            raise BenchError(f"an invocation that should be suspended answered {status}: {body[:200]!r}")


def _wake(server: Server, invocations: list[str], awakeables: Path, expected: int) -> Sample:
    """Resolve every awakeable and fetch its invocation's result, 64 at a time; it must be the value resolved with."""
    published = [line.split() for line in awakeables.read_text().splitlines()]
    ids = {int(number): awakeable for number, awakeable in published}
    if len(ids) != expected:
        raise BenchError(f"{len(ids)} invocations of {expected} have published their awakeable")
    chains = [
        [
            Request(f"/restate/awakeables/{awakeable}/resolve", json.dumps(f"value {number}")),
            Request(f"/restate/invocation/{invocations[number]}/attach", expect=json.dumps(f"value {number}")),
        ]
        for number, awakeable in ids.items()
    ]
    seconds, _ = server.chains(chains, CONCURRENCY, WAKE_TIMEOUT_S)
    return Sample([seconds], {"woken": float(expected)})


def rows(settings: Settings) -> Iterator[Figure]:
    """The cost of a step in a file with many completed invocations, as a multiple of its cost in an empty one."""
    scaled = "" if settings.rows == ROWS else f"{settings.rows:,} completed invocations of {ROWS:,}"
    yield Figure(ROWS_COST, attempt(lambda: _cost(settings)), scaled=scaled)


def _cost(settings: Settings) -> Sample:
    """Runs on the empty and on the full file take turns, so that a slow minute of the machine falls on both."""
    plan = replace(settings.plan, windows=1)
    with scratch() as work:
        path = work / "full.db"
        job = {"path": str(path), "rows": settings.rows}
        seconds = python_job("bench.embedded", job, POPULATE_TIMEOUT_S)["seconds"]
        size = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
        if size < LEAST_BYTES_PER_ROW * settings.rows:
            raise BenchError(
                f"{settings.rows:,} completed invocations left only {size:,} bytes: they were not retained"
            )
        turns = range(settings.plan.windows)
        pairs = [(in_engine(plan, step_rates), in_engine(plan, step_rates, path)) for _ in turns]
    return Sample(
        [empty.value / full.value for empty, full in pairs],
        {
            "empty_steps_per_s": statistics.median(empty.value for empty, _ in pairs),
            "full_steps_per_s": statistics.median(full.value for _, full in pairs),
            "cpu_ratio": statistics.median(
                full.details["cpu_us_per_step"] / empty.details["cpu_us_per_step"] for empty, full in pairs
            ),
            "populated_per_s": settings.rows / seconds,
            "bytes_per_row": size / settings.rows,
        },
    )


def startup(settings: Settings) -> Iterator[Figure]:
    """Import time, time to a healthy server, and what an idle one uses."""
    yield Figure(STARTUP_IMPORT, attempt(_import))
    yield Figure(STARTUP_READY, attempt(_ready))
    scaled = "" if settings.idle_s >= 10 else f"looked at for {settings.idle_s:.0f} s instead of 10"
    yield Figure(STARTUP_IDLE, attempt(lambda: _idle(settings.idle_s)), scaled=scaled)


def _import() -> Sample:
    """Seconds of the import statement in fresh interpreters; the first, which may compile, is not counted.

    The detail is the median until the main names have been touched, too: they might be loaded lazily.
    """
    times: list[tuple[float, float]] = []
    for _ in range(FRESH_PROCESSES):
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(done.stderr.strip().splitlines()[-1])
        imported, touched = done.stdout.split()
        times.append((float(imported), float(touched)))
    counted = times[1:]
    touched_s = statistics.median(touched for _, touched in counted)
    return Sample([imported for imported, _ in counted], {"names_touched_s": touched_s})


def _ready() -> Sample:
    """Seconds from the start of `perdure serve` on a new directory to 200 from its admin API's `/health`."""
    times = []
    for _ in range(FRESH_SERVERS):
        ingress, admin = free_port(), free_port()
        with scratch() as work, running(perdure_command(work / "data", ingress, admin), work / "perdure.log") as child:
            times.append(child.wait_ready(admin, "GET", "/health"))
    return Sample(times)


def _idle(seconds: float) -> Sample:
    """Per cent of one core that a server uses after its first request, when nothing more comes."""
    with scratch() as work, perdure_server(work) as server:
        (child,) = server.children
        server.chains([NO_OP], 1, SEND_TIMEOUT_S)
        time.sleep(SETTLE_S)
        before, began = child.cpu_s(), time.perf_counter()
        time.sleep(seconds)
        return Sample([(child.cpu_s() - before) / (time.perf_counter() - began) * 100], {"rss_mb": child.rss_mb()})
