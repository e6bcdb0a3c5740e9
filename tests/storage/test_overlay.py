"""What the core sees over a store is what it wrote, wherever that is: in the open batch, on its way, or stored.

A plain dictionary knows the answer to every question. Batches are taken, stored and settled at any moment between.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.core import tables as t
from perdure.core.tables import Key, Table
from perdure.model import entries as e
from perdure.model.invocation import (
    Completed,
    Inboxed,
    Invocation,
    Invoked,
    Paused,
    Promise,
    Scheduled,
    Status,
    Suspended,
    Target,
    Waiting,
)
from perdure.model.services import HandlerKind
from perdure.storage.memory import MemoryStorage
from perdure.storage.overlay import Overlay

AT = 1_000_000
SMALL = st.integers(1, 3)
CHOICE = st.integers(0, 9)
NAMES = st.sampled_from(["a", "b"])
KEYS: dict[Table[Any], st.SearchStrategy[Key]] = {
    t.INVOCATION: st.tuples(SMALL),
    t.INVOCATION_ID: st.tuples(st.sampled_from([b"x" * 24, b"y" * 24])),
    t.STATE: st.tuples(NAMES, NAMES, NAMES),
    t.LOCK: st.tuples(NAMES, NAMES),
    t.INBOX: st.tuples(NAMES, NAMES, SMALL),
    t.PROMISE: st.tuples(NAMES, NAMES, NAMES),
    t.TIMER: st.tuples(SMALL, SMALL, st.integers(0, 4), SMALL),
    t.OUTBOX: st.tuples(SMALL, SMALL),
    t.ACTIVE: st.tuples(SMALL),
    t.META: st.tuples(st.sampled_from(["received:0", "received:1"])),  # counters are for `count`
}
STATUSES: st.SearchStrategy[Status] = st.sampled_from(
    [
        Scheduled(AT),
        Inboxed(1),
        Invoked(),
        Invoked(1, AT),
        Suspended(AT, Waiting((1,))),
        Paused(AT),
        Completed(AT, e.Value(b"")),
    ]
)
TARGET = Target("s", "h", HandlerKind.PLAIN)
DROPPED = [
    table for table in KEYS if table not in (t.INVOCATION, t.TIMER, t.ACTIVE, t.META)
]  # by the core, or might be


@st.composite
def rows(draw: st.DrawFn) -> tuple[Table[Any], Key, Any]:
    table = draw(st.sampled_from(list(KEYS)))
    key = draw(KEYS[table])
    number = draw(st.integers(0, 9))
    values: dict[Table[Any], Any] = {
        t.INVOCATION_ID: number,
        t.STATE: str(number).encode(),
        t.LOCK: t.Lock(number),
        t.INBOX: t.InvocationItem(number),
        t.PROMISE: Promise(e.Value(str(number).encode())),
        t.OUTBOX: number,
        t.META: number,
    }
    if table is t.INVOCATION:
        value: Any = Invocation(key[0], bytes(24), TARGET, draw(STATUSES), AT, attempts=number)
    else:
        value = values.get(table, True)
    return table, key, value


class AnyMoment(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.model: dict[Table[Any], dict[Key, Any]] = {table: {} for table in KEYS}
        self.journals: dict[int, list[tuple[int, e.Entry]]] = {}
        self.counters: dict[str, int] = {}
        self.writes: list[Callable[[], None]] = []
        self.storage = MemoryStorage(deliver=self.writes.append)
        self.tables = Overlay(self.storage, 2, 3)
        self.taken = False  # a batch is on its way
        self.appended = 0

    # What the core does

    @rule(row=rows())
    def put(self, row: tuple[Table[Any], Key, Any]) -> None:
        table, key, value = row
        self.tables.put(table, key, value)
        self.model[table][key] = value

    @rule(row=rows())
    def delete(self, row: tuple[Table[Any], Key, Any]) -> None:
        table, key, _ = row
        self.tables.delete(table, key)
        self.model[table].pop(key, None)

    @rule(table=st.sampled_from(DROPPED), data=st.data())
    def drop(self, table: Table[Any], data: st.DataObject) -> None:
        group = data.draw(KEYS[table])[: table.group]
        self.tables.drop(table, group)
        self.model[table] = {key: value for key, value in self.model[table].items() if key[: table.group] != group}

    @rule()
    def create(self) -> None:
        """A new invocation has a journal that nobody has to look for."""
        number = self.tables.count("number")
        self.counters["number"] = self.counters.get("number", 0) + 1
        assert number == self.counters["number"]
        self.journals[number] = []

    @precondition(lambda self: bool(self.journals))
    @rule(choice=CHOICE, signal=st.booleans())
    def append(self, choice: int, signal: bool) -> None:
        number = self.some(choice)
        self.appended += 1
        entry: e.Entry = e.Signal("go", e.VOID, AT) if signal else e.Run(self.appended, "step")
        journal = self.journals[number]
        assert self.tables.append(number, AT, entry) == len(journal)
        journal.append((AT, entry))

    def some(self, choice: int) -> int:
        return sorted(self.journals)[choice % len(self.journals)]

    @precondition(lambda self: bool(self.journals))
    @rule(choice=CHOICE)
    def forget(self, choice: int) -> None:
        """As the core does: the row goes, and then the journal, of which nothing is ever appended to again."""
        number = self.some(choice)
        self.tables.delete(t.INVOCATION, (number,))
        self.tables.drop(t.JOURNAL, (number,))
        self.model[t.INVOCATION].pop((number,), None)
        del self.journals[number]
        assert self.tables.journal(number) == []

    @rule(name=st.sampled_from(["inbox", "sent:1"]))
    def count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1
        assert self.tables.count(name) == self.counters[name]

    # What the loop does

    @precondition(lambda self: not self.taken)
    @rule()
    def take(self) -> None:
        batch = self.tables.take()
        self.taken = True
        self.storage.commit(batch, lambda error: None)

    @precondition(lambda self: bool(self.writes))
    @rule()
    def store(self) -> None:
        self.writes.pop()()

    @precondition(lambda self: self.taken and not self.writes)
    @rule()
    def settle(self) -> None:
        self.tables.settled()
        self.taken = False

    @rule()
    def commit(self) -> None:
        if not self.taken:
            self.take()
        if self.writes:
            self.store()
        self.settle()

    @rule()
    def restart(self) -> None:
        """The process ends well and begins again: everything is in the store."""
        self.commit()
        self.commit()
        assert not self.tables.take()
        self.tables = Overlay(self.storage, 2, 3)

    # What is seen

    @rule(row=rows())
    def get(self, row: tuple[Table[Any], Key, Any]) -> None:
        table, key, _ = row
        assert self.tables.get(table, key) == self.model[table].get(key)

    @rule(table=st.sampled_from(list(KEYS)), limit=st.none() | st.integers(1, 3), data=st.data())
    def scan(self, table: Table[Any], limit: int | None, data: st.DataObject) -> None:
        group = data.draw(KEYS[table])[: table.group]
        if table is t.INVOCATION:
            return  # the core never does: its rows are asked for one by one
        expected = sorted((key, value) for key, value in self.model[table].items() if key[: table.group] == group)
        assert list(self.tables.scan(table, group, limit=limit)) == expected[:limit]

    @precondition(lambda self: bool(self.journals))
    @rule(choice=CHOICE)
    def journal(self, choice: int) -> None:
        number = self.some(choice)
        assert self.tables.journal(number) == self.journals[number]

    @invariant()
    def it_knows_who_it_is(self) -> None:
        assert (self.tables.index, self.tables.partitions) == (2, 3)

    def teardown(self) -> None:
        """In the end the store has exactly what was written."""
        self.commit()
        self.commit()
        snapshot = self.storage.snapshot()
        for table, model in self.model.items():
            stored = {key: value for key, value in snapshot[table.name].items() if key[0] not in self.counters}
            assert stored == model
        assert {name: snapshot["meta"][(name,)] for name in self.counters} == self.counters
        journals = {number: journal for number, journal in self.journals.items() if journal}
        stored_journals: dict[int, list[Any]] = {}
        for (number, _), value in sorted(snapshot["journal"].items(), key=lambda row: row[0]):
            stored_journals.setdefault(number, []).append(value)
        assert stored_journals == journals


AnyMoment.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
test_at_any_moment = AnyMoment.TestCase


def test_one_batch_at_a_time() -> None:
    tables = Overlay(MemoryStorage())
    tables.take()
    with pytest.raises(AssertionError, match="one batch at a time"):
        tables.take()
    tables.settled()
    tables.settled()
    tables.take()


def test_rows_may_be_changed_while_they_are_scanned() -> None:
    storage = MemoryStorage()
    tables = Overlay(storage)
    for number in range(4):
        tables.put(t.ACTIVE, (number,), True)
    storage.commit(tables.take(), lambda error: None)
    tables.settled()
    tables.put(t.ACTIVE, (9,), True)
    seen = []
    for (number,), _ in tables.scan(t.ACTIVE, ()):
        tables.delete(t.ACTIVE, (number,))
        tables.put(t.ACTIVE, (number + 20,), True)
        seen.append(number)
    assert seen == [0, 1, 2, 3, 9]
    assert [key[0] for key, _ in tables.scan(t.ACTIVE, ())] == [20, 21, 22, 23, 29]


def test_what_no_longer_runs_is_let_go_of() -> None:
    """Rows and lengths of those that run are kept at hand; a million that sleep must not be."""
    storage = MemoryStorage()
    tables = Overlay(storage)

    def commit() -> None:
        storage.commit(tables.take(), lambda error: None)
        tables.settled()

    for status in (Invoked(), Suspended(AT, Waiting((1,))), Invoked(), Completed(AT, e.Value(b""))):
        for number in range(5):
            tables.append(number, AT, e.Run(1, "step"))
            tables.put(t.INVOCATION, (number,), Invocation(number, bytes(24), TARGET, status, AT))
        commit()
        kept = 5 if type(status) is Invoked else 0
        assert (len(tables._running), len(tables._lengths)) == (kept, kept)
        assert [len(tables.journal(number)) for number in range(5)].count(0) == 0


def test_a_journal_that_was_dropped_begins_anew() -> None:
    tables = Overlay(MemoryStorage())
    tables.append(1, AT, e.Run(1, "step"))
    tables.drop(t.JOURNAL, (1,))
    assert tables.append(1, AT, e.Run(2, "step")) == 0


def test_a_counter_is_a_row() -> None:
    tables = Overlay(MemoryStorage())
    tables.count("sent:1")
    assert tables.get(t.META, ("sent:1",)) == 1
