"""How a table's columns come out of a partition's file.

A relation says where its rows are (`source`, a FROM clause), and for each column which SQL expressions it needs and
what Python makes of their values; most are made by SQLite alone. An expression that begins with `@` names something
that is made once per row for several columns, as the invocation that is packed in `body`.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pyarrow as pa

from perdure.model.ids import format_invocation_id, partition_key_of, partition_of
from perdure.model.services import HandlerKind
from perdure.sql.conditions import Filter
from perdure.sql.facts import Attempt, Facts

__all__ = [
    "INDEX_BITS",
    "INDEX_MASK",
    "Column",
    "Derived",
    "Partition",
    "Relation",
    "World",
    "each",
    "failure_text",
    "id_text",
    "key_of_id",
    "key_of_name",
    "open_partition",
    "sql",
    "utf8_or_none",
]

INDEX_BITS: Final = 24  # of a journal's position, as in `storage.sqlite`
INDEX_MASK: Final = (1 << INDEX_BITS) - 1

_ERRORS = {
    400: " Bad request",
    404: " Not found",
    409: " Aborted",
    410: " Gone",
    415: " Unsupported media type",
    470: " Not ready",
    500: " Internal",
    570: " Journal mismatch",
    571: " Protocol violation",
    572: " Awaiting two async results",
    573: " Unsupported feature",
}


class Column(NamedTuple):
    """What a column needs, and what is made of it: all rows at once. Without `make` it is the first need's values."""

    needs: tuple[str, ...]
    make: "Callable[..., Sequence[Any]] | None" = None


class Derived(NamedTuple):
    """Something that several columns need, made of the values of expressions."""

    needs: tuple[str, ...]
    make: "Callable[..., Sequence[Any]]"


def sql(expression: str) -> Column:
    """What SQLite says."""
    return Column((expression,))


def each(make: Callable[..., Any], *needs: str) -> Column:
    """One value from those of its row."""
    return Column(needs, lambda partition, *columns: [make(*values) for values in zip(*columns, strict=True)])


class Found(NamedTuple):
    """Of an invocation that another one names."""

    service: str
    key: str | None
    handler: str
    kind: HandlerKind

    @property
    def target(self) -> str:
        return f"{self.service}/{self.handler}" if self.key is None else f"{self.service}/{self.key}/{self.handler}"


@dataclass
class World:
    """What one query sees: the partitions' files, and what it is told beside them."""

    files: Sequence[str]
    facts: Facts
    live: dict[bytes, Attempt] = field(init=False)
    kinds: dict[str, str] = field(init=False)
    sdks: dict[str, str | None] = field(init=False)

    def __post_init__(self) -> None:
        self.live = {attempt.id: attempt for attempt in self.facts.attempts}
        self.kinds = {service.name: service.kind for service in self.facts.services}
        self.sdks = {deployment.id: deployment.sdk for deployment in self.facts.deployments}


def open_partition(path: str) -> sqlite3.Connection:
    """To read only; what is committed when it first reads is what it sees until it is closed."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = TRUE")
    connection.execute("PRAGMA mmap_size = 1073741824")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("BEGIN")
    return connection


class Partition:
    """One file as one scan reads it, and lookups in it and its siblings."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.connection = open_partition(world.files[index])
        self._siblings: dict[int, sqlite3.Connection] = {index: self.connection}
        self.find = lru_cache(maxsize=10_000)(self._find)

    def close(self) -> None:
        for connection in self._siblings.values():
            connection.close()

    def _find(self, id: bytes) -> Found | None:
        """The target of an invocation, if it is still there."""
        index = partition_of(id, len(self.world.files))
        connection = self._siblings.get(index)
        if connection is None:
            connection = self._siblings[index] = open_partition(self.world.files[index])
        row = connection.execute(
            "SELECT service, key, handler, kind FROM invocation "
            "WHERE number = (SELECT number FROM invocation_id WHERE id = ?)",
            (id[8:] + id[:8],),
        ).fetchone()
        return None if row is None else Found(row[0], row[1], row[2], HandlerKind(row[3]))


@dataclass(frozen=True)
class Relation:
    """A table. `columns` are those that are not NULL throughout.

    * `coarse`: columns with few values. If a query needs no others, SQLite counts the rows of each combination.
    * `apart`: columns for which, in such a query, rows of which `invoked` is true are looked at one by one.
    * `bulky`: expressions whose values may be large, so that few rows are taken at a time.
    * `times`: columns by which the newest or oldest rows can be found: the expression, and whether its being NULL
      means that a row has to be looked at.
    * `split`: an integer column, and its table, by whose ranges the work is cut into parts.
    * `keep`: a column of booleans: which rows there are at all.
    * `rows`: for what is in no file: the rows themselves.
    """

    name: str
    schema: pa.Schema
    source: str = ""
    columns: Mapping[str, Column] = field(default_factory=dict)
    derived: Mapping[str, Derived] = field(default_factory=dict)
    filters: Mapping[str, Filter] = field(default_factory=dict)
    coarse: Mapping[str, Column] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    invoked: str = "number IN (SELECT number FROM active)"
    bulky: frozenset[str] = frozenset()
    times: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    split: tuple[str, str] | None = None
    keep: Column | None = None
    rows: Callable[[World], Sequence[tuple[Any, ...]]] | None = None


# ---- what several tables have


def id_text(id: bytes | None) -> str | None:
    """An invocation's id as it is printed."""
    return None if id is None else format_invocation_id(id)


def key_of_id(id: bytes) -> int:
    """The partition key in an invocation's id."""
    return int.from_bytes(id[:8], "big")


def key_of_name(key: str) -> int:
    """The partition key of an object's key."""
    return int.from_bytes(partition_key_of(key), "big")


def failure_text(code: int, message: str) -> str:
    """`[500 Internal] message`, as restate-server words it."""
    return f"[{code}{_ERRORS.get(code, '')}] {message}"


def utf8_or_none(value: bytes | None) -> str | None:
    """The text, if the bytes are text."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
