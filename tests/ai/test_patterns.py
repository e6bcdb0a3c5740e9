"""The table of docs/ai/patterns.md is that of the marks in the tests."""

import os
import subprocess
import sys
from pathlib import Path

from tests.ai import patterns


def test_the_table_is_what_the_tests_say() -> None:
    wanted = patterns.marked()
    assert {pattern for pattern, _ in wanted} <= set(patterns.PATTERNS), "a pattern that the table does not have"
    page = patterns.PAGE.read_text(encoding="utf-8")
    assert patterns.cells_of(page) == wanted, "stale: make patterns"
    assert page == patterns.page_of(wanted), "stale: make patterns"


def test_every_framework_has_its_column() -> None:
    assert {*patterns.FRAMEWORKS, "mcp"} == {path.parent.name for path in patterns.HERE.glob("*/test_killed.py")}
    for _, page in patterns.FRAMEWORKS.values():
        assert (patterns.PAGE.parent / page).exists()


def test_a_page_is_read_back_as_it_was_written() -> None:
    cells = {("MCP tools", "openai"): "openai/test_a.py", ("guardrails", "google_adk"): "google_adk/test_b.py"}
    assert patterns.cells_of(patterns.page_of(cells)) == cells


def test_only_what_passed_is_told(tmp_path: Path) -> None:
    source = """
import pytest

@pytest.mark.pattern("guardrails")
def test_passes(): pass

@pytest.mark.pattern("MCP tools")
def test_fails(): assert False

@pytest.mark.pattern("multi-agent")
def test_skips(): pytest.skip()

def test_says_nothing(): assert False
"""
    assert sorted(patterns.marks_in(source)) == ["MCP tools", "guardrails", "multi-agent"]
    (tmp_path / "test_it.py").write_text(source)
    outcomes = tmp_path / "outcomes"
    plugin = (
        f"import tests.ai.patterns as p, pathlib; p.HERE = pathlib.Path({str(tmp_path)!r})\n"
        "from tests.ai.patterns import pytest_collection_modifyitems, pytest_runtest_makereport\n"
    )
    (tmp_path / "told.py").write_text(plugin)
    path = os.pathsep.join((str(tmp_path), str(patterns.ROOT / "src"), str(patterns.ROOT)))
    variables = {**os.environ, "PYTHONPATH": path, patterns.OUTCOMES: str(outcomes)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "told", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed, 1 skipped, 1 deselected" in done.stdout, done.stdout
    told = {
        line.split(", ")[0].strip('["'): line.split(", ")[-1].strip('"]') for line in outcomes.read_text().splitlines()
    }
    assert told == {"guardrails": "passed", "MCP tools": "failed", "multi-agent": "skipped"}
