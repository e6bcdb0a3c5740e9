"""A server that is killed while a person thinks, and as soon as they have answered."""

import json
import pathlib
import time
from typing import Any

import pytest

from tests.durability.test_kill import Server, result_of

STOP_SECONDS = 60


def approvals(server: Server, status: str) -> list[dict[str, Any]]:
    code, body = server.get(server.admin, f"/approvals?status={status}")
    assert code == 200, body
    return list(json.loads(body)["approvals"])


def the_open_one(server: Server) -> str:
    stop = time.monotonic() + STOP_SECONDS
    while not (found := approvals(server, "open")):
        assert time.monotonic() < stop, "nothing was asked"
        time.sleep(0.02)
    (one,) = found
    return str(one["id"])


def restart(server: Server) -> None:
    server.kill()
    server.start()


def answer(server: Server, id: str, verb: str, body: dict[str, Any]) -> int:
    content = json.dumps(body).encode()
    path = f"/approvals/{id}/{verb}"
    return server.request(server.admin, "POST", path, content, content_type="application/json")[0]


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_killed_while_a_person_thinks(tmp_path: pathlib.Path, partitions: int, verb: str) -> None:
    server = Server(tmp_path, partitions)
    server.start()
    try:
        _, body = server.request(server.ingress, "POST", "/Desk/refund/send", b"120", content_type="application/json")
        invocation = json.loads(body)["invocationId"]
        id = the_open_one(server)
        for _ in range(2):
            restart(server)
            assert the_open_one(server) == id
        assert answer(server, id, "approve", {"value": "much"}) == 400
        said = {"value": 100, "by": "ann"} if verb == "approve" else {"comment": "too much", "by": "ann"}
        assert answer(server, id, verb, said) == 200
        restart(server)
        assert answer(server, id, "reject", {}) == 409
        assert approvals(server, "open") == []
        assert [each["id"] for each in approvals(server, "closed")] == [id]
        status, text = result_of(server, invocation, time.monotonic() + STOP_SECONDS)
        steps = [line.split()[0] for line in server.ledger.read_text().splitlines()]
        if verb == "approve":
            assert (status, json.loads(text)) == (200, "100 by ann")
            assert steps == ["stock", "money"]
        else:
            assert (status, json.loads(text)["message"]) == (403, "rejected by ann: too much")
            assert list(dict.fromkeys(steps)) == ["stock", "money", "undo-money", "undo-stock"]
    finally:
        server.kill()
