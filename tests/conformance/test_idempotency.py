"""Idempotency keys of the ingress: one key, one run, one result."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.answers import assert_failed, assert_ingress_error
from tests.conformance.deployed import Deployed
from tests.conformance.witness import Witness


@pytest.mark.both_modes
def test_a_key_runs_once(on: Deployed, witness: Witness, key: str) -> None:
    headers = {"idempotency-key": key}
    first = on.call("Steps/one", {"witness": key, "value": "first"}, headers)
    second = on.call("Steps/one", {"witness": key, "value": "second"}, headers)
    assert first.json() == second.json() == "first"
    assert first.headers["x-restate-id"] == second.headers["x-restate-id"]
    assert "idempotency-expires" in second.headers
    assert witness.count(key) == 1


def test_another_key_runs_again(on: Deployed, witness: Witness, key: str) -> None:
    for suffix in ("a", "b"):
        on.value("Steps/one", {"witness": key, "value": 1}, {"idempotency-key": f"{key}-{suffix}"})
    assert witness.count(key) == 2


def test_a_key_belongs_to_a_handler(on: Deployed, key: str) -> None:
    headers = {"idempotency-key": key}
    assert on.value("Echo/echo", "x", headers) == "x"
    assert on.value("Versioned/version", headers=headers) == "v1"


def test_a_key_belongs_to_an_object(on: Deployed, key: str) -> None:
    headers = {"idempotency-key": key}
    assert [on.value(f"Counter/{key}-{name}/add", 1, headers) for name in "aabb"] == [1, 1, 1, 1]


def test_those_who_ask_while_it_runs_wait_for_it(on: Deployed, witness: Witness, key: str) -> None:
    command = {"witness": key, "gate": f"{key}-gate"}
    with ThreadPoolExecutor(5) as pool:
        headers = {"idempotency-key": key}
        asking = [pool.submit(on.call, f"Counter/{key}/hold", command, headers) for _ in range(5)]
        witness.wait(key)
        witness.open(f"{key}-gate")
        answers = [asked.result() for asked in asking]
    assert [answer.json() for answer in answers] == ["released"] * 5
    assert len({answer.headers["x-restate-id"] for answer in answers}) == 1
    assert witness.count(key) == 1


def test_a_failure_is_a_result_too(on: Deployed, witness: Witness, key: str) -> None:
    command = {"witness": key, "code": 402, "message": "pay first"}
    for _ in range(2):
        assert_failed(on.call("Failing/terminal", command, {"idempotency-key": key}), 402, "pay first")
    assert witness.count(key) == 1


def test_a_second_send_was_accepted_before(on: Deployed, witness: Witness, key: str) -> None:
    command, headers = {"witness": key, "value": 1}, {"idempotency-key": key}
    first = on.call("Steps/one/send", command, headers)
    second = on.call("Steps/one/send", command, headers)
    assert (first.status, second.status) == (202, 202)
    assert first.json()["status"] == "Accepted"
    assert second.json()["status"] == "PreviouslyAccepted"
    assert first.json()["invocationId"] == second.json()["invocationId"]
    assert on.value("Steps/one", command, headers) == 1
    assert witness.count(key) == 1


def test_a_second_delayed_send_has_the_first_ones_time(on: Deployed, key: str) -> None:
    headers = {"idempotency-key": key}
    first = on.call("Echo/echo/send?delay=1m", 1, headers).json()
    second = on.call("Echo/echo/send?delay=5m", 1, headers).json()
    assert second["executionTime"] == first["executionTime"]
    assert on.cancel(first["invocationId"]) == 200


def test_attach_and_output_by_key(on: Deployed, key: str) -> None:
    on.send("Timers/sleep", {"ms": 400}, headers={"idempotency-key": key})
    path = f"/restate/invocation/{on.name('Timers')}/sleep/{key}"
    assert_ingress_error(on.ingress("GET", f"{path}/output"), 470)
    assert on.ingress("GET", f"{path}/attach").json() == "slept"
    assert on.ingress("GET", f"{path}/output").json() == "slept"


def test_attach_and_output_by_key_of_an_object(on: Deployed, key: str) -> None:
    on.value(f"Counter/{key}/add", 5, {"idempotency-key": key})
    path = f"/restate/invocation/{on.name('Counter')}/{key}/add/{key}"
    assert on.ingress("GET", f"{path}/attach").json() == 5
    assert on.ingress("GET", f"{path}/output").json() == 5


def test_attach_by_a_target_in_the_body(on: Deployed, key: str) -> None:
    answer = on.call(f"Counter/{key}/add", 5, {"idempotency-key": key})
    body = {
        "target": "idempotentInvocation",
        "service": on.name("Counter"),
        "key": key,
        "handler": "add",
        "idempotencyKey": key,
    }
    assert on.ingress("POST", "/restate/attach", body).json() == 5
    assert on.ingress("POST", "/restate/lookup", body).json() == {"invocationId": answer.headers["x-restate-id"]}


def test_a_key_that_nobody_used(on: Deployed, key: str) -> None:
    path = f"/restate/invocation/{on.name('Echo')}/echo/{key}"
    assert_ingress_error(on.ingress("GET", f"{path}/output"), 404)
    assert_failed(on.ingress("GET", f"{path}/attach"), 404)
