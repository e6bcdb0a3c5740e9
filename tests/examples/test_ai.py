"""The small agents, as their users run them: one command each, without a key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = ("OPENAI_", "ANTHROPIC_")


@pytest.mark.parametrize("name", ["openai_agent", "anthropic_agent", "pydantic_ai_agent"])
def test_an_agent_answers(name: str) -> None:
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith(KEYS)}
    command = [sys.executable, "-m", f"examples.ai.{name}"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["It rains in Paris. It rains in Rome.", "(the provider was asked 4 times)"]
