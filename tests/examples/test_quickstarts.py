"""The quickstarts, as their users run them: one command each, without a key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = ("OPENAI_", "ANTHROPIC_")


@pytest.mark.parametrize("name", ["openai", "anthropic", "pydantic_ai", "openai_agents", "langchain"])
def test_an_agent_answers_though_the_provider_fails_twice(name: str) -> None:
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith(KEYS)}
    command = [sys.executable, "-m", f"examples.quickstarts.{name}"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "It is sunny in Rome. It is sunny in Oslo.\n"
    assert "(the provider was asked 4 times)" in ran.stderr.splitlines()


def test_there_is_one_for_each_framework() -> None:
    there = {path.stem for path in (ROOT / "examples" / "quickstarts").glob("*.py")} - {"__init__", "provider"}
    assert there == {path.name for path in (ROOT / "tests" / "ai").iterdir() if (path / "test_killed.py").exists()} - {
        "mcp"
    }
