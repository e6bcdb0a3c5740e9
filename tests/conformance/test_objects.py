"""Virtual objects: one exclusive handler at a time and in order, shared ones beside it."""

import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from tests.conformance.answers import assert_failed, assert_ingress_error
from tests.conformance.deployed import Deployed
from tests.conformance.witness import Witness


@pytest.mark.both_modes
def test_state_is_kept_per_key(on: Deployed, key: str) -> None:
    assert [on.value(f"Counter/{key}-a/add", n) for n in (1, 2, 3)] == [1, 3, 6]
    assert on.value(f"Counter/{key}-b/get") == 0
    assert on.value(f"Counter/{key}-a/get") == 6


@pytest.mark.small
@pytest.mark.both_modes
def test_concurrent_additions_all_count(on: Deployed, key: str) -> None:
    totals = on.values([(f"Counter/{key}/add", 1)] * 50)
    assert sorted(totals) == list(range(1, 51))
    assert on.value(f"Counter/{key}/get") == 50


def test_exclusive_handlers_run_in_the_order_of_arrival(on: Deployed, witness: Witness, key: str) -> None:
    on.send(f"Counter/{key}/hold", {"witness": f"{key}-held", "gate": f"{key}-gate"})
    witness.wait(f"{key}-held")
    for i in range(15):
        on.send(f"Counter/{key}/append", i)
    witness.open(f"{key}-gate")
    assert on.value(f"Counter/{key}/append", "last") == [*range(15), "last"]


def test_the_next_in_line_is_pending(on: Deployed, witness: Witness, key: str) -> None:
    on.send(f"Counter/{key}/hold", {"witness": f"{key}-held", "gate": f"{key}-gate"})
    witness.wait(f"{key}-held")
    queued = on.send(f"Counter/{key}/add", 1)
    on.until_status(queued, "pending")
    assert on.output(queued).status == 470
    witness.open(f"{key}-gate")
    assert on.attached(queued) == 1


@pytest.mark.both_modes
def test_shared_handlers_do_not_wait_for_an_exclusive_one(on: Deployed, witness: Witness, key: str) -> None:
    on.value(f"Counter/{key}/add", 5)
    with ThreadPoolExecutor(1) as pool:
        held = {"witness": f"{key}-held", "gate": f"{key}-gate"}
        holding = pool.submit(on.value, f"Counter/{key}/hold", held)
        witness.wait(f"{key}-held")
        assert [on.value(f"Counter/{key}/get") for _ in range(3)] == [5, 5, 5]
        assert not holding.done()
        witness.open(f"{key}-gate")
        assert holding.result() == "released"


def test_other_keys_do_not_wait(on: Deployed, witness: Witness, key: str) -> None:
    on.send(f"Counter/{key}/hold", {"witness": f"{key}-held", "gate": f"{key}-gate"})
    witness.wait(f"{key}-held")
    assert on.value(f"Counter/{key}-other/add", 1) == 1
    witness.open(f"{key}-gate")


def test_a_suspended_handler_keeps_its_key(on: Deployed, witness: Witness, key: str) -> None:
    waiting = on.send(f"Counter/{key}/wait", {"witness": key})
    (awakeable,) = witness.wait(key)
    queued = on.send(f"Counter/{key}/add", 1)
    on.until_status(waiting, "suspended")
    assert on.status(queued) == "pending"
    assert on.value(f"Counter/{key}/get") == 0
    assert on.ingress("POST", f"/restate/awakeables/{awakeable}/resolve", "go").status == 202
    assert on.attached(waiting) == "go"
    assert on.attached(queued) == 1


def test_a_failed_handler_frees_its_key_and_keeps_its_state(on: Deployed, key: str) -> None:
    assert_failed(on.call(f"Counter/{key}/add_and_fail", 4), 422, "added and failed")
    assert on.value(f"Counter/{key}/add", 1) == 5


KEYS = {"slash": "a/b", "space": "a b", "unicode": "ключ-✓", "percent": "100%", "dots": "..", "plus": "a+b"}


@pytest.mark.parametrize("odd", KEYS.values(), ids=KEYS.keys())
def test_keys_are_percent_decoded(on: Deployed, key: str, odd: str) -> None:
    wanted = f"{key}{odd}"
    assert on.value(f"Counter/{quote(wanted, safe='')}/key") == wanted


def test_an_object_needs_a_key(on: Deployed) -> None:
    assert_ingress_error(on.call("Counter/add", 1), 400)


def test_an_unknown_handler_of_an_object(on: Deployed, key: str) -> None:
    assert_ingress_error(on.call(f"Counter/{key}/nobody", 1), 404)


@pytest.mark.both_modes
def test_service_calls_object_calls_service(on: Deployed, key: str) -> None:
    assert on.value("Caller/chain", {"key": key, "amount": 3}) == 3
    assert on.value("Caller/chain", {"key": key, "amount": 4}) == 7


def test_sends_of_a_handler_keep_their_order(on: Deployed, key: str) -> None:
    for i in range(8):
        command = {"service": on.name("Counter"), "handler": "append", "key": key, "value": i}
        on.value("Caller/send", command)
    on.eventually(f"Counter/{key}/items", list(range(8)))


def test_many_objects_at_once(on: Deployed, key: str) -> None:
    began = time.monotonic()
    assert on.values([(f"Counter/{key}-{i}/add", i) for i in range(60)]) == list(range(60))
    assert time.monotonic() - began < 20
