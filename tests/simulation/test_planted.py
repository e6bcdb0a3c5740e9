"""Bugs planted in the engine are found: a checker that finds nothing proves nothing."""

import pytest

from perdure.testing.simulator import main, simulate
from tests.simulation.planted import PLANTED

SEEDS = 400
"""The rarest of them shows in about one seed of fifty."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", PLANTED)
def test_the_seeds_find_it(bug: str) -> None:
    with PLANTED[bug]():
        assert any(simulate(seed).failures for seed in range(SEEDS)), f"{SEEDS} seeds did not find: {bug}"


def test_without_it_the_same_seeds_pass() -> None:
    assert len(PLANTED) >= 10
    for seed in range(50):
        assert simulate(seed).failures == []


def test_the_command_names_the_seed_and_how_to_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    with PLANTED["skip a commit"]():
        assert main(["--seeds", "1"]) == 1
    out = capsys.readouterr().out
    assert "seed 0 FAILED; repeat it: python -m perdure.testing.simulator --seed 0 --trace\n" in out
    assert out.endswith("1 seeds, 1 failed\n")
