"""`python -m tests.console.screenshots`: the pictures in docs/console, taken anew."""

import os
import sys

from tests.console.install import chromium, console, npm


def main() -> int:
    console()
    env = {"PERDURE_PYTHON": sys.executable, "PERDURE_CHROMIUM": os.fspath(chromium()), "PERDURE_SCREENSHOTS": "1"}
    outcome = npm("run", "browser", **env)
    print(outcome.stdout, outcome.stderr)
    return outcome.returncode


if __name__ == "__main__":
    sys.exit(main())
