"""Processes of the examples: they are killed, and started again."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from perdure import SyncClient

__all__ = ["HOST", "ROOT", "DemoFailed", "Endpoint", "Process", "Server", "free_port", "request", "wait_for"]

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
START_SECONDS = 60.0


class DemoFailed(Exception):
    """The demo could not be carried out: nothing is said about the promise."""


def request(
    method: str,
    port: int,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10,
) -> tuple[int, Any]:
    """One HTTP request on loopback: the status and the JSON body. No proxy is asked, whatever the environment says."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A child process with its own log file."""

    def __init__(self, name: str, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._command = command
        # The settings that a developer has made for perdure elsewhere are not those of the demo.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        self._environment = {**inherited, **environment, "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End it at once, with a signal that it cannot catch, and everything that it may have started."""
        if self._process is None:
            return
        if sys.platform == "win32":
            self._process.kill()
        elif self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def check(self) -> None:
        """Fail if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise DemoFailed(f"{self.name} ended with code {self._process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Server(Process):
    """`perdure serve`, over one data directory and on the same ports from one life to the next."""

    def __init__(self, directory: Path, app: str | None, environment: Mapping[str, str]) -> None:
        self.ingress = free_port()
        self.admin = free_port()
        command = [sys.executable, "-m", "perdure", "serve", *([] if app is None else [app]), "--host", HOST]
        command += ["--data-dir", str(directory / "data")]
        command += ["--ingress-port", str(self.ingress), "--admin-port", str(self.admin)]
        super().__init__("perdure serve", command, directory / "server.log", environment)

    def start(self) -> None:
        super().start()
        wait_for(self, self.admin, "/health")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ingress}"

    def client(self) -> SyncClient:
        """A client that waits for the server when it is being started again."""
        return SyncClient(self.url, admin_url=f"http://{HOST}:{self.admin}", retries=60, timeout=60)

    def register(self, url: str) -> None:
        """Tell it of handlers in another process."""
        status, answer = request("POST", self.admin, "/deployments", {"uri": url}, timeout=60)
        if status not in (200, 201):
            raise DemoFailed(f"{url} could not be registered: {answer}\n{self.tail()}")


class Endpoint(Process):
    """Handlers in a process of their own, which the server calls."""

    def __init__(self, directory: Path, app: str, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "granian", "--interface", "asgi", "--http", "auto", "--host", HOST]
        command += ["--port", str(self.port), app]
        super().__init__("the endpoint", command, directory / "endpoint.log", environment)

    def start(self) -> None:
        super().start()
        wait_for(self, self.port, "/health")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def wait_for(process: Process, port: int, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        process.check()
        try:
            status, _ = request("GET", port, path, timeout=2)
        except (OSError, http.client.HTTPException):
            status = 0
        if status == 200:
            return
        time.sleep(0.02)
    raise DemoFailed(f"{process.name} did not answer within {START_SECONDS:g} seconds:\n{process.tail()}")
