"""The two servers under load, `perdure serve` and restate-server, with the same services behind the same paths."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.load import Listed, Request, Timed
from bench.peers.install import peers_python, restate_server
from bench.processes import BenchError, Child, free_port, http, python_job, running
from bench.windows import Loop, Plan, Window

JOB_MARGIN_S = 120.0


@dataclass(frozen=True)
class Server:
    """A ready server. `children` are all processes that do its work: their CPU is the server's."""

    ingress: int
    admin: int
    children: tuple[Child, ...]

    def load(self, plan: Plan, requests: list[Request], counting: bool = False) -> tuple[Loop, float]:
        """A closed loop of requests from a process of its own; and the server's CPU microseconds per request."""
        before = self._cpu_s()
        job = asdict(Timed(self.ingress, plan, requests, counting))
        loop = read_loop(python_job("bench.load", job, plan.warmup_s + plan.windows * plan.window_s + JOB_MARGIN_S))
        return loop, (self._cpu_s() - before) / loop.operations * 1e6

    def chains(self, chains: list[list[Request]], concurrency: int, timeout_s: float) -> tuple[float, list[str]]:
        """Every chain of requests once: wall seconds, and the last body of each."""
        answer = python_job("bench.load", asdict(Listed(self.ingress, concurrency, chains)), timeout_s)
        return answer["seconds"], answer["bodies"]

    def _cpu_s(self) -> float:
        return sum(child.cpu_s() for child in self.children)


def read_loop(answer: Mapping[str, Any]) -> Loop:
    """A `Loop` that came through a pipe."""
    return Loop([Window(**window) for window in answer["windows"]], answer["operations"])


def perdure_command(data: Path, ingress: int, admin: int, app: str | None = "bench.services:app") -> list[str | Path]:
    """`perdure serve` from the environment that runs the benchmark, with handlers in process or without."""
    program = shutil.which("perdure", path=str(Path(sys.executable).parent)) or "perdure"
    listen = ("--host", "127.0.0.1", "--ingress-port", str(ingress), "--admin-port", str(admin))
    return [program, "serve", *([] if app is None else [app]), "--data-dir", data, *listen]


def restate_env(data: Path, ingress: int, admin: int, node: int) -> dict[str, str]:
    """restate-server's settings: its defaults (it syncs its log to disk) but for where it listens and stores."""
    return {
        "RESTATE_BASE_DIR": str(data),
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "warn",
    }


@contextmanager
def perdure_server(work: Path, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`perdure serve` on `work/data` (made, or taken as it is), ready when its admin API says so."""
    ingress, admin = free_port(), free_port()
    with running(perdure_command(work / "data", ingress, admin), work / "perdure.log", env) as child:
        child.wait_ready(admin, "GET", "/health")
        yield Server(ingress, admin, (child,))


@contextmanager
def restate(work: Path) -> Iterator[Server]:
    """restate-server, and one process of its Python SDK under hypercorn on uvloop."""
    binary, python = restate_server(), peers_python()
    ingress, admin, node, endpoint = (free_port() for _ in range(4))
    env = restate_env(work / "restate", ingress, admin, node)
    config = work / "hypercorn.toml"
    # hypercorn closes an HTTP/2 connection after 1,000 requests; without that the peer is a little faster.
    config.write_text(
        f'bind = ["127.0.0.1:{endpoint}"]\nworker_class = "uvloop"\nkeep_alive_max_requests = 1000000000\n'
    )
    hypercorn: list[str | Path] = [python, "-m", "hypercorn", "--config", config, "bench.peers.restate_app:app"]
    with ExitStack() as stack:
        server = stack.enter_context(running([binary, "--no-logo"], work / "restate.log", env))
        sdk = stack.enter_context(running(hypercorn, work / "hypercorn.log"))
        sdk.wait_listening(endpoint)
        server.wait_ready(admin, "GET", "/health")
        status, body = http(admin, "POST", "/deployments", {"uri": f"http://127.0.0.1:{endpoint}"})
        if status not in (200, 201):
            raise BenchError(f"restate-server refused the deployment with {status}: {body[:200]!r}")
        server.wait_ready(ingress, "POST", "/Noop/echo", 1)  # healthy is not yet ready: partitions come later
        yield Server(ingress, admin, (server, sdk))
