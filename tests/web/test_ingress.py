"""The ingress over a node that is told what to answer: paths, statuses, headers, bodies."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

import pytest

from perdure.errors import Overloaded, Unavailable
from perdure.model.actions import Accepted, AlreadyInvoked, Answer, Refused
from perdure.model.entries import Failure, Signal, Value
from perdure.model.ids import format_invocation_id
from perdure.model.invocation import Target
from perdure.model.services import HandlerKind
from perdure.runtime.node import Node
from perdure.web.ingress import Ingress
from tests.web.fakes import AWAKEABLE, ID, ID_TEXT, FakeNode, Reply, Web

T = TypeVar("T")
JSON = ("content-type", "application/json")
GREET = Target("Greeter", "greet", HandlerKind.PLAIN)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def made(node: FakeNode, **options: Any) -> Web:
    return Web(Ingress(cast(Node, node), **options))


def ask(node: FakeNode, method: str, path: str, body: Any = b"", *headers: tuple[str, str | bytes]) -> Reply:
    reply = run(made(node)(method, path, body, *headers))
    assert reply is not None
    return reply


def check_error(reply: Reply, status: int, *, source: str = "ingress", says: str = "") -> None:
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-restate-error-source"] == source
    error = reply.json
    assert error["source"] == source
    assert error["code"] == status
    assert says in error["message"]
    assert error["accepted"] in (True, False, None)
    assert error["retryable"] in (True, False)


# Calls


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/Greeter/greet", GREET),
        ("/Greeter/greet/", GREET),
        ("/restate/call/Greeter/greet", GREET),
        ("/restate/call/Greeter/greet/", GREET),
        ("/Greeter/send", Target("Greeter", "send", HandlerKind.PLAIN)),
        ("/Counter/k/add", Target("Counter", "add", HandlerKind.EXCLUSIVE, "k")),
        ("/Counter/a%2Fb/get", Target("Counter", "get", HandlerKind.SHARED, "a/b")),
        ("/Counter/%C3%A9/get", Target("Counter", "get", HandlerKind.SHARED, "é")),
        ("/Counter/é/get", Target("Counter", "get", HandlerKind.SHARED, "é")),
        ("/Counter/send/add", Target("Counter", "add", HandlerKind.EXCLUSIVE, "send")),
        ("/restate/call/Counter/a%20b/add", Target("Counter", "add", HandlerKind.EXCLUSIVE, "a b")),
        ("/Signup/ada/run", Target("Signup", "run", HandlerKind.WORKFLOW, "ada")),
        ("/Signup/ada/click", Target("Signup", "click", HandlerKind.SHARED, "ada")),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_call(method: str, path: str, target: Target) -> None:
    node = FakeNode()
    reply = ask(node, method, path)
    assert reply.status == 200
    assert reply.body == b'"hi"'
    assert reply.headers["x-restate-id"] == ID_TEXT
    assert "idempotency-expires" not in reply.headers
    assert node.asked[0][1] == target


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/Greeter/greet/send", GREET),
        ("/restate/send/Greeter/greet", GREET),
        ("/Greeter/send/send", Target("Greeter", "send", HandlerKind.PLAIN)),
        ("/Counter/k/add/send", Target("Counter", "add", HandlerKind.EXCLUSIVE, "k")),
        ("/restate/send/Counter/k/add/", Target("Counter", "add", HandlerKind.EXCLUSIVE, "k")),
    ],
)
def test_send(path: str, target: Target) -> None:
    node = FakeNode(Accepted(ID, True))
    reply = ask(node, "POST", path, b"5", JSON)
    assert reply.status == 202
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-restate-id"] == ID_TEXT
    assert reply.json == {"invocationId": ID_TEXT, "status": "Accepted"}
    assert node.asked[0][1:3] == (target, b"5")


@pytest.mark.parametrize("query", ["delay=PT60S", "DELAY=60+sec", "delay=1m&x=y", "x=y&delay=60000ms", "delay=1%20m"])
def test_delayed_send(query: str) -> None:
    node = FakeNode(Accepted(ID, True, 1_700_000_000_123))
    reply = ask(node, "POST", f"/Greeter/greet/send?{query}")
    assert reply.json["executionTime"] == "2023-11-14T22:13:20.123000000Z"
    assert node.asked[0][-1] == 60_000


def test_duplicate_send_tells_the_original_time() -> None:
    reply = ask(FakeNode(Accepted(ID, False, 1_700_000_000_000)), "POST", "/Greeter/greet/send?delay=1h")
    assert reply.json["status"] == "PreviouslyAccepted"
    assert reply.json["executionTime"] == "2023-11-14T22:13:20.000000000Z"


@pytest.mark.parametrize(
    "path", ["/Greeter/greet/send?delay=soon", "/Greeter/greet?delay=1s", "/Greeter/greet?Delay=x"]
)
def test_delays_that_are_refused(path: str) -> None:
    node = FakeNode()
    check_error(ask(node, "POST", path), 400)
    assert not node.asked


# Paths and methods that are refused


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 400),
        ("/Greeter", 400),
        ("/openapi", 400),
        ("/openapi/Greeter", 404),
        ("/a/b/c/d/e/f/g/h", 400),
        ("/Nobody/greet", 404),
        ("/Nobody/greet/send/and/more", 404),
        ("/Greeter/nothing", 404),
        ("/Greeter/greet/now", 400),
        ("/Greeter/greet/send/more", 400),
        ("/Greeter/", 400),
        ("/Counter/k", 400),
        ("/Counter//add", 400),
        ("/Counter/k/nothing", 404),
        ("/Counter/k/add/send/more", 400),
        ("/Counter/%ff/add", 400),
        ("/Greeter/hidden", 400),
        ("/Greeter/hidden/send", 400),
        ("/greeter/greet", 404),
        ("/restate", 400),
        ("/restate/nothing", 404),
        ("/restate/call/Greeter", 400),
        ("/restate/call/Greeter/greet/send", 400),
        ("/restate/call/Nobody/greet", 404),
        ("/restate/call/Counter/k", 400),
        ("/restate/send/Counter/k/add/more", 400),
        ("/restate/scope/s/call/Greeter/greet", 400),
        ("/restate/scope/s/send/Greeter/greet", 400),
        ("/restate/invocation/nonsense/attach", 400),
        (f"/restate/invocation/{ID_TEXT}/look", 404),
        ("/restate/invocation/Nobody/greet/key/attach", 404),
        ("/restate/invocation/Counter/add/key/attach", 400),
        ("/restate/invocation/Signup/ada/run/key/attach", 400),
        ("/restate/workflow/Signup//attach", 400),
        ("/restate/workflow/Signup/x", 400),
        ("/restate/workflow/Signup/x/look", 404),
        ("/restate/attach/nonsense", 400),
        ("/restate/output/nonsense", 400),
        (f"/restate/output/{ID_TEXT}/x", 400),
        ("/restate/", 400),
    ],
)
def test_bad_paths(path: str, status: int) -> None:
    node = FakeNode()
    reply = ask(node, "GET", path)
    check_error(reply, status)
    assert reply.json["accepted"] is False
    assert not node.asked


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/Greeter/greet"),
        ("DELETE", "/Greeter/greet/send"),
        ("PATCH", "/restate/call/Counter/k/add"),
        ("POST", "/restate/health"),
        ("GET", "/restate/attach"),
        ("GET", "/restate/lookup"),
        ("POST", f"/restate/attach/{ID_TEXT}"),
        ("POST", f"/restate/invocation/{ID_TEXT}/output"),
        ("POST", "/restate/workflow/Signup/ada/attach"),
        ("GET", f"/restate/awakeables/{AWAKEABLE}/resolve"),
        ("GET", f"/restate/signals/{ID_TEXT}/go"),
    ],
)
def test_methods_that_are_refused(method: str, path: str) -> None:
    check_error(ask(FakeNode(), method, path), 405)


def test_the_service_is_looked_for_before_the_method() -> None:
    check_error(ask(FakeNode(), "PUT", "/Nobody/greet"), 404)
    check_error(ask(FakeNode(), "PUT", "/Greeter/nothing"), 404)
    check_error(ask(FakeNode(), "PUT", "/Greeter/hidden"), 400)


def test_a_path_that_is_no_text() -> None:
    web = made(FakeNode())
    scope = web.scope("GET", "/Greeter/greet", []) | {"raw_path": b"/Greeter/\xff"}
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    run(cast(Any, web.app(scope, cast(Any, None), send)))
    assert sent[0]["status"] == 400


# Headers


def test_headers_that_the_handler_gets() -> None:
    node = FakeNode()
    ask(
        node,
        "POST",
        "/Counter/a%2Fb/add?x=1&y=%20",
        b"5",
        ("Host", "example.org"),
        ("Connection", "keep-alive"),
        ("X-Tenant", "first"),
        ("x-tenant", "second"),
        ("Idempotency-Key", "k1"),
        ("idempotency-expires", "x"),
        ("User-Agent", "curl"),
        JSON,
        ("traceparent", "00-1-2-01"),
    )
    _, _, body, headers, key = node.asked[0]
    assert headers == (
        ("x-restate-ingress-path", "/Counter/a%2Fb/add?x=1&y=%20"),
        ("x-tenant", "first"),
        ("user-agent", "curl"),
        ("content-type", "application/json"),
        ("traceparent", "00-1-2-01"),
        ("content-length", "1"),
    )
    assert (body, key) == (b"5", "k1")


@pytest.mark.parametrize("path", ["/Greeter/greet", "/Greeter/greet/send"])
def test_a_header_that_is_not_ascii(path: str) -> None:
    node = FakeNode()
    check_error(ask(node, "POST", path, b"", ("x-name", b"caf\xc3\xa9")), 400, says="x-name")
    assert not node.asked


def test_idempotency_keys_that_are_refused() -> None:
    check_error(ask(FakeNode(), "POST", "/Greeter/greet", b"", ("idempotency-key", "")), 400)
    check_error(ask(FakeNode(), "POST", "/Greeter/greet", b"", ("idempotency-key", b"\xff")), 400)
    check_error(ask(FakeNode(), "POST", "/Signup/ada/run", b"", ("idempotency-key", "k")), 400)
    assert ask(FakeNode(), "POST", "/Signup/ada/click", b"", ("idempotency-key", "k")).status == 200


def test_limit_keys_are_refused() -> None:
    check_error(ask(FakeNode(), "POST", "/Greeter/greet", b"", ("x-restate-limit-key", "a")), 400)
    check_error(ask(FakeNode(), "POST", "/Greeter/greet?limit-key=a"), 400)


# Input validation


@pytest.mark.parametrize(
    ("handler", "body", "content_type", "passes"),
    [
        ("greet", b"", None, True),
        ("greet", b"", "text/plain", True),
        ("greet", b"x", "text/plain", True),
        ("greet", b"x", None, False),
        ("strict", b"{}", "application/json", True),
        ("strict", b"{}", "Application/JSON; charset=utf-8", True),
        ("strict", b"{}", "text/plain", False),
        ("strict", b"{}", None, False),
        ("strict", b"", "application/json", False),
        ("strict", b"", None, False),
        ("strict", b"not json", "application/json", True),
        ("json", b"", "application/json", True),
        ("json", b"", None, True),
        ("json", b"1", "application/json", True),
        ("json", b"1", "text/plain", False),
        ("optional", b"", None, True),
        ("optional", b"", "application/json", False),
        ("text", b"x", "text/csv", True),
        ("text", b"x", "application/json", False),
        ("anything", b"x", "image/png", True),
        ("anything", b"", "image/png", True),
        ("anything", b"", None, False),
    ],
)
def test_input_validation(handler: str, body: bytes, content_type: str | None, passes: bool) -> None:
    headers = [] if content_type is None else [("content-type", content_type)]
    for path in (f"/Greeter/{handler}", f"/restate/send/Greeter/{handler}"):
        node = FakeNode(Accepted(ID, True) if "send" in path else None)
        reply = ask(node, "POST", path, body, *headers)
        if passes:
            assert reply.status in (200, 202)
        else:
            check_error(reply, 400, says="input validation error")
            assert not node.asked


def test_bodies_over_the_limit() -> None:
    node = FakeNode()
    web = made(node, request_size_limit=10)
    octets = ("content-type", "application/octet-stream")
    announced = run(web.post("/Greeter/greet", b"x" * 11, octets))
    assert (announced.status, announced.headers["content-type"]) == (413, "text/plain; charset=utf-8")
    check_error(run(web.post("/Greeter/greet", [b"x" * 6, b"x" * 5], octets)), 413)
    check_error(run(web.post("/Greeter/greet", [b"x" * 11], octets)), 413)
    assert not node.asked
    assert run(web.post("/Greeter/greet", b"x" * 10, octets)).status == 200
    assert run(web.post("/Greeter/greet", [b"x" * 6, b"x" * 4], octets)).status == 200
    assert node.asked[1][2] == b"x" * 10


def test_a_caller_that_leaves_before_its_body_is_there() -> None:
    node = FakeNode()

    async def leave() -> Reply | None:
        gone = asyncio.Event()
        gone.set()
        return await made(node)(
            "POST", "/Greeter/greet", [], ("content-length", "5"), ("content-type", "text/plain"), gone=gone
        )

    assert run(leave()) is None
    assert not node.asked


# Results


def test_output_content_types() -> None:
    assert ask(FakeNode(), "POST", "/Greeter/greet").headers["content-type"] == "application/json"
    assert ask(FakeNode(), "POST", "/Counter/k/get").headers["content-type"] == "text/plain"
    assert "content-type" not in ask(FakeNode(), "POST", "/Greeter/silent").headers
    empty = ask(FakeNode(Answer(ID, Value(b""))), "POST", "/Greeter/greet")
    assert (empty.status, empty.body) == (200, b"")
    assert "content-type" not in empty.headers


def test_when_a_kept_result_expires() -> None:
    kept = Answer(ID, Value(b"1"), 1_700_000_000_123)
    duplicate = ask(FakeNode(kept), "POST", "/Greeter/greet", b"", ("idempotency-key", "k"))
    assert duplicate.headers["idempotency-expires"] == "2023-11-14T22:13:20.123+00:00"
    first = ask(FakeNode(kept), "POST", "/Greeter/greet")
    assert "idempotency-expires" not in first.headers, "a call without a key is never a duplicate"
    attached = ask(FakeNode(kept), "GET", f"/restate/attach/{ID_TEXT}")
    assert attached.headers["idempotency-expires"] == "2023-11-14T22:13:20.123+00:00"


@pytest.mark.parametrize(
    ("code", "status"), [(500, 500), (418, 418), (403, 403), (1000, 500), (0, 500), (599, 599), (204, 500)]
)
def test_failures_of_the_invocation(code: int, status: int) -> None:
    reply = ask(FakeNode(Answer(ID, Failure(code, "no", (("why", "so"),)))), "POST", "/Greeter/greet")
    assert reply.status == status
    assert reply.headers["x-restate-error-source"] == "invocation"
    assert reply.headers["x-restate-id"] == ID_TEXT
    error = {"code": code, "message": "no", "source": "invocation", "metadata": {"why": "so"}}
    assert reply.json == error | {"accepted": True, "retryable": False}


def test_a_second_run_of_a_workflow() -> None:
    reply = ask(FakeNode(AlreadyInvoked(ID)), "POST", "/Signup/ada/run")
    check_error(reply, 409, source="invocation")
    assert reply.headers["x-restate-id"] == ID_TEXT
    sent = ask(FakeNode(Accepted(ID, False)), "POST", "/Signup/ada/run/send")
    assert (sent.status, sent.json["status"]) == (202, "PreviouslyAccepted")


# Attach and output

BY_KEY = FakeNode().invocation_id(GREET, "k1")
BY_OBJECT_KEY = FakeNode().invocation_id(Target("Counter", "add", HandlerKind.EXCLUSIVE, "a/b"), "k1")
OF_WORKFLOW = FakeNode().invocation_id(Target("Signup", "run", HandlerKind.WORKFLOW, "a da"), None)


@pytest.mark.parametrize("verb", ["attach", "output"])
@pytest.mark.parametrize(
    ("path", "id"),
    [
        (f"/restate/invocation/{ID_TEXT}/VERB", ID),
        (f"/restate/VERB/{ID_TEXT}", ID),
        ("/restate/invocation/Greeter/greet/k1/VERB", BY_KEY),
        ("/restate/invocation/Counter/a%2Fb/add/k1/VERB", BY_OBJECT_KEY),
        ("/restate/workflow/Signup/a%20da/VERB", OF_WORKFLOW),
    ],
)
def test_attach_and_output(verb: str, path: str, id: bytes) -> None:
    node = FakeNode(Answer(ID, Value(b'"hi"'), 1_700_000_000_000))
    reply = ask(node, "GET", path.replace("VERB", verb))
    assert (reply.status, reply.body) == (200, b'"hi"')
    assert reply.headers["x-restate-id"] == ID_TEXT
    assert reply.headers["content-type"] == ("text/plain" if "workflow" in path else "application/json")
    assert node.asked == [(verb, id)]


@pytest.mark.parametrize(
    ("target", "id"),
    [
        ({"target": "invocation", "invocationId": ID_TEXT}, ID),
        ({"target": "workflow", "workflowName": "Signup", "workflowKey": "a da"}, OF_WORKFLOW),
        ({"target": "idempotentInvocation", "service": "Greeter", "handler": "greet", "idempotencyKey": "k1"}, BY_KEY),
        (
            {
                "target": "idempotentInvocation",
                "service": "Counter",
                "key": "a/b",
                "handler": "add",
                "idempotencyKey": "k1",
                "scope": None,
            },
            BY_OBJECT_KEY,
        ),
    ],
)
def test_targets_given_in_the_body(target: dict[str, str], id: bytes) -> None:
    body = json.dumps(target).encode()
    node = FakeNode()
    assert ask(node, "POST", "/restate/attach", body).status == 200
    assert ask(node, "POST", "/restate/output", body, JSON).status == 200
    assert node.asked == [("attach", id), ("output", id)]
    assert ask(node, "POST", "/restate/lookup", body).json == {"invocationId": format_invocation_id(id)}
    assert len(node.asked) == 2, "lookup computes"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 500),
        (b"{", 500),
        (b"{}", 500),
        (b'{"target": "nobody"}', 500),
        (b'{"target": "invocation"}', 500),
        (b'{"target": "invocation", "invocationId": "nonsense"}', 400),
        (b'{"target": "workflow", "workflowName": "Signup", "workflowKey": "x", "scope": "s"}', 400),
        (
            b'{"target": "idempotentInvocation", "service": "Greeter", "key": "", "handler": "", "idempotencyKey": ""}',
            400,
        ),
    ],
)
@pytest.mark.parametrize("verb", ["attach", "output", "lookup"])
def test_bodies_that_name_nothing(verb: str, body: bytes, status: int) -> None:
    check_error(
        ask(FakeNode(), "POST", f"/restate/{verb}", body), status, says="cannot read body" if status == 500 else ""
    )


@pytest.mark.parametrize(
    "named",
    [
        {"target": "workflow", "workflowName": "Nobody", "workflowKey": "x"},
        {"target": "workflow", "workflowName": "Counter", "workflowKey": "x"},
        {"target": "idempotentInvocation", "service": "Nobody", "handler": "x", "key": "y", "idempotencyKey": "k"},
        {"target": "idempotentInvocation", "service": "Greeter", "handler": "x", "idempotencyKey": "k"},
    ],
)
def test_ids_are_computed_whether_or_not_there_is_such_a_handler(named: dict[str, str]) -> None:
    body = json.dumps(named).encode()
    id = ask(FakeNode(), "POST", "/restate/lookup", body).json["invocationId"]
    node = FakeNode(Refused(404, "not found"))
    check_error(ask(node, "POST", "/restate/attach", body), 404, source="invocation")
    check_error(ask(node, "POST", "/restate/output", body), 404)
    assert [format_invocation_id(asked[1]) for asked in node.asked] == [id, id]


def test_a_body_that_cannot_be_read_is_not_to_be_sent_again() -> None:
    assert ask(FakeNode(), "POST", "/restate/lookup", b"{").json["retryable"] is False


@pytest.mark.parametrize("verb", ["attach", "output"])
def test_what_a_failed_look_at_a_result_says(verb: str) -> None:
    reply = ask(FakeNode(Unavailable("stopping")), "GET", f"/restate/{verb}/{ID_TEXT}")
    check_error(reply, 503)
    assert (reply.json["accepted"], reply.json["retryable"], reply.headers["x-restate-id"]) == (None, True, ID_TEXT)


def test_attach_to_nothing_and_output_of_nothing() -> None:
    nothing = FakeNode(Refused(404, "invocation not found"))
    attached = ask(nothing, "GET", f"/restate/attach/{ID_TEXT}")
    check_error(attached, 404, source="invocation", says="not found")
    assert attached.headers["x-restate-id"] == ID_TEXT
    assert attached.json["accepted"] is False
    check_error(ask(nothing, "GET", f"/restate/output/{ID_TEXT}"), 404)
    running = ask(FakeNode(Refused(470, "not completed")), "GET", f"/restate/output/{ID_TEXT}")
    check_error(running, 470)
    assert running.json["accepted"] is True


# Awakeables, signals, health


@pytest.mark.parametrize("verb", ["awakeables", "a"])
def test_awakeables(verb: str) -> None:
    node = FakeNode()
    resolved = ask(node, "POST", f"/restate/{verb}/{AWAKEABLE}/resolve", b'{"a": 1}', JSON)
    rejected = ask(node, "POST", f"/restate/{verb}/{AWAKEABLE}/reject", "grüße".encode())
    ours = ask(node, "POST", f"/restate/{verb}/{AWAKEABLE}/reject?code=409", b"no")
    assert [(each.status, each.body) for each in (resolved, rejected, ours)] == [(202, b"")] * 3
    assert node.asked == [
        ("complete_awakeable", AWAKEABLE, Value(b'{"a": 1}')),
        ("complete_awakeable", AWAKEABLE, Failure(500, "grüße")),
        ("complete_awakeable", AWAKEABLE, Failure(409, "no")),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/restate/awakeables/nonsense/resolve",
        "/restate/awakeables/prom_1abc/resolve",
        f"/restate/awakeables/{AWAKEABLE}",
        f"/restate/awakeables/{AWAKEABLE}/reject?code=abc",
        f"/restate/awakeables/{AWAKEABLE}/reject?code=200",
        f"/restate/signals/{ID_TEXT}",
        f"/restate/signals/{ID_TEXT}/",
        "/restate/signals/nonsense/go",
    ],
)
def test_awakeables_and_signals_that_are_refused(path: str) -> None:
    node = FakeNode()
    check_error(ask(node, "POST", path), 400)
    check_error(ask(node, "POST", f"/restate/awakeables/{AWAKEABLE}/complete"), 404)
    assert not node.asked


def test_signals() -> None:
    node = FakeNode()
    reply = ask(node, "POST", f"/restate/signals/{ID_TEXT}/go%20on", b"5", JSON)
    assert (reply.status, reply.body) == (202, b"")
    assert node.asked == [("signal", ID, Signal("go on", Value(b"5")))]


def test_health() -> None:
    assert ask(FakeNode(), "GET", "/restate/health").json == {"services": ["Greeter", "Counter", "Signup"]}


# CORS


def test_preflight() -> None:
    reply = ask(
        FakeNode(),
        "OPTIONS",
        "/any/path/at/all",
        b"",
        ("origin", "https://console.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,idempotency-key"),
    )
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers == {
        "access-control-allow-origin": "https://console.example",
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "content-type,idempotency-key",
        "access-control-allow-credentials": "true",
        "server": "perdure",
        "vary": "origin, access-control-request-method, access-control-request-headers",
    }


@pytest.mark.parametrize("path", ["/Greeter/greet", "/Nobody/greet", "/restate/health"])
def test_cors_on_every_answer(path: str) -> None:
    reply = ask(FakeNode(), "GET", path, b"", ("origin", "https://console.example"))
    assert reply.headers["access-control-allow-origin"] == "https://console.example"
    assert reply.headers["access-control-allow-credentials"] == "true"
    assert "origin" in reply.headers["vary"]
    assert "access-control-allow-origin" not in ask(FakeNode(), "GET", path).headers


# When the engine says no


@pytest.mark.parametrize(("error", "status"), [(Overloaded("full"), 429), (Unavailable("stopping"), 503)])
def test_nothing_was_accepted(error: Exception, status: int) -> None:
    for path in ("/Greeter/greet", "/Greeter/greet/send"):
        reply = ask(FakeNode(error), "POST", path)
        check_error(reply, status)
        assert (reply.json["accepted"], reply.json["retryable"]) == (False, True)
        assert "x-restate-id" not in reply.headers


async def stops() -> None:
    raise Unavailable("the engine has stopped")


async def breaks() -> None:
    raise RuntimeError("a bug")


def test_the_engine_stops_while_a_call_waits() -> None:
    plain = ask(FakeNode(stops), "POST", "/Greeter/greet")
    check_error(plain, 503)
    assert plain.headers["x-restate-id"] == ID_TEXT
    assert (plain.json["accepted"], plain.json["retryable"]) == (True, False)
    keyed = ask(FakeNode(stops), "POST", "/Greeter/greet", b"", ("idempotency-key", "k"))
    assert (keyed.json["accepted"], keyed.json["retryable"]) == (True, True)


def test_a_store_that_fails_may_or_may_not_have_kept_it() -> None:
    node = FakeNode(stops)
    node.failure = RuntimeError("disk full")
    reply = ask(node, "POST", "/Greeter/greet")
    assert (reply.json["accepted"], reply.json["retryable"]) == (None, False)
    sent = ask(node, "POST", "/Greeter/greet/send")
    assert (sent.json["accepted"], sent.json["retryable"]) == (None, False)


def test_a_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(FakeNode(RuntimeError("a bug")), "POST", "/Greeter/greet")
    check_error(reply, 500)
    assert "bug" not in reply.json["message"]
    assert "a bug" in caplog.text
    assert (reply.json["accepted"], reply.json["retryable"]) == (None, False)
    accepted = ask(FakeNode(breaks), "POST", "/Greeter/greet")
    assert accepted.json["accepted"] is True


def test_more_requests_at_once_than_allowed() -> None:
    async def scenario() -> None:
        release = asyncio.Event()

        async def wait() -> Answer:
            await release.wait()
            return Answer(ID, Value(b"1"))

        web = made(FakeNode(wait), concurrency_limit=2)
        waiting = [asyncio.create_task(web.post("/Greeter/greet")) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await web.post("/Greeter/greet")
        check_error(refused, 429)
        assert (refused.json["accepted"], refused.json["retryable"]) == (False, True)
        assert (await web.get("/restate/health")).status == 200
        release.set()
        assert [reply.status for reply in await asyncio.gather(*waiting)] == [200, 200]
        assert (await web.post("/Greeter/greet")).status == 200

    run(scenario())


def test_callers_that_hang_up_are_let_go() -> None:
    async def scenario() -> None:
        cancelled = asyncio.Event()

        async def never() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        web = made(FakeNode(never), patience=0.02)
        gone = asyncio.Event()
        call = asyncio.create_task(web("POST", "/Greeter/greet", gone=gone))
        await asyncio.sleep(0.1)
        assert not call.done()
        gone.set()
        assert await asyncio.wait_for(call, 1) is None
        assert cancelled.is_set()

    run(scenario())


def test_callers_that_wait_long_are_answered() -> None:
    async def scenario() -> None:
        async def slow() -> Answer:
            await asyncio.sleep(0.1)
            return Answer(ID, Value(b"1"))

        web = made(FakeNode(slow), patience=0.02)
        replies = await asyncio.gather(*(web.post("/Greeter/greet") for _ in range(20)))
        assert {reply.status for reply in replies} == {200}
        assert len(asyncio.all_tasks()) == 1, "nobody is watched any more"

    run(scenario())


def test_lifespan_and_websockets() -> None:
    async def scenario() -> None:
        app = Ingress(cast(Node, FakeNode()))
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        async def receive(messages: list[str]) -> dict[str, Any]:
            return {"type": messages.pop(0)}

        lifespan = ["lifespan.startup", "lifespan.shutdown"]
        await app({"type": "lifespan"}, lambda: receive(lifespan), send)
        await app({"type": "websocket"}, lambda: receive(["websocket.connect"]), send)
        kinds = [message["type"] for message in sent]
        assert kinds == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]

    run(scenario())
