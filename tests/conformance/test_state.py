"""State of objects: read, written, cleared; eager and lazy; small and large."""

import pytest

from tests.conformance.deployed import Deployed

STORES = ["Store", "LazyStore"]


@pytest.mark.both_modes
@pytest.mark.parametrize("store", STORES)
def test_set_and_get(on: Deployed, key: str, store: str) -> None:
    path = f"{store}/{key}"
    assert on.value(f"{path}/script", [["get", "a"]]) == [None]
    on.value(f"{path}/script", [["set", "a", 1], ["set", "b", {"é": [1, None]}]])
    assert on.value(f"{path}/script", [["get", "a"], ["get", "b"], ["get", "c"]]) == [1, {"é": [1, None]}, None]


@pytest.mark.both_modes
@pytest.mark.parametrize("store", STORES)
def test_what_is_written_is_read_in_the_same_invocation(on: Deployed, key: str, store: str) -> None:
    script = [["set", "a", 1], ["get", "a"], ["set", "a", 2], ["get", "a"], ["clear", "a"], ["get", "a"]]
    assert on.value(f"{store}/{key}/script", script) == [None, 1, None, 2, None, None]


@pytest.mark.parametrize("store", STORES)
def test_clear(on: Deployed, key: str, store: str) -> None:
    path = f"{store}/{key}"
    on.value(f"{path}/script", [["set", "a", 1], ["set", "b", 2]])
    on.value(f"{path}/script", [["clear", "a"]])
    assert on.value(f"{path}/read", ["a", "b"]) == [None, 2]
    assert on.value(f"{path}/names") == ["b"]


@pytest.mark.small
@pytest.mark.parametrize("store", STORES)
def test_clear_all(on: Deployed, key: str, store: str) -> None:
    path = f"{store}/{key}"
    on.value(f"{path}/script", [["set", "a", 1], ["set", "b", 2]])
    script = [["clear_all"], ["get", "a"], ["keys"], ["set", "c", 3], ["keys"]]
    assert on.value(f"{path}/script", script) == [None, None, [], None, ["c"]]
    assert on.value(f"{path}/names") == ["c"]
    assert on.value(f"{path}/read", ["a", "b", "c"]) == [None, None, 3]


@pytest.mark.both_modes
@pytest.mark.parametrize("store", STORES)
def test_keys(on: Deployed, key: str, store: str) -> None:
    path = f"{store}/{key}"
    assert on.value(f"{path}/names") == []
    on.value(f"{path}/script", [["set", name, 1] for name in ("b", "a", "é")])
    assert on.value(f"{path}/names") == ["a", "b", "é"]
    assert on.value(f"{path}/script", [["keys"]]) == [["a", "b", "é"]]


@pytest.mark.both_modes
@pytest.mark.parametrize("store", STORES)
def test_a_megabyte_of_state(on: Deployed, key: str, store: str) -> None:
    path = f"{store}/{key}"
    on.value(f"{path}/fill", {"name": "large", "size": 1_000_000})
    on.value(f"{path}/script", [["set", "small", 1]])
    assert on.value(f"{path}/read", ["small", "large"]) == [1, "x" * 1_000_000]


@pytest.mark.parametrize("store", STORES)
def test_state_larger_than_is_sent_eagerly(on: Deployed, key: str, store: str) -> None:
    path = f"{store}/{key}"
    for i in range(4):
        on.value(f"{path}/fill", {"name": f"part-{i}", "size": 900_000 + i})
    assert [len(part) for part in on.value(f"{path}/read", [f"part-{i}" for i in range(4)])] == [
        900_000 + i for i in range(4)
    ]
    assert on.value(f"{path}/names") == [f"part-{i}" for i in range(4)]


def test_two_hundred_names(on: Deployed, key: str) -> None:
    names = [f"name-{i:03}" for i in range(200)]
    on.value(f"Store/{key}/script", [["set", name, i] for i, name in enumerate(names)])
    assert on.value(f"Store/{key}/names") == names
    assert on.value(f"Store/{key}/read", names) == list(range(200))


def test_an_operator_replaces_state(on: Deployed, key: str) -> None:
    on.value(f"Store/{key}/script", [["set", "a", 1], ["set", "b", 2]])
    body = {"object_key": key, "new_state": {"c": list(b'"three"')}}
    assert on.admin("POST", f"/services/{on.name('Store')}/state", body).status == 202
    on.eventually(f"Store/{key}/names", ["c"])
    assert on.value(f"Store/{key}/read", ["a", "c"]) == [None, "three"]


def test_state_can_be_queried(on: Deployed, key: str) -> None:
    on.value(f"Store/{key}/script", [["set", "a", "one"]])
    where = f"service_name = '{on.name('Store')}' AND service_key = '{key}'"
    rows = on.query(f"SELECT key, value_utf8 FROM state WHERE {where}")
    assert rows == [{"key": "a", "value_utf8": '"one"'}]
