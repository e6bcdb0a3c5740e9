"""Handlers that call, send to and attach to others."""

import time

import pytest

from tests.conformance.answers import assert_failed
from tests.conformance.deployed import Deployed
from tests.conformance.processes import ask
from tests.conformance.witness import Witness


@pytest.mark.both_modes
def test_a_call_gives_the_result(on: Deployed) -> None:
    command = {"service": on.name("Echo"), "handler": "echo", "value": {"é": [1]}}
    assert on.value("Caller/call", command) == {"é": [1]}


@pytest.mark.both_modes
def test_a_call_of_an_object(on: Deployed, key: str) -> None:
    command = {"service": on.name("Counter"), "handler": "add", "key": key, "value": 2}
    assert on.value("Caller/call", command) == 2
    assert on.value("Caller/call", command) == 4


def test_a_call_of_an_object_with_an_odd_key(on: Deployed, key: str) -> None:
    odd = f"{key}/ключ ✓"
    command = {"service": on.name("Counter"), "handler": "key", "key": odd, "value": None}
    assert on.value("Caller/call", command) == odd


def test_headers_of_a_call(on: Deployed) -> None:
    command = {"service": on.name("Echo"), "handler": "headers", "value": None, "headers": {"x-mine": "1"}}
    assert on.value("Caller/call", command)["x-mine"] == "1"


@pytest.mark.both_modes
def test_a_caller_knows_the_id_of_its_callee(on: Deployed) -> None:
    command = {"service": on.name("Echo"), "handler": "identity", "value": None}
    known, seen = on.value("Caller/call_with_id", command)
    assert known == seen
    assert known.startswith("inv_1")


def test_a_megabyte_through_a_call(on: Deployed) -> None:
    value = "x" * 1_000_000
    assert on.value("Caller/call", {"service": on.name("Echo"), "handler": "echo", "value": value}) == value


@pytest.mark.both_modes
def test_thirty_calls_side_by_side(on: Deployed) -> None:
    assert on.value("Caller/fan_out", 30) == sum(range(30))


def test_three_hundred_calls_side_by_side(on: Deployed) -> None:
    assert on.value("Caller/fan_out", 300) == sum(range(300))


def test_a_hundred_invocations_at_once(on: Deployed, witness: Witness, key: str) -> None:
    calls = [("Steps/one", {"witness": key, "value": i}) for i in range(100)]
    assert on.values(calls, at_once=100) == list(range(100))
    assert witness.count(key) == 100


@pytest.mark.both_modes
def test_a_caller_that_waits_long_is_suspended(on: Deployed) -> None:
    command = {"service": on.name("Timers"), "handler": "sleep", "value": {"ms": 1200}}
    invocation = on.send("Caller/call", command)
    on.until_status(invocation, "suspended")
    assert on.attached(invocation) == "slept"


def test_a_call_with_an_idempotency_key_runs_once(on: Deployed, witness: Witness, key: str) -> None:
    command = {"witness": key, "value": 7, "idempotency_key": key}
    assert on.value("Caller/twice", command) == [7, 7]
    assert witness.count(key) == 1


def test_an_idempotency_key_is_shared_with_the_ingress(on: Deployed, witness: Witness, key: str) -> None:
    on.value("Caller/twice", {"witness": key, "value": 7, "idempotency_key": key})
    assert on.value("Steps/one", {"witness": key, "value": "other"}, {"idempotency-key": key}) == 7
    assert witness.count(key) == 1


@pytest.mark.both_modes
def test_a_call_that_takes_too_long_is_given_up_and_cancelled(on: Deployed) -> None:
    callee = on.value("Caller/impatient", {"ms": 100, "callee_ms": 30_000})["timeout"]
    on.until_status(callee, "completed")


def test_a_call_that_is_in_time(on: Deployed) -> None:
    assert on.value("Caller/impatient", {"ms": 10_000, "callee_ms": 1}) == {"result": "slept"}


def test_a_call_of_a_service_that_comes_later(on: Deployed, key: str) -> None:
    """Such a call is retried, as the callee may be registered yet."""
    command = {"service": f"NotYet{key}".replace("-", ""), "handler": "echo", "value": 1}
    invocation = on.send("Caller/call", command)
    on.until_status(invocation, "backing-off")
    assert on.output(invocation).status == 470
    assert on.admin("PATCH", f"/invocations/{invocation}/kill").status == 200


@pytest.mark.both_modes
def test_a_one_way_call(on: Deployed, key: str) -> None:
    command = {"service": on.name("Counter"), "handler": "add", "key": key, "value": 3}
    invocation = on.value("Caller/send", command)
    assert invocation.startswith("inv_1")
    on.eventually(f"Counter/{key}/get", 3)


@pytest.mark.small
def test_a_one_way_call_with_a_delay(on: Deployed, key: str) -> None:
    """It may be the first that an endpoint is asked: the delay leaves it time to load its code."""
    began = time.monotonic()
    command = {"service": on.name("Counter"), "handler": "add", "key": key, "value": 3, "delay_ms": 2000}
    invocation = on.value("Caller/send", command)
    assert on.status(invocation) == "scheduled"
    assert on.value(f"Counter/{key}/get") == 0
    on.eventually(f"Counter/{key}/get", 3)
    assert time.monotonic() - began >= 1.99


def test_a_one_way_call_with_an_idempotency_key(on: Deployed, witness: Witness, key: str) -> None:
    value = {"witness": key, "value": 1}
    command = {"service": on.name("Steps"), "handler": "one", "value": value, "idempotency_key": key}
    assert on.value("Caller/send", command) == on.value("Caller/send", command)
    witness.wait(key)
    assert on.value("Steps/one", value, {"idempotency-key": key}) == 1
    assert witness.count(key) == 1


def test_a_caller_that_has_ended_leaves_its_sends_running(on: Deployed, key: str) -> None:
    value = {"ms": 300, "after": key}
    command = {"service": on.name("Timers"), "handler": "sleep", "value": value}
    invocation = on.value("Caller/send", command)
    on.until_status(invocation, "completed")


@pytest.mark.both_modes
def test_a_handler_attaches_to_an_invocation(on: Deployed) -> None:
    invocation = on.send("Timers/sleep", {"ms": 600})
    assert on.value("Caller/attach", {"id": invocation}) == "slept"


def test_a_handler_attaches_to_one_that_has_ended(on: Deployed) -> None:
    answer = on.call("Echo/echo", "done")
    assert on.value("Caller/attach", {"id": answer.headers["x-restate-id"]}) == "done"


def test_a_handler_that_attaches_sees_the_failure(on: Deployed, key: str) -> None:
    failed = on.call("Failing/terminal", {"witness": key, "code": 410, "message": "gone"})
    assert_failed(on.call("Caller/attach", {"id": failed.headers["x-restate-id"]}), 410, "gone")


def test_a_client_that_goes_away_does_not_end_the_invocation(on: Deployed, witness: Witness, key: str) -> None:
    path = f"/{on.name('Timers')}/sleep"
    with pytest.raises(TimeoutError):
        ask(on.server.ingress, "POST", path, {"ms": 800, "after": key}, timeout_s=0.2)
    witness.wait(key)
