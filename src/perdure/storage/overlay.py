"""The core's `Tables` over a `Storage`: what is not on disk yet is seen, and what is in use is kept at hand.

Three layers answer a read: the batch being filled, the batch being written, the store. Rows of invocations
that run are kept in a dictionary beside them, because every step asks for its invocation's row and for the
length of its journal.
"""

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from perdure.core.tables import INVOCATION, JOURNAL, META, Key, Table
from perdure.model.entries import Entry
from perdure.model.invocation import Invocation, Invoked, Status
from perdure.storage.base import Batch, Group, Storage

__all__ = ["Overlay"]

V = TypeVar("V")


class Overlay:
    """Implements `core.tables.Tables`. `take` hands over the filled batch, `settled` says that it is on disk."""

    def __init__(self, storage: Storage, index: int = 0, partitions: int = 1) -> None:
        self.index = index
        self.partitions = partitions
        self._storage = storage
        self._pending = Batch()
        self._journal: dict[Key, Group] = {}  # the journal's groups of the pending batch
        self._writing: Batch | None = None
        self._running: dict[int, Invocation] = {}
        self._lengths: dict[int, int] = {}
        self._counters: dict[str, int] = {}
        self.completed: list[Invocation] = []
        self._completing: list[Invocation] = []  # of the batch that is being written
        self.statuses: dict[type[Status], int] = dict.fromkeys(get_args(Status), 0)

    def take(self) -> Batch:
        """The batch to commit; from here on a new one is filled."""
        assert self._writing is None, "one batch at a time"
        batch = self._pending
        if self._journal:
            batch.groups[JOURNAL] = self._journal
        self._writing = batch
        self._pending = Batch()
        self._journal = {}
        self._completing, self.completed = self.completed, []
        return batch

    def settled(self) -> list[Invocation]:
        """The batch last taken is in the store. The invocations that it completed."""
        batch = self._writing
        self._writing = None
        completed, self._completing = self._completing, []
        if batch is None:
            return completed
        running = self._running
        for (number,) in batch.groups.get(INVOCATION, ()):
            invocation = running.get(number)
            if invocation is not None and type(invocation.status) is not Invoked:
                del running[number]
                self._lengths.pop(number, None)
        return completed

    def _layers(self, table: Table[Any], key: Key) -> list[Group]:
        """The groups of both batches that may hold the key, newest first."""
        name = key[: table.group]
        found: list[Group] = []
        if table is JOURNAL:
            group = self._journal.get(name)
        else:
            groups = self._pending.groups.get(table)
            group = None if groups is None else groups.get(name)
        if group is not None:
            found.append(group)
        if self._writing is not None:
            groups = self._writing.groups.get(table)
            group = None if groups is None else groups.get(name)
            if group is not None:
                found.append(group)
        return found

    def get(self, table: Table[V], key: Key) -> V | None:
        if table is INVOCATION:
            running: Any = self._running.get(key[0])
            if running is not None:
                return running  # type: ignore[no-any-return]
        for group in self._layers(table, key):
            if key in group.rows:
                return group.rows[key]  # type: ignore[no-any-return]
            if group.dropped:
                return None
        return self._storage.get(table, key)

    def _group(self, table: Table[Any], key: Key) -> Group:
        if table is JOURNAL:
            name = key[:1]
            group = self._journal.get(name)
            if group is None:
                group = self._journal[name] = Group()
            return group
        return self._pending.group(table, key)

    def put(self, table: Table[V], key: Key, value: V) -> None:
        self._group(table, key).rows[key] = value
        if table is INVOCATION:
            self._running[key[0]] = value  # type: ignore[assignment]

    def delete(self, table: Table[V], key: Key) -> None:
        self._group(table, key).rows[key] = None
        if table is INVOCATION:
            self._running.pop(key[0], None)
            self._lengths.pop(key[0], None)

    def drop(self, table: Table[V], group: Key) -> None:
        changed = self._group(table, group)
        changed.dropped = True
        changed.rows.clear()
        if table is JOURNAL:
            self._lengths.pop(group[0], None)

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        layers = self._layers(table, group)
        if not layers:
            return self._storage.scan(table, group, limit=limit)
        rows: dict[Key, Any] = {}
        hidden = 0
        for layer in layers:  # newest first, so a row already known is not replaced
            for key, value in layer.rows.items():
                rows.setdefault(key, value)
            if layer.dropped:
                break
        else:
            hidden = len(rows)
            wanted = None if limit is None else limit + hidden
            for key, value in self._storage.scan(table, group, limit=wanted):
                rows.setdefault(key, value)
        found = sorted(((key, value) for key, value in rows.items() if value is not None), key=_key)
        return iter(found if limit is None else found[:limit])

    def append(self, number: int, at: int, entry: Entry) -> int:
        lengths = self._lengths
        index = lengths.get(number)
        if index is None:
            index = self._length(number)
        lengths[number] = index + 1
        name = (number,)
        group = self._journal.get(name)
        if group is None:
            group = self._journal[name] = Group()
        group.rows[(number, index)] = (at, entry)
        return index

    def _length(self, number: int) -> int:
        for group in self._layers(JOURNAL, (number,)):
            if group.rows:
                return max(key[1] for key in group.rows) + 1  # type: ignore[no-any-return]
            if group.dropped:
                return 0
        last = self._storage.last(JOURNAL, (number,))
        return 0 if last is None else last[1] + 1

    def journal(self, number: int) -> list[tuple[int, Entry]]:
        return [value for _, value in self.scan(JOURNAL, (number,))]

    def count(self, name: str) -> int:
        value = self._counters.get(name)
        if value is None:
            value = self._storage.get(META, (name,)) or 0
        value += 1
        self._counters[name] = value
        self._pending.group(META, (name,)).rows[(name,)] = value
        if name == "number":
            self._lengths[value] = 0  # a new invocation has no journal: no need to look
        return value


def _key(row: tuple[Key, Any]) -> Key:
    return row[0]
