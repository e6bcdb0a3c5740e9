"""The endpoint is killed with SIGKILL and started again: its invocations are retried and go on where they were."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.deployed import Deployed, Stack
from tests.conformance.test_kill_server import assert_no_step_ran_again
from tests.conformance.witness import Witness


@pytest.fixture(scope="module")
def doomed(stack: Stack, mode: str) -> Iterator[Deployed]:
    """An endpoint of its own on the server that tests share."""
    with stack.endpoint(stack.own_options(mode=mode)) as made:
        yield made


def bounce(on: Deployed, pause_s: float = 0.1) -> None:
    on.endpoint.kill()
    time.sleep(pause_s)
    on.endpoint.start()


@pytest.mark.small
@pytest.mark.both_modes
def test_in_the_middle_of_steps(doomed: Deployed, witness: Witness, key: str) -> None:
    invocation = doomed.send("Steps/many", {"witness": key, "count": 100, "ms": 5})
    for reached in (20, 50):
        witness.wait(key, reached)
        bounce(doomed)
    assert doomed.attached(invocation) == sum(range(100))
    assert_no_step_ran_again(witness.lines(key), 100)
    assert witness.count(key) <= 102


@pytest.mark.both_modes
def test_while_an_invocation_is_suspended(doomed: Deployed, witness: Witness, key: str) -> None:
    invocation = doomed.send("Waiting/awakeable", {"witness": key})
    (awakeable,) = witness.wait(key)
    doomed.until_status(invocation, "suspended")
    doomed.endpoint.kill()
    assert doomed.ingress("POST", f"/restate/awakeables/{awakeable}/resolve", "go").status == 202
    doomed.endpoint.start()
    assert doomed.attached(invocation) == "go"
    assert witness.count(key) == 1


@pytest.mark.both_modes
def test_an_invocation_waits_for_its_endpoint(doomed: Deployed, key: str) -> None:
    doomed.endpoint.kill()
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(doomed.value, f"Counter/{key}/add", 5)
        time.sleep(0.3)
        assert not calling.done()
        doomed.endpoint.start()
        assert calling.result() == 5


def test_in_the_middle_of_a_step_of_an_object(doomed: Deployed, witness: Witness, key: str) -> None:
    """The step has no result, so it runs again; the object is busy until it ends."""
    held = doomed.send(f"Counter/{key}/hold", {"witness": key, "gate": f"{key}-gate"})
    witness.wait(key)
    queued = doomed.send(f"Counter/{key}/add", 1)
    bounce(doomed)
    witness.wait(key, 2)
    assert doomed.status(queued) == "pending"
    witness.open(f"{key}-gate")
    assert doomed.attached(held) == "released"
    assert doomed.attached(queued) == 1


@pytest.mark.both_modes
def test_counters_under_load_are_exact(doomed: Deployed, key: str) -> None:
    over = threading.Event()

    def add(worker: int) -> int:
        number = 0
        while not over.is_set():
            doomed.value(f"Counter/{key}-{number % 3}/add", 1, {"idempotency-key": f"{key}-{worker}-{number}"})
            number += 1
        return number

    with ThreadPoolExecutor(6) as pool:
        adding = [pool.submit(add, worker) for worker in range(6)]
        try:
            for _ in range(2):
                time.sleep(0.3)
                bounce(doomed)
        finally:
            over.set()
        added = sum(each.result() for each in adding)
    assert sum(doomed.value(f"Counter/{key}-{i}/get") for i in range(3)) == added
