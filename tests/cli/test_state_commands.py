"""`perdure state`: reading and changing what objects remember."""

from collections.abc import Iterator

import pytest

from tests.cli.operating import Operator, operating


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with operating(tmp_path_factory.mktemp("data")) as it:
        yield it


def test_state_is_set_read_and_cleared(operator: Operator) -> None:
    assert operator.ok("state", "get", "Room", "a/b") == "Room/a/b has no state\n"
    assert operator.ok("state", "set", "Room", "a/b", "name", '"blue"') == "Room/a/b: name set\n"
    assert operator.json("state", "set", "Room", "a/b", "seats", "[1, 2]") == {"done": True, "stored": True}
    assert operator.ok("state", "get", "Room", "a/b") == 'NAME   VALUE\nname   "blue"\nseats  [1, 2]\n'
    assert operator.json("state", "get", "Room", "a/b") == {"name": "blue", "seats": [1, 2]}
    assert operator.ok("state", "get", "Room", "a/b", "seats") == "[1, 2]\n"
    assert operator.json("state", "get", "Room", "a/b", "name") == "blue"
    assert operator.ok("state", "clear", "Room", "a/b", "seats") == "Room/a/b: seats cleared\n"
    assert "it has name" in operator.refused(3, "state", "get", "Room", "a/b", "seats")
    kept = operator.type("n\n", "state", "clear", "Room", "a/b")
    assert kept.returncode == 1 and "Room/a/b has name" in kept.stderr
    assert operator.json("state", "get", "Room", "a/b") == {"name": "blue"}
    assert operator.type("y\n", "state", "clear", "Room", "a/b").stdout == "Room/a/b: all state cleared\n"
    assert operator.ok("state", "clear", "Room", "a/b", "--yes") == "Room/a/b: all state cleared\n"
    assert operator.json("state", "get", "Room", "a/b") == {}


def test_a_change_waits_for_its_turn(operator: Operator) -> None:
    id = operator.send("Room/occupy", "300", "--key", "busy", until="suspended")
    assert "takes its turn" in operator.ok("state", "set", "Room", "busy", "name", "1")
    assert operator.json("state", "get", "Room", "busy") == {}
    operator.ok("invocations", "kill", id)
    assert operator.json("state", "get", "Room", "busy") == {"name": 1}


def test_what_cannot_be(operator: Operator) -> None:
    assert "not found" in operator.refused(3, "state", "get", "Nobody", "k")
    assert "only virtual objects" in operator.refused(1, "state", "set", "Ops", "k", "n", "1")
    wrong = operator.run("state", "set", "Room", "k", "n", "blue")
    assert wrong.returncode == 2 and "is no JSON" in wrong.stderr
