"""What is said about sessions: the messages of the built-in object `PerdureSessions/{id}`, as JSON."""

from typing import Final, Literal, TypeAlias

import msgspec

__all__ = ["SESSIONS", "VERBS", "Add", "At", "Page", "Replace", "Verb", "Window"]

SESSIONS: Final = "PerdureSessions"
Verb: TypeAlias = Literal["items", "add", "pop", "clear", "replace"]
VERBS: Final[tuple[Verb, ...]] = ("items", "add", "pop", "clear", "replace")


class Window(msgspec.Struct, omit_defaults=True):
    """Which items: the newest `limit` of them, as many as `tokens` allow, always with the oldest `keep_first`."""

    limit: int | None = None
    tokens: int | None = None
    keep_first: int = 0


class Page(msgspec.Struct, omit_defaults=True):
    """Items in order. `first` is the number of the first of the newest ones; `end` is the next item's number."""

    items: list[msgspec.Raw]
    first: int
    end: int
    revision: int
    """Changes whenever items other than at the end do."""
    ttl: float | None = None


class Add(msgspec.Struct, omit_defaults=True):
    """Items to append. `ttl` (seconds) is kept for the session from then on; 0: without end. With `to_empty` only to a
    session that has no items."""

    items: list[msgspec.Raw]
    ttl: float | None = None
    to_empty: bool = False


class At(msgspec.Struct):
    """How many items there are."""

    end: int


class Replace(msgspec.Struct):
    """The items before number `upto` become these, if the session is still of that revision."""

    upto: int
    items: list[msgspec.Raw]
    revision: int
