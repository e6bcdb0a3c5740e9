"""Handlers in another process, written with Restate's own SDKs: perdure and restate-server in turns, the same endpoint.

Both servers run at once over one endpoint process, and windows of load alternate between them, so whatever the machine
does meanwhile it does to both. Every figure is a ratio of medians, perdure's over restate-server's.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.figures import NO_OP, TEN_STEPS, Settings, failure, scratch
from bench.load import Request
from bench.peers.install import peers_python, restate_server, typescript_app
from bench.processes import BenchError, Child, free_port, http, running
from bench.report import Figure, Sample, Target
from bench.servers import Server, perdure_command, restate_env
from bench.windows import Plan

Endpoint = Callable[[Path], AbstractContextManager[int]]

ROUNDS = 5


@contextmanager
def python_endpoint(work: Path) -> Iterator[int]:
    """The Python SDK under hypercorn on uvloop; its port."""
    port = free_port()
    config = work / "hypercorn.toml"
    config.write_text(f'bind = ["127.0.0.1:{port}"]\nworker_class = "uvloop"\nkeep_alive_max_requests = 1000000000\n')
    command: list[str | Path] = [peers_python(), "-m", "hypercorn", "--config", config, "bench.peers.restate_app:app"]
    with running(command, work / "hypercorn.log") as child:
        child.wait_listening(port)
        yield port


@contextmanager
def typescript_endpoint(work: Path) -> Iterator[int]:
    """The TypeScript SDK on its own HTTP/2 server; its port."""
    port = free_port()
    with running(["node", typescript_app()], work / "node.log", {"PORT": str(port)}) as child:
        child.wait_listening(port)
        yield port


def _ready(child: Child, ingress: int, admin: int, endpoint: int) -> Server:
    child.wait_ready(admin, "GET", "/health")
    status, body = http(admin, "POST", "/deployments", {"uri": f"http://127.0.0.1:{endpoint}"})
    if status not in (200, 201):
        raise BenchError(f"{child.name} refused the deployment with {status}: {body[:200]!r}")
    child.wait_ready(ingress, "POST", "/Noop/echo", 1)
    return Server(ingress, admin, (child,))


@contextmanager
def both(work: Path, endpoint: int) -> Iterator[tuple[Server, Server]]:
    """perdure and restate-server, ready, with the same endpoint registered."""
    with ExitStack() as stack:
        ingress, admin, node = free_port(), free_port(), free_port()
        command = perdure_command(work / "data", ingress, admin, None)
        ours = _ready(stack.enter_context(running(command, work / "perdure.log")), ingress, admin, endpoint)
        ingress, admin = free_port(), free_port()
        env = restate_env(work / "restate", ingress, admin, node)
        peer = stack.enter_context(running([restate_server(), "--no-logo"], work / "restate.log", env))
        yield ours, _ready(peer, ingress, admin, endpoint)


class Turns:
    """What both servers did in windows that took turns: rates (1/s), median latencies (ms), CPU (µs) per operation."""

    def __init__(self, servers: tuple[Server, Server], plan: Plan, requests: list[Request]) -> None:
        self.rates: tuple[list[float], list[float]] = ([], [])
        self.p50s: tuple[list[float], list[float]] = ([], [])
        self.cpus: tuple[list[float], list[float]] = ([], [])
        one = replace(plan, windows=1, warmup_s=plan.warmup_s / 3)
        for _ in range(min(ROUNDS, plan.windows)):
            for index, server in enumerate(servers):
                loop, cpu_us = server.load(one, requests)
                self.rates[index].append(loop.windows[0].rate)
                self.p50s[index].append(loop.windows[0].p50_ms)
                self.cpus[index].append(cpu_us)


def _ratio(values: tuple[list[float], list[float]], unit: str) -> Sample:
    ours, theirs = values
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Sample(ratios, {f"perdure_{unit}": statistics.median(ours), f"restate_{unit}": statistics.median(theirs)})


def _figures(settings: Settings, name: str, endpoint: Endpoint, throughput: float) -> Iterator[Figure]:
    targets = {
        "noop": Target(f"{name}.noop", "× Restate", "higher", throughput),
        "noop_cpu": Target(f"{name}.noop.cpu", "× Restate", "lower", 1.0),
        "steps": Target(f"{name}.steps", "× Restate", "higher", throughput),
        "steps_cpu": Target(f"{name}.steps.cpu", "× Restate", "lower", 0.5),
        "alone": Target(f"{name}.alone", "× Restate", "lower", 1.0),
    }
    try:
        with scratch() as work, endpoint(work) as port, both(work, port) as servers:
            turns = Turns(servers, settings.plan, NO_OP)
            yield Figure(targets["noop"], _ratio(turns.rates, "per_s"))
            yield Figure(targets["noop_cpu"], _ratio(turns.cpus, "us"))
            turns = Turns(servers, replace(settings.plan, concurrency=32), TEN_STEPS)
            yield Figure(targets["steps"], _ratio(turns.rates, "per_s"))
            yield Figure(targets["steps_cpu"], _ratio(turns.cpus, "us"))
            turns = Turns(servers, settings.alone, TEN_STEPS)
            yield Figure(targets["alone"], _ratio(turns.p50s, "ms"))
    except Exception as error:
        yield Figure(targets["noop"], failure(error))


def remote(settings: Settings) -> Iterator[Figure]:
    """No-op at 64 and ten steps at 32 at a time, and ten steps alone, with the Python and the TypeScript SDK."""
    if settings.with_peers:
        yield from _figures(settings, "python", python_endpoint, 1.3)
        yield from _figures(settings, "typescript", typescript_endpoint, 1.0)
