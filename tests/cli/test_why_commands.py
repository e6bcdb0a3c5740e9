"""`perdure why`: what an invocation waits for, in words."""

from collections.abc import Iterator
from typing import Any

import pytest

from perdure.cli.why import explain
from tests.cli.operating import Operator, operating


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with operating(tmp_path_factory.mktemp("data")) as it:
        yield it


def why(operator: Operator, id: str) -> list[str]:
    first, *rest = operator.ok("why", id).splitlines()
    assert first.startswith(f"{id} ")
    return [first.removeprefix(f"{id} "), *rest]


def test_suspended_on_what_comes_from_elsewhere(operator: Operator) -> None:
    id = operator.send("Ops/nap", "300", until="suspended")
    first, sleep = why(operator, id)
    assert first.startswith("Ops/nap is suspended, since 20") and first.endswith("s ago)")
    assert sleep.startswith("  its sleep until 20") and "(in 4m 5" in sleep

    id = operator.send("Ops/approve", until="suspended")
    _, awakeable, how = why(operator, id)
    assert awakeable.startswith("  the awakeable sign_1") and awakeable.split()[2].rstrip(";") in how

    id = operator.send("Ops/listen", until="suspended")
    assert why(operator, id)[1:] == [
        "  the signal 'go'; it is sent with",
        f"    POST /restate/signals/{id}/go at the ingress",
    ]
    id = operator.send("Hire/run", "--key", "h", until="suspended")
    assert why(operator, id)[1].startswith("  the promise 'signed' of Hire/h, since ")


def test_suspended_on_other_invocations(operator: Operator) -> None:
    id = operator.send("Ops/boss", "300", until="suspended")
    _, call, callee, sleep = why(operator, id)
    assert call.startswith("  its call of Ops/nap, since ")
    assert callee.startswith("    inv_1") and " Ops/nap is " in callee and "its sleep until" in sleep

    id = operator.send("Ops/race", until="suspended")
    lines = why(operator, id)
    assert sum("its call of Ops/nap" in line for line in lines) == 2
    assert any(line.strip() == "any of:" for line in lines), lines


def test_waiting_for_an_object(operator: Operator) -> None:
    holder = operator.send("Room/occupy", "300", "--key", "a", until="suspended")
    operator.send("Room/name", '"x"', "--key", "a", until="inboxed")
    id = operator.send("Room/name", '"y"', "--key", "a", until="inboxed")
    first, turn, held, by, sleep = why(operator, id)
    assert first == "Room/a/name waits" and "1 is ahead of it" in turn
    assert held == "  the object is held by" and by.startswith(f"    {holder} Room/a/occupy is suspended")
    assert sleep.startswith("      its sleep until")


def test_failing_and_running_and_not_begun(operator: Operator) -> None:
    id = operator.send("Ops/broken", until="paused")
    lines = why(operator, id)
    assert lines[0] == "Ops/broken is paused" and "2 attempts" in lines[1] and "RuntimeError: boom" in lines[1]
    assert any(f"perdure invocations resume {id}" in line for line in lines)

    id = operator.send("Ops/flaky", until="backing-off")
    lines = why(operator, id)
    assert "RuntimeError: not yet (code 500" in lines[1] and lines[2].startswith("  next attempt 20")

    id = operator.send("Ops/work", "300", until="running")
    lines = why(operator, id)
    assert lines[0] == "Ops/work is running" and "attempt 1" in lines[1]
    assert any("its step weld, since" in line for line in lines), lines
    operator.ok("invocations", "kill", id)

    id = operator.ok("call", "Ops/echo", "--delay", "1h").strip()
    assert why(operator, id)[1].startswith("  begins 20")
    id = operator.send("Ops/echo", "1", until="completed")
    told: Any = operator.json("why", id)
    assert told["status"] == "completed" and told["why"][2] == "  -> 2"
    operator.refused(3, "why", "inv_1kfVZEQ4VPBe2fuIPSPnlKAHOuhrwt8uUF")


class Known:
    """Invocations by id, with nobody to ask."""

    def __init__(self, *known: dict[str, Any]) -> None:
        self.known = {each["id"]: each for each in known}

    def describe(self, id: str) -> dict[str, Any] | None:
        return self.known.get(id)

    def holder(self, service: str, key: str) -> str | None:
        return None

    def attempt_since(self, id: str) -> str | None:
        return None


def caller(id: str, *callees: str, **waiting: Any) -> dict[str, Any]:
    """One that waits for calls, the n-th with completion ids 2n (its id) and 2n+1 (its result)."""
    journal: list[dict[str, Any]] = []
    for n, callee in enumerate(callees):
        call = {"kind": "Call", "service": "S", "handler": "h", "key": "", "parameter": ""}
        journal.append({**call, "invocation_id_completion_id": 2 * n, "completion_id": 2 * n + 1})
        journal.append({"kind": "Completion", "completion_id": 2 * n, "result": {"invocation_id": callee}})
    for index, entry in enumerate(journal):
        entry |= {"index": index, "appended_at": "2026-01-01T00:00:00.000000000Z"}
    waiting = waiting or {"completions": [2 * n + 1 for n in range(len(callees))]}
    return {"id": id, "target": "S/h", "status": "suspended", "waiting_for": waiting, "journal": journal}


def test_circles_are_noticed_and_many_are_counted() -> None:
    one, two = caller("inv_one", "inv_two"), caller("inv_two", "inv_one")
    assert explain(one, Known(one, two))[-1].strip() == "inv_one, see above: they wait for each other"
    many = explain(caller("inv_many", *(f"inv_{n}" for n in range(30))), Known())
    assert sum("nothing more is known" in line for line in many) == 10 and many[-1].strip() == "and 20 more"


def test_combinations_say_what_is_left() -> None:
    it = caller("inv_it", "inv_a", "inv_b", "inv_c", combinator=2, completions=[1, 3], nested=[{"completions": [5]}])
    it["journal"].append({"kind": "Completion", "completion_id": 1, "result": {"content": ""}})
    it["journal"][-1] |= {"index": 6, "appended_at": "2026-01-01T00:00:01.000000000Z"}
    lines = [line.strip() for line in explain(it, Known())[1:]]
    assert lines[:2] == ["all of:", "1 that has come"]
    assert [line.split(",")[0] for line in lines if "inv_" in line] == ["inv_b", "inv_c"]
