"""`perdure why`: what an invocation waits for, in words."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.why import Explanation, explain, last_of_stack
from tests.cli.operating import Operator, operating
from tests.cli.test_deployments import endpoint


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
    assert awakeable.startswith("  the awakeable sign_1")
    sign = awakeable.split()[2]
    assert how == f"    to complete it: perdure awakeables resolve {sign} JSON"
    assert "is no JSON" in operator.run("awakeables", "resolve", sign, "yes").stderr
    assert operator.ok("awakeables", "resolve", sign, '"yes"') == f"{sign} resolved\n"
    operator.until(id, "completed")
    assert why(operator, id)[2] == '  -> "yes"'
    id = operator.send("Ops/approve", until="suspended")
    operator.ok("awakeables", "reject", why(operator, id)[1].split()[2], "too dear", "--code", "402")
    operator.until(id, "completed")
    assert why(operator, id)[2] == "  failed: too dear (code 402)"

    id = operator.send("Ops/listen", until="suspended")
    assert why(operator, id)[1:] == [
        "  the signal 'go'; it is sent with",
        f"    POST /restate/signals/{id}/go at the ingress",
    ]
    id = operator.send("Hire/run", "--key", "h", until="suspended")
    assert why(operator, id)[1].startswith("  the promise 'signed' of Hire/h, since ")


def test_suspended_on_other_invocations(operator: Operator) -> None:
    id = operator.send("Ops/boss", "300", until="suspended")
    _, call, callee, sleep, root = why(operator, id)
    assert root.startswith("in the end it waits for inv_1") and " Ops/nap is " in root
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
    first, turn, held, by, sleep, root = why(operator, id)
    assert first == "Room/a/name waits" and "1 is ahead of it" in turn
    assert re.fullmatch(r"  the object is held since 20.*Z \(\d+s ago\) by", held), held
    assert root.startswith(f"in the end it waits for {holder} Room/a/occupy is suspended, since")
    assert operator.json("why", id)["roots"] == [{"id": holder, "target": "Room/a/occupy", "status": "suspended"}]
    assert by.startswith(f"    {holder} Room/a/occupy is suspended")
    assert sleep.startswith("      its sleep until")


def test_failing_and_running_and_not_begun(operator: Operator) -> None:
    id = operator.send("Ops/broken", until="paused")
    lines = why(operator, id)
    assert lines[0] == "Ops/broken is paused" and "RuntimeError: boom (code 500" in lines[1]
    assert re.match(r"  after 2 attempts, 20.*ago\); the last failed: ", lines[1])
    assert re.search(r'raised at .*operated.py:\d+, in broken: raise RuntimeError\("boom"\)', lines[2])
    assert any(f"perdure invocations resume {id}" in line for line in lines)

    id = operator.send("Ops/flaky", until="backing-off")
    lines = why(operator, id)
    assert "RuntimeError: not yet (code 500" in lines[1] and "in flaky: raise Run" in lines[2]
    assert lines[3].startswith("  next attempt 20") and lines[3].endswith("; 1 has failed")

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
    circle = [line.strip() for line in explain(one, Known(one, two))]
    assert circle[-2:] == [
        "inv_one, see above: they wait for each other, and none of them can go on by itself",
        "to break the circle, cancel one of them: perdure invocations cancel inv_one",
    ]
    assert Explanation(one, Known(one, two)).roots == []
    many = explain(caller("inv_many", *(f"inv_{n}" for n in range(30))), Known())
    assert sum("nothing more is known" in line for line in many) == 10 and many[-1].strip() == "and 20 more"


def test_combinations_say_what_is_left() -> None:
    it = caller("inv_it", "inv_a", "inv_b", "inv_c", combinator=2, completions=[1, 3], nested=[{"completions": [5]}])
    it["journal"].append({"kind": "Completion", "completion_id": 1, "result": {"content": ""}})
    it["journal"][-1] |= {"index": 6, "appended_at": "2026-01-01T00:00:01.000000000Z"}
    lines = [line.strip() for line in explain(it, Known())[1:]]
    assert lines[:2] == ["all of:", "1 that has come"]
    assert [line.split(",")[0] for line in lines if "inv_" in line] == ["inv_b", "inv_c"]


def test_a_chain_is_followed_to_its_ends() -> None:
    end: dict[str, Any] = {"id": "inv_end", "target": "S/k/end", "status": "scheduled", "journal": []}
    end |= {"scheduled_for": "2126-01-01T00:00:00.000000000Z", "created_at": "2026-01-01T00:00:00.000000000Z"}
    boss, left, right = (
        caller("inv_boss", "inv_left", "inv_right"),
        caller("inv_left", "inv_end"),
        caller("inv_right", "inv_end"),
    )
    told = Explanation(boss, Known(boss, left, right, end))
    assert [each["id"] for each in told.roots] == ["inv_end"], "it is looked into once"
    assert told.conclusion == ["in the end it waits for inv_end S/k/end is scheduled"]
    assert sum("inv_end, see above" in line for line in told.lines) == 1
    assert Explanation(end, Known(end)).conclusion == []


def test_the_place_in_a_stack_trace() -> None:
    python = (
        'Traceback:\n  File "a.py", line 1, in f\n    g()\n  File "b c.py", line 22, in g\n    raise E("x")\nE: x\n'
    )
    assert last_of_stack(python) == 'b c.py:22, in g: raise E("x")'
    assert last_of_stack('  File "a.py", line 1, in f\nE: x') == "a.py:1, in f"
    assert last_of_stack("Error: x\n    at pay (/app/pay.js:3:9)\n    at main") == "pay (/app/pay.js:3:9)"
    assert last_of_stack("") == "" and last_of_stack("nothing like it") == ""


def test_one_that_runs_says_what_it_waits_for_before_it_is_suspended(operator: Operator) -> None:
    id = operator.send("Desk/approve", until="running")
    deadline = time.monotonic() + 10
    while "waiting_for" not in operator.describe(id):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines = why(operator, id)
    assert lines[0] == "Desk/approve is running" and "has nothing to do until" in lines[2]
    assert lines[3].startswith("    the awakeable sign_1")


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Operator]:
    """A server whose services are elsewhere."""
    with operating(tmp_path, app="") as it:
        yield it


def test_a_deployment_that_is_down_and_one_that_is_gone(lonely: Operator) -> None:
    with endpoint("tests.cli.operated:app") as url:
        lonely.ok("deployments", "register", url)
        id = lonely.send("Ops/echo", "1", until="completed")
        nap = lonely.send("Ops/nap", "300", until="suspended")
    down = lonely.send("Ops/echo", "1", until="backing-off")
    lines = why(lonely, down)
    assert lines[0] == "Ops/echo backs off" and "its last attempt failed" in lines[1], lines
    assert any("its endpoint is down" in line for line in lines), lines

    deployment = lonely.describe(nap)["deployment"]
    lonely.ok("deployments", "remove", deployment, "--force")
    assert "nothing" not in lonely.ok("invocations", "resume", nap)
    lonely.until(nap, "backing-off")
    told = "\n".join(why(lonely, nap))
    assert f"it began on deployment {deployment}, which is not registered any more" in told
    assert f"perdure invocations resume {nap} --deployment latest" in told
    assert lonely.describe(id)["status"] == "completed"
