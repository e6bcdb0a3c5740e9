"""Rung 3: agents with a transfer and parallel tools, killed at every position of their journal."""

import pathlib

import pytest

pytest.importorskip("google.adk", reason="google-adk wants an older opentelemetry than the rest: its own environment")

from perdure.testing.model_server import ModelServer
from tests.ai.google_adk.killed import policy
from tests.ai.ladder import climb


@pytest.mark.timeout(600)
def test_killed_at_every_position(tmp_path: pathlib.Path) -> None:
    with ModelServer(policy) as server:
        climb(
            tmp_path,
            "tests.ai.google_adk.killed:app",
            "Agent/ask",
            "what is it?",
            server,
            {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "loopback"},
            answer="It is 13",
            positions=8,
        )
