"""The built-in objects on restate-server: they are made of nothing that another server of the protocol lacks."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.processes import Answer, Child, ask, ask_if_up
from tests.conformance.servers import ROOT, RestateServer, Server
from tests.ports import free_port

QUERY = "SELECT service_key, value_utf8 FROM state WHERE service_name = 'PerdureApprovals' AND key = 'approval'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("human")
    server, port = RestateServer(folder / "server"), free_port()
    server.start()
    command = [sys.executable, "-m", "tests.conformance.services_perdure.human"]
    endpoint = Child(command, folder / "endpoint.log", {"PORT": str(port)}, ROOT)
    try:
        endpoint.wait_until(lambda: ask_if_up(port, "GET", "/discover").status != 0)
        assert ask(server.admin, "POST", "/deployments", {"uri": f"http://127.0.0.1:{port}"}).status == 201
        yield server
    finally:
        endpoint.kill()
        server.kill()


def records(server: Server) -> dict[str, dict[str, Any]]:
    """The approvals there are, by id."""
    answer = ask(server.admin, "POST", "/query", {"query": QUERY}, {"accept": "application/json"})
    return {row["service_key"]: json.loads(row["value_utf8"]) for row in answer.json()["rows"]}


def asked(server: Server) -> tuple[str, str]:
    """The ids of an invocation that asks, and of its approval."""
    invocation = ask(server.ingress, "POST", "/Desk/refund/send").json()["invocationId"]
    stop = time.monotonic() + 20
    while True:
        for id, record in records(server).items():
            if record["invocation"] == invocation:
                return invocation, id
        assert time.monotonic() < stop, "nothing was asked"
        time.sleep(0.05)


def answered(server: Server, id: str, **said: Any) -> Answer:
    return ask(server.ingress, "POST", f"/PerdureApprovals/{id}/answer", said)


def test_a_person_decides(server: Server) -> None:
    invocation, id = asked(server)
    assert answered(server, id, approved=True, value="x").status == 400
    assert answered(server, id, approved=True, value=5, by="ann").json()["status"] == "approved"
    assert answered(server, id, approved=False).status == 409
    assert ask(server.ingress, "GET", f"/restate/invocation/{invocation}/attach").json() == [5]


def test_a_rejection_undoes(server: Server) -> None:
    invocation, id = asked(server)
    answered(server, id, approved=False, by="ann", comment="no")
    failed = ask(server.ingress, "GET", f"/restate/invocation/{invocation}/attach")
    assert (failed.status, failed.json()["message"]) == (403, "rejected by ann: no")
    assert ask(server.ingress, "POST", "/Desk/undos").json() == ["refund"]


def test_nobody_answers(server: Server) -> None:
    assert ask(server.ingress, "POST", "/Desk/quick").json() == "late"
    assert [each["title"] for each in records(server).values() if each.get("status") == "expired"] == ["Quick?"]


def test_who_asked_is_killed(server: Server) -> None:
    invocation, id = asked(server)
    assert ask(server.admin, "PATCH", f"/invocations/{invocation}/kill").status in (200, 202)
    stop = time.monotonic() + 20
    while records(server)[id].get("status") != "withdrawn":
        assert time.monotonic() < stop, "it stays open for nobody"
        time.sleep(0.05)
