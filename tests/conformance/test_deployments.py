"""The registry: endpoints registered, listed and removed; their services described."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.answers import assert_admin_error, assert_ingress_error
from tests.conformance.deployed import Deployed, Stack
from tests.ports import free_port


@pytest.fixture
def fresh(stack: Stack, on: Deployed) -> Iterator[Deployed]:
    """An endpoint that is not registered yet."""
    endpoint = stack.start_endpoint(stack.own_options(mode=on.endpoint.options.mode, services=("Versioned",)))
    yield Deployed(stack.server, endpoint)
    endpoint.kill()


def service(on: Deployed, name: str) -> Any:
    answer = on.admin("GET", f"/services/{on.name(name)}")
    assert answer.status == 200
    return answer.json()


def handlers(on: Deployed, name: str) -> dict[str, Any]:
    return {handler["name"]: handler for handler in service(on, name)["handlers"]}


@pytest.mark.both_modes
def test_register(fresh: Deployed) -> None:
    answer = fresh.admin("POST", "/deployments", fresh.endpoint.registration())
    assert answer.status == 201
    made = answer.json()
    assert made["id"].startswith("dp_1")
    assert answer.headers["location"].endswith(f"deployments/{made['id']}")
    assert [(known["name"], known["ty"], known["revision"]) for known in made["services"]] == [
        (fresh.name("Versioned"), "Service", 1)
    ]
    assert {handler["name"] for handler in made["services"][0]["handlers"]} == {"version", "span"}
    assert (made["min_protocol_version"], made["max_protocol_version"]) == (5, 7)
    assert made["sdk_version"]
    assert fresh.value("Versioned/version") == "v1"


def test_register_again(fresh: Deployed) -> None:
    first = fresh.admin("POST", "/deployments", fresh.endpoint.registration())
    again = fresh.admin("POST", "/deployments", fresh.endpoint.registration())
    assert (first.status, again.status) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert again.json()["services"][0]["revision"] == 1


def test_register_again_by_force(fresh: Deployed) -> None:
    first = fresh.admin("POST", "/deployments", fresh.endpoint.registration())
    again = fresh.admin("POST", "/deployments", {**fresh.endpoint.registration(), "force": True})
    assert again.status == 200
    assert first.json()["id"] == again.json()["id"]
    assert again.json()["services"][0]["revision"] == 2


def test_dry_run(fresh: Deployed) -> None:
    answer = fresh.admin("POST", "/deployments", {**fresh.endpoint.registration(), "dry_run": True})
    assert answer.status == 201
    assert answer.json()["services"][0]["name"] == fresh.name("Versioned")
    assert fresh.admin("GET", f"/services/{fresh.name('Versioned')}").status == 404
    assert_ingress_error(fresh.call("Versioned/version"), 404)


def test_metadata_of_a_deployment(fresh: Deployed) -> None:
    body = {**fresh.endpoint.registration(), "metadata": {"commit": "abc"}}
    made = fresh.admin("POST", "/deployments", body).json()
    assert fresh.admin("GET", f"/deployments/{made['id']}").json()["metadata"] == {"commit": "abc"}


def test_nobody_listens_there(on: Deployed) -> None:
    answer = on.admin("POST", "/deployments", {"uri": f"http://127.0.0.1:{free_port()}"})
    assert_admin_error(answer, 500)
    assert answer.json()["restate_code"] == "META0003"


def test_somebody_else_listens_there(on: Deployed) -> None:
    answer = on.admin("POST", "/deployments", {"uri": f"http://127.0.0.1:{on.server.admin}/nothing"})
    assert_admin_error(answer, 500)
    assert answer.json()["restate_code"] == "META0003"


@pytest.mark.parametrize("body", [{}, {"uri": 7}, {"uri": "no uri"}], ids=["empty", "number", "relative"])
def test_a_registration_that_is_none(on: Deployed, body: dict[str, object]) -> None:
    assert on.admin("POST", "/deployments", body).status == 422


@pytest.mark.both_modes
def test_get_a_deployment(fresh: Deployed) -> None:
    made = fresh.admin("POST", "/deployments", fresh.endpoint.registration()).json()
    known = fresh.admin("GET", f"/deployments/{made['id']}").json()
    assert known["id"] == made["id"]
    assert known["uri"].rstrip("/") == fresh.endpoint.uri
    assert [each["name"] for each in known["services"]] == [fresh.name("Versioned")]
    wanted = {"bidi": ("BidiStream", "HTTP/2.0"), "request_response": ("RequestResponse", "HTTP/1.1")}
    assert (known["protocol_type"], known["http_version"]) == wanted[fresh.endpoint.options.mode]
    assert known["created_at"].endswith("Z")


def test_list_deployments(fresh: Deployed) -> None:
    made = fresh.admin("POST", "/deployments", fresh.endpoint.registration()).json()
    listed = {each["id"]: each for each in fresh.admin("GET", "/deployments").json()["deployments"]}
    assert listed[made["id"]]["services"] == [{"name": fresh.name("Versioned"), "revision": 1}]


def test_an_unknown_deployment(on: Deployed) -> None:
    assert_admin_error(on.admin("GET", "/deployments/dp_11nGQpCRmau6ypL82KH2TnP"), 404)


def test_delete_a_deployment(fresh: Deployed) -> None:
    made = fresh.admin("POST", "/deployments", fresh.endpoint.registration()).json()
    path = f"/deployments/{made['id']}"
    assert fresh.admin("DELETE", path).status == 501
    assert fresh.admin("DELETE", f"{path}?force=true").status == 202
    assert_admin_error(fresh.admin("GET", path), 404)
    assert_admin_error(fresh.admin("GET", f"/services/{fresh.name('Versioned')}"), 404)
    assert_ingress_error(fresh.call("Versioned/version"), 404)


def test_services_are_listed(on: Deployed) -> None:
    listed = {each["name"]: each for each in on.admin("GET", "/services").json()["services"]}
    wanted = {"Echo": "Service", "Steps": "Service", "Counter": "VirtualObject", "Approval": "Workflow"}
    assert {name: listed[on.name(name)]["ty"] for name in wanted} == wanted


def test_an_unknown_service(on: Deployed) -> None:
    assert_admin_error(on.admin("GET", "/services/NobodyHome"), 404)
    assert_admin_error(on.admin("GET", f"/services/{on.name('Echo')}/handlers/nobody"), 404)


@pytest.mark.both_modes
def test_types_of_handlers(on: Deployed) -> None:
    assert {name: each.get("ty") for name, each in handlers(on, "Counter").items()} == {
        "add": "Exclusive",
        "add_and_fail": "Exclusive",
        "append": "Exclusive",
        "get": "Shared",
        "hold": "Exclusive",
        "items": "Shared",
        "key": "Shared",
        "wait": "Exclusive",
    }
    kinds = {name: each.get("ty") for name, each in handlers(on, "Approval").items()}
    assert kinds["run"] == "Workflow"
    assert {kind for name, kind in kinds.items() if name != "run"} == {"Shared"}
    assert handlers(on, "Echo")["echo"].get("ty") is None


def test_handlers_have_paths_of_their_own(on: Deployed) -> None:
    path = f"/services/{on.name('Counter')}/handlers"
    listed = on.admin("GET", path).json()["handlers"]
    assert {each["name"] for each in listed} == set(handlers(on, "Counter"))
    assert on.admin("GET", f"{path}/get").json()["ty"] == "Shared"


def test_documentation_and_metadata(on: Deployed) -> None:
    known = service(on, "Echo")
    assert known["documentation"] == "Says back what it is told."
    assert known["metadata"]["suite"] == "conformance"
    assert handlers(on, "Echo")["echo"]["metadata"]["kind"] == "plain"


def test_options_of_services(on: Deployed) -> None:
    assert service(on, "Timers")["inactivity_timeout"] == "200ms"
    assert service(on, "Store")["enable_lazy_state"] is False
    assert service(on, "LazyStore")["enable_lazy_state"] is True
    policy = service(on, "Steps")["retry_policy"]
    assert (policy["initial_interval"], policy["max_interval"]) == ("20ms", "200ms")
    assert (policy["max_attempts"], policy["exponentiation_factor"]) == (10_000, 2.0)


def test_what_is_private(on: Deployed) -> None:
    assert service(on, "Hidden")["public"] is False
    assert service(on, "Echo")["public"] is True
    assert {name for name, each in handlers(on, "Echo").items() if not each["public"]} == {"private"}


def test_an_operator_makes_a_service_private(fresh: Deployed) -> None:
    fresh.register()
    path = f"/services/{fresh.name('Versioned')}"
    assert fresh.admin("PATCH", path, {"public": False}).json()["public"] is False
    assert_ingress_error(fresh.call("Versioned/version"), 400)
    assert fresh.admin("PATCH", path, {"public": True}).status == 200
    assert fresh.value("Versioned/version") == "v1"


@pytest.mark.parametrize("prefix", ["", "/v3", "/v4"])
def test_versions_of_the_admin_api(on: Deployed, prefix: str) -> None:
    assert on.admin("GET", f"{prefix}/health").status == 200
    assert on.admin("GET", f"{prefix}/services/{on.name('Echo')}").json()["name"] == on.name("Echo")


def test_version(on: Deployed) -> None:
    answer = on.admin("GET", "/version").json()
    assert answer["version"]
    assert answer["min_admin_api_version"] <= 3 <= answer["max_admin_api_version"]
