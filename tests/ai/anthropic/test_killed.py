"""An agent with the plain `anthropic` client, which streams, killed at every position of its journal."""

import pathlib

import pytest

from perdure.testing.model_server import ModelServer
from tests.ai.anthropic.killed import policy
from tests.ai.ladder import climb


@pytest.mark.timeout(300)
@pytest.mark.pattern("survives SIGKILL")
def test_killed_at_every_position(tmp_path: pathlib.Path) -> None:
    with ModelServer(policy) as server:
        climb(
            tmp_path,
            "tests.ai.anthropic.killed:app",
            "Agent/ask",
            "what is it?",
            server,
            {"ANTHROPIC_BASE_URL": server.url},
            answer="It is 13",
            positions=8,
        )
