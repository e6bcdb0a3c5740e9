"""Invocations ended by an operator or by another handler: cancelled, killed, purged, paused."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.answers import assert_admin_error, assert_failed, assert_ingress_error
from tests.conformance.deployed import Deployed
from tests.conformance.witness import Witness

UNKNOWN = "inv_1kAt0t9pq7gB3Qz0GFbXEcpNwLLJhbErHr"
VERBS = ["cancel", "kill", "purge", "pause", "resume"]


def begin(on: Deployed, witness: Witness, key: str, handler: str = "Cancellable/wait") -> str:
    """An invocation that waits, with its awakeable published."""
    invocation = on.send(handler, {"witness": key, "undone": f"{key}-undone"})
    witness.wait(key)
    return invocation


def looked_up(on: Deployed, service: str, handler: str, idempotency_key: str, key: str | None = None) -> str:
    """The id of an invocation whose caller is still waiting."""
    body = {"target": "idempotentInvocation", "service": on.name(service), "handler": handler, "key": key}
    answer = on.ingress("POST", "/restate/lookup", {**body, "idempotencyKey": idempotency_key})
    return str(answer.json()["invocationId"])


@pytest.mark.both_modes
def test_cancel_what_is_suspended(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key)
    on.until_status(invocation, "suspended")
    assert on.cancel(invocation) == 202
    assert_failed(on.attach(invocation), 409)


@pytest.mark.both_modes
def test_cancel_at_once(on: Deployed, witness: Witness, key: str) -> None:
    """While it still runs, or is on its way to be suspended."""
    invocation = begin(on, witness, key)
    assert on.cancel(invocation) == 202
    assert_failed(on.attach(invocation), 409)


def test_the_caller_of_a_cancelled_invocation_gets_a_conflict(on: Deployed, witness: Witness, key: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(on.call, "Cancellable/wait", {"witness": key}, {"idempotency-key": key})
        witness.wait(key)
        assert on.cancel(looked_up(on, "Cancellable", "wait", key)) == 202
        assert_failed(calling.result(), 409)


def test_cancel_a_sleeper(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Timers/sleep", {"ms": 60_000, "before": key})
    witness.wait(key)
    assert on.cancel(invocation) == 202
    assert_failed(on.attach(invocation), 409)


@pytest.mark.small
@pytest.mark.both_modes
def test_a_cancelled_handler_compensates(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key, "Cancellable/compensated")
    on.until_status(invocation, "suspended")
    assert on.cancel(invocation) == 202
    assert_failed(on.attach(invocation), 409)
    assert witness.count(f"{key}-undone") == 1


@pytest.mark.both_modes
def test_a_cancellation_can_be_caught(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key, "Cancellable/caught")
    on.until_status(invocation, "suspended")  # in its `try`: what it published was seen before that
    assert on.cancel(invocation) == 202
    assert on.attached(invocation) == {"code": 409}


@pytest.mark.both_modes
def test_cancel_reaches_the_callee(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key, "Cancellable/parent")
    on.until_status(invocation, "suspended")
    assert on.cancel(invocation) == 202
    assert_failed(on.attach(invocation), 409)
    witness.wait(f"{key}-undone")
    assert witness.count(f"{key}-undone") == 1


def test_a_caller_of_a_cancelled_callee_sees_the_conflict(on: Deployed, witness: Witness, key: str) -> None:
    command = {"service": on.name("Cancellable"), "handler": "wait", "value": {"witness": key}}
    caller = on.send("Caller/catch", command)
    witness.wait(key)
    where = f"invoked_by_id = '{caller}'"
    (row,) = on.query(f"SELECT id FROM sys_invocation WHERE {where}")
    assert on.cancel(row["id"]) == 202
    assert on.attached(caller)["code"] == 409


@pytest.mark.both_modes
def test_a_handler_cancels(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key)
    assert on.value("Caller/cancel", {"id": invocation}) == "asked"
    assert_failed(on.attach(invocation), 409)


def test_cancel_what_is_scheduled(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Steps/one", {"witness": key, "value": 1}, "?delay=1s")
    assert on.cancel(invocation) == 200
    assert_ingress_error(on.output(invocation), 404)
    assert on.status(invocation) is None
    assert witness.count(key) == 0


def test_cancel_what_is_queued(on: Deployed, witness: Witness, key: str) -> None:
    held = on.send(f"Counter/{key}/hold", {"witness": key, "gate": key})
    witness.wait(key)
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(on.call, f"Counter/{key}/add", 1, {"idempotency-key": key})
        queued = looked_up(on, "Counter", "add", key, key)
        on.until_status(queued, "pending")
        assert on.cancel(queued) == 200
        assert_failed(calling.result(), 409)
    witness.open(key)
    assert on.attached(held) == "released"
    assert on.value(f"Counter/{key}/get") == 0


@pytest.mark.both_modes
def test_a_cancelled_handler_frees_its_key(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key, f"Counter/{key}/wait")
    queued = on.send(f"Counter/{key}/add", 1)
    assert on.cancel(invocation) == 202
    assert on.attached(queued) == 1


def test_cancel_a_workflow(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send(f"Approval/{key}/run", {"witness": key, "wait": True})
    witness.wait(key)
    assert on.cancel(invocation) == 202
    answer = on.ingress("GET", f"/restate/workflow/{on.name('Approval')}/{key}/attach")
    assert_failed(answer, 409)


@pytest.mark.both_modes
def test_kill(on: Deployed, witness: Witness, key: str) -> None:
    """No code of the handler runs any more."""
    invocation = begin(on, witness, key, "Cancellable/compensated")
    assert on.admin("PATCH", f"/invocations/{invocation}/kill").status == 200
    assert_failed(on.attach(invocation), 409)
    assert witness.count(f"{key}-undone") == 0


def test_kill_reaches_the_callee(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key, "Cancellable/parent")
    (row,) = on.query(f"SELECT id FROM sys_invocation WHERE invoked_by_id = '{invocation}'")
    assert on.admin("PATCH", f"/invocations/{invocation}/kill").status == 200
    on.until_status(row["id"], "completed")
    assert witness.count(f"{key}-undone") == 0


def test_a_killed_handler_frees_its_key(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key, f"Counter/{key}/wait")
    queued = on.send(f"Counter/{key}/add", 1)
    assert on.admin("PATCH", f"/invocations/{invocation}/kill").status == 200
    assert on.attached(queued) == 1


def test_kill_what_hangs_in_a_step(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send(f"Counter/{key}/hold", {"witness": key, "gate": key})
    witness.wait(key)
    assert on.admin("PATCH", f"/invocations/{invocation}/kill").status == 200
    assert_failed(on.attach(invocation), 409)
    witness.open(key)
    assert on.value(f"Counter/{key}/add", 1) == 1


def test_pause_and_resume_by_hand(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Failing/retry_after", {"witness": key, "ms": 60_000})
    witness.wait(key)
    on.until_status(invocation, "backing-off")
    assert on.admin("PATCH", f"/invocations/{invocation}/pause").status == 202
    on.until_status(invocation, "paused")
    assert on.admin("PATCH", f"/invocations/{invocation}/pause").status == 200
    assert on.admin("PATCH", f"/invocations/{invocation}/resume").status == 200
    assert on.attached(invocation) == 2


def test_purge(on: Deployed) -> None:
    invocation = on.call("Echo/echo", 1).headers["x-restate-id"]
    assert on.output(invocation).status == 200
    assert on.admin("PATCH", f"/invocations/{invocation}/purge").status == 200
    assert_ingress_error(on.output(invocation), 404)


def test_a_purged_idempotency_key_runs_again(on: Deployed, witness: Witness, key: str) -> None:
    command, headers = {"witness": key, "value": 1}, {"idempotency-key": key}
    invocation = on.call("Steps/one", command, headers).headers["x-restate-id"]
    assert on.admin("PATCH", f"/invocations/{invocation}/purge").status == 200
    assert on.value("Steps/one", command, headers) == 1
    assert witness.count(key) == 2


def test_what_runs_cannot_be_purged(on: Deployed, witness: Witness, key: str) -> None:
    invocation = begin(on, witness, key)
    assert_admin_error(on.admin("PATCH", f"/invocations/{invocation}/purge"), 409)
    on.cancel(invocation)


@pytest.mark.parametrize("verb", ["cancel", "kill", "pause", "resume"])
def test_what_has_ended_is_a_conflict(on: Deployed, verb: str) -> None:
    invocation = on.call("Echo/echo", 1).headers["x-restate-id"]
    assert_admin_error(on.admin("PATCH", f"/invocations/{invocation}/{verb}"), 409)


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_invocation(on: Deployed, verb: str) -> None:
    assert_admin_error(on.admin("PATCH", f"/invocations/{UNKNOWN}/{verb}"), 404)


@pytest.mark.parametrize("verb", VERBS)
def test_an_id_that_is_none(on: Deployed, verb: str) -> None:
    assert on.admin("PATCH", f"/invocations/nonsense/{verb}").status == 400


@pytest.mark.parametrize(("mode_of_end", "undone"), [("cancel", 1), ("kill", 0)])
def test_the_older_path_to_end(on: Deployed, witness: Witness, key: str, mode_of_end: str, undone: int) -> None:
    invocation = begin(on, witness, key, "Cancellable/compensated")
    on.until_status(invocation, "suspended")  # before, it may still wait for the step that published its awakeable
    assert on.admin("DELETE", f"/invocations/{invocation}?mode={mode_of_end}").status == 202
    assert_failed(on.attach(invocation), 409)
    assert witness.count(f"{key}-undone") == undone


def test_an_ended_invocation_starts_again_as_a_new_one(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.call("Steps/one", {"witness": key, "value": 5}).headers["x-restate-id"]
    answer = on.admin("PATCH", f"/invocations/{invocation}/restart-as-new")
    assert answer.status == 200
    assert on.attached(answer.json()["new_invocation_id"]) == 5
    assert witness.count(key) == 2
