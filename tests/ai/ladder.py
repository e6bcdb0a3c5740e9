"""Rung 3: a real `perdure serve`, killed with SIGKILL at every journal position in turn, and a counting provider."""

import collections
import http.client
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tests.ports import free_ports

__all__ = ["climb"]

ROOT = pathlib.Path(__file__).parent.parent.parent
PATIENCE = 60.0  # seconds for a start, or for an answer
UNREACHED = 10**9  # a position that no journal has


class Seen(Protocol):
    key: str | None


class Provider(Protocol):
    """What counts: the loopback servers of `perdure.testing`."""

    @property
    def requests(self) -> "list[Any]": ...


class Served:
    """One `perdure serve` over one data directory, started again after each kill."""

    def __init__(self, directory: pathlib.Path, app: str, environment: Mapping[str, str]) -> None:
        self.ledger = directory / "ledger"
        self.order = directory / "kill-at"
        self.log = directory / "server.log"
        self.ingress, self.admin = free_ports(2)
        self.command = [sys.executable, "-m", "perdure", "serve", app, "--data-dir", str(directory / "data")]
        self.command += ["--host", "127.0.0.1", "--ingress-port", str(self.ingress), "--admin-port", str(self.admin)]
        own = {"PERDURE_TEST_LEDGER": str(self.ledger), "PERDURE_TEST_KILL_AT": str(self.order)}
        self.environment = {**os.environ, **own, **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while self.request(self.admin, "GET", "/health")[0] != 200:
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        return self.log.read_text()[-4000:]

    def request(self, port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, body); status 0 if there was no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def answer(self, handler: str, argument: Any) -> Any:
        """Invoke a handler, and have its result through as many deaths of the process as it takes."""
        assert self.process is not None
        status, body = self.request(self.ingress, "POST", f"/{handler}/send", json.dumps(argument).encode())
        if status == 0:  # killed at position 1: accepted, and nobody was told by which id
            self.process.wait()
            self.start()
            status, body = self.request(self.ingress, "POST", f"/{handler}/send", json.dumps(argument).encode())
        assert status == 202, (status, body, self.tail())
        invocation = json.loads(body)["invocationId"]
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status, body = self.request(self.ingress, "GET", f"/restate/invocation/{invocation}/attach")
            if status == 200:
                return json.loads(body)
            assert status in (0, 503), (status, body, self.tail())
            if self.process.poll() is not None:
                self.start()
        raise AssertionError(f"{invocation} has no result: {self.tail()}")

    def effects(self) -> list[str]:
        """The lines that tools wrote since the last time."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        self.ledger.write_text("")
        return lines


def climb(
    directory: pathlib.Path,
    app: str,
    handler: str,
    argument: Any,
    provider: Provider,
    environment: Mapping[str, str],
    *,
    answer: Any,
    positions: int | Sequence[int],
    at_once: int = 2,
) -> None:
    """Kill the server at position 2, 3, ... of the journal of a new invocation, until one runs through without a kill.

    An undisturbed invocation comes first and says what is right: the answer, the number of model requests, the tools'
    effects. After each kill the answer must be the same; the provider was asked as often, or once more for the request
    that was in flight; every effect is there once by its token, and only the tools that were at work in the moment of
    the kill have done it again. `positions` is the least number of kills there must have been, or the positions to kill
    at in place of all; `at_once` how many tools run side by side.
    """
    # At 1 nobody but the journal knows of the invocation; that is for the engine's own tests.
    chosen = itertools.count(2) if isinstance(positions, int) else (*positions, UNREACHED)
    server = Served(directory, app, environment)
    server.start()
    try:
        right = server.answer(handler, argument)
        assert right == answer
        asked, done = len(provider.requests), named(server.effects())
        assert asked and all(request.key for request in provider.requests), "a request without an idempotency key"
        for kills, position in enumerate(chosen):  # noqa: B007
            provider.requests.clear()
            server.order.write_text(str(position))
            assert server.answer(handler, argument) == right
            if server.order.exists():
                break
            keys = collections.Counter(request.key for request in provider.requests)
            assert len(keys) == asked, f"killed at {position}: {asked} different requests expected, not {len(keys)}"
            assert keys.total() <= asked + 1, f"killed at {position}: {keys.total()} requests, not {asked}"
            lines = server.effects()
            assert named(list(dict.fromkeys(lines))) == done, f"killed at {position}: {lines}"
            assert len(lines) - len(set(lines)) <= at_once, f"killed at {position}: {lines}"
        wanted = positions if isinstance(positions, int) else len(positions)
        assert kills >= wanted, f"killed at {kills} positions only"
        assert server.starts == kills + 1
    finally:
        server.stop()


def named(lines: list[str]) -> "collections.Counter[str]":
    """How often each effect is there, whatever its token."""
    return collections.Counter(line.rpartition(" ")[0] for line in lines)
