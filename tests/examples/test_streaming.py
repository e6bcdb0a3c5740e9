"""The streaming example, as its users run it: a real server, killed while it streams."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reader_ends_with_the_story() -> None:
    command = [sys.executable, "-m", "examples.streaming.demo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("<-- kill -9") == 2
    assert done.stdout.count("<-- regenerated from chunk") >= 1
    assert "What the reader holds is what the handler returned" in done.stdout
