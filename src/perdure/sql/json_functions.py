"""JSON in SQL: `text -> 'key'`, `text ->> 'key'`, and the functions that they stand for.

DataFusion parses the two operators but has nothing to do for them, so they are written as calls before it sees them.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pyarrow as pa
from datafusion import SessionContext, udf

__all__ = ["register", "without_operators"]

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^']|'')*')
    |(?P<name>"(?:[^"]|"")*"|[^\W\d]\w*)
    |(?P<number>\d+)
    |(?P<operator>->>|->)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CALLS: Final = {"->": "json_get", "->>": "json_as_text"}
_MISSING: Final = object()


def without_operators(sql: str) -> str:
    """The same query with `->` and `->>` written as calls; what has none, or none that can be read, is as it was."""
    if "->" not in sql:
        return sql
    tokens = [(str(found.lastgroup), found.group()) for found in _TOKEN.finditer(sql)]
    done: list[tuple[str, str]] = []
    rest = iter(tokens)
    for kind, text in rest:
        if kind != "operator":
            done.append((kind, text))
            continue
        left = _operand(done)
        right = next((token for token in rest if token[0] != "space"), ("", ""))
        if not left or right[0] not in ("text", "number", "name"):
            return sql
        key = f"'{right[1]}'" if right[0] == "number" else right[1]
        done.append(("call", f"{_CALLS[text]}({left}, {key})"))
    return "".join(text for _, text in done)


def _operand(tokens: list[tuple[str, str]]) -> str:
    """Takes the last operand off: a name, a text, a call, or what is in parentheses."""
    while tokens and tokens[-1][0] == "space":
        tokens.pop()
    taken: list[str] = []
    if tokens and tokens[-1][1] == ")":
        depth = 0
        while tokens:
            taken.append(tokens.pop()[1])
            depth += {")": 1, "(": -1}.get(taken[-1], 0)
            if depth == 0:
                break
        if tokens and tokens[-1][0] == "name" and tokens[-1][1].lower() not in ("and", "or", "not", "where", "select"):
            taken.append(tokens.pop()[1])
    elif tokens and tokens[-1][0] in ("name", "text", "call"):
        taken.append(tokens.pop()[1])
        while len(tokens) > 1 and tokens[-1][1] == "." and tokens[-2][0] == "name":
            taken += [tokens.pop()[1], tokens.pop()[1]]
    return "".join(reversed(taken))


# ---- functions


def _at(text: str | None, key: str | None) -> Any:
    if text is None or key is None:
        return _MISSING
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return _MISSING
    if isinstance(value, dict):
        return value.get(key, _MISSING)
    if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
        return value[int(key)]
    return _MISSING


def _json(value: Any) -> str | None:
    return None if value is _MISSING else msgspec.json.encode(value).decode()


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None if value is None else _json(value)


def _of_type(*types: type) -> Callable[[Any], Any]:
    return lambda value: value if type(value) in types else None


_FUNCTIONS: Final[dict[str, tuple[Callable[[Any], Any], pa.DataType]]] = {
    "json_get": (_json, pa.large_string()),
    "json_get_json": (_json, pa.large_string()),
    "json_as_text": (_as_text, pa.large_string()),
    "json_get_str": (_of_type(str), pa.large_string()),
    "json_get_int": (_of_type(int), pa.int64()),
    "json_get_float": (_of_type(float, int), pa.float64()),
    "json_get_bool": (_of_type(bool), pa.bool_()),
    "json_contains": (lambda value: value is not _MISSING, pa.bool_()),
}


def register(context: SessionContext) -> None:
    """Make the functions known."""
    for name, (make, type) in _FUNCTIONS.items():
        context.register_udf(udf(_over(make, type), [pa.large_string(), pa.string()], type, "immutable", name))


def _over(make: Callable[[Any], Any], type: pa.DataType) -> Callable[[pa.Array, pa.Array], pa.Array]:
    def compute(texts: pa.Array, keys: pa.Array) -> pa.Array:
        return pa.array(
            [make(_at(text, key)) for text, key in zip(texts.to_pylist(), keys.to_pylist(), strict=True)], type
        )

    return compute
