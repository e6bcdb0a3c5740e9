"""Sleeps, awakeables, signals and their combinations; with and without suspension between."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.answers import assert_failed, assert_ingress_error
from tests.conformance.deployed import Deployed
from tests.conformance.witness import Witness


def resolve(on: Deployed, awakeable: str, value: object) -> None:
    answer = on.ingress("POST", f"/restate/awakeables/{awakeable}/resolve", value)
    assert (answer.status, answer.body) == (202, b"")


def reject(on: Deployed, awakeable: str, message: str) -> None:
    path = f"/restate/awakeables/{awakeable}/reject"
    assert on.ingress("POST", path, message.encode(), {"content-type": "text/plain"}).status == 202


@pytest.mark.both_modes
def test_a_short_sleep(on: Deployed) -> None:
    began = time.monotonic()
    assert on.value("Timers/sleep", {"ms": 100}) == "slept"
    assert time.monotonic() - began >= 0.095


@pytest.mark.small
@pytest.mark.both_modes
def test_a_sleep_survives_suspension(on: Deployed, witness: Witness, key: str) -> None:
    began = time.monotonic()
    invocation = on.send("Timers/sleep", {"ms": 900, "before": f"{key}-before", "after": f"{key}-after"})
    on.until_status(invocation, "suspended")
    assert on.attached(invocation) == "slept"
    assert time.monotonic() - began >= 0.89
    assert witness.count(f"{key}-before") == witness.count(f"{key}-after") == 1


@pytest.mark.both_modes
def test_sleeps_side_by_side(on: Deployed) -> None:
    began = time.monotonic()
    assert on.value("Timers/many", [300, 100, 500, 200, 400]) == 5
    assert 0.49 <= time.monotonic() - began < 1.4


def test_fifty_sleepers(on: Deployed) -> None:
    began = time.monotonic()
    assert on.values([("Timers/sleep", {"ms": 500})] * 50, at_once=50) == ["slept"] * 50
    assert time.monotonic() - began < 10


@pytest.mark.both_modes
def test_an_awakeable_is_resolved_by_the_ingress(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    assert awakeable.startswith("sign_1")
    resolve(on, awakeable, {"é": 1})
    assert on.attached(invocation) == {"é": 1}


@pytest.mark.small
@pytest.mark.both_modes
def test_an_awakeable_wakes_what_is_suspended(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    on.until_status(invocation, "suspended")
    resolve(on, awakeable, "awake")
    assert on.attached(invocation) == "awake"
    assert witness.count(key) == 1


@pytest.mark.both_modes
def test_an_awakeable_is_rejected_by_the_ingress(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    reject(on, awakeable, "rather not")
    assert_failed(on.attach(invocation), 500, "rather not")


@pytest.mark.both_modes
def test_an_awakeable_is_resolved_by_a_handler(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    assert on.value("Caller/resolve_awakeable", {"id": awakeable, "value": [1, 2]}) == "resolved"
    assert on.attached(invocation) == [1, 2]


def test_an_awakeable_is_rejected_by_a_handler(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    assert on.value("Caller/reject_awakeable", {"id": awakeable, "message": "rather not"}) == "rejected"
    assert_failed(on.attach(invocation), 500, "rather not")


def test_the_first_resolution_wins(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    resolve(on, awakeable, 1)
    resolve(on, awakeable, 2)
    reject(on, awakeable, "too late")
    assert on.attached(invocation) == 1


def test_the_short_path_of_awakeables(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    assert on.ingress("POST", f"/restate/a/{awakeable}/resolve", 1).status == 202
    assert on.attached(invocation) == 1


def test_an_awakeable_id_that_is_none(on: Deployed) -> None:
    assert_ingress_error(on.ingress("POST", "/restate/awakeables/nonsense/resolve", 1), 400)


@pytest.mark.both_modes
def test_a_timeout_passes(on: Deployed, witness: Witness, key: str) -> None:
    assert on.value("Waiting/timeout", {"witness": key, "ms": 500}) == {"timeout": True}
    assert witness.count(key) == 1


@pytest.mark.both_modes
def test_a_timeout_does_not_pass(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/timeout", {"witness": key, "ms": 60_000})
    (awakeable,) = witness.wait(key)
    on.until_status(invocation, "suspended")
    resolve(on, awakeable, "in time")
    assert on.attached(invocation) == {"value": "in time"}


@pytest.mark.both_modes
@pytest.mark.parametrize("winner", [0, 1], ids=["first", "second"])
def test_a_race(on: Deployed, witness: Witness, key: str, winner: int) -> None:
    invocation = on.send("Waiting/race", {"witness": key})
    awakeables = witness.wait(key, 2)
    resolve(on, awakeables[winner], "won")
    assert on.attached(invocation) == ["ab"[winner], "won"]


@pytest.mark.both_modes
def test_a_failure_decides_a_race(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/race", {"witness": key})
    first, _ = witness.wait(key, 2)
    reject(on, first, "stumbled")
    assert_failed(on.attach(invocation), 500, "stumbled")


@pytest.mark.both_modes
def test_all_of_awakeables_a_sleep_and_a_call(on: Deployed, witness: Witness, key: str) -> None:
    """Suspended on many things at once, and woken by each."""
    invocation = on.send("Waiting/all", {"witness": key, "ms": 500})
    first, second = witness.wait(key, 2)
    on.until_status(invocation, "suspended")
    resolve(on, second, "b")
    time.sleep(0.3)
    assert on.output(invocation).status == 470
    resolve(on, first, "a")
    assert on.attached(invocation) == ["a", "b", "slept"]
    assert witness.count(key) == 2


@pytest.mark.sdks("typescript", "perdure")
def test_any_takes_the_first_success(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/any", {"witness": key})
    first, second = witness.wait(key, 2)
    reject(on, first, "no")
    on.until_status(invocation, "suspended")
    resolve(on, second, "yes")
    assert on.attached(invocation) == "yes"


@pytest.mark.sdks("python", "perdure")
def test_results_as_they_complete(on: Deployed, witness: Witness, key: str) -> None:
    invocation = on.send("Waiting/as_completed", {"witness": key})
    a, b, c = witness.wait(key, 3)
    for name, awakeable in (("c", c), ("a", a), ("b", b)):
        resolve(on, awakeable, name)
    assert on.attached(invocation) == ["c", "a", "b"]


@pytest.mark.both_modes
def test_a_signal_from_a_handler(on: Deployed, key: str) -> None:
    invocation = on.send("Waiting/signals", {"name": "go", "count": 1})
    command = {"id": invocation, "name": "go", "value": {"n": 1}}
    assert on.value("Caller/signal", command) == "sent"
    assert on.attached(invocation) == [{"n": 1}]


def test_signals_of_one_name_keep_their_order(on: Deployed, key: str) -> None:
    invocation = on.send("Waiting/signals", {"name": "go", "count": 3})
    for n in range(3):
        on.value("Caller/signal", {"id": invocation, "name": "other", "value": "unheard"})
        on.value("Caller/signal", {"id": invocation, "name": "go", "value": n})
    assert on.attached(invocation) == [0, 1, 2]


def test_a_signal_wakes_what_is_suspended(on: Deployed) -> None:
    invocation = on.send("Waiting/signals", {"name": "go", "count": 1})
    on.until_status(invocation, "suspended")
    on.value("Caller/signal", {"id": invocation, "name": "go", "value": "awake"})
    assert on.attached(invocation) == ["awake"]


def test_a_rejected_signal(on: Deployed) -> None:
    invocation = on.send("Waiting/signals", {"name": "go", "count": 1})
    on.value("Caller/reject_signal", {"id": invocation, "name": "go", "message": "stay"})
    assert_failed(on.attach(invocation), 500, "stay")


def test_thirty_awakeables_at_once(on: Deployed, witness: Witness, key: str) -> None:
    invocations = [on.send("Waiting/awakeable", {"witness": f"{key}-{i}"}) for i in range(30)]
    with ThreadPoolExecutor(10) as pool:
        ids = list(pool.map(lambda i: witness.wait(f"{key}-{i}")[0], range(30)))
        list(pool.map(lambda pair: resolve(on, pair[1], pair[0]), enumerate(ids)))
    assert [on.attached(invocation) for invocation in invocations] == list(range(30))
