"""The only door to a partition's data.

A table maps keys (tuples, ordered) to values. `Table.group` says how many leading fields of the key name the
group a row belongs to: scans and drops are always of one group, so a store can keep a group together and the
rows not yet on disk can be found without looking at all of them.

Everything here is synchronous. A read sees every write made before it, on disk or not yet.
"""

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from perdure.model.commands import Message
from perdure.model.deployments import Deployment
from perdure.model.entries import Entry
from perdure.model.invocation import Invocation, Promise, Status
from perdure.model.keys import ApiKey
from perdure.model.streams import StreamHead, StreamPart

__all__ = [
    "ACTIVE",
    "API_KEY",
    "DEPLOYMENT",
    "INBOX",
    "INVOCATION",
    "INVOCATION_ID",
    "JOURNAL",
    "LOCK",
    "META",
    "OUTBOX",
    "PROMISE",
    "STATE",
    "STREAM",
    "STREAM_PART",
    "TABLES",
    "TIMER",
    "InboxItem",
    "InvocationItem",
    "Key",
    "Lock",
    "StateChange",
    "Table",
    "Tables",
    "TimerKind",
]

Key: TypeAlias = tuple[Any, ...]
V = TypeVar("V")


class Table(Generic[V]):
    """The name of a table, its key's fields, and how many of these name the group."""

    __slots__ = ("fields", "group", "name")

    def __init__(self, name: str, fields: tuple[str, ...], group: int) -> None:
        self.name = name
        self.fields = fields
        self.group = group

    def __repr__(self) -> str:
        return self.name


class StateChange(msgspec.Struct, frozen=True, tag=True, tag_field="_"):
    """A change of an object's state that waits in the object's inbox for its turn.

    It is dropped if the state is not of `version` then; None: whatever it is.
    """

    changes: dict[str, bytes | None]
    replace: bool = False
    version: str | None = None


class Lock(msgspec.Struct, frozen=True):
    """Who holds an object, and how many wait in its inbox."""

    holder: int
    queued: int = 0


class InvocationItem(msgspec.Struct, frozen=True, tag=True, tag_field="_"):
    """An invocation that waits in the object's inbox."""

    number: int


InboxItem: TypeAlias = InvocationItem | StateChange


class TimerKind:
    """What happens when a timer is due; the third field of its key."""

    BEGIN = 0  # a scheduled invocation begins
    SLEEP = 1  # completion `id` of the invocation's journal is done
    RETRY = 2  # attempt `id` is made
    EXPIRE_JOURNAL = 3
    EXPIRE = 4  # the completed invocation is forgotten


INVOCATION: Table[Invocation] = Table("invocation", ("number",), 1)
INVOCATION_ID: Table[int] = Table("invocation_id", ("id",), 1)  # the id's 16 unique bytes first: ULIDs arrive in order
JOURNAL: Table[tuple[int, Entry]] = Table("journal", ("number", "index"), 1)  # (appended at, entry)
STATE: Table[bytes] = Table("state", ("service", "key", "name"), 2)
LOCK: Table[Lock] = Table("lock", ("service", "key"), 2)
INBOX: Table[InboxItem] = Table("inbox", ("service", "key", "position"), 2)
PROMISE: Table[Promise] = Table("promise", ("service", "key", "name"), 2)
TIMER: Table[bool] = Table("timer", ("due", "number", "kind", "id"), 0)
OUTBOX: Table[Message] = Table("outbox", ("destination", "position"), 1)
ACTIVE: Table[bool] = Table("active", ("number",), 0)  # the invocations to start again after a crash
META: Table[int] = Table("meta", ("name",), 1)  # counters: next number, next position, sent and received per partition
DEPLOYMENT: Table[Deployment] = Table("deployment", ("id",), 0)  # in partition 0 only
API_KEY: Table[ApiKey] = Table("api_key", ("id",), 0)  # in partition 0 only
STREAM: Table[StreamHead] = Table("stream", ("number", "name"), 1)
STREAM_PART: Table[StreamPart] = Table("stream_part", ("number", "name", "part"), 2)

TABLES: tuple[Table[Any], ...] = (
    INVOCATION,
    INVOCATION_ID,
    JOURNAL,
    STATE,
    LOCK,
    INBOX,
    PROMISE,
    TIMER,
    OUTBOX,
    ACTIVE,
    META,
    DEPLOYMENT,
    API_KEY,
    STREAM,
    STREAM_PART,
)


class Tables(Protocol):
    """What the core reads and writes. Nothing it writes is seen by anyone else before the batch is on disk.

    `index` says which of `partitions` partitions these tables are. `statuses` and `completed` are for whoever counts,
    and are not stored: the core writes to them and reads neither.
    """

    @property
    def statuses(self) -> dict[type[Status], int]:
        """By how much the number of invocations of each status has changed."""
        ...

    @property
    def completed(self) -> list[Invocation]:
        """The invocations that this batch completes."""
        ...

    @property
    def index(self) -> int: ...

    @property
    def partitions(self) -> int: ...

    def get(self, table: Table[V], key: Key) -> V | None:
        """The row's value, or None."""
        ...

    def put(self, table: Table[V], key: Key, value: V) -> None: ...

    def delete(self, table: Table[V], key: Key) -> None:
        """Delete one row; deleting what is not there is nothing."""
        ...

    def drop(self, table: Table[V], group: Key) -> None:
        """Delete every row of a group."""
        ...

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        """The rows of a group in key order; at most `limit` of them. The rows may be changed meanwhile."""
        ...

    def append(self, number: int, at: int, entry: Entry) -> int:
        """Append to the journal of an invocation; returns the entry's index."""
        ...

    def journal(self, number: int) -> list[tuple[int, Entry]]:
        """The whole journal of an invocation: (appended at, entry)."""
        ...

    def count(self, name: str) -> int:
        """Raise the counter `name` of META by one; returns the new value (the first is 1)."""
        ...
