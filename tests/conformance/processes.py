"""Child processes that are always ended, and one way to ask them over HTTP/1.1."""

import atexit
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_TIMEOUT_S = 40.0
KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """A response, or `status` 0 if there was none."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


NO_ANSWER = Answer(0, {}, b"")


class Nothing:
    """The absence of a body, which is not the JSON value null."""


NOTHING = Nothing()


def ask(
    port: int,
    method: str,
    path: str,
    body: object = NOTHING,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Answer:
    """One request: bytes are sent as they are, other bodies as JSON."""
    fields = dict(headers or {})
    payload: bytes | None = None
    if isinstance(body, bytes):
        payload = body
    elif not isinstance(body, Nothing):
        payload = json.dumps(body).encode()
        fields.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, payload, fields)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def ask_if_up(
    port: int, method: str, path: str, body: object = NOTHING, headers: Mapping[str, str] | None = None
) -> Answer:
    """As `ask`, but of a server that may be down: then there is no answer."""
    try:
        return ask(port, method, path, body, headers)
    except (OSError, http.client.HTTPException):
        return NO_ANSWER


def until(true: Callable[[], bool], what: str, timeout_s: float = 20.0, poll_s: float = 0.02) -> None:
    """Wait until it is true; what did not become so is said in the failure."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(poll_s)


class Child:
    """A process in a group of its own, so that nothing that it starts outlives it."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **env},
                cwd=cwd,
                start_new_session=True,
            )
        atexit.register(self.kill)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            assert self._popen.poll() is None, f"ended with {self._popen.returncode}: {self.tail()}"
            assert time.monotonic() < deadline, f"not ready: {self.tail()}"
            time.sleep(0.02)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        """SIGKILL to the group. The leader is not reaped before, so its number cannot be another's by now."""
        if self._popen.returncode is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait(KILL_TIMEOUT_S)
        atexit.unregister(self.kill)
