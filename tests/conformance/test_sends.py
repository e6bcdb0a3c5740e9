"""Sends through the ingress, and the results of what has been sent."""

import time
from datetime import UTC, datetime

import pytest

from tests.conformance.answers import assert_failed, assert_ingress_error
from tests.conformance.deployed import Deployed
from tests.conformance.witness import Witness

UNKNOWN = "inv_1kAt0t9pq7gB3Qz0GFbXEcpNwLLJhbErHr"


@pytest.mark.both_modes
def test_a_send_is_accepted_and_runs(on: Deployed, key: str) -> None:
    answer = on.call(f"Counter/{key}/add/send", 2)
    assert answer.status == 202
    assert answer.headers["content-type"] == "application/json"
    accepted = answer.json()
    assert accepted == {"invocationId": answer.headers["x-restate-id"], "status": "Accepted"}
    assert on.attached(accepted["invocationId"]) == 2


def test_the_newer_send_path(on: Deployed) -> None:
    answer = on.ingress("POST", f"/restate/send/{on.name('Echo')}/echo", "x")
    assert answer.status == 202
    assert on.attached(answer.json()["invocationId"]) == "x"


@pytest.mark.parametrize("delay", ["700ms", "PT0.7S"])
def test_a_delayed_send(on: Deployed, witness: Witness, key: str, delay: str) -> None:
    began = time.monotonic()
    invocation = on.send("Steps/one", {"witness": key, "value": 1}, f"?delay={delay}")
    assert on.status(invocation) == "scheduled"
    assert on.output(invocation).status == 470
    assert witness.count(key) == 0
    assert on.attached(invocation) == 1
    assert time.monotonic() - began >= 0.69


def test_a_delayed_send_says_when_it_will_run(on: Deployed) -> None:
    now = datetime.now(UTC)
    answer = on.call("Echo/echo/send?delay=2m", 1)
    due = datetime.fromisoformat(answer.json()["executionTime"][:26] + "+00:00")
    assert 115 < (due - now).total_seconds() < 125
    assert on.cancel(answer.json()["invocationId"]) == 200


def test_a_delay_that_is_none(on: Deployed) -> None:
    assert_ingress_error(on.call("Echo/echo/send?delay=soon", 1), 400)


def test_a_call_takes_no_delay(on: Deployed) -> None:
    assert_ingress_error(on.call("Echo/echo?delay=1s", 1), 400)


def test_a_send_is_validated(on: Deployed) -> None:
    assert_ingress_error(on.call("Echo/echo/send", b"x", {"content-type": "text/plain"}), 400)


@pytest.mark.both_modes
def test_attach_waits_and_output_does_not(on: Deployed) -> None:
    invocation = on.send("Timers/sleep", {"ms": 500})
    assert_ingress_error(on.output(invocation), 470)
    answer = on.attach(invocation)
    assert (answer.status, answer.json()) == (200, "slept")
    assert answer.headers["x-restate-id"] == invocation
    assert answer.headers["content-type"] == "application/json"
    ready = on.output(invocation)
    assert (ready.status, ready.json()) == (200, "slept")
    assert ready.headers["x-restate-id"] == invocation


def test_many_attach_to_one(on: Deployed) -> None:
    invocation = on.send("Timers/sleep", {"ms": 300})
    command = {"id": invocation}
    assert on.values([("Caller/attach", command)] * 10) == ["slept"] * 10


def test_attach_to_a_failure(on: Deployed, key: str) -> None:
    invocation = on.send("Failing/terminal", {"witness": key, "code": 409, "message": "no"})
    assert_failed(on.attach(invocation), 409, "no")
    assert_failed(on.output(invocation), 409, "no")


@pytest.mark.parametrize("verb", ["attach", "output"])
def test_the_newer_paths_by_id(on: Deployed, verb: str) -> None:
    invocation = on.call("Echo/echo", "x").headers["x-restate-id"]
    assert on.ingress("GET", f"/restate/{verb}/{invocation}").json() == "x"
    body = {"target": "invocation", "invocationId": invocation}
    assert on.ingress("POST", f"/restate/{verb}", body).json() == "x"


def test_output_of_an_unknown_invocation(on: Deployed) -> None:
    assert_ingress_error(on.output(UNKNOWN), 404)


def test_attach_to_an_unknown_invocation(on: Deployed) -> None:
    assert_failed(on.attach(UNKNOWN), 404)


@pytest.mark.parametrize("verb", ["attach", "output"])
def test_an_id_that_is_none(on: Deployed, verb: str) -> None:
    assert_ingress_error(on.ingress("GET", f"/restate/invocation/inv_nonsense/{verb}"), 400)
