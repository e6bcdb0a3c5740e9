"""`python -m tests`: everything, in two runs side by side, as `make test` wants it.

The black-box suite against five SDKs and two servers, and the console in a browser, wait most of their time, so they
cost the others little; what they print comes after what those print. Exit code: 0 if both runs passed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.install import node_modules, peers_python, restate_cli, restate_server
from tests.console.install import chromium, console

ROOT = Path(__file__).resolve().parents[1]
SLOW = ("tests/conformance", "tests/console")


def main(arguments: list[str]) -> int:
    """`arguments` go to both runs."""
    for install in (restate_server, restate_cli, node_modules, peers_python, console, chromium):
        install()  # both runs need them, and only one may put them there
    pytest = [sys.executable, "-m", "pytest", *arguments]
    with tempfile.TemporaryFile() as output:
        beside = subprocess.Popen([*pytest, *SLOW, "-p", "no:cacheprovider"], cwd=ROOT, stdout=output, stderr=output)
        try:
            here = subprocess.run([*pytest, *(f"--ignore={each}" for each in SLOW)], cwd=ROOT, check=False)
            there = beside.wait()
        finally:
            beside.kill()
        output.seek(0)
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    return here.returncode or there


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
