"""Put what is tested against into `.cache/`: the TypeScript SDK and restate's command line here, the real server and
the Python SDK by the benchmark, which needs them too.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.peers.install import peers_python, restate_server

__all__ = ["node_modules", "peers_python", "restate_cli", "restate_server"]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "conformance"
PACKAGE = HERE / "services_typescript" / "package.json"
RESTATE_CLI = "@restatedev/restate@1.7.12"
INSTALL_TIMEOUT_S = 600.0
QUIET = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")


def node_modules() -> Path:
    """The packages of `services_typescript`, installed anew when its pins change."""
    wanted = PACKAGE.read_text()

    def prepare() -> None:
        shutil.rmtree(CACHE / "node_modules", ignore_errors=True)
        (CACHE / "package.json").write_text(wanted)

    _install(CACHE, wanted, prepare)
    return CACHE / "node_modules"


def restate_cli() -> Path:
    """The binary itself: the npm package's launcher would add a node process to each command."""
    directory = CACHE / "restate"
    _install(directory, RESTATE_CLI, lambda: None, RESTATE_CLI)
    return next(directory.glob("node_modules/@restatedev/restate-*/bin/restate"))


def _install(directory: Path, wanted: str, prepare: Callable[[], None], *packages: str) -> None:
    mark = directory / ".installed"
    if mark.exists() and mark.read_text() == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    prepare()
    command = [npm, "install", "--prefix", str(directory), *QUIET, *packages]
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)
    mark.write_text(wanted)
