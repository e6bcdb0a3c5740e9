"""Terminal errors, retries of whole invocations, and what happens when attempts are exhausted."""

import itertools

import pytest

from tests.conformance.answers import assert_failed
from tests.conformance.deployed import Deployed
from tests.conformance.witness import Witness


def gaps(lines: list[str]) -> list[int]:
    """Milliseconds between events."""
    times = [int(line) for line in lines]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.both_modes
@pytest.mark.parametrize("code", [400, 404, 409, 422, 500, 503])
def test_a_terminal_error_is_the_answer(on: Deployed, witness: Witness, key: str, code: int) -> None:
    command = {"witness": key, "code": code, "message": "no, because é✓"}
    assert_failed(on.call("Failing/terminal", command), code, "no, because é✓")
    assert witness.count(key) == 1


@pytest.mark.since(6)
def test_metadata_of_a_terminal_error(on: Deployed, key: str) -> None:
    command = {"witness": key, "code": 400, "message": "no", "metadata": {"why": "so", "since": "today"}}
    answer = on.call("Failing/terminal", command)
    assert_failed(answer, 400, "no")
    assert answer.json()["metadata"] == {"why": "so", "since": "today"}


def test_a_code_that_is_no_http_status(on: Deployed, key: str) -> None:
    answer = on.call("Failing/terminal", {"witness": key, "code": 1001, "message": "odd"})
    assert answer.status == 500
    assert answer.json()["code"] == 1001


@pytest.mark.both_modes
@pytest.mark.since(6)
def test_a_caller_sees_the_terminal_error_of_its_callee(on: Deployed, key: str) -> None:
    failure = {"witness": key, "code": 403, "message": "not you", "metadata": {"who": "you"}}
    command = {"service": on.name("Failing"), "handler": "terminal", "value": failure}
    wanted = {"code": 403, "message": "not you", "metadata": {"who": "you"}}
    assert on.value("Caller/catch", command) == wanted


@pytest.mark.small
def test_a_terminal_error_passes_through_callers(on: Deployed, witness: Witness, key: str) -> None:
    failure = {"witness": key, "code": 403, "message": "not you"}
    command = {"service": on.name("Failing"), "handler": "terminal", "value": failure}
    assert_failed(on.call("Caller/call", command), 403, "not you")
    assert witness.count(key) == 1


@pytest.mark.both_modes
def test_another_error_is_retried(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Failing/flaky", {"witness": key, "failures": 4}) == 5
    assert witness.count(key) == 5


def test_retries_back_off(on: Deployed, witness: Witness, key: str) -> None:
    """100, 200, 400 ms and up to a third more; half a second is left for a busy machine."""
    assert on.value("Failing/backoff", {"witness": key, "failures": 3}) == 4
    seen = gaps(witness.lines(key))
    assert len(seen) == 3
    for gap, least in zip(seen, (100, 200, 400), strict=True):
        assert least - 5 <= gap < least * 4 / 3 + 500, seen


def test_an_error_says_when_to_retry(on: Deployed, witness: Witness, key: str) -> None:
    """The policy alone would retry after 20 ms."""
    assert on.value("Failing/retry_after", {"witness": key, "ms": 700}) == 2
    assert gaps(witness.lines(key))[0] >= 690


def test_exhausted_attempts_kill_if_asked_to(on: Deployed, witness: Witness, key: str) -> None:
    assert_failed(on.call("Failing/killed", {"witness": key}), 500)
    assert witness.count(key) == 3


@pytest.mark.both_modes
def test_exhausted_attempts_pause_and_an_operator_resumes(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Failing/paused", {"witness": key, "gate": key})
    on.until_status(invocation, "paused")
    assert witness.count(key) == 2
    assert on.output(invocation).status == 470
    witness.open(key)
    assert on.admin("PATCH", f"/invocations/{invocation}/resume").status == 200
    assert on.attached(invocation) == 3


def test_a_resumed_invocation_that_fails_again_is_paused_again(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Failing/paused", {"witness": key, "gate": key})
    on.until_status(invocation, "paused")
    assert on.admin("PATCH", f"/invocations/{invocation}/resume").status == 200
    witness.wait(key, 3)
    on.until_status(invocation, "paused")
    witness.open(key)
    assert on.admin("PATCH", f"/invocations/{invocation}/resume").status == 200
    assert on.attached(invocation) == witness.count(key)


def test_a_paused_invocation_can_be_killed(on: Deployed, key: str) -> None:
    invocation = on.send("Failing/paused", {"witness": key, "gate": key})
    on.until_status(invocation, "paused")
    assert on.admin("PATCH", f"/invocations/{invocation}/kill").status == 200
    assert_failed(on.attach(invocation), 409)


def test_the_status_says_that_it_backs_off(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Failing/retry_after", {"witness": key, "ms": 1500})
    witness.wait(key)
    on.until_status(invocation, "backing-off")
    assert on.admin("PATCH", f"/invocations/{invocation}/kill").status == 200
