"""Workflows: run once per key, with promises between the run and its shared handlers."""

import time

import pytest

from tests.conformance.answers import assert_failed, assert_ingress_error
from tests.conformance.deployed import Deployed
from tests.conformance.processes import Answer
from tests.conformance.witness import Witness


def begin(on: Deployed, witness: Witness, key: str) -> str:
    """A run that waits for its decision."""
    invocation = on.send(f"Approval/{key}/run", {"witness": key, "wait": True})
    witness.wait(key)
    return invocation


def of_workflow(on: Deployed, key: str, verb: str) -> Answer:
    return on.ingress("GET", f"/restate/workflow/{on.name('Approval')}/{key}/{verb}")


@pytest.mark.both_modes
def test_a_workflow_runs_once(on: Deployed, witness: Witness, key: str) -> None:
    command = {"witness": key, "wait": False}
    first = on.call(f"Approval/{key}/run", command)
    assert (first.status, first.json()) == (200, "at once")
    second = on.call(f"Approval/{key}/run", command)
    assert_failed(second, 409)
    assert second.headers["x-restate-id"] == first.headers["x-restate-id"]
    assert witness.count(key) == 1


def test_a_second_send_was_accepted_before(on: Deployed, witness: Witness, key: str) -> None:
    command = {"witness": key, "wait": False}
    first = on.call(f"Approval/{key}/run/send", command)
    second = on.call(f"Approval/{key}/run/send", command)
    assert (first.status, second.status) == (202, 202)
    assert second.json() == {"invocationId": first.json()["invocationId"], "status": "PreviouslyAccepted"}
    assert of_workflow(on, key, "attach").json() == "at once"
    assert witness.count(key) == 1


def test_a_run_takes_no_idempotency_key(on: Deployed, key: str) -> None:
    command = {"witness": key, "wait": False}
    assert_ingress_error(on.call(f"Approval/{key}/run", command, {"idempotency-key": key}), 400)


@pytest.mark.both_modes
def test_a_promise_resolved_while_it_is_awaited(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key)
    assert on.value(f"Approval/{key}/decide", {"granted": True}) == "decided"
    assert on.attached(invocation) == {"granted": True}


@pytest.mark.small
@pytest.mark.both_modes
def test_a_run_that_waits_for_a_promise_is_suspended(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key)
    on.until_status(invocation, "suspended")
    on.value(f"Approval/{key}/decide", "yes")
    assert on.attached(invocation) == "yes"
    assert witness.count(key) == 1


def test_a_promise_resolved_before_it_is_awaited(on: Deployed, key: str) -> None:
    assert on.value(f"Approval/{key}/decide", "early") == "decided"
    assert on.value(f"Approval/{key}/run", {"witness": key, "wait": True}) == "early"


@pytest.mark.both_modes
def test_a_rejected_promise(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key)
    assert on.value(f"Approval/{key}/refuse", "not today") == "refused"
    assert_failed(on.attach(invocation), 500, "not today")


@pytest.mark.both_modes
def test_peek(on: Deployed, key: str) -> None:
    assert on.value(f"Approval/{key}/peek") == {"value": None}
    on.value(f"Approval/{key}/decide", [1])
    assert on.value(f"Approval/{key}/peek") == {"value": [1]}


def test_a_promise_is_resolved_once(on: Deployed, key: str) -> None:
    on.value(f"Approval/{key}/decide", "first")
    assert_failed(on.call(f"Approval/{key}/decide", "second"), 409)
    assert on.value(f"Approval/{key}/peek") == {"value": "first"}


def test_shared_handlers_wait_for_promises_too(on: Deployed, key: str) -> None:
    waiting = [on.send(f"Approval/{key}/decision") for _ in range(3)]
    time.sleep(0.1)
    on.value(f"Approval/{key}/decide", "for all")
    assert [on.attached(invocation) for invocation in waiting] == ["for all"] * 3


def test_shared_handlers_read_the_state_of_the_run(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value(f"Approval/{key}/status") == {"value": None}
    invocation = begin(on, witness, key)
    on.eventually(f"Approval/{key}/status", {"value": "waiting"})
    on.value(f"Approval/{key}/decide", "yes")
    assert on.attached(invocation) == "yes"
    assert on.value(f"Approval/{key}/status") == {"value": "done"}


def test_attach_and_output_by_key(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key)
    assert_ingress_error(of_workflow(on, key, "output"), 470)
    on.value(f"Approval/{key}/decide", "yes")
    attached = of_workflow(on, key, "attach")
    assert (attached.status, attached.json()) == (200, "yes")
    assert attached.headers["x-restate-id"] == invocation
    assert of_workflow(on, key, "output").json() == "yes"


def test_attach_by_a_target_in_the_body(on: Deployed, key: str) -> None:
    on.value(f"Approval/{key}/run", {"witness": key, "wait": False})
    body = {"target": "workflow", "workflowName": on.name("Approval"), "workflowKey": key}
    assert on.ingress("POST", "/restate/attach", body).json() == "at once"
    assert on.ingress("POST", "/restate/output", body).json() == "at once"


def test_output_of_a_workflow_that_never_ran(on: Deployed, key: str) -> None:
    assert_ingress_error(of_workflow(on, key, "output"), 404)


def test_a_handler_runs_a_workflow(on: Deployed, witness: Witness, key: str) -> None:
    command = {
        "service": on.name("Approval"),
        "handler": "run",
        "key": key,
        "value": {"witness": key, "wait": False},
    }
    assert on.value("Caller/call", command) == "at once"
    assert on.value("Caller/catch", command)["code"] == 409
    assert witness.count(key) == 1


def test_workflows_of_other_keys_are_others(on: Deployed, key: str) -> None:
    command = {"witness": key, "wait": True}
    invocations = [on.send(f"Approval/{key}-{i}/run", command) for i in range(5)]
    for i in range(5):
        on.value(f"Approval/{key}-{i}/decide", i)
    assert [on.attached(invocation) for invocation in invocations] == list(range(5))
