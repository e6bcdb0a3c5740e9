"""Rung 3: a graph with checkpoints and an interrupt, killed at every position of its journal."""

import pathlib

import pytest

from perdure.testing.model_server import ModelServer
from tests.ai.ladder import climb
from tests.ai.langgraph.killed import policy


@pytest.mark.timeout(1200)
def test_killed_at_every_position(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("soak"):
        pytest.skip("some fifty kills; --soak")
    with ModelServer(policy) as server:
        climb(
            tmp_path,
            "tests.ai.langgraph.killed:app",
            "Agent/work",
            "a cake",
            server,
            {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "loopback"},
            answer="a plan for a cake: left, right agreed",
            positions=20,
        )
