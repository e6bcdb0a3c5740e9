"""The console in a real browser, on a server whose agents have done everything: each page is used as a person would."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.install import ROOT, UI, browser, console
from tests.console.seed import Server, seeded

BUILT = ROOT / "src" / "perdure" / "web" / "console"
ROWS = 100_000
PAGES = Path(__file__).with_name("pages.mjs")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    console()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, dict[str, Any]]]:
    with seeded(rows=ROWS) as it:
        yield it


def test_its_types_and_its_own_tests() -> None:
    for script in ("check", "test"):
        ran = subprocess.run(["npm", "run", "--silent", script], cwd=UI, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_bundle_is_small() -> None:
    sizes = {
        path.name: len(gzip.compress(path.read_bytes()))
        for path in BUILT.rglob("*.*")
        if path.suffix in (".js", ".css")
    }
    assert sum(sizes.values()) < 350_000, sizes


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (UI / "package-lock.json").read_text()


@pytest.mark.timeout(300)
def test_every_page(server: tuple[Server, dict[str, Any]], tmp_path: Path) -> None:
    """`pages.mjs` says what was wrong, one line each: errors of the console, violations of axe, what did not work."""
    it, told = server
    command = ["node", str(PAGES), str(browser()), it.admin, json.dumps(told["invocations"]), str(tmp_path)]
    environment = {**os.environ, "PERDURE_SCREENSHOTS": os.environ.get("PERDURE_SCREENSHOTS", "")}
    ran = subprocess.run(command, cwd=UI, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:]
    (approved,) = it.sql(f"SELECT status FROM sys_approval WHERE invocation_id = '{told['invocations']['approval']}'")
    assert approved["status"] == "approved"
    it.wait(told["invocations"]["sleeping"], "completed")
    state = it.ask(f"{it.admin}/services/Inventory/state/shelf-1")["state"]
    assert "checked_by" in state


@pytest.mark.timeout(300)
def test_the_frame_the_overview_and_the_list_of_invocations() -> None:
    """Playwright's own tests, in `ui/tests`, with servers of their own: one of them asks for API keys."""
    environment = {**os.environ, "PERDURE_PYTHON": sys.executable, "PERDURE_CHROMIUM": str(browser())}
    command = ["npm", "run", "--silent", "browser"]
    ran = subprocess.run(command, cwd=UI, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:]
