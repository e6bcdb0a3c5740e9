"""Durations as people write them in URLs: ISO-8601 (`PT1H30M`) and friendly (`1h 30m`, `90s`, `60+sec`)."""

import re
from typing import Final

from perdure.errors import Invalid

__all__ = ["format_duration", "parse_duration_ms"]

_MS: Final = {
    **dict.fromkeys(("w", "week", "weeks"), 604_800_000.0),
    **dict.fromkeys(("d", "day", "days"), 86_400_000.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3_600_000.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60_000.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1000.0),
    **dict.fromkeys(("ms", "msec", "msecs", "milli", "millis", "millisecond", "milliseconds"), 1.0),
    **dict.fromkeys(("us", "µs", "μs", "usec", "usecs", "micro", "micros", "microsecond", "microseconds"), 1e-3),
    **dict.fromkeys(("ns", "nsec", "nsecs", "nano", "nanos", "nanosecond", "nanoseconds"), 1e-6),
}
_UNEVEN: Final = frozenset({"y", "yr", "yrs", "year", "years", "mo", "mos", "month", "months"})
_NUMBER: Final = r"(\d+(?:[.,]\d+)?)"
_ISO: Final = re.compile(
    rf"P(?:{_NUMBER}Y)?(?:{_NUMBER}M)?(?:{_NUMBER}W)?(?:{_NUMBER}D)?"
    rf"(T(?=\d)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?",
    re.IGNORECASE,
)
_PART: Final = re.compile(rf"{_NUMBER}\s*([a-zµμ]+)(?:\s*,\s*|\s*)", re.IGNORECASE)
_LONGEST_MS: Final = 100 * 365 * 86_400_000  # a century: whoever asks for more has mistaken the unit


def parse_duration_ms(text: str) -> int:
    """Milliseconds, rounded up. Raises `Invalid` that shows what would have been understood."""
    text = text.strip()
    total = _iso(text) if text[:1] in ("P", "p") else _friendly(text)
    if total > _LONGEST_MS:
        raise Invalid(f"duration {text!r}: more than a hundred years")
    return int(total) + (total != int(total))


def format_duration(ms: int) -> str:
    """`1d`, `1h 30m`, `500ms`: as `parse_duration_ms` reads it."""
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"


def _iso(text: str) -> float:
    found = _ISO.fullmatch(text)
    if found is None or len(text) < 3:
        raise _unreadable(text)
    years, months, weeks, days, _, hours, minutes, seconds = found.groups()
    if years or months:
        raise _uneven(text)
    parts = ((weeks, "w"), (days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return sum(_number(count) * _MS[unit] for count, unit in parts if count)


def _friendly(text: str) -> float:
    total, position = 0.0, 0
    while position < len(text):
        found = _PART.match(text, position)
        if found is None:
            raise _unreadable(text)
        count, unit = found.group(1), found.group(2)
        factor = _MS.get(unit) or _MS.get(unit.lower())
        if factor is None:
            raise _uneven(text) if unit.lower() in _UNEVEN else _unreadable(text)
        total += _number(count) * factor
        position = found.end()
    if not position:
        raise _unreadable(text)
    return total


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def _unreadable(text: str) -> Invalid:
    return Invalid(f"duration {text!r} cannot be read: write ISO-8601 (PT1H30M) or units (1h 30m, 10s, 500ms)")


def _uneven(text: str) -> Invalid:
    return Invalid(f"duration {text!r}: years and months differ in length; write days")
