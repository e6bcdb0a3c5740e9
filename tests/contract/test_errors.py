"""Every error of the ingress says whose fault it is, whether anything was accepted, and whether to send it again."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import Invalid, NotFound, Overloaded, RequestError, StorageError, TooLarge, Unavailable
from perdure.model.actions import Accepted, AlreadyInvoked, Answer, Refused
from perdure.model.entries import Failure, Value
from perdure.runtime.node import Node
from perdure.web.ingress import Ingress
from tests.web.fakes import AWAKEABLE, ID, ID_TEXT, FakeNode, Reply, Web

SEGMENT = st.sampled_from(
    [
        *("restate", "openapi", "Greeter", "Counter", "Signup", "Nobody", "greet", "add", "run", "hidden", "strict"),
        *("send", "call", "scope", "attach", "output", "lookup", "workflow", "invocation", "health", "awakeables", "a"),
        *("signals", "resolve", "reject", ID_TEXT, AWAKEABLE, "nonsense", "%ff", "%2F", "", "k"),
    ]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="?#"), max_size=4)
PATH = st.lists(SEGMENT, max_size=8).map(lambda segments: "/" + "/".join(segments))
QUERY = st.sampled_from(["", "?delay=1s", "?delay=x", "?delay=", "?limit-key=a", "?code=x", "?code=409", "?%ff=%ff"])
METHOD = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE"])
BODY = st.sampled_from(
    [
        *(b"", b"1", b"{", b"{}", b"x" * 100, [b"x" * 60, b"x" * 60]),
        b'{"target": "workflow", "workflowName": "Signup", "workflowKey": "k"}',
        b'{"target": "invocation", "invocationId": "nonsense"}',
        b'{"target": "idempotentInvocation", "service": "Greeter", "handler": "greet", "idempotencyKey": ""}',
    ]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            ("content-type", "application/json"),
            ("content-type", "text/plain"),
            ("content-length", "999"),
            ("content-length", "x"),
            ("idempotency-key", "k"),
            ("idempotency-key", ""),
            ("idempotency-key", b"\xff"),
            ("x-a", b"\xff"),
            ("origin", "http://elsewhere"),
            ("x-restate-limit-key", "a"),
        ]
    ),
    max_size=3,
    unique_by=lambda header: header[0],
)
OUTCOME = st.sampled_from(
    [
        Answer(ID, Value(b"1")),
        Answer(ID, Failure(409, "no")),
        Answer(ID, Failure(99_999, "no")),
        Accepted(ID, True),
        AlreadyInvoked(ID),
        Refused(404, "not found"),
        Refused(470, "not completed"),
        Unavailable("stopping"),
        Overloaded("too much"),
        Invalid("no"),
        NotFound("no"),
        TooLarge("no"),
        RequestError("no"),
        StorageError("disk"),
        ValueError("a mistake"),
    ]
)


def says_everything(reply: Reply) -> None:
    source = reply.headers["x-restate-error-source"]
    assert reply.headers["access-control-allow-credentials"] == "true"
    if reply.headers["content-type"] == "application/json":
        error = reply.json
        assert error["source"] == source in ("ingress", "invocation")
        assert error["accepted"] in (True, False, None) and error["retryable"] in (True, False)
        assert error["message"] and error["code"]
        if source == "invocation" or error["accepted"]:
            assert reply.headers["x-restate-id"].startswith("inv_1")
        if source == "ingress" and 400 <= reply.status < 500 and reply.status not in (429, 470):
            assert error["accepted"] is not True and error["retryable"] is False
    else:
        assert (reply.status, source) == (413, "ingress")
        assert reply.headers["x-perdure-accepted"] == reply.headers["x-perdure-retryable"] == "false"


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(METHOD, PATH, QUERY, BODY, HEADERS, OUTCOME, st.booleans(), st.booleans())
def test_every_error_says_everything(
    method: str, path: str, query: str, body: Any, headers: Any, outcome: Any, failed: bool, crowded: bool
) -> None:
    node = FakeNode(outcome)
    node.failure = OSError() if failed else None
    app = Ingress(cast(Node, node), request_size_limit=100, concurrency_limit=0 if crowded else None)
    reply = asyncio.run(Web(app)(method, path + query, body, *headers))
    assert reply is not None
    if reply.status >= 400:
        says_everything(reply)


@pytest.mark.parametrize("outcome", [Unavailable("stopping"), StorageError("disk"), ValueError("a mistake")])
@pytest.mark.parametrize(
    "path",
    ["/Greeter/greet", "/Greeter/greet/send", f"/restate/a/{AWAKEABLE}/resolve", f"/restate/signals/{ID_TEXT}/x"],
)
def test_nothing_is_promised_when_the_store_has_failed(path: str, outcome: Exception) -> None:
    node = FakeNode(outcome)
    node.failure = OSError()
    reply = asyncio.run(Web(Ingress(cast(Node, node))).post(path, b"1", ("content-type", "application/json")))
    says_everything(reply)
    assert reply.status in (500, 503) and reply.json["accepted"] is not True
