"""Bugs planted in the engine are found: a checker that finds nothing proves nothing."""

import itertools
from collections.abc import Iterator

import pytest

from perdure.testing.settings import Settings
from perdure.testing.simulator import main, simulate
from tests.simulation.planted import PLANTED

HERE, ELSEWHERE = 500, 300
"""How many seeds have handlers in process, how many have them elsewhere. The rarest bug shows in one of a hundred."""


def seeds() -> Iterator[int]:
    """Those with handlers in process first."""
    for wanted, number in ((False, HERE), (True, ELSEWHERE)):
        fitting = (seed for seed in itertools.count() if bool(Settings.draw(seed).wire) is wanted)
        yield from itertools.islice(fitting, number)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", PLANTED)
def test_the_seeds_find_it(bug: str) -> None:
    with PLANTED[bug]():
        assert any(simulate(seed).failures for seed in seeds()), f"{HERE + ELSEWHERE} seeds did not find: {bug}"


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
