"""A store in dicts: for tests, for the simulator, and the reference of what a store has to do."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

from perdure.core.tables import TABLES, Key, Table
from perdure.errors import StorageError
from perdure.storage.base import Batch

__all__ = ["MemoryStorage", "Snapshot"]

V = TypeVar("V")

Snapshot: TypeAlias = dict[str, dict[Key, Any]]
"""For each table, by name, its rows."""


class _Rows:
    """One group: its rows, and their keys in order."""

    __slots__ = ("keys", "rows")

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.rows: dict[Key, Any] = {}


class MemoryStorage:
    """Keeps what is committed for as long as the object lives; a `snapshot` outlives it.

    `deliver` is given each batch's completion (write it, then call its `done`) to call when it likes; those it
    never calls were lost in the crash. By default a commit is done before `commit` returns.
    """

    def __init__(
        self, snapshot: Snapshot | None = None, *, deliver: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        self._tables: dict[Table[Any], dict[Key, _Rows]] = {table: {} for table in TABLES}
        self._deliver = deliver
        self._closed = False
        for table in TABLES:
            for key, value in (snapshot or {}).get(table.name, {}).items():
                self._put(table, key[: table.group], {key: value})

    def snapshot(self) -> Snapshot:
        """A copy of everything committed so far; the values are shared, being frozen."""
        return {
            table.name: {key: value for group in groups.values() for key, value in group.rows.items()}
            for table, groups in self._tables.items()
        }

    def get(self, table: Table[V], key: Key) -> V | None:
        group = self._tables[table].get(key[: table.group])
        return None if group is None else group.rows.get(key)

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        found = self._tables[table].get(group)
        if found is None:
            return iter(())
        rows = found.rows
        return iter([(key, rows[key]) for key in found.keys[:limit]])

    def last(self, table: Table[V], group: Key) -> Key | None:
        found = self._tables[table].get(group)
        return None if found is None else found.keys[-1]

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        if self._closed:
            done(StorageError("the store is closed"))
            return

        def complete() -> None:
            self._apply(batch)
            done(None)

        if self._deliver is None:
            complete()
        else:
            self._deliver(complete)

    def close(self) -> None:
        self._closed = True

    def _apply(self, batch: Batch) -> None:
        for table, groups in batch.groups.items():
            for name, group in groups.items():
                if group.dropped:
                    self._tables[table].pop(name, None)
                self._put(table, name, group.rows)

    def _put(self, table: Table[Any], name: Key, rows: dict[Key, Any]) -> None:
        groups = self._tables[table]
        group = groups.get(name)
        if group is None:
            group = groups[name] = _Rows()
        for key, value in rows.items():
            if value is None:
                if group.rows.pop(key, None) is not None:
                    del group.keys[bisect_left(group.keys, key)]
            else:
                if key not in group.rows:
                    insort(group.keys, key)
                group.rows[key] = value
        if not group.keys:
            del groups[name]
