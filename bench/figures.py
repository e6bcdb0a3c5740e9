"""The figures: what each one does to perdure and, where there is one, to a peer.

A group is what `--only` names: figures that share a set-up. Each yields its figures as soon as they are measured.
Anything that goes wrong becomes a `Failure` in the place of the sample, so that one broken figure or absent peer never
costs the others.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.load import Request
from bench.peers.install import CACHE, PeerUnavailable, peers_python
from bench.processes import BenchError, python_job
from bench.report import Failure, Figure, Sample, Target
from bench.servers import JOB_MARGIN_S, Server, perdure_server, read_loop, restate
from bench.windows import Loop, Plan
from bench.workload import KEYS, STEPS

DATA = CACHE / "data"

STEPS_ENGINE = Target("steps.engine", "steps/s", "higher", 20_000)
STEPS_HTTP = Target("steps.http", "steps/s", "higher", 12_000)
ALONE_ENGINE = Target("alone.engine", "ms", "lower", 5.0)
ALONE_HTTP = Target("alone.http", "ms", "lower", 5.0)
NOOP_HTTP = Target("noop.http", "invocations/s", "higher", 5_000)
OBJECTS_HTTP = Target("objects.http", "invocations/s", "higher", 4_000)

TEN_STEPS = [Request("/Steps/run", str(STEPS), str(STEPS))]
NO_OP = [Request("/Noop/echo", "1", "1")]
COUNTERS = [Request(f"/Counter/key-{key}/add", "1") for key in range(KEYS)]

Pick = Callable[[Loop], list[float]]
Opened = Callable[[Path], AbstractContextManager[Server]]


@dataclass(frozen=True)
class Settings:
    """What the command line decides. `plan` is a full-size look at 64 operations at a time."""

    plan: Plan
    rows: int
    suspended: int
    woken: int
    idle_s: float
    with_peers: bool

    @property
    def alone(self) -> Plan:
        """The same look at one operation at a time."""
        return replace(self.plan, concurrency=1)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one measurement's data; not the system's temporary one, as a tmpfs syncs for nothing."""
    DATA.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=DATA))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def attempt(measure: Callable[[], Sample]) -> Sample | Failure:
    """A sample, or why there is none."""
    try:
        return measure()
    except Exception as error:
        return failure(error)


def failure(error: Exception) -> Failure:
    """The reason in the report; what the benchmark did not foresee is named by its type."""
    foreseen = isinstance(error, BenchError | PeerUnavailable)
    return Failure(str(error) if foreseen else f"{type(error).__name__}: {error}")


def step_rates(loop: Loop) -> list[float]:
    """Steps per second of each window."""
    return [window.rate * STEPS for window in loop.windows]


def rates(loop: Loop) -> list[float]:
    """Operations per second of each window."""
    return [window.rate for window in loop.windows]


def medians_ms(loop: Loop) -> list[float]:
    """Median latency of each window, milliseconds."""
    return [window.p50_ms for window in loop.windows]


def latencies(loop: Loop) -> dict[str, float]:
    """The details that every loop has: medians over windows would hide a slow one, so the worst is given."""
    return {
        "p50_ms": max(window.p50_ms for window in loop.windows),
        "p99_ms": max(window.p99_ms for window in loop.windows),
    }


def over_http(opened: Opened, plan: Plan, requests: list[Request], pick: Pick, counting: bool = False) -> Sample:
    """A closed loop against a server started for it."""
    with scratch() as work, opened(work) as server:
        loop, cpu_us = server.load(plan, requests, counting)
    generator = max(window.cpu for window in loop.windows)
    return Sample(pick(loop), latencies(loop) | {"server_cpu_us": cpu_us, "generator_cores": generator})


def in_engine(plan: Plan, pick: Pick, path: Path | None = None) -> Sample:
    """A closed loop of ten-step invocations through `perdure.Engine`, on a new file or on the one given."""
    with scratch() as work:
        job = {"path": str(path or work / "bench.db"), "plan": asdict(plan)}
        loop = read_loop(python_job("bench.embedded", job, _timeout_s(plan)))
    cpu_us = max(window.cpu / window.rate / STEPS * 1e6 for window in loop.windows)
    return Sample(pick(loop), latencies(loop) | {"cpu_us_per_step": cpu_us})


def in_dbos(plan: Plan, pick: Pick) -> Sample:
    """The same loop as a DBOS workflow."""
    with scratch() as work:
        job = {"directory": str(work), "plan": asdict(plan)}
        loop = read_loop(python_job("bench.peers.dbos_app", job, _timeout_s(plan), peers_python()))
    return Sample(pick(loop), latencies(loop))


def _timeout_s(plan: Plan) -> float:
    return plan.warmup_s + plan.windows * plan.window_s + JOB_MARGIN_S


def step_peers(settings: Settings, plan: Plan, pick: Pick) -> dict[str, Sample | Failure]:
    """Both peers on ten-step invocations: restate-server through its ingress, DBOS in its process."""
    if not settings.with_peers:
        return {}
    return {
        "restate": attempt(lambda: over_http(restate, plan, TEN_STEPS, pick)),
        "dbos": attempt(lambda: in_dbos(plan, pick)),
    }


def restate_peer(settings: Settings, requests: list[Request], counting: bool = False) -> dict[str, Sample | Failure]:
    """restate-server alone, on a load that only a server can have."""
    if not settings.with_peers:
        return {}
    return {"restate": attempt(lambda: over_http(restate, settings.plan, requests, rates, counting))}


def steps(settings: Settings) -> Iterator[Figure]:
    """Ten steps, one after the other, 64 invocations at a time."""
    peers = step_peers(settings, settings.plan, step_rates)
    engine = attempt(lambda: in_engine(settings.plan, step_rates))
    yield Figure(STEPS_ENGINE, engine, peers)
    http = attempt(lambda: over_http(perdure_server, settings.plan, TEN_STEPS, step_rates))
    yield Figure(STEPS_HTTP, http, peers)


def alone(settings: Settings) -> Iterator[Figure]:
    """The same invocation with nothing beside it: median latency."""
    peers = step_peers(settings, settings.alone, medians_ms)
    engine = attempt(lambda: in_engine(settings.alone, medians_ms))
    yield Figure(ALONE_ENGINE, engine, peers)
    http = attempt(lambda: over_http(perdure_server, settings.alone, TEN_STEPS, medians_ms))
    yield Figure(ALONE_HTTP, http, peers)


def noop(settings: Settings) -> Iterator[Figure]:
    """A handler that only returns, 64 at a time through the ingress."""
    peers = restate_peer(settings, NO_OP)
    http = attempt(lambda: over_http(perdure_server, settings.plan, NO_OP, rates))
    yield Figure(NOOP_HTTP, http, peers)


def objects(settings: Settings) -> Iterator[Figure]:
    """A virtual object's get and set, 1,000 keys picked at random, 64 at a time; every counter is checked."""
    peers = restate_peer(settings, COUNTERS, counting=True)
    http = attempt(lambda: over_http(perdure_server, settings.plan, COUNTERS, rates, counting=True))
    yield Figure(OBJECTS_HTTP, http, peers)
