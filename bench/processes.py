"""Child processes: start, wait until ready, look at their memory and CPU, and leave none behind."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 10.0
POLL_S = 0.005


class BenchError(Exception):
    """A measurement that could not be made; the message says why and goes into the report."""


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def http(port: int, method: str, path: str, body: object = None, timeout_s: float = 30.0) -> tuple[int, bytes]:
    """One request to a loopback server, JSON body if there is one: status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {} if payload is None else {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Child:
    """A server under measurement, with the processes it starts; its output is kept for the message when it fails."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = Path(command[0]).name
        self.log = log
        self.began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        with log.open("ab") as output:
            self._popen = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=ROOT)

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants."""
        process = psutil.Process(self._popen.pid)
        return [process, *process.children(recursive=True)]

    def rss_mb(self) -> float:
        """Resident memory of the tree, in units of 10^6 bytes."""
        return sum(process.memory_info().rss for process in self.tree()) / 1e6

    def cpu_s(self) -> float:
        """User and system CPU seconds that the tree has used since it started."""
        times = [process.cpu_times() for process in self.tree()]
        return sum(time.user + time.system for time in times)

    def wait_ready(self, port: int, method: str, path: str, body: object = None) -> float:
        """Ask until the answer is 200; seconds since the process was started."""
        return self._wait(lambda: http(port, method, path, body)[0] == 200, f"{method} {path}")

    def wait_listening(self, port: int) -> float:
        """Connect until somebody listens; seconds since the process was started."""

        def connects() -> bool:
            with socket.create_connection(("127.0.0.1", port), 1.0):
                return True

        return self._wait(connects, f"port {port}")

    def _wait(self, ready: Callable[[], bool], what: str) -> float:
        while time.perf_counter() - self.began < READY_TIMEOUT_S:
            if self._popen.poll() is not None:
                raise BenchError(f"{self.name} exited with status {self._popen.returncode}: {self.tail()}")
            try:
                if ready():
                    return time.perf_counter() - self.began
            except (OSError, HTTPException):
                pass
            time.sleep(POLL_S)
        raise BenchError(f"{self.name}: {what} not ready within {READY_TIMEOUT_S:.0f} s: {self.tail()}")

    def wait_quiet(self, timeout_s: float = 300.0, window_s: float = 0.5, share: float = 0.03) -> None:
        """Return when the tree has used less than `share` of a core in three windows running."""
        deadline, quiet = time.perf_counter() + timeout_s, 0
        while quiet < 3:
            if time.perf_counter() > deadline:
                raise BenchError(f"{self.name} is still busy after {timeout_s:.0f} s")
            before = self.cpu_s()
            time.sleep(window_s)
            quiet = quiet + 1 if self.cpu_s() - before < share * window_s else 0

    def tail(self) -> str:
        """The last line of its output: the exception, where there was one."""
        lines = self.log.read_text(errors="replace").splitlines()
        return next((line.strip()[-600:] for line in reversed(lines) if line.strip()), "(no output)")

    def kill(self) -> None:
        """SIGKILL to the whole tree: what it has promised must be on disk, and peers' data is thrown away."""
        try:
            doomed = self.tree()
        except psutil.NoSuchProcess:
            doomed = []
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._popen.wait(KILL_TIMEOUT_S)
        psutil.wait_procs(doomed, timeout=KILL_TIMEOUT_S)


@contextmanager
def running(command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A child for the length of a block."""
    child = Child(command, log, env)
    try:
        yield child
    finally:
        child.kill()


def python_job(module: str, job: object, timeout_s: float, python: Path = Path(sys.executable)) -> dict[str, Any]:
    """Run `python -m module` with `job` as JSON on stdin; the JSON it prints."""
    process = subprocess.Popen(
        [python, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        output, errors = process.communicate(json.dumps(job), timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{module} did not end within {timeout_s:.0f} s") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        last = errors.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise BenchError(f"{module}: {last[0][-600:]}")
    answer: dict[str, Any] = json.loads(output)
    return answer
