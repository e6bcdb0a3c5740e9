"""The two processes of the demo: the model, which lives, and perdure's server, which is killed."""

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
from typing import Any

ROOT = Path(__file__).parents[2]
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


class Model(Process):
    """The loopback provider. It outlives every kill, and counts."""

    def __init__(self, directory: Path, latency: tuple[float, float], faults: list[dict[str, object]]) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "perdure.testing.openai_server", "--port", str(self.port)]
        command += ["--policy", "examples.research_agent.policy:researcher"]
        command += ["--latency", *(str(seconds) for seconds in latency)]
        for fault in faults:
            command += ["--fault", json.dumps(fault)]
        super().__init__("the model", command, directory / "model.log", {})

    @property
    def environment(self) -> dict[str, str]:
        """What the `openai` client needs to find it, and to find it without a proxy."""
        return {
            "OPENAI_BASE_URL": f"http://{HOST}:{self.port}/v1",
            "OPENAI_API_KEY": "loopback",
            "NO_PROXY": HOST,
            "no_proxy": HOST,
        }

    def start(self) -> None:
        super().start()
        _wait_for(self, self.port, "/v1/models")

    def report(self) -> dict[str, Any]:
        """What it has seen."""
        _, report = request("GET", self.port, "/_requests")
        assert isinstance(report, dict)
        return report


class Server(Process):
    """`perdure serve` with the agent in it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.ingress = free_port()
        self.admin = free_port()
        command = [sys.executable, "-m", "perdure"]
        command += ["serve", "examples.research_agent.agent:app", "--data-dir", str(directory / "data"), "--host", HOST]
        command += ["--ingress-port", str(self.ingress), "--admin-port", str(self.admin)]
        super().__init__("perdure serve", command, directory / "server.log", environment)

    def start(self) -> None:
        super().start()
        _wait_for(self, self.admin, "/health")

    def send(self, topic: Mapping[str, object], key: str) -> str:
        """Start the agent and return the id of its invocation."""
        path = "/ResearchAgent/research/send"
        status, answer = request("POST", self.ingress, path, topic, {"idempotency-key": key})
        if status not in (200, 202):
            raise DemoFailed(f"{path} answered {status}: {answer}")
        return str(answer["invocationId"])

    def finished(self, invocation: str) -> bool:
        """Whether the agent has ended, well or not."""
        status, _ = request("GET", self.ingress, f"/restate/invocation/{invocation}/output")
        return status != 470

    def attach(self, invocation: str) -> dict[str, Any]:
        """Wait for the agent's report."""
        status, answer = request("GET", self.ingress, f"/restate/invocation/{invocation}/attach", timeout=60)
        if status != 200:
            raise DemoFailed(f"the agent failed with {status}: {answer}\n{self.tail()}")
        assert isinstance(answer, dict)
        return answer


def _wait_for(process: Process, port: int, path: str) -> None:
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
