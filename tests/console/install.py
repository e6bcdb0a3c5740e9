"""What the console's tests need: its packages, its build, a browser. Installed once."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["BROWSER", "UI", "browser", "console"]

ROOT: Final = Path(__file__).resolve().parents[2]
UI: Final = ROOT / "ui"
BROWSER: Final = Path("/usr/bin/chromium")


def console() -> None:
    """`make ui`, with the packages that test it."""
    subprocess.run(["make", "--silent", "ui"], cwd=ROOT, check=True)


def browser() -> Path:
    """Debian's Chromium."""
    if not BROWSER.exists():
        assert shutil.which("apt-get"), "the console's tests want Chromium as /usr/bin/chromium"
        subprocess.run(["apt-get", "update", "--quiet=2"], check=True, stdout=subprocess.DEVNULL)
        install = ["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", "chromium"]
        environment = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=environment)
    return BROWSER
