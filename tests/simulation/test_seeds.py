"""Two thousand lives of a node; and the simulator can be trusted: it repeats itself, and it breaks what it says."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from perdure.testing.settings import CRASHES
from perdure.testing.simulator import main, run_seeds, simulate

SEEDS = 2000
JOBS = os.cpu_count() or 1

HAPPENS = (
    *(f"crash {kind}" for kind in CRASHES),
    *("disk error", "slow commit", "hang up", "bounce", "clock forward", "clock back", "stop", "boot"),
    *("lost", "repeated", "delayed", "refused: Overloaded", "refused: Unavailable"),
    *(f"asked {kind}" for kind in ("call", "send", "delayed send", "idempotent", "cancel", "kill", "pause", "resume")),
    *(f"asked {kind}" for kind in ("purge", "restart", "attach", "output", "describe", "awakeable", "read")),
    *("did show", "read to the end"),
)
"""What a good part of the seeds has to have met: a fault that never strikes finds nothing."""


@pytest.mark.timeout(900)
def test_two_thousand_seeds() -> None:
    happened: Counter[str] = Counter()
    failed = []
    for report in run_seeds(range(SEEDS), JOBS):
        happened.update(report.happened.keys())
        if report.failures:
            failed.append(f"{report.repeat}\n    {report.failures[0]}")
    assert not failed, "\n".join(failed)
    rare = {what: happened[what] for what in HAPPENS if happened[what] < SEEDS // 100}
    assert not rare, f"in so many of {SEEDS} seeds: {rare}"


@pytest.mark.parametrize("seed", [3, 7, 34, 43])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    first, second = simulate(seed), simulate(seed)
    assert first.trace == second.trace and len(first.trace) > 100
    assert first.digest == second.digest != simulate(seed + 1).digest


def test_the_same_seed_gives_the_same_trace_in_another_process() -> None:
    traces = set()
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-m", "perdure.testing.simulator", "--seed", "7", "--trace"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        )
        traces.add(run.stdout)
    report = simulate(7)
    expected = "".join(f"{line}\n" for line in (*report.trace, f"seed 7 passed, trace {report.digest}"))
    assert {trace.decode().replace("\r\n", "\n") for trace in traces} == {expected}


def test_the_command_says_how_many_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--start", "5"]) == 0
    assert capsys.readouterr().out == "3 seeds, 0 failed\n"
