"""Rung 3: a graph with checkpoints and an interrupt, killed at the positions of its journal."""

import pathlib
from collections.abc import Sequence

import pytest

from perdure.testing.model_server import ModelServer
from tests.ai.ladder import climb
from tests.ai.langgraph.killed import policy

ONE_OF_EACH_KIND = (
    3,  # the thread is asked for a checkpoint
    4,  # it has answered
    9,  # a model is asked, and a checkpoint is being written
    15,  # the model has answered
    21,  # two nodes are at work
    23,  # one is done, the other interrupted
    31,  # the interrupted run is over, all of it is kept
    37,  # the answer was given, the node is at work again
    38,  # it is done
    45,  # the last checkpoint is kept
)


@pytest.mark.timeout(180)
@pytest.mark.pattern("survives SIGKILL")
def test_killed_at_each_kind_of_entry(tmp_path: pathlib.Path) -> None:
    killed(tmp_path, ONE_OF_EACH_KIND)


@pytest.mark.timeout(1200)
def test_killed_at_every_position(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("soak"):
        pytest.skip("some fifty kills; --soak")
    killed(tmp_path, 20)


def killed(directory: pathlib.Path, positions: int | Sequence[int]) -> None:
    with ModelServer(policy) as server:
        climb(
            directory,
            "tests.ai.langgraph.killed:app",
            "Agent/work",
            "a cake",
            server,
            {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "loopback"},
            answer="a plan for a cake: left, right agreed",
            positions=positions,
        )
