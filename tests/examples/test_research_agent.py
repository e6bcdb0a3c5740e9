"""The demo and the script, as their users run them: real processes, real HTTP, SIGKILL."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A developer's key must not be used for a test; and the table has room for its lines.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, "-m", f"examples.research_agent.{module}", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )


def test_the_demo_end_to_end() -> None:
    done = run("demo", "--fast", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"│ (\w[\w, ]*?) +│ (.*?) +│", done.stdout))
    assert rows["steps"].startswith("54: 16 model calls")
    assert int(rows["kills"]) >= 4
    for kill in ("killed at step 37: step 37", "killed at a random moment", "killed inside a step"):
        assert kill in done.stdout
    assert rows["finished steps run twice"] == "0"
    assert rows["errors of the provider, retried"] == "2 (model 4, model 8)"
    assert rows["notes taken, notes held"] == "17, 17"
    assert rows["sections read, sections listed"] == "23, 23"
    # 16 answers, two errors, and one request whose answer the kill inside a step has cut off; perhaps more of these.
    assert int(rows["provider requests seen"].split()[0]) >= 19
    assert "cut while it ran" in done.stdout
    assert "exactly-once#" in done.stdout


def test_the_engine_in_a_script(tmp_path: Path) -> None:
    arguments = ["--path", str(tmp_path / "agent.db"), "--pause", "0.01"]
    first = run("engine_script", *arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "[group-commit#" in first.stdout
    again = run("engine_script", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.partition("steps and")[0] == first.stdout.partition("steps and")[0]
