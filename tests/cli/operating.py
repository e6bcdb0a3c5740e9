"""A server, and an operator of it who types commands."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perdure.cli.asking import ask
from tests.cli.processes import COMMAND, ROOT, Served, perdure, serving


class Operator:
    def __init__(self, server: Served) -> None:
        self.server = server

    def _whole(self, arguments: tuple[str, ...]) -> list[str]:
        calls = arguments[0] in ("call", "awakeables")
        return [*arguments, *(("--ingress-url", self.server.ingress) if calls else ("--admin-url", self.server.admin))]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return perdure(*self._whole(arguments))

    def type(self, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The same with something to read at stdin."""
        command = [*COMMAND, *self._whole(arguments)]
        return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=30)

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, code: int, *arguments: str) -> str:
        """What is said, in one line, by a command that exits with this code."""
        done = self.run(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def send(self, *arguments: str, until: str | None = None) -> str:
        """Sends, and waits until the invocation has that status."""
        id = self.ok("call", *arguments, "--send").strip()
        if until is not None:
            self.until(id, until)
        return id

    def describe(self, id: str) -> Any:
        return ask(self.server.admin, "GET", f"/invocations/{id}")

    def waits_for(self, id: str, words: str) -> str:
        """The line of `why` that begins with these words, once there is one."""
        deadline = time.monotonic() + 30
        while True:
            lines = [line.strip() for line in self.ok("why", id).splitlines()]
            found = next((line for line in lines if line.startswith(words)), None)
            if found is not None:
                return found
            assert time.monotonic() < deadline, lines

    def until(self, id: str, status: str) -> None:
        deadline = time.monotonic() + 20
        while (it := self.describe(id))["status"] != status:
            assert time.monotonic() < deadline, it
            time.sleep(0.05)


@contextlib.contextmanager
def operating(data_dir: Path, app: str = "tests.cli.operated:app") -> Iterator[Operator]:
    with serving(data_dir, app=app) as server:
        yield Operator(server)
