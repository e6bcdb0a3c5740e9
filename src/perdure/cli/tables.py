"""Tables, times and durations as the operator's commands print them: plain text, the same in a pipe."""

import asyncio
import contextlib
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import typer

from perdure.cli.asking import one_line

__all__ = ["ago", "columns_of", "in_words", "moment", "parse_time", "show_table", "shown_bytes", "until"]

WIDEST = 100


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, err: bool = False) -> None:
    """Columns under their names. Longer texts are cut on a terminal only."""
    lines = [list(columns), *([_cell(value) for value in row] for row in rows)]
    if sys.stdout.isatty() or err:
        lines = [[cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 3]}..." for cell in line] for line in lines]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo(text.rstrip(), err=err)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return one_line(value)
    return msgspec.json.encode(value).decode()


def columns_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """All names there are in rows that leave out nulls, in an order that suits each of them."""
    names: list[str] = []
    for row in rows:
        place = 0
        for name in row:
            if name in names:
                place = names.index(name) + 1
            else:
                names.insert(place, name)
                place += 1
    return names


def parse_time(text: str) -> datetime:
    """RFC 3339, of which the microseconds are kept."""
    whole, dot, rest = text.partition(".")
    digits = rest.rstrip("Z")[:6]
    return datetime.fromisoformat(f"{whole.rstrip('Z')}{dot}{digits.ljust(6, '0') if dot else ''}").replace(tzinfo=UTC)


def moment(at: str | int | None) -> str:
    """A time, RFC 3339 or ms since the epoch, to the second, in UTC."""
    if at is None:
        return ""
    when = parse_time(at) if isinstance(at, str) else datetime.fromtimestamp(at / 1000, UTC)
    return when.strftime("%Y-%m-%d %H:%M:%SZ")


def _seconds_from_now(at: str | int) -> float:
    from perdure.runtime.clock import SystemClock

    at_ms = parse_time(at).timestamp() * 1000 if isinstance(at, str) else at
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        return (at_ms - SystemClock(loop).now_ms()) / 1000


def ago(at: str | int) -> str:
    """`2026-01-02 03:04:05Z (5m ago)`."""
    return f"{moment(at)} ({in_words(-_seconds_from_now(at))} ago)"


def until(at: str | int) -> str:
    """`2026-01-02 03:04:05Z (in 5m)`."""
    left = _seconds_from_now(at)
    return f"{moment(at)} ({f'in {in_words(left)}' if left > 0 else 'now'})"


def in_words(seconds: float) -> str:
    """The two largest units of a duration."""
    left, parts = max(0, int(seconds)), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def shown_bytes(content: bytes, longest: int = 60) -> str:
    """A value as text, cut; what is no text by its length."""
    try:
        text = one_line(content.decode())
    except UnicodeDecodeError:
        return f"{len(content)} bytes"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
