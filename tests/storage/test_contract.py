"""What `perdure.storage.base` promises, asked of every store; a plain dictionary beside it knows the answer."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core import tables as t
from perdure.core.tables import TABLES, Key, Table
from perdure.errors import StorageError
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model import invocation as i
from perdure.model.deployments import Deployment, HttpEndpoint, LambdaEndpoint, ProtocolMode, Revision
from perdure.model.keys import ApiKey, Role
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind
from perdure.model.streams import StreamHead, StreamPart
from perdure.storage.base import Batch, Storage
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import SqliteStorage

Model: TypeAlias = dict[Table[Any], dict[Key, Any]]
Change: TypeAlias = tuple[Table[Any], Key, Any]
DROP = object()
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def open_store(kind: str, folder: Path) -> Storage:
    return MemoryStorage() if kind == "memory" else SqliteStorage(folder / "store.db")


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[Storage]:
    store = open_store(kind, tmp_path)
    yield store
    store.close()


def commit(store: Storage, *changes: Change) -> BaseException | None:
    """Commit changes (table, key, value), where None deletes and DROP empties the group; returns how it went."""
    batch = Batch()
    for table, key, value in changes:
        group = batch.group(table, key)
        if value is DROP:
            group.dropped = True
            group.rows.clear()
        else:
            group.rows[key] = value
    return commit_batch(store, batch)


def commit_batch(store: Storage, batch: Batch) -> BaseException | None:
    outcome: list[BaseException | None] = []
    finished = threading.Event()

    def done(error: BaseException | None) -> None:
        outcome.append(error)
        finished.set()

    store.commit(batch, done)
    assert finished.wait(30)
    return outcome[0]


# ---- rows of every table ------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["", "a", "b", "ab", "é", "\U0001f600", "￿", "nul\0", "x" * 300])
SMALL = st.integers(0, 5)
NUMBERS = SMALL | st.integers(2**31, 2**31 + 2)
BLOBS = st.binary(max_size=20) | st.just(b"x" * 5000)
TARGETS = st.builds(i.Target, NAMES, NAMES, st.sampled_from(HandlerKind), st.none() | NAMES)
ENDS = st.builds(e.Value, BLOBS) | st.builds(e.Failure, SMALL, NAMES, st.just((("k", "v"),)))
WAITERS = st.builds(i.Waiter, BLOBS, SMALL, st.just(e.CALL_COMPLETION))
FAILURES = st.builds(i.AttemptFailure, NAMES, SMALL, SMALL, NAMES, st.none() | SMALL, st.none() | NAMES)
STATUSES = (
    st.builds(i.Scheduled, SMALL)
    | st.builds(i.Inboxed, SMALL)
    | st.builds(i.Invoked, SMALL, st.none() | SMALL, st.none() | FAILURES, st.dictionaries(SMALL, SMALL))
    | st.builds(i.Suspended, SMALL, st.builds(i.Waiting, st.just((1, 2)), st.just(()), st.just(("n",))))
    | st.builds(i.Paused, SMALL, st.none() | FAILURES)
    | st.builds(i.Completed, SMALL, ENDS)
)
INVOCATIONS = st.builds(i.Invocation, NUMBERS, BLOBS, TARGETS, STATUSES, SMALL, waiters=st.lists(WAITERS).map(tuple))
INVOKES = st.builds(
    c.Invoke, SMALL, BLOBS, TARGETS, st.builds(e.Input, BLOBS), st.builds(i.Retention), waiter=st.none() | WAITERS
)
MESSAGES = (
    INVOKES
    | st.builds(c.CompleteCall, WAITERS, st.none() | ENDS)
    | st.builds(c.AttachFrom, BLOBS, WAITERS, st.booleans())
    | st.builds(c.SendSignalTo, SMALL, BLOBS, st.builds(e.Signal, SMALL | NAMES, ENDS))
    | st.builds(c.Cancel, SMALL, BLOBS)
    | st.builds(c.Kill, SMALL, BLOBS)
)
ITEMS = st.builds(t.InvocationItem, SMALL) | st.builds(t.StateChange, st.dictionaries(NAMES, st.none() | BLOBS))
ENTRIES = st.builds(
    lambda at, entry: (at, entry if isinstance(entry, e.Run) else e.Completion(e.RUN_COMPLETION, 1, entry, at)),
    st.integers(0, 2**45),
    st.builds(e.Run, SMALL, NAMES) | ENDS,
)
PRESENT = st.just(True)
RUNS = st.lists(st.tuples(SMALL, st.lists(BLOBS, min_size=1, max_size=3).map(tuple)), max_size=2).map(tuple)

SERVICE = ServiceInfo("greeter", ServiceKind.SERVICE, {"greet": HandlerInfo("greeter", "greet", HandlerKind.PLAIN)})
DEPLOYMENTS = st.builds(
    Deployment,
    NAMES,
    st.builds(HttpEndpoint, NAMES) | st.builds(LambdaEndpoint, NAMES, st.none() | NAMES),
    st.sampled_from(ProtocolMode),
    st.integers(5, 7),
    st.integers(5, 7),
    SMALL,
    st.dictionaries(NAMES, st.builds(Revision, SMALL, st.just(SERVICE)), max_size=2),
)
KEYS = st.builds(ApiKey, NAMES, NAMES, st.sampled_from(Role), BLOBS, SMALL, st.none() | NUMBERS, st.none() | NUMBERS)

ROWS: dict[Table[Any], tuple[tuple[st.SearchStrategy[Any], ...], st.SearchStrategy[Any]]] = {
    t.INVOCATION: ((NUMBERS,), INVOCATIONS),
    t.INVOCATION_ID: ((BLOBS,), NUMBERS),
    t.JOURNAL: ((NUMBERS, SMALL | st.just(2**24 - 1)), ENTRIES),
    t.STATE: ((NAMES, NAMES, NAMES), BLOBS),
    t.LOCK: ((NAMES, NAMES), st.builds(t.Lock, NUMBERS, SMALL)),
    t.INBOX: ((NAMES, NAMES, SMALL), ITEMS),
    t.PROMISE: ((NAMES, NAMES, NAMES), st.builds(i.Promise, st.none() | ENDS, st.lists(WAITERS).map(tuple))),
    t.TIMER: ((SMALL, NUMBERS, SMALL, SMALL), PRESENT),
    t.OUTBOX: ((SMALL, SMALL), MESSAGES),
    t.ACTIVE: ((NUMBERS,), PRESENT),
    t.META: ((NAMES,), st.integers(0, 2**60)),
    t.DEPLOYMENT: ((NAMES,), DEPLOYMENTS),
    t.API_KEY: ((NAMES,), KEYS),
    t.STREAM: ((NUMBERS, NAMES), st.builds(StreamHead, SMALL, SMALL, SMALL, NUMBERS, closed=st.booleans())),
    t.STREAM_PART: ((NUMBERS, NAMES, SMALL), st.builds(StreamPart, NAMES, SMALL, RUNS)),
}


def changes_of(table: Table[Any]) -> st.SearchStrategy[Change]:
    fields, values = ROWS[table]
    keys = st.tuples(*fields)
    return (
        st.tuples(st.just(table), keys, values)
        | st.tuples(st.just(table), keys, values)
        | st.tuples(st.just(table), keys, st.none())
        | st.tuples(st.just(table), keys.map(lambda key: key[: table.group]), st.just(DROP))
    )


def apply(model: Model, changes: list[Change]) -> None:
    for table, key, value in changes:
        rows = model[table]
        if value is DROP:
            for found in [found for found in rows if found[: table.group] == key]:
                del rows[found]
        elif value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


def assert_same(store: Storage, model: Model, touched: list[Change]) -> None:
    for table, rows in model.items():
        for key, value in rows.items():
            assert store.get(table, key) == value
        for changed, key, _ in touched:
            if changed is table and len(key) == len(table.fields) and key not in rows:
                assert store.get(table, key) is None
        for group in {key[: table.group] for changed, key, _ in touched if changed is table}:
            expected = sorted(
                (key, value) for key, value in ((k, Pick(v)) for k, v in rows.items() if k[: table.group] == group)
            )
            assert [(key, value) for key, value in store.scan(table, group)] == [(k, v.value) for k, v in expected]
            assert [key for key, _ in store.scan(table, group, limit=2)] == [key for key, _ in expected[:2]]
            assert store.last(table, group) == (expected[-1][0] if expected else None)


class Pick:
    """Keeps `sorted` from comparing values: no two keys are equal."""

    def __init__(self, value: Any) -> None:
        self.value = value


def test_every_table_is_covered() -> None:
    assert set(ROWS) == set(TABLES)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.one_of(*map(changes_of, TABLES)), max_size=12), max_size=5))
def test_random_batches(kind: str, batches: list[list[Change]]) -> None:
    model: Model = {table: {} for table in TABLES}
    with TemporaryDirectory() as folder:
        store = open_store(kind, Path(folder))
        try:
            touched: list[Change] = []
            for changes in batches:
                assert commit(store, *changes) is None
                apply(model, changes)
                touched += changes
                assert_same(store, model, changes)
            if kind == "sqlite":
                store.close()
                store = open_store(kind, Path(folder))
            assert_same(store, model, touched)
        finally:
            store.close()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_random_rows_of_one_table(kind: str, table: Table[Any]) -> None:
    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.lists(changes_of(table), max_size=60), max_size=4))
    def check(batches: list[list[Change]]) -> None:
        model: Model = {table: {}}
        with TemporaryDirectory() as folder:
            store = open_store(kind, Path(folder))
            try:
                for changes in batches:
                    assert commit(store, *changes) is None
                    apply(model, changes)
                    assert_same(store, model, changes)
            finally:
                store.close()

    check()


# ---- one promise each ---------------------------------------------------------------------------------------------


def state(name: str, value: bytes | None, key: str = "k") -> Change:
    return (t.STATE, ("s", key, name), value)


def names(store: Storage, key: str = "k", limit: int | None = None) -> list[str]:
    return [found[2] for found, _ in store.scan(t.STATE, ("s", key), limit=limit)]


def test_an_empty_store_has_nothing(store: Storage) -> None:
    for table in TABLES:
        group: Key = (0,) * table.group if table.group else ()
        assert store.get(table, (0,) * len(table.fields)) is None
        assert list(store.scan(table, group)) == []
        assert store.last(table, group) is None


def test_drop_then_put_in_one_batch(store: Storage) -> None:
    assert commit(store, state("a", b"1"), state("b", b"2"), state("z", b"other", key="l")) is None
    assert commit(store, (t.STATE, ("s", "k"), DROP), state("b", b"3"), state("c", b"4")) is None
    assert list(store.scan(t.STATE, ("s", "k"))) == [(("s", "k", "b"), b"3"), (("s", "k", "c"), b"4")]
    assert names(store, key="l") == ["z"]


def test_a_whole_table_may_be_one_group(store: Storage) -> None:
    assert commit(store, *[(t.TIMER, (due, 1, 0, 0), True) for due in range(5)]) is None
    assert commit(store, (t.TIMER, (), DROP), (t.TIMER, (3, 1, 0, 0), True)) is None
    assert [key for key, _ in store.scan(t.TIMER, ())] == [(3, 1, 0, 0)]


def test_scan_order_is_that_of_the_keys(store: Storage) -> None:
    unordered = ["b", "", "ab", "é", "a", "\U0001f600", "￿", "B"]
    assert commit(store, *[state(name, name.encode()) for name in unordered]) is None
    assert names(store) == sorted(unordered)
    assert names(store, limit=3) == sorted(unordered)[:3]
    assert names(store, limit=0) == []
    assert store.last(t.STATE, ("s", "k")) == ("s", "k", max(unordered))


def test_numbers_are_ordered_as_numbers(store: Storage) -> None:
    keys = [(due, number, 0, 0) for due in (2, 10, 1_700_000_000_000) for number in (1, 9, 10)]
    assert commit(store, *[(t.TIMER, key, True) for key in reversed(keys)]) is None
    assert [key for key, _ in store.scan(t.TIMER, ())] == keys


def test_a_scan_may_go_on_while_rows_change(store: Storage) -> None:
    assert commit(store, *[state(name, b"1") for name in "abcd"]) is None
    rows = store.scan(t.STATE, ("s", "k"))
    assert next(rows) == (("s", "k", "a"), b"1")
    assert commit(store, state("b", None), state("e", b"2")) is None
    assert [key[2] for key, _ in rows] == ["b", "c", "d"]


def test_deleting_what_is_not_there_is_nothing(store: Storage) -> None:
    assert commit(store, state("a", None), (t.STATE, ("s", "none"), DROP), (t.ACTIVE, (1,), None)) is None
    assert names(store) == []


def test_journals_are_kept_apart(store: Storage) -> None:
    rows = [(t.JOURNAL, (number, index), (number, e.Run(index + 1, "n"))) for number in (1, 2, 3) for index in range(4)]
    assert commit(store, *rows) is None
    assert commit(store, (t.JOURNAL, (2,), DROP)) is None
    assert [key for key, _ in store.scan(t.JOURNAL, (1,))] == [(1, index) for index in range(4)]
    assert store.last(t.JOURNAL, (2,)) is None
    assert store.last(t.JOURNAL, (3,)) == (3, 3)


def test_a_notification_is_given_its_time_back(store: Storage) -> None:
    completion = e.Completion(e.SLEEP_COMPLETION, 1, e.VOID, at=1234)
    assert commit(store, (t.JOURNAL, (1, 0), (1234, completion))) is None
    assert store.get(t.JOURNAL, (1, 0)) == (1234, completion)


@pytest.mark.parametrize("count", [1, 2, 17, 255, 257, 1000])
def test_batches_of_any_size(store: Storage, count: int) -> None:
    rows: list[Change] = [
        (t.JOURNAL, (1 + index % 7, index // 7), (5, e.Run(index + 1, "n"))) for index in range(count)
    ]
    assert commit(store, *rows) is None
    stored = [row for number in range(1, 8) for row in store.scan(t.JOURNAL, (number,))]
    assert sorted(key for key, _ in stored) == sorted(key for _, key, _ in rows)
    assert commit(store, *[(table, key, None) for table, key, _ in rows[1:]]) is None
    assert [key for number in range(1, 8) for key, _ in store.scan(t.JOURNAL, (number,))] == [(1, 0)]
    assert commit(store, *[(t.STATE, ("s", str(group), "n"), b"") for group in range(count)]) is None
    assert commit(store, *[(t.STATE, ("s", str(group)), DROP) for group in range(1, count)]) is None
    assert [group for group in range(count) if store.last(t.STATE, ("s", str(group)))] == [0]


def test_an_empty_batch_is_done_in_its_turn(store: Storage) -> None:
    order: list[str] = []
    finished = threading.Event()
    full = Batch()
    full.group(t.ACTIVE, (1,)).rows[(1,)] = True
    untouched = Batch()
    untouched.group(t.ACTIVE, (2,))  # a group that was looked at and not changed

    def step(name: str) -> Callable[[BaseException | None], None]:
        return lambda error: order.append(name if error is None else repr(error))

    store.commit(full, step("full"))
    store.commit(Batch(), step("empty"))
    store.commit(untouched, step("untouched"))
    store.commit(Batch(), lambda error: finished.set())
    assert finished.wait(10)
    assert order == ["full", "empty", "untouched"]


def test_a_closed_store_takes_no_batch(store: Storage) -> None:
    store.close()
    store.close()
    assert isinstance(commit(store, state("a", b"1")), StorageError)


# ---- what only one of them does -------------------------------------------------------------------------------------


def test_memory_completes_when_told_to() -> None:
    waiting: list[Callable[[], None]] = []
    outcome: list[BaseException | None] = []
    store = MemoryStorage(deliver=waiting.append)
    batch = Batch()
    batch.group(t.ACTIVE, (1,)).rows[(1,)] = True
    store.commit(batch, outcome.append)
    assert store.get(t.ACTIVE, (1,)) is None
    assert outcome == []
    waiting.pop()()
    assert store.get(t.ACTIVE, (1,)) is True
    assert outcome == [None]


def test_memory_survives_in_its_snapshot() -> None:
    store = MemoryStorage()
    assert commit(store, state("b", b"1"), state("a", b"2"), (t.ACTIVE, (7,), True)) is None
    snapshot = store.snapshot()
    assert commit(store, state("c", b"3"), (t.ACTIVE, (7,), None)) is None
    copy = MemoryStorage(snapshot)
    assert names(copy) == ["a", "b"]
    assert copy.get(t.ACTIVE, (7,)) is True
    assert commit(copy, state("d", b"4")) is None
    assert MemoryStorage(snapshot).last(t.STATE, ("s", "k")) == ("s", "k", "b")


WRITER = """
import sys
from perdure.storage.sqlite import SqliteStorage
from tests.storage.test_contract import changes_of_round, commit
from perdure.core.tables import META

store = SqliteStorage(sys.argv[1])
round = store.get(META, ("round",)) or 0
while True:
    round += 1
    assert commit(store, *changes_of_round(round)) is None
    print(round, flush=True)
"""


def changes_of_round(round: int) -> list[Change]:
    """Changes of several tables that only make sense together."""
    return [
        (t.META, ("round",), round),
        *[(t.JOURNAL, (round, index), (round, e.Run(index + 1, "n" * round))) for index in range(round % 90)],
        (t.JOURNAL, (round // 2,), DROP),
        (t.TIMER, (round, 1, 0, 0), True),
        (t.TIMER, (round - 3, 1, 0, 0), None),
        (t.STATE, ("s", "k", str(round % 10)), bytes([round % 251]) * (round % 3000)),
    ]


def test_after_a_kill_whole_batches_are_there(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    model: Model = {table: {} for table in TABLES}
    applied = 0
    for attempt in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None
        reported = 0
        for line in process.stdout:
            reported = int(line)
            if reported >= applied + 20 * (attempt % 3):
                break
        time.sleep(attempt * 0.0003)  # a commit takes about as long: the kill hits it at one place or another
        process.kill()
        for line in process.stdout:
            reported = int(line)
        process.wait()
        process.stdout.close()
        store = SqliteStorage(path)
        try:
            stored = store.get(t.META, ("round",)) or 0
            assert reported <= stored <= reported + 1
            while applied < stored:
                applied += 1
                apply(model, changes_of_round(applied))
            touched = [change for round in range(1, applied + 2) for change in changes_of_round(round)]
            assert_same(store, model, touched)
        finally:
            store.close()
