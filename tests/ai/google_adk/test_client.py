"""Rung 2: a model behind a real client, against a provider on loopback with faults."""

from typing import Any

import pytest

pytest.importorskip("google.adk", reason="google-adk wants an older opentelemetry than the rest: its own environment")

from perdure import Context, TerminalError
from perdure.testing.model_server import Fault, ModelServer
from tests.ai.google_adk import killed
from tests.ai.harness import run


async def ask(ctx: Context) -> Any:
    return await killed.ask(ctx, "what is it?")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PERDURE_TEST_LEDGER", "/dev/null")


@pytest.mark.parametrize(
    "fault",
    [Fault(status=429, retry_after=2.0), Fault(status=500, times=2), Fault(cut_after=0), Fault(cut_after=30, at=2)],
)
def test_faults_are_ridden_out(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer(killed.policy) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        server.inject(fault)
        assert run(ask) == "It is 13"
        assert len(server.requests) == 3 + fault.times
        assert len({seen.key for seen in server.requests} - {None}) == 3


def test_what_is_final_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer(killed.policy) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        server.inject(Fault(status=401))
        with pytest.raises(TerminalError) as caught:
            run(ask)
        assert caught.value.code == 401
        assert len(server.requests) == 1
