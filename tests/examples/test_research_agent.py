"""The demo and the script, as their users run them: real processes, real HTTP, SIGKILL."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from examples.research_agent.ledger import Reader, judge

ROOT = Path(__file__).parents[2]


def start(module: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    # A developer's key must not be used for a test; and the table has room for its lines.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.Popen(
        [sys.executable, "-m", f"examples.research_agent.{module}", *arguments],
        cwd=ROOT,
        env={**environment, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def run(module: str, *arguments: str, **variables: str) -> str:
    with start(module, *arguments, **variables) as process:
        output, _ = process.communicate(timeout=110)
    assert process.returncode == 0, output
    return output


def test_the_demo_end_to_end() -> None:
    output = run("demo", "--fast", "--seed", "1")
    rows = dict(re.findall(r"│ (\w[\w, ]*?) +│ (.*?) +│", output))
    assert rows["steps"].startswith("54: 16 model calls")
    assert int(rows["kills"]) >= 4
    for kill in ("killed at step 37: step 37", "killed at a random moment", "killed inside a step"):
        assert kill in output
    assert rows["finished steps run twice"] == "0"
    assert rows["errors of the provider, retried"] == "2 (model 4, model 8)"
    assert rows["notes taken, notes held"] == "17, 17"
    assert rows["sections read, sections listed"] == "23, 23"
    # 16 answers, two errors, and one request whose answer the kill inside a step has cut off; perhaps more of these.
    assert int(rows["provider requests seen"].split()[0]) >= 19
    assert "cut while it ran" in output
    assert "[exactly-once#" in output


def test_the_engine_in_a_script(tmp_path: Path) -> None:
    arguments = ["--path", str(tmp_path / "agent.db"), "--pause", "0.01"]
    first = run("engine_script", *arguments)
    assert "[group-commit#" in first
    again = run("engine_script", *arguments)
    assert again.partition("this run took")[0] == first.partition("this run took")[0]


def test_the_script_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    arguments = ["--path", str(tmp_path / "agent.db"), "--pause", "0.05"]
    ledger = Reader(tmp_path / "ledger")
    with start("engine_script", *arguments, RESEARCH_LEDGER=str(ledger.path)) as process:
        while ledger.steps_begun < 30 and process.poll() is None:
            ledger.poll()
            time.sleep(0.005)
        process.kill()
    output = run("engine_script", *arguments, RESEARCH_LEDGER=str(ledger.path))
    ledger.poll()
    histories = judge(ledger.lines)
    assert f"{len(histories)} steps and" in output
    assert len({line.pid for line in ledger.lines}) == 2
    assert not [history for history in histories if history.broken or history.finishes == 0]
    assert sum(history.starts > 1 for history in histories) <= 4  # no more than ran at the same time
