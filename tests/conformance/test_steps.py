"""Steps: their results are in the journal, and what is in the journal does not run again."""

import pytest

from tests.conformance.answers import assert_failed
from tests.conformance.deployed import Deployed
from tests.conformance.witness import Witness

RESULTS: dict[str, object] = {"object": {"a": [1, 2]}, "string": "é✓", "number": 1.5, "list": []}


@pytest.mark.both_modes
@pytest.mark.parametrize("value", RESULTS.values(), ids=RESULTS.keys())
def test_the_result_of_a_step(on: Deployed, witness: Witness, key: str, value: object) -> None:
    assert on.value("Steps/one", {"witness": key, "value": value}) == value
    assert witness.count(key) == 1


@pytest.mark.both_modes
def test_steps_run_once_and_in_order(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Steps/many", {"witness": key, "count": 20}) == sum(range(20))
    assert witness.lines(key) == [str(i) for i in range(20)]


@pytest.mark.both_modes
def test_steps_side_by_side(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Steps/parallel", {"witness": key, "count": 10}) == [i * i for i in range(10)]
    assert sorted(witness.lines(key)) == [str(i) for i in range(10)]


@pytest.mark.small
@pytest.mark.both_modes
def test_a_step_is_tried_until_it_succeeds(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Steps/flaky", {"witness": key, "failures": 3}) == 4
    assert witness.count(key) == 4


@pytest.mark.both_modes
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_step_whose_attempts_are_exhausted_fails(on: Deployed, witness: Witness, key: str, attempts: int) -> None:
    command = {"witness": key, "attempts": attempts, "catch": False}
    assert_failed(on.call("Steps/exhausted", command), 500)
    assert witness.count(key) == attempts


def test_a_handler_catches_an_exhausted_step(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Steps/exhausted", {"witness": key, "attempts": 2, "catch": True}) == {"code": 500}
    assert witness.count(key) == 2


@pytest.mark.both_modes
def test_a_terminal_error_ends_step_and_invocation(on: Deployed, witness: Witness, key: str) -> None:
    command = {"witness": key, "code": 418, "message": "a teapot", "catch": False}
    assert_failed(on.call("Steps/terminal", command), 418, "a teapot")
    assert witness.count(key) == 1


def test_a_handler_catches_a_terminal_step(on: Deployed, witness: Witness, key: str) -> None:
    command = {"witness": key, "code": 418, "message": "a teapot", "catch": True}
    assert on.value("Steps/terminal", command) == {"code": 418, "message": "a teapot"}
    assert witness.count(key) == 1


@pytest.mark.both_modes
def test_a_finished_step_does_not_run_again_when_the_invocation_is_retried(
    on: Deployed, witness: Witness, key: str
) -> None:
    command = {"first": f"{key}-first", "second": f"{key}-second", "failures": 3}
    assert on.value("Steps/then_fail", command) == [1, 4]
    assert witness.count(f"{key}-first") == 1
    assert witness.count(f"{key}-second") == 4


@pytest.mark.both_modes
def test_a_step_with_a_megabyte(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Steps/large", {"witness": key, "size": 1_000_000}) == "x" * 1_000_000
    assert witness.count(key) == 1


def test_a_journal_of_a_thousand_entries(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Steps/many", {"witness": key, "count": 500}) == sum(range(500))
    assert witness.lines(key) == [str(i) for i in range(500)]


def test_a_hundred_steps_side_by_side(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Steps/parallel", {"witness": key, "count": 100}) == [i * i for i in range(100)]
    assert witness.count(key) == 100


@pytest.mark.both_modes
def test_what_is_random_is_the_same_in_every_attempt(on: Deployed, witness: Witness, key: str) -> None:
    made = on.value("Steps/unique", {"witness": key, "failures": 2})
    assert witness.lines(key) == [made] * 3
    assert on.value("Steps/unique", {"witness": f"{key}-other", "failures": 0}) != made
