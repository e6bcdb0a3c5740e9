"""Each page of the console used as a person would, on a server whose agents have done everything: see `pages.mjs`."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.install import UI, chromium, console
from tests.console.seed import Server, seeded

ROWS = 100_000
PAGES = Path(__file__).with_name("pages.mjs")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, dict[str, Any]]]:
    console()
    with seeded(rows=ROWS) as it:
        yield it


@pytest.mark.timeout(300)
def test_every_page(server: tuple[Server, dict[str, Any]], tmp_path: Path) -> None:
    """It says what was wrong, one line each: errors of the browser's console, violations of axe, what did not work."""
    it, told = server
    command = ["node", str(PAGES), str(chromium()), it.admin, json.dumps(told["invocations"]), str(tmp_path)]
    ran = subprocess.run(command, cwd=UI, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:]
    (answered,) = it.sql(f"SELECT status FROM sys_approval WHERE invocation_id = '{told['invocations']['approval']}'")
    assert answered["status"] == "approved"
    it.wait(told["invocations"]["sleeping"], "completed")
    state = it.ask(f"{it.admin}/services/Inventory/state/shelf-1")["state"]
    assert "checked_by" in state


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (UI / "package-lock.json").read_text()
