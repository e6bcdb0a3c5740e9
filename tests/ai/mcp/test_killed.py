"""A real server of perdure, killed with SIGKILL in the middle of a call of an MCP tool."""

import json
import pathlib
import time

from tests.ai.ladder import Served
from tests.ai.mcp.server import lines
from tests.ai.mcp.test_connections import listening


def test_killed_in_the_middle_of_a_call(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "calls"
    with listening(ledger) as port:
        server = Served(tmp_path, "tests.ai.mcp.killed:app", {"PERDURE_TEST_MCP": f"http://127.0.0.1:{port}/mcp"})
        server.start()
        try:
            status, body = server.request(server.ingress, "POST", "/Agent/ask/send", b"1")
            assert status == 202, body
            deadline = time.monotonic() + 60
            while len(lines(ledger)) < 2:
                assert time.monotonic() < deadline, server.tail()
                time.sleep(0.01)
            server.stop()
            (tmp_path / "gate").touch()
            server.start()
            id = json.loads(body)["invocationId"]
            status, body = server.request(server.ingress, "GET", f"/restate/invocation/{id}/attach")
            assert (status, json.loads(body)) == (200, [1, 2, "held"])
        finally:
            server.stop()
    before, held, again, after = lines(ledger)
    assert held == again
    assert [line.split()[0] for line in (before, held, after)] == ["add", "hold", "add"]
    assert len({before, held, after}) == 3
