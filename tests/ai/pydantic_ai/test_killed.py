"""A pydantic-ai agent with the real `openai` client, killed at every position of its journal."""

import pathlib

import pytest

from perdure.testing.model_server import ModelServer
from tests.ai.ladder import climb


@pytest.mark.timeout(300)
@pytest.mark.pattern("survives SIGKILL")
def test_killed_at_every_position(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "loopback")
    from tests.ai.pydantic_ai.killed import policy

    with ModelServer(policy) as server:
        climb(
            tmp_path,
            "tests.ai.pydantic_ai.killed:app",
            "Agent/ask",
            "what is it?",
            server,
            {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "loopback"},
            answer=5,
            positions=8,
        )
