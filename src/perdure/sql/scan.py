"""A relation as DataFusion reads it: batch after batch, only the columns and the rows that are asked for.

To DataFusion a relation is a pyarrow dataset, which it asks for columns and for a filter that it relies on. What else
is known of the rows that are wanted (`condition`, `top`) is set from outside, between planning and execution.
"""

import re
import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.dataset

from perdure.sql.conditions import Condition, both
from perdure.sql.relations import Column, Partition, Relation, World

__all__ = ["RelationDataset", "Top"]

_FIRST_ROWS: Final = 1_024  # enough for what a person looks at
_ROWS: Final = 8_192
_BULK: Final = 8 << 20  # bytes of large values taken at a time
_EXPANDED: Final = 65_536
_GROUPED: Final = 5_000
_PARTS: Final = 2_000
_SPLIT_FROM: Final = 200_000  # rows below which a second thread gains nothing
_ZEROS: Final = pa.array([0] * _EXPANDED, pa.int32())


class Top(NamedTuple):
    """Only the first `limit` rows by a time are wanted, the newest if `descending`."""

    column: str
    descending: bool
    limit: int


class _Scan:
    """One reading of one part of a table, or the promise of one: `part` is None while it is planned."""

    def __init__(
        self, dataset: "RelationDataset", part: "_Part | None", columns: Sequence[str] | None, filter: Any
    ) -> None:
        schema = dataset.schema
        self.names = list(schema.names if columns is None else columns)
        self.projected_schema = pa.schema([schema.field(name) for name in self.names])
        self.dataset = dataset
        self.filter = filter
        self._part = part

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        assert self._part is not None
        for batch in self._part.read(self):
            if self.filter is not None:
                batch = batch.filter(self.filter)
            if batch.num_rows:
                yield batch.select(self.names)

    @property
    def needed(self) -> list[str]:
        """What is asked for, and what the filter looks at."""
        looked_at = self.looked_at
        return [name for name in self.dataset.schema.names if name in self.names or name in looked_at]

    @property
    def looked_at(self) -> list[str]:
        """The columns that the filter looks at, or may."""
        words = set() if self.filter is None else set(re.findall(r"\w+", str(self.filter)))
        return [name for name in self.dataset.schema.names if name in words]


class RelationDataset(pa.dataset.Dataset):  # type: ignore[misc,unused-ignore]
    """A relation in one query."""

    def __init__(self, relation: Relation, world: World) -> None:
        self.relation = relation
        self.world = world
        self.condition: Condition | None = None
        self.top: Top | None = None
        self.oldest = False
        """Whether, of rows that are alike in their coarse columns, only their number and the oldest one matter."""
        self.unmatched = False
        """Whether ids matter only where they meet those of invoked invocations."""
        self.expected = 0
        """How many scans `condition`, `top`, `oldest` and `unmatched` were made for."""
        self._planned = 0

    @property
    def schema(self) -> pa.Schema:
        return self.relation.schema

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> _Scan:
        """Called while a query is planned, for the schema."""
        self._planned += 1
        return _Scan(self, None, columns, filter)

    def get_fragments(self, filter: Any = None) -> "list[_Part]":
        """What is read at the same time."""
        if self.relation.rows is not None:
            return [_Told(self)]
        parts: list[_Part] = []
        for index in range(len(self.world.files)):
            ranges: list[Condition | None] = [None]
            narrow = self.trusted and self.condition is not None and self.condition.narrow
            if self.relation.split is not None and len(self.world.files) == 1 and not narrow:
                ranges = _halves(self.world, index, *self.relation.split)
            parts += [_Stored(self, index, range) for range in ranges]
        return parts

    @property
    def trusted(self) -> bool:
        """Whether what was said from outside is about all the scans there are."""
        return self._planned <= self.expected

    @property
    def longest(self) -> int | None:
        """As many rows as there can be at most, if that can be told at once."""
        if self.relation.split is None or self.relation.split[1] != self.relation.source:
            return None
        rows = 0
        for index in range(len(self.world.files)):
            first, last = _ends_of(self.world, index, *self.relation.split)
            rows += last - first + 1
        return rows


def _halves(world: World, index: int, column: str, table: str) -> list[Condition | None]:
    first, last = _ends_of(world, index, column, table)
    if last - first < _SPLIT_FROM:
        return [None]
    middle = (first + last) // 2
    return [Condition(f"{column} <= ?", (middle,), True), Condition(f"{column} > ?", (middle,), True)]


class _Part(ABC):
    """What one thread reads."""

    def __init__(self, dataset: RelationDataset) -> None:
        self._dataset = dataset

    def scanner(self, schema: Any = None, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> _Scan:
        """Called when a query is executed."""
        return _Scan(self._dataset, self, columns, filter)

    @abstractmethod
    def read(self, scan: _Scan) -> Iterator[pa.RecordBatch]:
        """Batches with at least what the scan needs."""


class _Told(_Part):
    """Rows that the query was told."""

    def read(self, scan: _Scan) -> Iterator[pa.RecordBatch]:
        relation, schema = self._dataset.relation, self._dataset.schema
        assert relation.rows is not None
        rows = relation.rows(self._dataset.world)
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        yield pa.record_batch(
            [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
        )


class _Stored(_Part):
    """A partition's file, or half of its rows."""

    def __init__(self, dataset: RelationDataset, index: int, range: Condition | None) -> None:
        super().__init__(dataset)
        self._index = index
        self._range = range

    def read(self, scan: _Scan) -> Iterator[pa.RecordBatch]:
        dataset = self._dataset
        partition = Partition(dataset.world, self._index)
        try:
            yield from _Reading(dataset, partition, scan, self._range).batches()
        finally:
            partition.close()


class _Reading:
    """The SELECT that gives what is needed, and the columns that are made of it."""

    def __init__(self, dataset: RelationDataset, partition: Partition, scan: _Scan, range: Condition | None) -> None:
        self._relation = relation = dataset.relation
        self._partition = partition
        self._needed = needed = scan.needed
        self._top = dataset.top if dataset.trusted else None
        self._where = _together(dataset.condition if dataset.trusted else None, range)
        same = relation.coarse.keys() >= set(scan.looked_at) and dataset.trusted
        self._oldest = dataset.oldest and same and ("id" in needed or "created_at" in needed)
        self._unmatched = dataset.unmatched and same and not self._oldest and "id" in needed
        self._counts = relation.keep is None and all(
            name in relation.coarse
            or (self._oldest and name in ("id", "created_at"))
            or (self._unmatched and name == "id")
            for name in needed
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        self._apply_top()
        if self._counts:
            yield from self._counted()
        else:
            yield from self._one_by_one(self._where)

    def _one_by_one(self, where: Condition | None) -> Iterator[pa.RecordBatch]:
        relation = self._relation
        columns = {name: relation.columns[name] for name in self._needed if name in relation.columns}
        expressions = self._expressions([*columns.values(), *([] if relation.keep is None else [relation.keep])])
        cursor = self._select(", ".join(expressions) or "1", where)
        for rows in _in_bulk(cursor) if relation.bulky.intersection(expressions) else _in_rows(cursor):
            yield self._batch(rows, expressions, columns)

    def _select(self, what: str, where: Condition | None, more: str = "") -> sqlite3.Cursor:
        clause = "" if where is None else f" WHERE {where.sql}"
        parameters = () if where is None else where.parameters
        return self._partition.connection.execute(
            f"SELECT {what} FROM {self._relation.source}{clause}{more}", parameters
        )

    def _expressions(self, columns: Iterable[Column]) -> list[str]:
        """What SQLite is asked for, in the order in which it is first needed."""
        found: dict[str, None] = {}
        for column in columns:
            for need in column.needs:
                for expression in self._relation.derived[need].needs if need[0] == "@" else (need,):
                    found[expression] = None
        return list(found)

    def _counted(self) -> Iterator[pa.RecordBatch]:
        """SQLite counts; DataFusion is given as many rows as there are, which costs it little."""
        relation, where = self._relation, self._where
        if any(name in relation.apart for name in self._needed if name != "id" or self._unmatched):
            yield from self._one_by_one(_together(where, Condition(relation.invoked, (), True)))
            where = _together(where, Condition(f"NOT ({relation.invoked})", (), True))
        columns = {name: relation.coarse[name] for name in self._needed if name in relation.coarse}
        expressions = self._expressions(columns.values())
        if not expressions and not self._oldest:
            yield from _repeated(self._batch([()], (), {}), [self._select("count(*)", where).fetchone()[0]])
            return
        counts, firsts = self._groups(expressions, where)
        if self._oldest:
            columns |= {name: relation.columns[name] for name in ("id", "created_at")}
            expressions += ["created_at", "id"]
        groups = list(counts)
        for start in range(0, len(groups), _ROWS):
            some = groups[start : start + _ROWS]
            rows = [(*each, *firsts[each]) for each in some] if self._oldest else some
            yield from _repeated(self._batch(rows, expressions, columns), [counts[each] for each in some])

    def _groups(
        self, expressions: Sequence[str], where: Condition | None
    ) -> tuple[dict[tuple[Any, ...], int], dict[tuple[Any, ...], tuple[int, bytes]]]:
        """How many rows there are of each kind; and when the oldest of them was made, and its id."""
        counts: Counter[tuple[Any, ...]] = Counter()
        firsts: dict[tuple[Any, ...], tuple[int, bytes]] = {}
        oldest = ", min(created_at), id" if self._oldest else ""  # SQLite takes the id from the row of the minimum
        what = ", ".join([*expressions, "count(*)"]) + oldest
        by = f" GROUP BY {', '.join(expressions)}" if expressions else ""
        width = len(expressions)
        for part in self._ranges(where):
            for row in self._select(what, _together(where, part), by):
                kind = row[:width]
                if row[width]:
                    counts[kind] += row[width]
                    if oldest:
                        firsts[kind] = min(firsts.get(kind, row[width + 1 :]), row[width + 1 :])
        return counts, firsts

    def _ranges(self, where: Condition | None) -> Iterator[Condition | None]:
        """Grouping sorts, and what fits the processor's cache is sorted in half the time."""
        relation = self._relation
        if relation.split is None or (where is not None and where.narrow):
            yield None
            return
        column, table = relation.split
        first, last = _ends(self._partition, column, table)
        step = max(_GROUPED, (last - first) // _PARTS + 1)
        for start in range(first, last + 1, step):
            yield Condition(f"{column} BETWEEN ? AND ?", (start, start + step - 1), True)

    def _apply_top(self) -> None:
        """Find the time of the last row that is wanted; rows of the same time are all taken."""
        top = self._top
        known = None if top is None else self._relation.times.get(top.column)
        if top is None or known is None:
            return
        column, always_null = known
        way, compare = ("DESC", ">=") if top.descending else ("ASC", "<=")
        where = _together(self._where, Condition(f"{column} IS NOT NULL", (), True))
        nth = f" ORDER BY {column} {way} LIMIT 1 OFFSET {max(top.limit, 1) - 1}"
        row = self._select(column, where, nth).fetchone()
        if row is not None:
            sql = f"{column} {compare} ?"
            cut = Condition(f"({sql} OR {column} IS NULL)" if always_null else sql, (row[0],), True)
            self._where = _together(self._where, cut)

    def _batch(
        self, rows: Sequence[Sequence[Any]], expressions: Sequence[str], columns: Mapping[str, Column]
    ) -> pa.RecordBatch:
        """The columns that are needed, of these rows."""
        relation, schema, count = self._relation, self._relation.schema, len(rows)
        made: dict[str, Sequence[Any]] = dict(zip(expressions, zip(*rows, strict=True), strict=False))

        def value_of(need: str) -> Sequence[Any]:
            if need not in made:
                derived = relation.derived[need]
                made[need] = derived.make(self._partition, *(made[each] for each in derived.needs))
            return made[need]

        def values_of(column: Column) -> Sequence[Any]:
            values = [value_of(need) for need in column.needs]
            return values[0] if column.make is None else column.make(self._partition, *values)

        fields = [schema.field(name) for name in self._needed]
        if not fields:
            return _without_columns(count if relation.keep is None else sum(map(bool, values_of(relation.keep))))
        arrays = [
            pa.array(values_of(columns[field.name]), field.type)
            if field.name in columns
            else pa.nulls(count, field.type)
            for field in fields
        ]
        batch = pa.record_batch(arrays, schema=pa.schema(fields))
        return batch if relation.keep is None else batch.filter(pa.array(values_of(relation.keep), pa.bool_()))


def _together(left: Condition | None, right: Condition | None) -> Condition | None:
    """Both; here None is no condition at all."""
    if left is None or right is None:
        return left or right
    return both(left, right)


def _ends_of(world: World, index: int, column: str, table: str) -> tuple[int, int]:
    partition = Partition(world, index)
    try:
        return _ends(partition, column, table)
    finally:
        partition.close()


def _ends(partition: Partition, column: str, table: str) -> tuple[int, int]:
    """The least and the greatest; (0, -1) if there is none."""
    ends = f"SELECT (SELECT min({column}) FROM {table}), (SELECT max({column}) FROM {table})"
    first, last = partition.connection.execute(ends).fetchone()
    return (0, -1) if first is None else (first, last)


def _repeated(batch: pa.RecordBatch, counts: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Each row as often as its count says."""
    alone = [count == 1 for count in counts]
    if any(alone):
        yield batch.filter(pa.array(alone))
    for index, count in enumerate(counts):
        one = batch.slice(index, 1)
        for start in range(0, count if count > 1 else 0, _EXPANDED):
            yield one.take(_ZEROS.slice(0, min(_EXPANDED, count - start)))


def _without_columns(count: int) -> pa.RecordBatch:
    return pa.record_batch([pa.nulls(count)], names=["_"]).select([])


def _in_rows(cursor: sqlite3.Cursor) -> Iterator[list[Any]]:
    size = _FIRST_ROWS
    while rows := cursor.fetchmany(size):
        yield rows
        size = _ROWS


def _in_bulk(cursor: sqlite3.Cursor) -> Iterator[list[Any]]:
    rows: list[Any] = []
    size, limit = 0, _FIRST_ROWS
    for row in cursor:
        rows.append(row)
        for value in row:
            if type(value) is bytes:
                size += len(value)
        if len(rows) >= limit or size >= _BULK:
            yield rows
            rows, size, limit = [], 0, _ROWS
    if rows:
        yield rows
