"""Rung 3: agents with handoffs and parallel tools, killed at every position of their journal."""

import pathlib

import pytest

from perdure.testing.model_server import ModelServer
from tests.ai.ladder import climb
from tests.ai.openai_agents.killed import policy


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("handler", "api"), [("ask", "responses"), ("stream", "chat")])
@pytest.mark.pattern("survives SIGKILL")
def test_killed_at_every_position(
    tmp_path: pathlib.Path, handler: str, api: str, request: pytest.FixtureRequest
) -> None:
    if handler == "stream" and not request.config.getoption("soak"):
        pytest.skip("the same with streams takes as long again; --soak")
    with ModelServer(policy) as server:
        climb(
            tmp_path,
            "tests.ai.openai_agents.killed:app",
            f"Agent/{handler}",
            "what is it?",
            server,
            {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "loopback", "PERDURE_TEST_API": api},
            answer="It is 13",
            positions=10,
        )
