"""`perdure approvals`, and clients that do the same over HTTP; sessions over HTTP too."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from perdure import Client, Conflict, Invalid, NotFound, SyncClient
from perdure.ai.sessions import Session, SyncSession
from tests.cli.operating import Operator
from tests.cli.processes import COMMAND, ROOT, serving


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with serving(tmp_path_factory.mktemp("data"), app="tests.durability.services:app") as server:
        yield Operator(server)


def asked(operator: Operator, amount: int) -> tuple[str, str]:
    """The ids of an invocation that asks, and of its approval."""
    invocation = operator.send("Desk/refund", str(amount))
    deadline = time.monotonic() + 20
    while True:
        for each in operator.json("approvals", "list", "--service", "Desk"):
            if each["requester"]["invocation_id"] == invocation:
                return invocation, each["id"]
        assert time.monotonic() < deadline, "nothing was asked"
        time.sleep(0.05)


def test_listed_shown_and_answered(operator: Operator) -> None:
    invocation, id = asked(operator, 120)
    assert id in operator.ok("approvals", "list")
    shown = operator.ok("approvals", "show", id)
    assert f"{id} open: Refund?" in shown and "Desk/refund" in shown and '"amount": 120' in shown
    assert "answer before 20" in shown
    assert "value" in operator.refused(1, "approvals", "approve", id, "--value", '"much"')
    assert operator.ok("approvals", "approve", id, "--value", "100", "-m", "fine", "--by", "ann") == f"{id} approved\n"
    assert "first answer counts" in operator.refused(1, "approvals", "reject", id)
    operator.until(invocation, "completed")
    assert operator.json("approvals", "show", id)["comment"] == "fine"
    assert operator.ok("approvals", "list", "--to", "nobody") == "nothing waits for an answer\n"
    assert operator.ok("approvals", "list", "--status", "expired") == "none\n"
    other = asked(operator, 7)[1]
    rejected = operator.json("approvals", "reject", other)
    assert rejected["status"] == "rejected" and rejected["by"]
    assert {other, id} <= {each["id"] for each in operator.json("approvals", "list", "--status", "closed")}


def test_what_cannot_be(operator: Operator) -> None:
    assert "not found" in operator.refused(3, "approvals", "show", "apr_none")
    assert "not found" in operator.refused(3, "approvals", "approve", "apr_none", "--value", "1")
    assert "status=" in operator.refused(1, "approvals", "list", "--status", "new")
    wrong = operator.run("approvals", "approve", "apr_none", "--value", "blue")
    assert wrong.returncode == 2 and "is no JSON" in wrong.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_the_value_is_asked_for(operator: Operator) -> None:
    id = asked(operator, 5)[1]
    ours, theirs = os.openpty()
    try:
        command = [*COMMAND, "approvals", "approve", id, "--admin-url", operator.server.admin]
        os.write(ours, b"much\n44\n")
        done = subprocess.run(command, cwd=ROOT, stdin=theirs, capture_output=True, text=True, timeout=30)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "Refund?" in done.stderr and "is not a whole number" in done.stderr
    assert done.stdout == f"{id} approved\n"
    assert operator.json("approvals", "show", id)["value"] == 44


def test_clients(operator: Operator) -> None:
    first, second = asked(operator, 1)[1], asked(operator, 2)[1]
    with SyncClient(operator.server.ingress, admin_url=operator.server.admin) as client:
        approvals = client.approvals()
        one = approvals.get(first)
        assert one in approvals.list(service="Desk", limit=50) and isinstance(one.created_at, datetime)
        with pytest.raises(Invalid, match="value: "):
            approvals.approve(first, "much")
        assert approvals.approve(first, 3, by="sync").value == 3
        with pytest.raises(Conflict):
            approvals.reject(first)

    async def beside() -> None:
        async with Client(operator.server.ingress, admin_url=operator.server.admin) as client:
            with pytest.raises(NotFound):
                await client.approvals().get("apr_none")
            done = await client.approvals().reject(second, comment="no", by="async")
            assert (done.status, done.comment, done.by) == ("rejected", "no", "async")
            assert second in {each.id for each in await client.approvals().list(status="rejected")}

    asyncio.run(beside())


def test_sessions_over_http(operator: Operator) -> None:
    with SyncClient(operator.server.ingress, admin_url=operator.server.admin) as client:
        session = SyncSession("s/1", client=client, ttl=3600)
        items: list[Any] = [{"role": "user", "content": "ü"}, None, 1.0]
        session.add(items)
        assert session.items() == items and session.items(1) == [1.0]
        assert session.pop() == 1.0
        assert session.branch("s/2").items(limit=5, keep_first=1) == items[:2]
        assert session.compact(len, keep_last=1)
        assert session.items() == [1, None]
        session.clear()
        assert session.items() == []

    async def beside() -> None:
        async with Client(operator.server.ingress, admin_url=operator.server.admin) as client:
            session = Session("s/3", client=client)
            await asyncio.gather(*(session.add([number]) for number in range(20)))
            assert sorted(await session.items()) == list(range(20))
            with pytest.raises(Conflict):
                await Session("s/2", client=client).branch("s/3")

    asyncio.run(beside())
