"""An invocation and where it stands. Times are ms since the epoch."""

import enum
from typing import TypeAlias

import msgspec

from perdure.model.entries import Failure, Value
from perdure.model.services import HandlerKind
from perdure.model.tracing import Trace

__all__ = [
    "AttemptFailure",
    "Combinator",
    "Completed",
    "Inboxed",
    "Invocation",
    "Invoked",
    "Origin",
    "Paused",
    "Promise",
    "Retention",
    "Scheduled",
    "Status",
    "Suspended",
    "Target",
    "Waiter",
    "Waiting",
]


class Target(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    service: str
    handler: str
    kind: HandlerKind
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.service}/{self.handler}" if self.key is None else f"{self.service}/{self.key}/{self.handler}"


class Retention(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How long a finished invocation's result and its journal are kept, in ms. 0 keeps nothing."""

    completion_ms: int = 0
    journal_ms: int = 0


class Waiter(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A command in another journal that the result completes; `type` is the notification's number.

    `number` tells the invocation from a later one with the same id: ids that are made of keys come back once the
    first is forgotten.
    """

    invocation: bytes
    completion_id: int
    type: int
    number: int = 0


class Combinator(enum.IntEnum):
    """When a node of what is waited for is done. UNKNOWN: with its first child, and which one counts can't be told."""

    UNKNOWN = 0
    FIRST_COMPLETED = 1
    ALL_COMPLETED = 2
    FIRST_SUCCEEDED_OR_ALL_FAILED = 3
    ALL_SUCCEEDED_OR_FIRST_FAILED = 4


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a suspended handler waits for: completions by id, signals by number or name, and combinations of them."""

    completions: tuple[int, ...] = ()
    signals: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    nested: "tuple[Waiting, ...]" = ()
    combinator: Combinator = Combinator.UNKNOWN

    @property
    def flat(self) -> bool:
        """Whether the first of its leaves is all it waits for."""
        return not self.nested and self.combinator <= Combinator.FIRST_COMPLETED


class AttemptFailure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt failed; kept for whoever looks, and given to nobody's code."""

    message: str
    code: int = 500
    at: int = 0
    stacktrace: str = ""
    command_index: int | None = None
    command_name: str | None = None
    command_type: int | None = None
    restate_code: str | None = None


class Scheduled(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, tag_field="_"):
    """Begins at a later time."""

    at: int


class Inboxed(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, tag_field="_"):
    """Waits for its object's lock, at place `position` of the object's inbox."""

    position: int


class Invoked(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, tag_field="_"):
    """Runs, or waits until `retry_at` to run again after `failures` failed attempts that its policy counts.

    `fruitless` counts all attempts since the journal last grew: what a handler elsewhere bases its steps' policies on.
    `seen` is how many notifications an earlier attempt is known to have been given, and to have come to rest after.
    """

    failures: int = 0
    retry_at: int | None = None
    failure: AttemptFailure | None = None
    step_attempts: dict[int, int] = {}
    fruitless: int = 0
    seen: int | None = None


class Suspended(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, tag_field="_"):
    """Nothing of it is in memory until what it waits for has come.

    `seen` says how many notifications had been given to it (None: nobody counted). Where it waits for a combination,
    later ones count.
    """

    since: int
    waiting: Waiting
    seen: int | None = None


class Paused(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, tag_field="_"):
    """Runs no more until somebody resumes it, or cancels it."""

    since: int
    failure: AttemptFailure | None = None


class Completed(msgspec.Struct, frozen=True, omit_defaults=True, tag=True, tag_field="_"):
    at: int
    result: Value | Failure


Status: TypeAlias = Scheduled | Inboxed | Invoked | Suspended | Paused | Completed


class Origin(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Whose journal a restarted one begins with: written with the dice of `id` and the clock since `started_at`.

    `kept` is how many commands of it were kept: what they say of ids, of the invocation and its awakeables, is about
    another invocation than this.
    """

    id: bytes
    started_at: int
    kept: int = 0


class Invocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row. `number` orders a partition's invocations by age and is the key of everything that belongs to one.

    `attempts` counts attempts; it is also the fence: what an attempt reports is dropped when a later one exists.
    `deployment` and `protocol_version` are those it is pinned to, from the moment it has more than its input.
    `execute_at` is when it was to begin, if that was later than it came; `inboxed_at` is when it had to wait for its
    object's lock. `trace` is its place in a trace, if tracing was on when it was accepted. `streams`: it has rows of
    streams.
    """

    number: int
    id: bytes
    target: Target
    status: Status
    created_at: int
    started_at: int | None = None
    attempts: int = 0
    idempotency_key: str | None = None
    retention: Retention = Retention()
    caller: bytes | None = None
    waiters: tuple[Waiter, ...] = ()
    restarted_from: bytes | None = None
    resumed_at: int | None = None
    origin: Origin | None = None
    deployment: str | None = None
    protocol_version: int = 0
    execute_at: int | None = None
    inboxed_at: int | None = None
    trace: Trace | None = None
    streams: bool = False

    @property
    def replays(self) -> Origin:
        """Whose dice and clock its handler is given: its own, unless it goes on with another one's journal."""
        return self.origin or Origin(self.id, self.started_at or 0)


class Promise(msgspec.Struct, frozen=True, omit_defaults=True):
    """A workflow's durable promise: its result, or who waits for one."""

    result: Value | Failure | None = None
    waiters: tuple[Waiter, ...] = ()
