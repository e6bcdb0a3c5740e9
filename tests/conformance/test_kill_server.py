"""The server is killed with SIGKILL and started again on its data: everything that it has accepted goes on."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.answers import assert_failed
from tests.conformance.deployed import Deployed
from tests.conformance.processes import NO_ANSWER, ask_if_up
from tests.conformance.witness import Witness


def bounce(on: Deployed, pause_s: float = 0.0) -> None:
    on.server.kill()
    time.sleep(pause_s)
    on.server.start()
    on.wait_ready()


def assert_no_step_ran_again(lines: list[str], count: int) -> None:
    """A step begins when the results of all before it are in the journal: then those must not run again."""
    order = [int(line) for line in lines]
    assert order == sorted(order), order
    assert set(order) == set(range(count))


def registry(on: Deployed) -> list[tuple[str, int, str]]:
    """What is registered; the order of listings is nobody's promise."""
    services = on.admin("GET", "/services").json()["services"]
    return sorted((each["name"], each["revision"], each["deployment_id"]) for each in services)


@pytest.mark.small
def test_in_the_middle_of_steps(fragile: Deployed, witness: Witness, key: str) -> None:
    invocation = fragile.send("Steps/many", {"witness": key, "count": 120, "ms": 5})
    for reached in (20, 60, 90):
        witness.wait(key, reached)
        bounce(fragile)
    assert fragile.attached(invocation) == sum(range(120))
    assert_no_step_ran_again(witness.lines(key), 120)
    assert witness.count(key) <= 123


def test_while_invocations_sleep(fragile: Deployed, witness: Witness, key: str) -> None:
    """Two of them are due while the server is down."""
    began = time.monotonic()
    naps = (1500, 2000, 2500)
    sleepers = [
        fragile.send("Timers/sleep", {"ms": ms, "before": f"{key}-{ms}", "after": f"{key}-after"}) for ms in naps
    ]
    for sleeper in sleepers:
        fragile.until_status(sleeper, "suspended")
    bounce(fragile, max(0.0, began + 1.9 - time.monotonic()))
    assert [fragile.attached(sleeper) for sleeper in sleepers] == ["slept"] * 3
    assert time.monotonic() - began >= 2.45
    assert [witness.count(f"{key}-{ms}") for ms in naps] == [1, 1, 1]
    assert witness.count(f"{key}-after") == 3


def test_while_an_awakeable_is_awaited(fragile: Deployed, witness: Witness, key: str) -> None:
    suspended = fragile.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    fragile.until_status(suspended, "suspended")
    running = fragile.send("Waiting/awakeable", {"witness": f"{key}-running"})
    (other,) = witness.wait(f"{key}-running")
    bounce(fragile)
    for each, value in ((awakeable, 1), (other, 2)):
        assert fragile.ingress("POST", f"/restate/awakeables/{each}/resolve", value).status == 202
    assert [fragile.attached(suspended), fragile.attached(running)] == [1, 2]
    assert witness.count(key) == 1


def test_after_an_awakeable_was_resolved(fragile: Deployed, witness: Witness, key: str) -> None:
    invocation = fragile.send("Waiting/race", {"witness": key})
    first, _ = witness.wait(key, 2)
    assert fragile.ingress("POST", f"/restate/awakeables/{first}/resolve", "kept").status == 202
    bounce(fragile)
    assert fragile.attached(invocation) == ["a", "kept"]


def test_results_state_and_registry_are_kept(fragile: Deployed, witness: Witness, key: str) -> None:
    headers = {"idempotency-key": key}
    first = fragile.call("Steps/one", {"witness": key, "value": "kept"}, headers)
    fragile.value(f"Counter/{key}/add", 7)
    fragile.value(f"Approval/{key}/decide", "kept")
    services = registry(fragile)
    bounce(fragile)
    again = fragile.call("Steps/one", {"witness": key, "value": "lost"}, headers)
    assert again.json() == "kept"
    assert again.headers["x-restate-id"] == first.headers["x-restate-id"]
    assert witness.count(key) == 1
    assert fragile.value(f"Counter/{key}/get") == 7
    assert fragile.value(f"Approval/{key}/run", {"witness": key, "wait": True}) == "kept"
    assert registry(fragile) == services


def test_with_a_queue_before_an_object(fragile: Deployed, witness: Witness, key: str) -> None:
    fragile.send(f"Counter/{key}/hold", {"witness": f"{key}-held", "gate": f"{key}-gate"})
    witness.wait(f"{key}-held")
    queued = [fragile.send(f"Counter/{key}/append", i) for i in range(10)]
    bounce(fragile)
    witness.open(f"{key}-gate")
    assert fragile.attached(queued[-1]) == list(range(10))


def test_with_a_send_that_is_scheduled(fragile: Deployed, key: str) -> None:
    invocation = fragile.send(f"Counter/{key}/add", 3, "?delay=1500ms")
    bounce(fragile)
    assert fragile.attached(invocation) == 3


def test_in_the_middle_of_calls(fragile: Deployed, witness: Witness, key: str) -> None:
    value = {"ms": 1500, "before": key}
    callers = [
        fragile.send("Caller/call", {"service": fragile.name("Timers"), "handler": "sleep", "value": value})
        for _ in range(5)
    ]
    witness.wait(key, 5)
    for caller in callers:
        (callee,) = fragile.query(f"SELECT id FROM sys_invocation WHERE invoked_by_id = '{caller}'")
        fragile.until_status(callee["id"], "suspended")
    bounce(fragile)
    assert [fragile.attached(caller) for caller in callers] == ["slept"] * 5
    assert witness.count(key) == 5


def test_after_a_cancellation(fragile: Deployed, witness: Witness, key: str) -> None:
    invocation = fragile.send("Cancellable/compensated", {"witness": key, "undone": f"{key}-undone"})
    fragile.until_status(invocation, "suspended")  # before, it may still wait for the step that published its awakeable
    assert fragile.cancel(invocation) == 202
    bounce(fragile)
    assert_failed(fragile.attach(invocation), 409)
    assert witness.count(f"{key}-undone") >= 1


def test_while_an_invocation_is_paused(fragile: Deployed, witness: Witness, key: str) -> None:
    invocation = fragile.send("Failing/paused", {"witness": key, "gate": key})
    fragile.until_status(invocation, "paused")
    bounce(fragile)
    assert fragile.status(invocation) == "paused"
    witness.open(key)
    assert fragile.admin("PATCH", f"/invocations/{invocation}/resume").status == 200
    assert fragile.attached(invocation) == 3


def add_until(fragile: Deployed, key: str, worker: int, over: threading.Event) -> int:
    """Adds one again and again, each until it is acknowledged; how often."""
    number = 0
    while not over.is_set():
        path = f"/{fragile.name('Counter')}/{key}-{number % 3}/add"
        headers = {"idempotency-key": f"{key}-{worker}-{number}"}
        answer = NO_ANSWER
        while answer.status != 200:
            answer = ask_if_up(fragile.server.ingress, "POST", path, 1, headers)
            assert answer.status in (0, 200, 503), (answer.status, answer.body)
            time.sleep(0.01)
        number += 1
    return number


def test_counters_under_load_are_exact(fragile: Deployed, key: str) -> None:
    over = threading.Event()
    with ThreadPoolExecutor(6) as pool:
        adding = [pool.submit(add_until, fragile, key, worker, over) for worker in range(6)]
        try:
            for _ in range(3):
                time.sleep(random.uniform(0.2, 0.5))
                fragile.server.kill()
                fragile.server.start()
        finally:
            over.set()
        added = sum(each.result() for each in adding)
    fragile.wait_ready()
    assert sum(fragile.value(f"Counter/{key}-{i}/get") for i in range(3)) == added
