"""A new version of the code beside an old one, while invocations of the old one wait."""

import pytest

from tests.conformance.answers import assert_ingress_error
from tests.conformance.deployed import Deployed, Stack
from tests.conformance.endpoints import Options
from tests.conformance.witness import Witness

ONLY = ("Versioned",)


def options(stack: Stack, mode: str, version: str, prefix: str) -> Options:
    return stack.own_options(mode=mode, version=version, prefix=prefix, services=ONLY)


def begin(on: Deployed, witness: Witness, key: str) -> tuple[str, str]:
    """An invocation that is suspended, and the awakeable that it waits for."""
    invocation = on.send("Versioned/span", {"witness": key})
    (awakeable,) = witness.wait(key)
    on.until_status(invocation, "suspended")
    return invocation, awakeable


def resolve(on: Deployed, awakeable: str) -> None:
    assert on.ingress("POST", f"/restate/awakeables/{awakeable}/resolve", "go").status == 202


@pytest.mark.both_modes
def test_what_began_on_the_old_code_ends_there(stack: Stack, witness: Witness, key: str, mode: str) -> None:
    prefix = "Up" + key.replace("-", "")
    with stack.endpoint(options(stack, mode, "v1", prefix)) as old:
        invocation, awakeable = begin(old, witness, key)
        with stack.endpoint(options(stack, mode, "v2", prefix)) as new:
            resolve(old, awakeable)
            assert old.attached(invocation) == ["v1", "v1"]
            assert new.value("Versioned/version") == "v2"
            later, awakeable = begin(new, witness, f"{key}-later")
            resolve(new, awakeable)
            assert new.attached(later) == ["v2", "v2"]


def test_a_new_version_adds_a_handler(stack: Stack, key: str) -> None:
    prefix = "Up" + key.replace("-", "")
    with stack.endpoint(options(stack, "bidi", "v1", prefix)) as old:
        assert_ingress_error(old.call("Versioned/only_in_v2"), 404)
        with stack.endpoint(options(stack, "bidi", "v2", prefix)) as new:
            assert new.value("Versioned/only_in_v2") == "new"
            known = new.admin("GET", f"/services/{new.name('Versioned')}").json()
            assert known["revision"] == 2


def test_what_is_scheduled_begins_on_the_new_code(stack: Stack, key: str) -> None:
    prefix = "Up" + key.replace("-", "")
    with stack.endpoint(options(stack, "bidi", "v1", prefix)) as old:
        invocation = old.send("Versioned/version", query="?delay=2500ms")
        with stack.endpoint(options(stack, "bidi", "v2", prefix)) as new:
            assert old.status(invocation) == "scheduled"
            assert new.attached(invocation) == "v2"


def test_without_the_new_version_the_old_one_is_back(stack: Stack, key: str) -> None:
    prefix = "Up" + key.replace("-", "")
    with (
        stack.endpoint(options(stack, "bidi", "v1", prefix)) as old,
        stack.endpoint(options(stack, "bidi", "v2", prefix)) as new,
    ):
        assert new.value("Versioned/version") == "v2"
        latest = new.admin("GET", f"/services/{new.name('Versioned')}").json()["deployment_id"]
        assert new.admin("DELETE", f"/deployments/{latest}?force=true").status == 202
        old.eventually("Versioned/version", "v1")


def test_an_endpoint_moves(stack: Stack, witness: Witness, key: str) -> None:
    """The same code at another address: what began there goes on here."""
    prefix = "Up" + key.replace("-", "")
    with stack.endpoint(options(stack, "bidi", "v1", prefix)) as old:
        invocation, awakeable = begin(old, witness, key)
        made = old.admin("GET", f"/services/{old.name('Versioned')}").json()["deployment_id"]
        moved = stack.start_endpoint(options(stack, "bidi", "v1", prefix))
        try:
            assert old.admin("PATCH", f"/deployments/{made}", {"uri": moved.uri}).status == 200
            old.endpoint.kill()
            resolve(old, awakeable)
            assert old.attached(invocation) == ["v1", "v1"]
            assert old.value("Versioned/version") == "v1"
        finally:
            moved.kill()
