"""The admin port over a node that is told what to answer."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from perdure.model import entries as e
from perdure.model import invocation as i
from perdure.model.actions import Description, Done, Refused
from perdure.model.entries import Failure, Value
from perdure.model.services import HandlerKind
from perdure.runtime.node import Node
from perdure.web.admin import Admin
from tests.web.fakes import ID, ID_TEXT, FakeNode, Reply, Web

JSON = ("content-type", "application/json")


def ask(node: FakeNode, method: str, path: str, body: bytes = b"", *headers: tuple[str, str | bytes]) -> Reply:
    app = Admin(cast(Node, node), version="1.2.3", ingress_endpoint=lambda: "http://h:1")
    reply = asyncio.run(Web(app)(method, path, body, *headers))
    assert reply is not None
    return reply


@pytest.mark.parametrize("prefix", ["", "/v2", "/v3", "/v4"])
def test_health_and_version(prefix: str) -> None:
    node = FakeNode()
    assert ask(node, "GET", f"{prefix}/health")[::2] == (200, b"")
    node.ready = False
    assert ask(node, "GET", f"{prefix}/health").status == 503
    version = ask(node, "GET", f"{prefix}/version").json
    assert version["version"] == "1.2.3"
    assert (version["min_admin_api_version"], version["max_admin_api_version"]) == (2, 4)
    assert version["ingress_endpoint"] == "http://h:1"
    assert set(version["features"].values()) == {False}


def test_versions_and_routes_that_are_not_there() -> None:
    first = ask(FakeNode(), "GET", "/v1/health")
    assert (first.status, first.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    for path in ("/v5/health", "/nothing", "/v4/", "/v1/", "/health/", f"/invocations/{ID_TEXT}/nothing"):
        assert ask(FakeNode(), "GET", path)[::2] == (404, b"")
    assert ask(FakeNode(), "POST", "/health").status == 405
    assert ask(FakeNode(), "GET", f"/invocations/{ID_TEXT}/cancel").status == 405


@pytest.mark.parametrize(
    ("verb", "asked"),
    [
        ("cancel", ("cancel", ID)),
        ("kill", ("kill", ID)),
        ("pause", ("pause", ID)),
        ("resume", ("resume", ID, None)),
        ("resume?deployment=latest", ("resume", ID, "")),
        ("purge", ("purge", ID, False)),
        ("purge-journal", ("purge", ID, True)),
        ("restart-as-new", ("restart", ID, 1, "")),
        ("restart-as-new?from=4&deployment=keep", ("restart", ID, 5, None)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/v4"])
def test_control(prefix: str, verb: str, asked: tuple[Any, ...]) -> None:
    path = f"{prefix}/invocations/{ID_TEXT}/{verb}"
    node = FakeNode(Done())
    assert ask(node, "PATCH", path)[::2] == (200, b"")
    assert node.asked == [asked]
    assert ask(FakeNode(Done(pending=True)), "PATCH", path).status == 202
    refused = ask(FakeNode(Refused(409, "completed")), "PATCH", path)
    assert (refused.status, refused.json) == (
        409,
        {
            "message": "completed",
            "restate_code": None,
            "source": "request",
            "accepted": False,
            "retryable": False,
            "invocation_id": ID_TEXT,
        },
    )


def test_restart_tells_the_new_id() -> None:
    reply = ask(FakeNode(Done(new_id=ID)), "PATCH", f"/invocations/{ID_TEXT}/restart-as-new")
    assert (reply.status, reply.json) == (200, {"new_invocation_id": ID_TEXT})
    for wrong in ("x", "-1", "99999999999999"):
        assert ask(FakeNode(), "PATCH", f"/invocations/{ID_TEXT}/restart-as-new?from={wrong}").status == 400


def test_the_query_of_a_batch_says_what_it_says_for_one() -> None:
    node = FakeNode(Done(new_id=ID))
    body = f'{{"invocation_ids": ["{ID_TEXT}"]}}'.encode()
    path = "/internal/invocations_batch_operations/restart-as-new?from=3&deployment=keep"
    reply = ask(node, "POST", path, body, JSON)
    assert reply.json["succeeded"] == [{"old_invocation_id": ID_TEXT, "new_invocation_id": ID_TEXT}]
    assert node.asked == [("restart", ID, 4, None)]


def test_ids_that_are_none() -> None:
    for method, path in (("PATCH", "/invocations/nonsense/kill"), ("GET", "/invocations/nonsense")):
        reply = ask(FakeNode(), method, path)
        assert reply.status == 400
        assert "invocation_id" in reply.json["message"]
    assert ask(FakeNode(Refused(404, "unknown")), "GET", f"/invocations/{ID_TEXT}").status == 404


# Descriptions

FAILURE = i.AttemptFailure("boom", 500, 1_700_000_000_000, command_index=2, command_name="step")


def described(status: i.Status, *journal: e.Entry, **facts: Any) -> dict[str, Any]:
    target = i.Target("Counter", "add", HandlerKind.EXCLUSIVE, "k")
    invocation = i.Invocation(7, ID, target, status, 1_700_000_000_000, attempts=3, **facts)
    description = Description(invocation, tuple((1_700_000_000_000, entry) for entry in journal), 2)
    return cast(dict[str, Any], ask(FakeNode(description), "GET", f"/invocations/{ID_TEXT}").json)


@pytest.mark.parametrize(
    ("status", "word", "check"),
    [
        (
            i.Scheduled(1_700_000_000_000),
            "scheduled",
            lambda it: it["scheduled_for"] == "2023-11-14T22:13:20.000000000Z",
        ),
        (i.Inboxed(4), "inboxed", lambda it: it["ahead"] == 2),
        (i.Invoked(), "running", lambda it: it["last_failure"] is None),
        (
            i.Invoked(3, 1_700_000_000_500, FAILURE),
            "backing-off",
            lambda it: (
                (it["failures"], it["last_failure"]["message"]) == (3, "boom") and it["retry_at"].endswith("500000000Z")
            ),
        ),
        (i.Suspended(5, i.Waiting((1,), (17,), ("go",))), "suspended", lambda it: it["waiting_for"]["names"] == ["go"]),
        (i.Paused(5, FAILURE), "paused", lambda it: it["last_failure"]["command_name"] == "step"),
        (i.Completed(5, Value(b"1")), "completed", lambda it: it["result"] == {"content": "MQ=="}),
        (i.Completed(5, Failure(409, "no")), "completed", lambda it: it["result"]["code"] == 409),
    ],
)
def test_description(status: i.Status, word: str, check: Callable[[Any], bool]) -> None:
    it = described(status)
    assert it["status"] == word
    assert check(it), it
    assert (it["id"], it["target"], it["service"], it["key"]) == (ID_TEXT, "Counter/k/add", "Counter", "k")
    assert (it["handler"], it["handler_kind"], it["attempts"]) == ("add", "EXCLUSIVE", 3)
    assert it["created_at"] == "2023-11-14T22:13:20.000000000Z"


def test_description_of_a_journal() -> None:
    it = described(
        i.Invoked(),
        e.Input(b"5", (("a", "b"),)),
        e.Run(1, "step"),
        e.Completion(e.RUN_COMPLETION, 1, Value(b"x"), 9),
        e.Signal("go", e.VOID),
        idempotency_key="k1",
        caller=ID,
    )
    assert [each["kind"] for each in it["journal"]] == ["Input", "Run", "Completion", "Signal"]
    assert it["journal"][0] == {
        "index": 0,
        "appended_at": "2023-11-14T22:13:20.000000000Z",
        "kind": "Input",
        "value": "NQ==",
        "headers": [["a", "b"]],
        "name": "",
    }
    assert it["journal"][2]["result"] == {"kind": "Value", "content": "eA=="}
    assert it["journal"][3]["result"] == {"kind": "Void"}
    assert (it["idempotency_key"], it["caller"]) == ("k1", ID_TEXT)


def test_secrets_among_headers_are_not_shown() -> None:
    headers = (("x-api-key", "hunter2"), ("a", "b"))
    entries = (e.Input(b"5", headers), e.Call("S", "h", b"", 1, 2, headers=headers))
    for entry in described(i.Invoked(), *entries)["journal"]:
        assert entry["headers"] == [["x-api-key", "***"], ["a", "b"]]


# State


def test_state() -> None:
    node = FakeNode({"total": b"5"})
    assert ask(node, "GET", "/services/Counter/state/a%2Fb").json == {"state": {"total": "NQ=="}}
    assert node.asked == [("state", "Counter", "a/b")]
    assert ask(node, "GET", "/services/Nobody/state/k").status == 404
    assert ask(node, "GET", "/services/Greeter/state/k").status == 400


def test_changes_of_state() -> None:
    node = FakeNode(Done())
    changes = b'{"changes": {"total": "NQ==", "old": null}}'
    assert ask(node, "PATCH", "/services/Counter/state/k", changes, JSON).status == 200
    assert ask(node, "PATCH", "/v4/services/Counter/state/k", b'{"changes": {}, "replace": true}', JSON).status == 200
    assert node.asked == [
        ("change_state", "Counter", "k", {"total": b"5", "old": None}, False),
        ("change_state", "Counter", "k", {}, True),
    ]
    assert ask(FakeNode(Done(pending=True)), "PATCH", "/services/Counter/state/k", changes, JSON).status == 202


def test_a_replacement_of_a_version() -> None:
    node = FakeNode(Done())
    body = b'{"object_key": "k", "new_state": {"a": [49]}, "version": "v"}'
    assert ask(node, "POST", "/services/Counter/state", body, JSON).status == 202
    assert node.asked == [("change_state", "Counter", "k", {"a": b"1"}, True, "v")]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", [], 415),
        (b"{}", [("content-type", "text/plain")], 415),
        (b"{", [JSON], 400),
        (b"", [JSON], 400),
        (b"{}", [JSON], 422),
        (b'{"changes": {"a": "not base64!"}}', [JSON], 422),
        (b'{"changes": {"a": 5}}', [JSON], 422),
    ],
)
def test_changes_that_are_refused(body: bytes, headers: list[tuple[str, str]], status: int) -> None:
    node = FakeNode(Done())
    reply = ask(node, "PATCH", "/services/Counter/state/k", body, *headers)
    assert (reply.status, reply.headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert reply.headers["x-restate-error-source"] == "request"
    assert reply.headers["x-perdure-accepted"] == reply.headers["x-perdure-retryable"] == "false"
    assert not node.asked


def test_a_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(FakeNode(RuntimeError("a bug")), "PATCH", f"/invocations/{ID_TEXT}/kill")
    assert reply.status == 500
    assert "a bug" in caplog.text
