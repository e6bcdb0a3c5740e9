"""What a store promises, and the batch it is given.

The contract (`tests/storage/test_contract.py` holds every store to it):

* `get`, `scan` and `last` are synchronous and are called from the loop's thread only. They see every batch whose
  `done` was called without an error, and no part of any other but the one in flight: of that all or nothing, at
  any moment before its `done`. A scan goes on with the rows it began with.
* `commit` returns at once; the batch is the store's from then on and must not be changed. `done(None)` is called
  once, from any thread and in the order of the commits, when everything in the batch survives a crash;
  `done(error)` when the store can't say so, after which it takes no more batches. `done` must not raise. There is
  one batch in flight at a time. A batch without changes is done in its turn.
* A batch is atomic: after a crash all of it is there or nothing.
* Values come back equal. A value is never None, and one of a table of bool is True. In a journal the time beside a
  completion or a signal is its own `at`.
* What can't be stored is an error like any other, and stops the store: numbers beyond their field on the wire or
  64 bits, lone surrogates, more than 2**24 entries in a journal. They have to be refused before they get here.
* One process at a time: opening a store that another process has open raises `StorageError` that says so. `close`
  may be called again; a batch given to a closed store fails.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

from perdure.core.tables import Key, Table
from perdure.telemetry.metrics import Histogram

__all__ = ["Batch", "Group", "Measured", "Storage"]

V = TypeVar("V")


class Group:
    """The changes of one batch to one group of a table: drop what was there (`dropped`), then these rows.

    A row's value of None deletes it.
    """

    __slots__ = ("dropped", "rows")

    def __init__(self) -> None:
        self.dropped = False
        self.rows: dict[Key, Any] = {}


class Batch:
    """What one commit stores: for each table, the changed groups by their leading key fields."""

    __slots__ = ("groups",)

    def __init__(self) -> None:
        self.groups: dict[Table[Any], dict[Key, Group]] = {}

    def group(self, table: Table[Any], key: Key) -> Group:
        """The group of `key` (a key, or a group's key), made if it is not there."""
        groups = self.groups.get(table)
        if groups is None:
            groups = self.groups[table] = {}
        name = key[: table.group]
        group = groups.get(name)
        if group is None:
            group = groups[name] = Group()
        return group

    def rows(self) -> int:
        """How many rows the batch changes (a dropped group counts as one)."""
        return sum(len(group.rows) + group.dropped for groups in self.groups.values() for group in groups.values())

    def __bool__(self) -> bool:
        return bool(self.groups)


@runtime_checkable
class Measured(Protocol):
    """A store that knows what it costs."""

    @property
    def syncs(self) -> Histogram:
        """How long each commit took to be on disk, seconds."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes on disk, by what they are for."""
        ...


class Storage(Protocol):
    """One partition's tables on disk; see the module's docstring for the contract."""

    def get(self, table: Table[V], key: Key) -> V | None: ...

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        """The rows of a group in key order."""
        ...

    def last(self, table: Table[V], group: Key) -> Key | None:
        """The greatest key of a group, or None."""
        ...

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None: ...

    def close(self) -> None:
        """Wait for the batch in flight, then let go of everything."""
        ...
