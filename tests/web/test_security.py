"""Who may do what: every route of both ports with every kind of credential, and where requests may come from."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Forbidden
from perdure.model.keys import Role
from perdure.web.http import Request, Router
from perdure.web.ingress import _RESERVED
from perdure.web.security import Sources, is_loopback
from tests.web.fakes import AWAKEABLE, ID_TEXT, Reply, Web
from tests.web.secured import CREDENTIALS, KEYS, KeyNode, Ports, shown

JSON = ("content-type", "application/json")
VERBS = ("cancel", "kill", "pause", "purge", "purge-journal", "restart-as-new", "resume")
# Written down here once more, and by hand: a route that is added has to be added here, with what it is to need.
ADMIN_ROUTES: dict[tuple[str, str], Role | None] = {
    ("GET", "/health"): None,
    ("GET", "/version"): Role.READ,
    ("GET", "/invocations/{invocation_id}"): Role.READ,
    ("DELETE", "/invocations/{invocation_id}"): Role.OPERATOR,
    **{("PATCH", f"/invocations/{{invocation_id}}/{verb}"): Role.OPERATOR for verb in VERBS},
    **{("POST", f"/internal/invocations_batch_operations/{verb}"): Role.OPERATOR for verb in VERBS},
    ("GET", "/deployments"): Role.READ,
    ("POST", "/deployments"): Role.ADMIN,
    ("GET", "/deployments/{deployment}"): Role.READ,
    ("PATCH", "/deployments/{deployment}"): Role.ADMIN,
    ("PUT", "/deployments/{deployment}"): Role.ADMIN,
    ("DELETE", "/deployments/{deployment}"): Role.ADMIN,
    ("GET", "/services"): Role.READ,
    ("GET", "/services/{service}"): Role.READ,
    ("PATCH", "/services/{service}"): Role.ADMIN,
    ("GET", "/services/{service}/handlers"): Role.READ,
    ("GET", "/services/{service}/handlers/{handler}"): Role.READ,
    ("POST", "/services/{service}/state"): Role.OPERATOR,
    ("GET", "/services/{service}/state/{key}"): Role.READ,
    ("PATCH", "/services/{service}/state/{key}"): Role.OPERATOR,
    ("POST", "/query"): Role.READ,
    ("GET", "/keys"): Role.ADMIN,
    ("POST", "/keys"): Role.ADMIN,
    ("DELETE", "/keys/{id}"): Role.ADMIN,
    ("GET", "/cluster-health"): Role.READ,
    ("GET", "/metrics"): Role.READ,
    ("GET", "/overview"): Role.READ,
    ("GET", "/ingress/{*path}"): Role.OPERATOR,
    ("POST", "/ingress/{*path}"): Role.OPERATOR,
    ("GET", "/invocations/{invocation_id}/streams/{name}"): Role.READ,
    ("GET", "/approvals"): Role.READ,
    ("GET", "/approvals/{id}"): Role.READ,
    ("POST", "/approvals/{id}/approve"): Role.OPERATOR,
    ("POST", "/approvals/{id}/reject"): Role.OPERATOR,
    ("GET", "/sessions/{id}/items"): Role.READ,
    ("POST", "/sessions/{id}/{verb}"): Role.OPERATOR,
    ("GET", "/openapi"): Role.READ,
    ("GET", "/services/{service}/openapi"): Role.READ,
    ("PUT", "/limits/rules"): Role.ADMIN,
    ("POST", "/limits/rules/bulk-delete"): Role.ADMIN,
    ("POST", "/vqueues/{vqueue_id}/pause"): Role.ADMIN,
    ("POST", "/vqueues/{vqueue_id}/resume"): Role.ADMIN,
    ("GET", "/subscriptions"): Role.READ,
    ("POST", "/subscriptions"): Role.ADMIN,
    ("GET", "/subscriptions/{subscription}"): Role.READ,
    ("DELETE", "/subscriptions/{subscription}"): Role.ADMIN,
    ("GET", "/kafka-clusters"): Role.READ,
    ("POST", "/kafka-clusters"): Role.ADMIN,
    ("GET", "/kafka-clusters/{cluster_name}"): Role.READ,
    ("PATCH", "/kafka-clusters/{cluster_name}"): Role.ADMIN,
    ("DELETE", "/kafka-clusters/{cluster_name}"): Role.ADMIN,
    ("POST", "/internal/services/{service}/serdes/decode/{*serde}"): Role.READ,
    ("POST", "/internal/services/{service}/serdes/encode/{*serde}"): Role.READ,
    ("GET", "/"): None,
    ("GET", "/ui"): None,
    ("GET", "/ui/{*path}"): None,
}
BODIES = {
    "/query": b'{"query": "SELECT 1"}',
    "/keys": b'{"name": "n", "role": "admin"}',
    "/services/{service}/state": b'{"object_key": "k", "new_state": {}}',
    "/services/{service}/state/{key}": b'{"changes": {}}',
    "/deployments": b"{}",
    "/deployments/{deployment}": b"{}",
    "/services/{service}": b"{}",
    **{f"/internal/invocations_batch_operations/{verb}": b'{"invocation_ids": []}' for verb in VERBS},
}
VALUES = {"{invocation_id}": ID_TEXT, "{deployment}": f"dp_1{'0' * 22}", "{id}": "x"}
VALUES |= {
    "{service}": "Counter",
    "{key}": "k",
    "{handler}": "add",
    "{cluster_name}": "c",
    "{*serde}": "s",
    "{*path}": "",
    "{verb}": "pop",
    "{name}": "answer",
}
INGRESS_ROUTES: list[tuple[str, str]] = [
    ("POST", "/Greeter/greet"),
    ("GET", "/Greeter/greet"),
    ("POST", "/Greeter/greet/send"),
    ("POST", "/Counter/k/add"),
    ("POST", "/restate/call/Greeter/greet"),
    ("POST", "/restate/send/Counter/k/add"),
    ("GET", "/restate/workflow/Signup/k/attach"),
    ("GET", f"/restate/invocation/{ID_TEXT}/output"),
    ("GET", f"/restate/attach/{ID_TEXT}"),
    ("GET", f"/restate/output/{ID_TEXT}"),
    ("POST", "/restate/lookup"),
    ("POST", f"/restate/awakeables/{AWAKEABLE}/resolve"),
    ("POST", f"/restate/a/{AWAKEABLE}/reject"),
    ("POST", f"/restate/signals/{ID_TEXT}/go"),
    ("GET", f"/restate/streams/{ID_TEXT}/answer"),
    ("POST", "/restate/stream/Greeter/greet?stream=answer"),
    ("GET", "/restate/scope/x"),
    ("GET", "/openapi/x"),
    ("GET", "/restate/nothing"),
    ("PUT", "/restate/health/x"),
    ("POST", "/Nothing/there"),
    ("GET", "/x"),
]
MAY: dict[Role, set[str]] = {  # what a route needs -> who has it
    Role.INGRESS: {"ingress-only", "operator", "admin"},
    Role.READ: {"read-only", "operator", "admin"},
    Role.OPERATOR: {"operator", "admin"},
    Role.ADMIN: {"admin"},
}


def expected(need: Role | None, credential: str) -> int | None:
    """The status of a refusal; None: none."""
    if need is None or credential in MAY[need]:
        return None
    return 403 if credential in list(Role) else 401


def ask(web: Web, method: str, path: str, body: bytes, *headers: tuple[str, str]) -> Reply:
    reply = asyncio.run(web(method, path, body, *headers))
    assert reply is not None
    return reply


def check(reply: Reply, need: Role | None, credential: str, node: KeyNode) -> None:
    """That a request was refused as it should be, or not."""
    status = expected(need, credential)
    if status is None:
        assert reply.status not in (401, 403), reply
        return
    assert reply.status == status and node.asked == [], reply
    assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    message = reply.json["message"]
    if status == 403:
        assert need is not None and need in message and f"({KEYS[credential][0].name}) has {credential}" in message
    elif credential in ("revoked", "expired"):
        assert message.endswith(f"is {credential}")
    else:
        assert "send the header authorization: Bearer KEY" in message
    for _, text in shown(credential):
        assert text not in reply.body.decode() and text.rpartition("_")[2] not in reply.body.decode()


def test_the_matrix_knows_every_route() -> None:
    routes = {(route.method, route.path): route.role for route in Ports().app.routes()}
    assert routes == ADMIN_ROUTES
    heads = {path.split("/")[2] for _, path in INGRESS_ROUTES if path.startswith("/restate/")}
    assert heads | {"approvals"} >= _RESERVED.keys()


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_the_page_of_an_approval_asks_for_its_token_and_not_for_a_key(credential: str) -> None:
    ports = Ports()
    for token in ("", "?token=", "?token=forged"):
        reply = ask(ports.ingress, "GET", f"/restate/approvals/apr_1{token}", b"", *shown(credential))
        assert reply.status == 401 and "This link does not work" in reply.body.decode()
        assert "www-authenticate" not in reply.headers and ports.node.asked == []


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize(("route", "need"), ADMIN_ROUTES.items(), ids=lambda it: "-".join(it) if it else "open")
def test_admin_routes(route: tuple[str, str], need: Role | None, credential: str) -> None:
    method, path = route
    body = b"" if method == "GET" else BODIES.get(path, b"")
    for name, value in VALUES.items():
        path = path.replace(name, value)
    for prefix in ("", "/v4"):
        ports = Ports()
        reply = ask(ports.admin, method, prefix + path, body, *shown(credential), *([JSON] if body else []))
        check(reply, need, credential, ports.node)
        if reply.status in (401, 403):
            assert (reply.json["source"], reply.json["accepted"], reply.json["retryable"]) == ("request", False, False)


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("route", INGRESS_ROUTES, ids="-".join)
def test_ingress_routes(route: tuple[str, str], credential: str) -> None:
    ports = Ports()
    reply = ask(ports.ingress, *route, b"1" if route[0] == "POST" else b"", *shown(credential), JSON)
    check(reply, Role.INGRESS, credential, ports.node)
    if reply.status in (401, 403):
        error = reply.json
        assert (error["code"], error["source"]) == (reply.status, "ingress")
        assert (error["accepted"], error["retryable"]) == (False, False)
        assert reply.headers["x-restate-error-source"] == "ingress"


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_health_is_for_everybody_and_tells_nothing_of_services(credential: str) -> None:
    ports = Ports()
    assert ask(ports.admin, "GET", "/health", b"", *shown(credential)).status == 200
    reply = ask(ports.ingress, "GET", "/restate/health", b"", *shown(credential))
    assert (reply.status, reply.json) == (200, {"services": []})
    assert "Greeter" in ask(Ports(asks=False).ingress, "GET", "/restate/health", b"").json["services"]


@pytest.mark.parametrize("path", ["//restate/health", "/restate//health", "/restate/health/", "/Restate/health"])
def test_only_health_itself_is_open(path: str) -> None:
    assert ask(Ports().ingress, "GET", path, b"").status == 401


def test_a_preflight_needs_no_key_and_refusals_can_be_read_by_pages() -> None:
    ports = Ports()
    asked = (("access-control-request-method", "POST"), ("access-control-request-headers", "authorization"))
    reply = ask(ports.ingress, "OPTIONS", "/Greeter/greet", b"", ("origin", "https://app.example"), *asked)
    assert reply.status == 200 and reply.headers["access-control-allow-headers"] == "authorization"
    refused = ask(ports.ingress, "POST", "/Greeter/greet", b"", ("origin", "https://app.example"))
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")


def test_without_any_key_all_is_open_until_there_is_one() -> None:
    ports = Ports(KeyNode(keys=[]))
    for method, path in ADMIN_ROUTES:
        if method == "GET":
            assert ask(ports.admin, method, path, b"").status not in (401, 403)
    assert ask(ports.ingress, "POST", "/Greeter/greet", b"1", JSON).status == 200
    ports.node.keyring.learn(KEYS["admin"][0])
    assert ask(ports.ingress, "POST", "/Greeter/greet", b"1", JSON).status == 401
    assert ask(ports.admin, "GET", "/services", b"").status == 401


@pytest.mark.parametrize(
    ("asks", "header", "arrives"),
    [
        (True, shown("operator")[0][1], False),
        (False, shown("operator")[0][1], False),  # it is a key, and may open another server
        (False, "Bearer of-the-app", True),
    ],
)
def test_keys_reach_no_handler(asks: bool, header: str, arrives: bool) -> None:
    ports = Ports(asks=asks)
    for path in ("/Greeter/greet", "/Greeter/greet/send"):
        assert ask(ports.ingress, "POST", path, b"1", JSON, ("authorization", header), ("x-team", "blue")).status < 300
    assert len(ports.node.asked) == 2
    for asked in ports.node.asked:
        headers = dict(asked[3])
        assert headers["x-team"] == "blue" and headers.get("authorization") == (header if arrives else None)


def test_a_second_key_reaches_no_handler_either() -> None:
    ports = Ports()
    ask(ports.ingress, "POST", "/Greeter/greet", b"1", JSON, *shown("operator"), *shown("admin"))
    assert [name for name, _ in ports.node.asked[0][3]] == ["x-restate-ingress-path", "content-type", "content-length"]


def test_a_route_without_a_role_is_no_route() -> None:
    forgetful: Callable[..., None] = Router().add
    with pytest.raises(TypeError, match="role"):
        forgetful("GET", "/x", _nothing)


async def _nothing(request: Request) -> Any:
    raise AssertionError


# ---- keys through the admin port


def test_keys_through_the_admin_port() -> None:
    ports = Ports()
    body = b'{"name": "ci", "role": "read-only", "expires_in": "30d"}'
    made = ask(ports.admin, "POST", "/keys", body, JSON, *shown("admin"))
    assert made.status == 201 and made.headers["cache-control"] == "no-store"
    assert made.headers["location"] == f"keys/{made.json['id']}"
    assert ports.node.asked == [("create_key", "ci", Role.READ, 30 * 86_400_000)]
    listed = ask(ports.admin, "GET", "/keys", b"", *shown("admin"))
    assert [(each["name"], each["role"], each["status"]) for each in listed.json["keys"]] == [
        ("my ingress-only", "ingress-only", "active"),
        ("my read-only", "read-only", "active"),
        ("my operator", "operator", "active"),
        ("my admin", "admin", "active"),
        ("old", "admin", "revoked"),
        ("late", "admin", "expired"),
    ]
    facts = {"id", "name", "role", "status", "created_at", "expires_at", "revoked_at"}
    assert all(set(each) == facts for each in listed.json["keys"])
    assert ask(ports.admin, "DELETE", f"/keys/{made.json['id']}", b"", *shown("admin")).status == 200


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "body"),
        (b'{"name": "n"}', 422, "role"),
        (b'{"name": "n", "role": "king"}', 422, "role"),
        (b'{"name": "n", "role": "admin", "expires": "1d"}', 422, "expires"),
        (b'{"name": "n", "role": "admin", "expires_in": "soon"}', 400, "expires_in"),
        (b'{"name": 5, "role": "admin"}', 422, "name"),
    ],
)
def test_keys_that_cannot_be_made(body: bytes, status: int, says: str) -> None:
    reply = ask(Ports().admin, "POST", "/keys", body, JSON, *shown("admin"))
    assert reply.status == status and says in reply.body.decode()


# ---- where requests come from


def request(*headers: tuple[str, str | bytes]) -> Request:
    async def receive() -> Any:
        raise AssertionError

    async def app(*_: Any) -> None:
        raise AssertionError

    return Request(Web(app).scope("GET", "/", headers), receive)


LOCAL = Sources(loopback=True)
NAMED = Sources(["Admin.Example", "proxy.example:8443"], loopback=True)
PUBLIC = Sources(loopback=False)
PUBLIC_NAMED = Sources(["admin.example"], loopback=False)


@pytest.mark.parametrize(
    ("sources", "host"),
    [
        (LOCAL, None),
        (LOCAL, "localhost"),
        (LOCAL, "localhost:9070"),
        (LOCAL, "LocalHost:1"),
        (LOCAL, "127.0.0.1:9070"),
        (LOCAL, "127.0.0.2"),
        (LOCAL, "[::1]:9070"),
        (LOCAL, "[::1]"),
        (LOCAL, "[::1"),  # cut off, and still nobody else's
        (NAMED, "admin.example"),
        (NAMED, "ADMIN.example:9070"),
        (NAMED, "proxy.example:8443"),
        (NAMED, "localhost:9070"),
        (PUBLIC, "anything.example"),
        (PUBLIC, "10.0.0.7:9070"),
        (PUBLIC_NAMED, "admin.example:9070"),
        (PUBLIC_NAMED, "127.0.0.1:9070"),
    ],
)
def test_hosts_that_are_taken(sources: Sources, host: str | None) -> None:
    sources.check(request(*([] if host is None else [("host", host)])))


@pytest.mark.parametrize(
    ("sources", "host"),
    [
        (LOCAL, "evil.example"),
        (LOCAL, "evil.example:9070"),
        (LOCAL, "localhost.evil.example"),
        (LOCAL, "127.0.0.1.evil.example:9070"),
        (LOCAL, "10.0.0.7:9070"),
        (LOCAL, ""),
        (LOCAL, "[fe80::1]:9070"),
        (NAMED, "proxy.example:1"),
        (PUBLIC_NAMED, "evil.example"),
    ],
)
def test_hosts_that_are_refused(sources: Sources, host: str) -> None:
    with pytest.raises(Exception, match="admin_allowed_hosts") as caught:
        sources.check(request(("host", host)))
    assert getattr(caught.value, "status", None) == 403


@pytest.mark.parametrize(
    ("sources", "host", "origin", "taken"),
    [
        (LOCAL, "localhost:9070", "http://localhost:9070", True),
        (LOCAL, "localhost:9070", "https://LOCALHOST:9070", True),
        (LOCAL, "[::1]:9070", "http://[::1]:9070", True),
        (LOCAL, "localhost:9070", "http://localhost:3000", False),
        (LOCAL, "localhost:9070", "http://127.0.0.1:9070", False),
        (LOCAL, "localhost:9070", "https://evil.example", False),
        (LOCAL, "localhost:9070", "null", False),
        (LOCAL, "localhost:9070", "", False),
        (LOCAL, "localhost:9070", "file://", False),
        (LOCAL, "localhost:9070", "http://localhost:9070.evil.example", False),
        (LOCAL, "evil.example", "http://evil.example", False),
        (LOCAL, None, "http://localhost:9070", False),
        (NAMED, "localhost:9070", "https://admin.example", True),
        (NAMED, "localhost:9070", "https://proxy.example:8443", True),
        (PUBLIC, "server.example", "https://server.example", True),
        (PUBLIC, "server.example", "https://evil.example", False),
    ],
)
def test_origins(sources: Sources, host: str | None, origin: str, taken: bool) -> None:
    headers = [("origin", origin), *([] if host is None else [("host", host)])]
    if taken:
        sources.check(request(*headers))
    else:
        with pytest.raises(Exception, match="admin_allowed_hosts"):
            sources.check(request(*headers))


ODD = st.text(st.sampled_from("[]:.@/%\\ 0127aelochst\xff"), max_size=24)


@given(ODD, ODD)
def test_whatever_is_said_is_taken_or_refused(host: str, origin: str) -> None:
    headers = [("host", host.encode("latin-1")), ("origin", origin.encode("latin-1"))]
    for sources in (LOCAL, NAMED, PUBLIC, PUBLIC_NAMED):
        for fields in (headers, headers[:1], headers[1:]):
            with contextlib.suppress(Forbidden):
                sources.check(request(*fields))


def test_pages_from_elsewhere_change_nothing() -> None:
    ports = Ports(KeyNode(keys=[]))
    path = f"/invocations/{ID_TEXT}/kill"
    for headers in ((("host", "evil.example:9070"),), (("host", "localhost"), ("origin", "https://evil.example"))):
        reply = ask(ports.admin, "PATCH", path, b"", *headers)
        assert (reply.status, reply.json["source"], reply.json["accepted"]) == (403, "request", False)
        assert ports.node.asked == []
        assert ask(ports.admin, "GET", "/health", b"", *headers).status == 200, "it tells and changes nothing"
    assert ask(ports.admin, "PATCH", path, b"", ("host", "localhost"), ("origin", "http://localhost")).status == 200


def test_a_key_makes_no_page_welcome() -> None:
    ports = Ports()
    headers = (("host", "localhost"), ("origin", "https://evil.example"))
    assert ask(ports.admin, "GET", "/services", b"", *headers, *shown("admin")).status == 403


def test_addresses_of_this_machine_only() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "myhost", "localhost.example", "fe80::1")))
