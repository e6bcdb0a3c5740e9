"""Plain services through the ingress: what goes in, what comes out, what is refused."""

import pytest

from tests.conformance.answers import assert_ingress_error
from tests.conformance.deployed import Deployed
from tests.conformance.processes import ask

JSON_VALUES: dict[str, object] = {
    "object": {"a": 1, "b": [True, None, {"c": 1.5}]},
    "array": [1, "two", [3]],
    "string": "text",
    "empty string": "",
    "unicode": "héllo wörld ✓ 漢字 🦀",
    "integer": -(2**53 - 1),
    "boolean": False,
}
OCTETS = {"content-type": "application/octet-stream"}
TEXT = {"content-type": "text/plain"}


@pytest.mark.parametrize("value", JSON_VALUES.values(), ids=JSON_VALUES.keys())
def test_json_is_echoed(on: Deployed, value: object) -> None:
    answer = on.call("Echo/echo", value)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == value


@pytest.mark.both_modes
def test_every_byte_is_echoed(on: Deployed) -> None:
    body = bytes(range(256)) * 3
    answer = on.call("Echo/raw", body, OCTETS)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.sdks("typescript", "perdure")
def test_an_empty_body_is_echoed(on: Deployed) -> None:
    answer = on.call("Echo/raw", b"", OCTETS)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.sdks("python")
def test_an_empty_body_is_refused_where_there_is_a_schema(on: Deployed) -> None:
    assert_ingress_error(on.call("Echo/raw", b"", OCTETS), 400)


@pytest.mark.both_modes
def test_a_megabyte_is_echoed(on: Deployed) -> None:
    body = bytes(range(256)) * 4096
    answer = on.call("Echo/raw", body, OCTETS)
    assert answer.status == 200
    assert answer.body == body


@pytest.mark.small
@pytest.mark.both_modes
def test_a_megabyte_of_json_is_echoed(on: Deployed) -> None:
    value = {"text": "é" * 500_000}
    assert on.value("Echo/echo", value) == value


def test_a_serde_of_the_handler_gives_the_content_type(on: Deployed) -> None:
    answer = on.call("Echo/text", "schöner text".encode(), {"content-type": "text/plain; charset=utf-8"})
    assert (answer.status, answer.body.decode()) == (200, "SCHÖNER TEXT")
    assert answer.headers["content-type"] == "text/plain"


@pytest.mark.parametrize("headers", [TEXT, OCTETS], ids=["text", "octets"])
def test_another_content_type_is_refused(on: Deployed, headers: dict[str, str]) -> None:
    assert_ingress_error(on.call("Echo/echo", b'"x"', headers), 400)


def test_a_missing_content_type_is_refused(on: Deployed) -> None:
    assert_ingress_error(on.call("Echo/echo", b'"x"'), 400)


@pytest.mark.both_modes
def test_a_handler_with_no_input_and_no_output(on: Deployed) -> None:
    answer = on.call("Echo/nothing")
    assert (answer.status, answer.body) == (200, b"")


def test_request_headers_reach_the_handler(on: Deployed) -> None:
    seen = on.value("Echo/headers", headers={"X-Custom": "one", "Authorization": "Bearer abc", "Accept": "*/*"})
    assert seen["x-custom"] == "one"
    assert seen["authorization"] == "Bearer abc"
    assert seen["accept"] == "*/*"


def test_path_and_query_reach_the_handler(on: Deployed) -> None:
    path = f"/{on.name('Echo')}/headers?a=1&b=two"
    assert on.ingress("POST", path).json()["x-restate-ingress-path"] == path


def test_hop_by_hop_headers_stay_outside(on: Deployed, key: str) -> None:
    seen = on.value("Echo/headers", headers={"Connection": "close", "Idempotency-Key": key})
    assert {"connection", "host", "idempotency-key"}.isdisjoint(seen)


@pytest.mark.both_modes
def test_the_id_is_the_one_that_the_handler_sees(on: Deployed) -> None:
    answer = on.call("Echo/identity")
    assert answer.json() == answer.headers["x-restate-id"]
    assert answer.headers["x-restate-id"].startswith("inv_1")
    assert len(answer.headers["x-restate-id"]) == 38


def test_every_request_is_an_invocation_of_its_own(on: Deployed) -> None:
    ids = {on.value("Echo/identity") for _ in range(5)}
    assert len(ids) == 5


def test_the_newer_call_path(on: Deployed) -> None:
    answer = on.ingress("POST", f"/restate/call/{on.name('Echo')}/echo", 7)
    assert (answer.status, answer.json()) == (200, 7)


def test_get_calls_too(on: Deployed) -> None:
    assert on.ingress("GET", f"/{on.name('Versioned')}/version").json() == "v1"


def test_a_trailing_slash_is_no_matter(on: Deployed) -> None:
    assert on.call("Versioned/version/").json() == "v1"


def test_an_unknown_service(on: Deployed) -> None:
    assert_ingress_error(on.ingress("POST", "/NobodyHome/echo", 1), 404)


def test_an_unknown_handler(on: Deployed) -> None:
    assert_ingress_error(on.call("Echo/nobody", 1), 404)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_another_method_is_refused(on: Deployed, method: str) -> None:
    assert_ingress_error(on.ingress(method, f"/{on.name('Echo')}/echo", 1), 405)


@pytest.mark.parametrize("path", ["/", "/Echo", "/Echo/echo/more/than/there/is/to/say"])
def test_a_path_that_is_none(on: Deployed, path: str) -> None:
    assert_ingress_error(on.ingress("POST", path, 1), 400)


def test_a_private_handler_is_not_reachable(on: Deployed) -> None:
    assert_ingress_error(on.call("Echo/private", 1), 400)
    assert_ingress_error(on.call("Echo/private/send", 1), 400)


def test_a_private_service_is_not_reachable(on: Deployed) -> None:
    assert_ingress_error(on.call("Hidden/echo", 1), 400)


@pytest.mark.parametrize(("service", "handler"), [("Echo", "private"), ("Hidden", "echo")])
def test_what_is_private_can_be_called_by_handlers(on: Deployed, service: str, handler: str) -> None:
    command = {"service": on.name(service), "handler": handler, "value": "inside"}
    assert on.value("Caller/call", command) == "inside"


def test_health_lists_the_services(on: Deployed) -> None:
    answer = on.ingress("GET", "/restate/health")
    assert answer.status == 200
    assert {on.name("Echo"), on.name("Counter"), on.name("Approval")} <= set(answer.json()["services"])


def test_browsers_of_other_origins_are_welcome(on: Deployed) -> None:
    preflight = {
        "origin": "http://elsewhere.test",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-custom",
    }
    answer = ask(on.server.ingress, "OPTIONS", f"/{on.name('Echo')}/echo", headers=preflight)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "http://elsewhere.test"
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-allow-headers"] == "x-custom"
