"""Rows as bytes: JSON as restate-server writes it, or an Arrow IPC stream.

In JSON nulls are left out, times are RFC 3339 with as many digits as they need, durations ISO 8601, binary is hex.
"""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pyarrow as pa

from perdure.sql.session import Result

__all__ = ["arrow_stream", "json_rows"]

_FLUSH: Final = 256 << 10
_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DIGITS: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_EPOCH: Final = datetime(1970, 1, 1)

Render = Callable[[Any], Any]


class _Sink:
    """Where pyarrow writes to; what was written is taken away bit by bit."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data


def arrow_stream(result: Result) -> Iterator[bytes]:
    """An Arrow IPC stream, batch by batch."""
    sink = _Sink()
    batches = iter(result.batches)
    first = next(batches, None)  # an error before it is still an answer
    schema = result.schema if first is None else first.schema
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema) as writer:
        while first is not None:
            writer.write_batch(first)
            yield sink.take()
            first = next(batches, None)
    yield sink.take()


def json_rows(result: Result) -> Iterator[bytes]:
    """`{"rows":[...]}`, some rows at a time."""
    encode = msgspec.json.encode
    pending = [b'{"rows":[']
    size, comma = 0, False
    for batch in result.batches:
        names = batch.schema.names
        columns = [_column(column) for column in batch.columns]
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            row = encode({name: value for name, value in zip(names, values, strict=True) if value is not None})
            pending.append(b"," + row if comma else row)
            comma = True
            size += len(row)
            if size >= _FLUSH:
                yield b"".join(pending)
                pending, size = [], 0
    pending.append(b"]}")
    yield b"".join(pending)


def _column(array: Any) -> list[Any]:
    render = _render(array.type)
    if pa.types.is_temporal(array.type) and not pa.types.is_interval(array.type):
        values = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64()).to_pylist()
    elif pa.types.is_nested(array.type):
        return [render(value) if value.is_valid else None for value in array]
    else:
        values = array.to_pylist()
    return values if render is None else [None if value is None else render(value) for value in values]


def _render(type: Any) -> Any:
    """What makes JSON of a value of this type; None: it is as it is."""
    types = pa.types
    if types.is_timestamp(type):
        return _timestamp(type)
    if types.is_duration(type):
        return _duration(type.unit)
    if types.is_date32(type):
        return lambda days: (_EPOCH + timedelta(days=days)).date().isoformat()
    if types.is_date64(type):
        return lambda ms: (_EPOCH + timedelta(milliseconds=ms)).isoformat()
    if types.is_time(type):
        return _time(type.unit)
    if types.is_interval(type):
        return _interval
    if types.is_floating(type):
        return _float32 if type.bit_width == 32 else _float
    if types.is_decimal(type):
        return lambda value: msgspec.Raw(str(value).encode())
    if types.is_dictionary(type):
        return _render(type.value_type)
    if _is_binary(type):
        return bytes.hex
    if types.is_struct(type):
        return _as_struct
    if types.is_map(type):
        return _as_map
    if types.is_nested(type):
        return _as_list
    return None


def _is_binary(type: Any) -> bool:
    types = pa.types
    return bool(
        types.is_binary(type)
        or types.is_large_binary(type)
        or types.is_fixed_size_binary(type)
        or types.is_binary_view(type)
    )


# Nested values: scalars, each of which knows its type


def _scalar(scalar: Any) -> Any:
    if not scalar.is_valid:
        return None
    return _column(pa.array([scalar], scalar.type))[0]


def _as_list(scalar: Any) -> list[Any]:
    return _column(scalar.values)


def _as_struct(scalar: Any) -> dict[str, Any]:
    found = {name: _scalar(scalar[name]) for name in scalar}
    return {name: value for name, value in found.items() if value is not None}


def _as_map(scalar: Any) -> dict[str, Any]:
    entries = scalar.values
    keys, values = _column(entries.field(0)), _column(entries.field(1))
    return {str(key): value for key, value in zip(keys, values, strict=True) if value is not None}


# Times


def _fraction(part: int, digits: int) -> str:
    """In threes, as many as say everything; none if it is zero."""
    if not part:
        return ""
    text = f"{part:0{digits}d}"
    while text.endswith("000"):
        text = text[:-3]
    return f".{text}"


def _timestamp(type: Any) -> Render:
    unit, zone = type.unit, type.tz
    per_second, digits = _PER_SECOND[unit], _DIGITS[unit]
    utc = zone in ("UTC", "+00:00", "Z")

    def render(value: int) -> str:
        seconds, part = divmod(value, per_second)
        if zone is None or utc:
            moment = _EPOCH + timedelta(seconds=seconds)
            return f"{moment.isoformat()}{_fraction(part, digits)}{'Z' if utc else ''}"
        local = datetime.fromtimestamp(seconds, UTC).astimezone(_zone(zone))
        text = local.isoformat()
        return f"{text[:19]}{_fraction(part, digits)}{text[19:]}"

    return render


def _zone(name: str) -> Any:
    if name[:1] in "+-":
        hours, minutes = int(name[1:3]), int(name.replace(":", "")[3:5] or 0)
        offset = timedelta(hours=hours, minutes=minutes)
        return timezone(-offset if name[0] == "-" else offset)
    import zoneinfo

    return zoneinfo.ZoneInfo(name)


def _time(unit: str) -> Render:
    def render(value: int) -> str:
        seconds, part = divmod(value, _PER_SECOND[unit])
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return clock + _fraction(part, _DIGITS[unit])

    return render


def _duration(unit: str) -> Render:
    def render(value: int) -> str:
        if value == 0:
            return "P0D"
        seconds, part = divmod(abs(value), _PER_SECOND[unit])
        fraction = f".{part:0{_DIGITS[unit]}d}".rstrip("0") if part else ""
        return f"{'-' if value < 0 else ''}PT{seconds}{fraction}S"

    return render


def _interval(value: Any) -> str:
    """`12 mons 3 days 4.500000000 secs`"""
    months, days, nanoseconds = value
    parts = []
    if months:
        parts.append(f"{months} mons")
    if days:
        parts.append(f"{days} days")
    if nanoseconds:
        sign = "-" if nanoseconds < 0 else ""
        seconds, part = divmod(abs(nanoseconds), 1_000_000_000)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        parts += [f"{sign}{number} {word}" for number, word in ((hours, "hours"), (minutes, "mins")) if number]
        if seconds % 60 or part:
            parts.append(f"{sign}{seconds % 60}.{part:09} secs")
    return " ".join(parts)


# Numbers


def _float(value: float) -> Any:
    """What is no number in JSON is null, spelled out."""
    if not math.isfinite(value):
        return msgspec.Raw(b"null")
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent)}"
    return msgspec.Raw(text.encode())


def _float32(value: float) -> Any:
    if not math.isfinite(value):
        return msgspec.Raw(b"null")
    for digits in range(6, 10):
        short = f"{value:.{digits}g}"
        if pa.scalar(float(short), pa.float32()).as_py() == value:
            return _float(float(short))
    return _float(value)
