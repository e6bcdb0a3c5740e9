"""Put what is tested against into `.cache/`: the TypeScript SDK here, the real server and the Python SDK by the
benchmark, which needs them too.
"""

import shutil
import subprocess
from pathlib import Path

from bench.peers.install import peers_python, restate_server

__all__ = ["node_modules", "peers_python", "restate_server"]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "conformance"
PACKAGE = HERE / "services_typescript" / "package.json"
INSTALL_TIMEOUT_S = 600.0


def node_modules() -> Path:
    """The packages of `services_typescript`, installed anew when its pins change."""
    wanted, mark = PACKAGE.read_text(), CACHE / ".installed"
    if not mark.exists() or mark.read_text() != wanted:
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("npm is not installed")
        shutil.rmtree(CACHE / "node_modules", ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "package.json").write_text(wanted)
        quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        subprocess.run([npm, "install", "--prefix", str(CACHE), *quiet], check=True, timeout=INSTALL_TIMEOUT_S)
        mark.write_text(wanted)
    return CACHE / "node_modules"
