"""What the console's tests need: its packages, the console itself as its sources are now, and a browser."""

import os
import shutil
import subprocess
from pathlib import Path

from perdure.web.ui import CONSOLE

__all__ = ["UI", "chromium", "console", "npm", "ui_modules"]

UI = Path(__file__).resolve().parents[2] / "ui"
INSTALL_TIMEOUT_S = 600.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def npm(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run npm in `ui/`; what it says comes back."""
    program = shutil.which("npm")
    if program is None:
        raise RuntimeError("npm is not installed: the console needs Node 20.19 or newer")
    command = [program, *arguments]
    return subprocess.run(
        command, cwd=UI, env={**os.environ, **env}, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
    )


def _done(outcome: subprocess.CompletedProcess[str]) -> None:
    if outcome.returncode != 0:
        raise RuntimeError(f"{' '.join(outcome.args)} failed:\n{outcome.stdout}\n{outcome.stderr}")


def ui_modules() -> Path:
    """The packages, installed anew when the lock file changes."""
    modules, wanted = UI / "node_modules", (UI / "package-lock.json").read_text()
    mark = modules / ".installed"
    if not mark.exists() or mark.read_text() != wanted:
        _done(npm("ci", "--ignore-scripts", "--loglevel=error"))
        mark.write_text(wanted)
    return modules


def console() -> Path:
    """The console, built anew when its sources are newer."""
    ui_modules()
    index = CONSOLE / "index.html"
    sources = [*(UI / "src").rglob("*"), *(UI / "public").rglob("*"), UI / "index.html", UI / "vite.config.ts"]
    newest = max(path.stat().st_mtime for path in sources)
    if not index.exists() or index.stat().st_mtime < newest:
        _done(npm("run", "build", "--", "--logLevel=warn"))
    return CONSOLE


def chromium() -> Path:
    """The browser: the system's, or, for root on a Debian, what apt has."""
    if named := os.environ.get("PERDURE_CHROMIUM"):
        return Path(named)
    if not any(map(shutil.which, _BROWSERS)) and shutil.which("apt-get") and os.geteuid() == 0:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(command, check=True, env=env, capture_output=True, timeout=INSTALL_TIMEOUT_S)
    for name in _BROWSERS:
        if found := shutil.which(name):
            return Path(found)
    raise RuntimeError("no chromium is installed; install it, or say where it is: PERDURE_CHROMIUM=/path/to/chromium")
