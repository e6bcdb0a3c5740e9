"""The ingress through the admin port: the same answers, asked for by the same rules."""

import asyncio

import pytest

from tests.web.fakes import Reply
from tests.web.secured import Ports, shown

JSON = ("content-type", "application/json")


def ask(ports: Ports, method: str, path: str, body: bytes = b"", credential: str = "operator") -> Reply:
    reply = asyncio.run(ports.admin(method, path, body, JSON, *shown(credential)))
    assert reply is not None
    return reply


@pytest.mark.parametrize("prefix", ["", "/v4"])
def test_a_call_is_made_and_answered(prefix: str) -> None:
    ports = Ports()
    reply = ask(ports, "POST", f"{prefix}/ingress/Greeter/greet", b"1")
    assert (reply.status, reply.body) == (200, b'"hi"')
    assert reply.headers["x-restate-id"].startswith("inv_")
    assert not [name for name in reply.headers if name.startswith("access-control-")]
    ((what, target, body, *_),) = ports.node.asked
    assert (what, str(target), body) == ("call", "Greeter/greet", b"1")


def test_what_is_encoded_stays_encoded() -> None:
    ports = Ports()
    assert ask(ports, "POST", "/ingress/Counter/a%2Fb%20c/add/send", b"1").status == 202
    assert ports.node.asked[0][1].key == "a/b c"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/ingress/Nobody/there", 404), ("GET", "/ingress/restate/health", 200), ("POST", "/ingress/", 400)],
)
def test_errors_are_the_ingress_own(method: str, path: str, status: int) -> None:
    reply = ask(Ports(), method, path, b"1" if method == "POST" else b"")
    assert reply.status == status
    if status >= 400:
        assert reply.headers["x-restate-error-source"] == "ingress"


def test_who_may_only_look_calls_nothing() -> None:
    ports = Ports()
    assert ask(ports, "POST", "/ingress/Greeter/greet", b"1", "read-only").status == 403
    assert ports.node.asked == []
