"""The audit log: who changed what, who was refused, and what must not be in it."""

import json
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import Conflict, Invalid
from perdure.runtime.clock import VirtualClock
from perdure.web import audit as module
from perdure.web.audit import Audit
from tests.web.fakes import ID_TEXT
from tests.web.secured import KEYS, NOW, TEXTS, KeyNode, Ports, shown
from tests.web.test_security import ADMIN_ROUTES, BODIES, JSON, VALUES, ask

AT = "2023-11-14T22:13:20.000000000Z"


def who(role: str) -> dict[str, Any]:
    key = KEYS[role][0]
    return {"key": key.id, "name": key.name, "role": role, "peer": None}


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    ports = Ports(log=tmp_path / "audit.log")
    yield ports
    ports.close()


def test_a_change_is_one_line(ports: Ports) -> None:
    ask(ports.admin, "PATCH", f"/v4/invocations/{ID_TEXT}/kill?x=secret", b"", *shown("operator"))
    assert ports.lines() == [
        {
            "at": AT,
            "event": "action",
            "who": who("operator"),
            "method": "PATCH",
            "path": f"/v4/invocations/{ID_TEXT}/kill",
            "status": 200,
            "affected": {"id": ID_TEXT},
        }
    ]


AFFECTED: list[tuple[str, str, bytes, dict[str, Any]]] = [
    ("DELETE", f"/invocations/{ID_TEXT}?mode=kill", b"", {"id": ID_TEXT, "parameters": {"mode": "kill"}}),
    ("POST", "/services/Counter/state", b'{"object_key": "k", "new_state": {"s": [1]}}', {"object_key": "k"}),
    ("PATCH", "/services/Counter/state/k%20y", b'{"changes": {"s": "c2VjcmV0"}}', {"object_key": "k y"}),
    ("POST", "/keys", b'{"name": "n", "role": "admin"}', {"name": "n", "role": "admin"}),
    (
        "POST",
        "/internal/invocations_batch_operations/kill",
        f'{{"invocation_ids": ["{ID_TEXT}"]}}'.encode(),
        {"invocations": [ID_TEXT]},
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "affected"), AFFECTED)
def test_what_was_affected(ports: Ports, method: str, path: str, body: bytes, affected: dict[str, Any]) -> None:
    assert ask(ports.admin, method, path, body, JSON, *shown("admin")).status < 300
    (line,) = ports.lines()
    assert line["affected"].items() >= affected.items()
    assert "secret" not in str(line) and "c2VjcmV0" not in str(line), "no bodies"


@pytest.mark.parametrize("route", ADMIN_ROUTES, ids="-".join)
def test_what_changes_something_is_in_it_and_nothing_else(ports: Ports, route: tuple[str, str]) -> None:
    method, path = route
    body = b"" if method == "GET" else BODIES.get(path, b"")
    for name, value in VALUES.items():
        path = path.replace(name, value)
    status = ask(ports.admin, method, path, body, *shown("admin"), *([JSON] if body else [])).status
    lines = ports.lines()
    if method == "GET" or path == "/query" or "/serdes/" in path:
        assert lines == []
    else:
        assert [(line["method"], line["path"], line["status"]) for line in lines] == [(method, path, status)]


def test_what_failed_is_in_it_too(tmp_path: Path) -> None:
    for answer, status in ((Conflict("completed"), 409), (RuntimeError("bug"), 500)):
        node = KeyNode()
        node.answer = answer
        ports = Ports(node, log=tmp_path / f"{status}.log")
        ask(ports.admin, "PATCH", f"/invocations/{ID_TEXT}/kill", b"", *shown("operator"))
        assert [line["status"] for line in ports.lines()] == [status]
        ports.close()


def test_who_is_not_known_is_anonymous(tmp_path: Path) -> None:
    ports = Ports(KeyNode(keys=[]), log=tmp_path / "audit.log")
    scope = ports.admin.scope("PATCH", f"/invocations/{ID_TEXT}/kill", ())
    ports.admin.scope = lambda *_: {**scope, "client": ("10.0.0.7", "4711")}  # type: ignore[method-assign]
    ask(ports.admin, "PATCH", "", b"")
    assert [line["who"] for line in ports.lines()] == [{"anonymous": True, "peer": "10.0.0.7:4711"}]
    ports.close()


def test_refusals(ports: Ports) -> None:
    ask(ports.admin, "GET", "/services", b"", *shown("garbage"))
    ask(ports.admin, "POST", "/keys", b"", *shown("operator"))
    ask(ports.ingress, "POST", "/Greeter/greet", b"1", *shown("read-only"))
    ask(ports.admin, "GET", "/services", b"", ("host", "evil.example"), *shown("admin"))
    lines = ports.lines()
    assert [(line["event"], line["port"], line["status"], line["path"]) for line in lines] == [
        ("refused", "admin", 401, "/services"),
        ("refused", "admin", 403, "/keys"),
        ("refused", "ingress", 403, "/Greeter/greet"),
        ("refused", "admin", 403, "/services"),
    ]
    assert lines[1]["who"] == who("operator") and lines[0]["who"] == {"anonymous": True, "peer": None}
    assert "evil.example" in lines[3]["why"]


def test_a_flood_of_refusals_is_counted(ports: Ports) -> None:
    for _ in range(module.REFUSALS_PER_MINUTE + 40):
        ask(ports.ingress, "POST", "/Greeter/greet", b"1", *shown("garbage"))
    assert len(ports.lines()) == module.REFUSALS_PER_MINUTE
    ask(ports.admin, "PATCH", f"/invocations/{ID_TEXT}/kill", b"", *shown("operator"))
    assert [line["event"] for line in ports.lines()] == ["action"], "what is done is never left out"
    clock = ports.node.clock
    assert isinstance(clock, VirtualClock)
    clock.move_to(NOW + 60_000)
    ask(ports.ingress, "POST", "/Greeter/greet", b"1", *shown("garbage"))
    left_out, refused = ports.lines()
    assert (left_out["event"], left_out["count"], refused["event"]) == ("refusals left out", 40, "refused")


def test_no_secret_is_in_it(ports: Ports) -> None:
    for credential in (*TEXTS, "garbage"):
        for path in ("/keys", "/x" * 400, "/keys?token=hidden"):
            ask(ports.admin, "POST", path, BODIES["/keys"], JSON, *shown(credential), ("cookie", "hidden"))
            ask(ports.ingress, "POST", path, b"hidden", JSON, *shown(credential), ("x-api-key", "hidden"))
    text = str(ports.lines())
    assert "hidden" not in text and text.count("'event'") > 10
    for key in TEXTS.values():
        assert key.rpartition("_")[2] not in text


def test_a_line_cannot_be_forged(ports: Ports) -> None:
    ask(ports.admin, "DELETE", "/keys/x%0A%7B%22event%22:%22action%22%7D%1b%5B2J", b"", *shown("admin"))
    (line,) = ports.lines()
    assert line["affected"]["id"] == 'x\n{"event":"action"}\x1b[2J'
    ask(ports.admin, "DELETE", "/keys/" + "x" * 5000, b"", *shown("admin"))
    (line,) = ports.lines()
    assert len(line["path"]) < 600 and len(line["affected"]["id"]) < 600


def test_a_line_is_bounded(ports: Ports) -> None:
    ids = json.dumps({"invocation_ids": ["x" * 10_000] * 1000}).encode()
    ask(ports.admin, "POST", "/internal/invocations_batch_operations/kill", ids, JSON, *shown("admin"))
    state = json.dumps({"object_key": "k" * 100_000, "new_state": {}}).encode()
    ask(ports.admin, "POST", "/services/Counter/state", state, JSON, *shown("admin"))
    batch, object = ports.lines()
    assert {len(id) for id in batch["affected"]["invocations"]} == {module.TEXT_LIMIT + 3}
    assert len(object["affected"]["object_key"]) == module.TEXT_LIMIT + 3


def test_the_logger_has_it_too(caplog: pytest.LogCaptureFixture) -> None:
    ports = Ports()
    ask(ports.admin, "PATCH", f"/invocations/{ID_TEXT}/kill", b"", *shown("operator"))
    assert caplog.records == [], "unless it is asked for"
    with caplog.at_level(logging.INFO, "perdure.audit"):
        ask(ports.admin, "PATCH", f"/invocations/{ID_TEXT}/kill", b"", *shown("operator"))
    (record,) = caplog.records
    assert record.name == "perdure.audit" and json.loads(record.getMessage())["event"] == "action"


def test_the_file_is_its_owners_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 2000)
    path = tmp_path / "audit.log"
    ports = Ports(log=path)
    for _ in range(60):
        ask(ports.admin, "PATCH", f"/invocations/{ID_TEXT}/kill", b"", *shown("operator"))
    ports.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["audit.log", *(f"audit.log.{number}" for number in range(1, 5))]
    assert all(file.stat().st_size <= 2000 for file in files)
    if sys.platform != "win32":
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(json.loads(line) for file in files for line in file.read_text().splitlines())


def test_it_is_gone_on_with(tmp_path: Path) -> None:
    for _ in range(2):
        ports = Ports(log=tmp_path / "audit.log")
        ask(ports.admin, "PATCH", f"/invocations/{ID_TEXT}/kill", b"", *shown("operator"))
        ports.close()
    assert len(ports.lines()) == 2


def test_a_full_disk_is_told_and_stops_nobody(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._PrivateFile, "shouldRollover", full)
    assert ask(ports.admin, "PATCH", f"/invocations/{ID_TEXT}/kill", b"", *shown("operator")).status == 200
    (record,) = caplog.records
    assert record.levelname == "ERROR" and ID_TEXT in record.getMessage() and "No space" in (record.exc_text or "")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "audit.log"):
        with pytest.raises(Invalid, match=r"audit_log: .* cannot be written"):
            Audit(VirtualClock(NOW), os.fspath(path))
