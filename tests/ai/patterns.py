"""The table of docs/ai/patterns.md: what of each agent framework the tests show, made of those that passed.

A test says with `@pytest.mark.pattern("token streaming")` what it shows. `make patterns` runs all the tests that do,
framework by framework, and writes the table if none failed. A framework that is not installed beside the others is run
with an interpreter of its own: `python -m tests.ai.patterns --python google_adk=PATH`.

This module is also the plugin of pytest that tells of the outcomes, to the file that PERDURE_PATTERNS names.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

__all__ = ["FRAMEWORKS", "PAGE", "PATTERNS", "cells_of", "marked", "page_of"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "ai" / "patterns.md"
OUTCOMES = "PERDURE_PATTERNS"
FRAMEWORKS = {  # folder of the tests -> name, page
    "openai": ("openai", "openai.md"),
    "anthropic": ("anthropic", "anthropic.md"),
    "pydantic_ai": ("pydantic-ai", "pydantic-ai.md"),
    "openai_agents": ("OpenAI Agents", "openai-agents.md"),
    "langchain": ("LangChain", "langchain.md"),
    "langgraph": ("LangGraph", "langgraph.md"),
    "google_adk": ("Google ADK", "google-adk.md"),
}
OTHER_INTERPRETERS = {"google_adk": ROOT / ".venv-oldest-adk" / "bin" / "python"}  # `make oldest` makes it
PATTERNS = (
    "agent with tools",
    "parallel tools",
    "token streaming",
    "structured output",
    "human approval",
    "session memory",
    "multi-agent",
    "agent as tool",
    "remote agent",
    "MCP tools",
    "control flow",
    "provider errors",
    "survives SIGKILL",
    "guardrails",
)

Cells = dict[tuple[str, str], str]
"""(pattern, framework) -> the file of a test that shows it, below tests/ai."""


# -- what is marked ------------------------------------------------------------------------------------


def marked() -> Cells:
    """What the tests say that they show, read from their source: so it is known of those that can't run here too."""
    cells: Cells = {}
    for framework in FRAMEWORKS:
        for path in sorted((HERE / framework).glob("test_*.py")):
            for pattern in marks_in(path.read_text()):
                cells.setdefault((pattern, framework), f"{framework}/{path.name}")
    return cells


def marks_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.pattern"):
            (name,) = (ast.literal_eval(argument) for argument in node.args)
            yield name


# -- the page ------------------------------------------------------------------------------------------


def page_of(cells: Cells) -> str:
    """The page, with this table."""
    head = "| | " + " | ".join(f"[{name}]({page})" for name, page in FRAMEWORKS.values()) + " |"
    rows = [head, "| --- " * (len(FRAMEWORKS) + 1) + "|"]
    for pattern in PATTERNS:
        tests = (cells.get((pattern, framework)) for framework in FRAMEWORKS)
        shown = ("" if test is None else f"[✓](../../tests/ai/{test})" for test in tests)
        rows.append(f"| {pattern} | " + " | ".join(shown) + " |")
    return INTRODUCTION + "\n".join(rows) + "\n"


INTRODUCTION = """\
# Patterns and frameworks

Made by `make patterns` from the tests that passed, and not by hand: each ✓ leads to a test that shows the pattern with
that framework. An empty cell says that no test does, be it that the framework has no such thing.

The patterns by themselves, as programs to read and run: [examples](../../examples/README.md).

"""


def cells_of(page: str) -> Cells:
    """The table of a page, read back."""
    cells: Cells = {}
    for line in page.splitlines():
        pattern, *tests = (cell.strip() for cell in line.strip("|").split("|"))
        if pattern in PATTERNS:
            for framework, cell in zip(FRAMEWORKS, tests, strict=True):
                if found := re.fullmatch(r"\[✓\]\(\.\./\.\./tests/ai/(.+)\)", cell):
                    cells[pattern, framework] = found[1]
    return cells


# -- the plugin ----------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if OUTCOMES in os.environ:
        config.hook.pytest_deselected(items=[item for item in items if not list(item.iter_markers("pattern"))])
        items[:] = [item for item in items if list(item.iter_markers("pattern"))]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if OUTCOMES in os.environ and (report.when == "call" or report.outcome != "passed"):
        test = item.path.relative_to(HERE)
        with open(os.environ[OUTCOMES], "a", encoding="utf-8") as outcomes:
            for mark in item.iter_markers("pattern"):
                line = [mark.args[0], test.parts[0], test.as_posix(), report.outcome]
                outcomes.write(json.dumps(line) + "\n")
    return report


# -- the command ---------------------------------------------------------------------------------------


def shown_by(framework: str, python: str) -> Cells:
    """What of a framework its tests show, by running them. Raises `SystemExit` if one does not pass."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder, "outcomes")
        outcomes.touch()
        command = [python, "-m", "pytest", "-q", "-p", "tests.ai.patterns", str(HERE / framework)]
        variables = {
            **os.environ,
            OUTCOMES: str(outcomes),
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
        }
        done = subprocess.run(command, cwd=ROOT, env=variables, check=False)
        lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
    if done.returncode not in (0, 5):  # 5: nothing is marked
        raise SystemExit(f"{framework}: pytest ended with {done.returncode}")
    seen: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for pattern, folder_name, test, outcome in lines:
        if outcome == "passed":
            seen[pattern, folder_name].add(test)
    return {cell: min(tests) for cell, tests in seen.items()}


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code: 0 if the page was written."""
    parser = argparse.ArgumentParser(prog="python -m tests.ai.patterns", description=__doc__)
    parser.add_argument("--python", action="append", default=[], metavar="FRAMEWORK=PATH", help="an interpreter for it")
    given = dict(each.split("=", 1) for each in parser.parse_args(arguments).python)
    made = {name: str(path) for name, path in OTHER_INTERPRETERS.items() if path.exists()}
    wanted = marked()
    cells: Cells = {}
    for framework in FRAMEWORKS:
        if any(of == framework for _, of in wanted):
            cells |= shown_by(framework, {**made, **given}.get(framework, sys.executable))
    if missing := sorted(set(wanted) - set(cells)):
        print("marked, and not shown by a test that passed:", *missing, sep="\n  ")
        print("(a framework that is not installed here needs --python FRAMEWORK=PATH)")
        return 1
    PAGE.write_text(page_of(wanted), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
