"""What of a query's WHERE can be asked of SQLite.

DataFusion checks every condition itself, so a condition here may let more rows through than it should, and never
fewer: what can't be said in SQLite is left out. `exact` says that nothing was left out.

NULL is neither true nor false on both sides, and text is compared by its UTF-8 bytes on both sides.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
from datafusion import expr as x

from perdure.errors import Invalid
from perdure.model.ids import parse_invocation_id

__all__ = [
    "Condition",
    "Filter",
    "both",
    "either",
    "holds_id",
    "holds_text",
    "is_invocation",
    "is_one_of",
    "is_target",
    "number",
    "since_completed",
    "text",
    "translate",
]

MANY = 2_000  # values in a list above which it is not looked up one by one


class Condition(NamedTuple):
    """A condition in SQLite's SQL, its parameters, whether it says all that was said, and whether it finds the few rows
    there are by an index."""

    sql: str
    parameters: tuple[Any, ...]
    exact: bool
    narrow: bool = False


Filter: TypeAlias = Callable[[str, list[Any]], Condition | None]
"""For one column: an operator and what it is compared with -> a condition, or None if it can't be said.

Operators: `=`, `!=`, `<`, `<=`, `>`, `>=`, `IN`, `NOT IN`, `LIKE`, `IS NULL`, `IS NOT NULL`.
"""

_COMPARISONS = {"=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_FLIPPED = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NOTHING = Condition("FALSE", (), True, narrow=True)


def both(left: Condition | None, right: Condition | None) -> Condition | None:
    """AND: what can't be said is left out."""
    if left is None or right is None:
        known = left or right
        return None if known is None else known._replace(exact=False)
    sql, parameters = f"({left.sql} AND {right.sql})", left.parameters + right.parameters
    return Condition(sql, parameters, left.exact and right.exact, left.narrow or right.narrow)


def either(left: Condition | None, right: Condition | None) -> Condition | None:
    """OR: if one side can't be said, everything has to be let through."""
    if left is None or right is None:
        return None
    sql, parameters = f"({left.sql} OR {right.sql})", left.parameters + right.parameters
    return Condition(sql, parameters, left.exact and right.exact, left.narrow and right.narrow)


# ---- columns


def _marks(values: list[Any]) -> str:
    return ", ".join("?" * len(values))


def _plain(column: str, operator: str, values: list[Any]) -> Condition | None:
    if operator in _COMPARISONS:
        return Condition(f"{column} {operator} ?", tuple(values), True)
    if operator in ("IN", "NOT IN"):
        return Condition(f"{column} {operator} ({_marks(values)})", tuple(values), True)
    if operator in ("IS NULL", "IS NOT NULL"):
        return Condition(f"{column} {operator}", (), True)
    return None


def text(column: str) -> Filter:
    """A column of text."""

    def filter(operator: str, values: list[Any]) -> Condition | None:
        if not all(isinstance(value, str) for value in values):
            return None
        if operator == "LIKE":  # SQLite's takes no notice of case, and knows no escapes
            return None if "\\" in values[0] else Condition(f"{column} LIKE ?", tuple(values), False)
        return _plain(column, operator, values)

    return filter


def number(column: str) -> Filter:
    """A column of integers or times."""

    def filter(operator: str, values: list[Any]) -> Condition | None:
        whole = all(type(value) is int and -(1 << 63) <= value < 1 << 63 for value in values)
        return _plain(column, operator, values) if whole else None

    return filter


def since_completed(column: str) -> Filter:
    """A time that is `column` for completed invocations, and something later for others."""

    def filter(operator: str, values: list[Any]) -> Condition | None:
        found = number(column)(operator, values) if operator in _COMPARISONS else None
        return None if found is None else Condition(f"({found.sql} OR {column} IS NULL)", found.parameters, False)

    return filter


def is_one_of(column: str, domain: Mapping[str | None, Iterable[str]]) -> Filter:
    """A column with few values, each of which stands for some of the stored `column`'s; None is NULL."""
    stored = {value: frozenset(them) for value, them in domain.items()}

    def chosen(operator: str, values: list[Any]) -> set[str | None] | None:
        known = {value for value in stored if value is not None}
        if operator in ("=", "IN"):
            return {value for value in known if value in values}
        if operator in ("!=", "NOT IN"):
            return {value for value in known if value not in values}
        if operator == "IS NULL":
            return {None}
        return set(known) if operator == "IS NOT NULL" else None

    def filter(operator: str, values: list[Any]) -> Condition | None:
        wanted = chosen(operator, values)
        if wanted is None:
            return None
        inside = frozenset().union(*(them for value, them in stored.items() if value in wanted))
        outside = frozenset().union(*(them for value, them in stored.items() if value not in wanted))
        names = sorted(inside)
        return Condition(f"{column} IN ({_marks(names)})", tuple(names), not inside & outside)

    return filter


def is_invocation(column: str) -> Filter:
    """An invocation's printed id; `column` is the number of its row."""

    def filter(operator: str, values: list[Any]) -> Condition | None:
        if operator not in ("=", "IN"):
            return None
        keys: list[bytes] = []
        for value in values:
            try:
                raw = parse_invocation_id(value)
            except (Invalid, AttributeError):
                continue  # there is none with such an id
            keys.append(raw[8:] + raw[:8])
        if not keys:
            return _NOTHING
        sql = f"{column} IN (SELECT number FROM invocation_id WHERE id IN ({_marks(keys)}))"
        return Condition(sql, tuple(keys), True, narrow=True)

    return filter


def holds_text(column: str) -> Filter:
    """A text that is somewhere in the packed `column`, if it is what is asked for."""

    def filter(operator: str, values: list[Any]) -> Condition | None:
        if operator not in ("=", "IN") or len(values) > 20 or not all(isinstance(value, str) for value in values):
            return None
        tests = " OR ".join([f"instr({column}, ?) > 0"] * len(values))
        return Condition(f"({tests})", tuple(value.encode() for value in values), False)

    return filter


def holds_id(column: str) -> Filter:
    """The same for the raw bytes of an invocation's id."""

    def filter(operator: str, values: list[Any]) -> Condition | None:
        if operator != "=":
            return None
        try:
            raw = parse_invocation_id(values[0])
        except (Invalid, AttributeError):
            return _NOTHING
        return Condition(f"instr({column}, ?) > 0", (bytes(raw),), False)

    return filter


def is_target(operator: str, values: list[Any]) -> Condition | None:
    """`service/handler` or `service/key/handler`; only a key may have slashes."""
    value = values[0] if values else None
    if not isinstance(value, str) or len(values) != 1:
        return None
    if operator == "=":
        service, *_, handler = value.split("/") if "/" in value else ("", "")
        return Condition("(service = ? AND handler = ?)", (service, handler), False)
    if operator == "LIKE" and "\\" not in value:
        known = value.split("%")[0].split("_")[0]
        if "/" in known:
            return Condition("service = ?", (known.split("/")[0],), False)
    return None


# ---- expressions


def translate(expression: Any, filters: Mapping[str, Filter]) -> Condition | None:
    """A condition of DataFusion's for SQLite; None: everything has to be let through."""
    try:
        it = expression.to_variant()
    except Exception:  # one that the binding has no class for
        return None
    if isinstance(it, x.BinaryExpr):
        return _binary(it, filters)
    if isinstance(it, x.InList):
        values = [_value(each) for each in it.list()]
        if None in values or len(values) > MANY:
            return None
        return _of_column(it.expr(), "NOT IN" if it.negated() else "IN", values, filters)
    if isinstance(it, x.Like):
        value = _value(it.pattern())
        if value is None or it.negated() or it.escape_char() or " ILIKE " in expression.canonical_name():
            return None
        return _of_column(it.expr(), "LIKE", [value], filters)
    if isinstance(it, x.IsNull):
        return _of_column(it.expr(), "IS NULL", [], filters)
    if isinstance(it, x.IsNotNull):
        return _of_column(it.expr(), "IS NOT NULL", [], filters)
    return None


def _binary(it: Any, filters: Mapping[str, Filter]) -> Condition | None:
    operator = it.op()
    if operator == "AND":
        return both(translate(it.left(), filters), translate(it.right(), filters))
    if operator == "OR":
        return either(translate(it.left(), filters), translate(it.right(), filters))
    if operator not in _COMPARISONS:
        return None
    left, right = it.left(), it.right()
    value = _value(right)
    if value is None:
        left, right, operator = right, left, _FLIPPED[operator]
        value = _value(right)
    return None if value is None else _of_column(left, operator, [value], filters)


def _of_column(expression: Any, operator: str, values: list[Any], filters: Mapping[str, Filter]) -> Condition | None:
    try:
        it = expression.to_variant()
    except Exception:
        return None
    if not isinstance(it, x.Column):
        return None
    filter = filters.get(it.name())
    return None if filter is None else filter(operator, values)


def _value(expression: Any) -> Any:
    """A literal's value: text, a whole number, or ms since the epoch; None: it is no such literal."""
    try:
        if not isinstance(expression.to_variant(), x.Literal):
            return None
        scalar = expression.python_value()
    except Exception:
        return None
    if not isinstance(scalar, pa.Scalar):
        return scalar if type(scalar) in (int, str) else None
    if pa.types.is_timestamp(scalar.type):
        return scalar.value if scalar.type.unit == "ms" else None
    value = scalar.as_py()
    return value if type(value) in (int, str) else None
