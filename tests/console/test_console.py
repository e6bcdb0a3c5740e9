"""The console: its types, its own tests, its size, and each page used in a real browser (`ui/tests`)."""

import gzip
import os
import sys

import pytest

from tests.console.install import chromium, console, npm, ui_modules

BUDGET = 350_000  # bytes of scripts, styles and fonts, gzipped
BROWSER_TIMEOUT_S = 300


def passes(*arguments: str, **env: str) -> None:
    outcome = npm(*arguments, **env)
    assert outcome.returncode == 0, f"{outcome.stdout}\n{outcome.stderr}"


def test_types() -> None:
    ui_modules()
    passes("run", "check")


def test_units() -> None:
    ui_modules()
    passes("test")


def test_it_is_small_and_loads_nothing_from_elsewhere() -> None:
    files = [path for path in console().rglob("*") if path.suffix in (".js", ".css", ".woff2")]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in files) < BUDGET
    index = (console() / "index.html").read_text()
    assert "http://" not in index and "https://" not in index
    assert "<script>" not in index and "style=" not in index
    assert all((path.with_name(path.name + ".br")).exists() for path in files if path.suffix in (".js", ".css"))


@pytest.mark.timeout(BROWSER_TIMEOUT_S)
def test_pages_in_a_browser() -> None:
    console()
    outcome = npm("run", "browser", PERDURE_PYTHON=sys.executable, PERDURE_CHROMIUM=os.fspath(chromium()))
    print(outcome.stdout)
    assert outcome.returncode == 0, f"{outcome.stdout}\n{outcome.stderr}"
