"""A `perdure serve` of its own process."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-c", "from perdure.cli import main; main()"]


class Served(NamedTuple):
    process: "subprocess.Popen[str]"
    ready: str
    ingress: str
    admin: str


def perdure(*arguments: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end."""
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=30)


@contextlib.contextmanager
def serving(
    data_dir: Path,
    *arguments: str,
    app: str = "tests.cli.served:app",
    env: dict[str, str] | None = None,
    cwd: Path = ROOT,
) -> Iterator[Served]:
    """A server on free ports that is ready; killed at the end if it still runs."""
    command = [
        *COMMAND,
        "serve",
        *([app] if app else []),
        "--data-dir",
        str(data_dir),
        "--ingress-port",
        "0",
        "--admin-port",
        "0",
    ]
    process = subprocess.Popen(
        [*command, *arguments], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        ready = process.stdout.readline()
        found = re.search(r"ingress (https?://\S+), admin (https?://\S+),", ready)
        assert found is not None, ready + process.stderr.read()
        yield Served(process, ready, found.group(1), found.group(2))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)
