"""The servers under test, each behind the same two ports and the same REST API."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.conformance.install import restate_server
from tests.conformance.processes import Child, ask_if_up
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent


class Server(ABC):
    """A server on fixed ports over one data directory: it can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ingress, self.admin, self.node = free_port(), free_port(), free_port()
        self._child: Child | None = None

    @abstractmethod
    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """What to run, and what to add to its environment."""

    def start(self) -> None:
        command, env = self._command()
        self._child = Child(command, self.directory / "server.log", env, ROOT)
        self._child.wait_until(self._is_healthy)

    def _is_healthy(self) -> bool:
        return all(
            ask_if_up(port, "GET", path).status == 200
            for port, path in ((self.admin, "/health"), (self.ingress, "/restate/health"))
        )

    def kill(self) -> None:
        """SIGKILL: what it has promised must be on disk."""
        if self._child is not None:
            self._child.kill()


class RestateServer(Server):
    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        env = {
            "RESTATE_BASE_DIR": str(self.directory / "data"),
            "RESTATE_NODE_NAME": "conformance",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{self.node}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{self.ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{self.admin}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "warn",
            "RESTATE_DEFAULT_NUM_PARTITIONS": "4",
            "RESTATE_ROCKSDB_TOTAL_MEMORY_SIZE": "256 MB",
            # Low enough for a test to exceed it: then endpoints get a part of the state and ask for the rest.
            "RESTATE_WORKER__INVOKER__EAGER_STATE_SIZE_LIMIT": "1 MiB",
        }
        return [restate_server(), "--no-logo"], env


class PerdureServer(Server):
    """`version`, if given, is the newest version of the service protocol that it speaks."""

    def __init__(self, directory: Path, version: int | None = None) -> None:
        super().__init__(directory)
        self._version = version

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        command: list[str | Path] = [sys.executable, "-m", "perdure", "serve", "--data-dir", self.directory / "data"]
        ports = ["--ingress-port", str(self.ingress), "--admin-port", str(self.admin)]
        env = {} if self._version is None else {"PERDURE_PROTOCOL_VERSION": str(self._version)}
        return [*command, *ports, "--host", "127.0.0.1"], env


SERVERS: dict[str, Callable[[Path], Server]] = {
    "restate": RestateServer,
    "perdure": PerdureServer,
    "perdure-v5": partial(PerdureServer, version=5),
    "perdure-v7": partial(PerdureServer, version=7),
}
VERSIONED = {"perdure-v5": 5, "perdure-v7": 7}  # the newest version each speaks, other than by default
