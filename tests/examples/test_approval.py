"""The example of an approval, as its users run it; and the agent in days of virtual time."""

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from examples.approval import agent
from perdure import TerminalError
from perdure.testing import TestEngine

ROOT = Path(__file__).parents[2]


def test_the_demo() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.approval.demo"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "Refund 120 EUR for order A-17?" in done.stdout
    assert "the agent:  100 EUR were paid for A-17" in done.stdout
    assert "the record: approved by Ann (by link), {'amount': 100}" in done.stdout


def test_days_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "MAILBOX", str(tmp_path / "mailbox"))

    async def scenario() -> None:
        async with TestEngine(agent.app, skip=False, replay=True) as engine:
            first = await engine.send(agent.handle, agent.Complaint("A-1", "late"))
            second = await engine.send(agent.handle, agent.Complaint("A-2", "broken"))
            await engine.advance(timedelta(days=2))
            mails = (tmp_path / "mailbox").read_text().splitlines()
            assert [mail.split(":")[0] for mail in mails] == ["To support@shop.example"] * 2 + [
                "To lead@shop.example"
            ] * 2
            (rejected,) = [each for each in await engine.approvals().list() if "A-2" in each.title]
            await engine.approvals().reject(rejected.id, comment="not broken", by="lead")
            with pytest.raises(TerminalError, match="rejected by lead: not broken"):
                await second.attach()
            assert engine.ran("undo: release") == 1
            await engine.advance(timedelta(days=5, seconds=1))
            assert "nobody decided in a week" in await first.attach()
            assert await engine.approvals().list() == []

    asyncio.run(scenario())


def test_years_pass_without_a_timeout() -> None:
    async def scenario() -> None:
        async with TestEngine(agent.app, skip=False, replay=True) as engine:
            closing = await engine.send(agent.close_account, "Bob")
            await engine.advance(timedelta(days=1000))
            (waiting,) = await engine.approvals().list()
            await engine.approvals().reject(waiting.id, comment="he came back", by="Ann")
            assert await closing.attach() == "Bob: kept, he came back"

    asyncio.run(scenario())
