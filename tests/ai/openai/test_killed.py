"""An agent with the plain `openai` client, killed at every position of its journal."""

import pathlib

import pytest

from perdure.testing.model_server import ModelServer
from tests.ai.ladder import climb
from tests.ai.openai.killed import policy


@pytest.mark.timeout(300)
@pytest.mark.pattern("survives SIGKILL")
def test_killed_at_every_position(tmp_path: pathlib.Path) -> None:
    with ModelServer(policy) as server:
        climb(
            tmp_path,
            "tests.ai.openai.killed:app",
            "Agent/ask",
            "what is it?",
            server,
            {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "loopback"},
            answer="It is 169",
            positions=12,
        )
