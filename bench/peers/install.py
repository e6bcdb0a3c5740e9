"""Put the peers into `bench/.cache/`: restate-server with npm, its Python SDK, hypercorn and DBOS with pip into a venv
of their own.

Versions are pinned, so that a figure can be attributed; a `.installed` file beside each says which are there, and a
changed pin installs anew. Installation that fails is a `PeerUnavailable` and costs the figure its peer, nothing else.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
RESTATE_SERVER = "@restatedev/restate-server@1.7.12"
PYTHON_PEERS = ("restate-sdk==1.3.0", "hypercorn==0.18.0", "dbos==3.4.0", "uvloop>=0.21")
TYPESCRIPT_SDK = "@restatedev/restate-sdk@1.17.2"
INSTALL_TIMEOUT_S = 600.0


class PeerUnavailable(Exception):
    """A peer that is not installed and could not be; the message says what failed."""


def restate_server() -> Path:
    """The server's own binary: the npm package's launcher would add a node process."""
    return _once(_install_server)


def peers_python() -> Path:
    """The interpreter of the peers' virtual environment."""
    return _once(_install_python)


def typescript_app() -> Path:
    """`restate_app.mjs` beside the TypeScript SDK: Node looks for packages above the file that imports them."""
    return _once(_install_typescript)


@cache
def _outcome(install: Callable[[], Path]) -> Path | PeerUnavailable:
    try:
        return install()
    except PeerUnavailable as error:
        return error


def _once(install: Callable[[], Path]) -> Path:
    """Install once per run: a failure is remembered too, so that no later figure waits for it again."""
    outcome = _outcome(install)
    if isinstance(outcome, PeerUnavailable):
        raise outcome
    return outcome


def _install_server() -> Path:
    directory = _install_npm("npm", RESTATE_SERVER)
    binaries = sorted(directory.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    if not binaries:
        raise PeerUnavailable("npm has no restate-server for this platform")
    return binaries[0]


def _install_typescript() -> Path:
    directory = _install_npm("typescript", TYPESCRIPT_SDK)
    return Path(shutil.copy(Path(__file__).with_name("restate_app.mjs"), directory))


def _install_npm(folder: str, package: str) -> Path:
    """The folder below whose `node_modules` the package is."""
    directory = CACHE / folder
    if not _is_installed(directory, package):
        npm = shutil.which("npm")
        if npm is None:
            raise PeerUnavailable("npm is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        # restate-server's one install script reports the installation to the maker; the binary is a package of its own.
        quiet = ("--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        _run([npm, "install", "--prefix", str(directory), *quiet, package])
        _mark(directory, package)
    return directory


def _install_python() -> Path:
    directory, wanted = CACHE / "peers", " ".join(PYTHON_PEERS)
    python = directory / "bin" / "python"
    if not _is_installed(directory, wanted):
        shutil.rmtree(directory, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(directory)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON_PEERS])
        _mark(directory, wanted)
    return python


def _is_installed(directory: Path, wanted: str) -> bool:
    mark = directory / ".installed"
    return mark.exists() and mark.read_text() == wanted


def _mark(directory: Path, wanted: str) -> None:
    (directory / ".installed").write_text(wanted)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"could not be installed: {error}") from error
    if done.returncode != 0:
        output = (done.stderr or done.stdout).splitlines()
        lines = [line for line in output if line.strip() and "log of this run" not in line]
        raise PeerUnavailable(f"could not be installed: {lines[-1][:200] if lines else 'no message'}")
