"""The messages of one attempt that are no journal entries. Times are ms since the epoch, delays ms."""

from typing import TypeAlias

import msgspec

from perdure.model.entries import Command, Entry, Failure, Value
from perdure.model.invocation import AttemptFailure, Target, Waiting
from perdure.model.services import RetryPolicy
from perdure.model.streams import Chunk, StreamHead

__all__ = [
    "AwaitingOn",
    "End",
    "Error",
    "FromHandler",
    "HandlerWrite",
    "ProposeRun",
    "ProposeStreamed",
    "Said",
    "Start",
    "StepFailed",
    "StepVoid",
    "StepWrite",
    "Suspension",
    "ToStreams",
]


class Start(msgspec.Struct, frozen=True):
    """The first message to a handler: who it is, and all that has happened so far.

    `state` is the whole state of the handler's object, or None if it has none or it is to be read key by key.
    `failures` counts failed attempts since the journal last grew, `step_attempts` failed tries by completion id.
    `started_at` is 0 where the journal has no clock: on the wire. There, `since_progress_ms` says how long ago the
    journal last grew. `seen` is how many notifications an earlier attempt is known to have been given, and to have come
    to rest after (None: not known). `trace` and `trace_state` are the context (W3C) that all it does belongs to; "": it
    is not traced. `streams` are those in which something is stored, by name. `kept` commands were journaled for another
    invocation, of which this one is a restart; 0 on the wire.
    """

    id: bytes
    target: Target
    entries: tuple[Entry, ...]
    state: dict[str, bytes] | None
    random_seed: int
    attempt: int
    failures: int
    started_at: int
    step_attempts: dict[int, int]
    retry_policy: RetryPolicy
    since_progress_ms: int = 0
    seen: int | None = None
    trace: str = ""
    trace_state: str = ""
    streams: dict[str, StreamHead] = {}
    kept: int = 0


class ProposeRun(msgspec.Struct, frozen=True, gc=False):
    """A step's result; it counts once its completion comes back."""

    completion_id: int
    result: Value | Failure


class StepWrite(msgspec.Struct, frozen=True, gc=False):
    """A step writes to a stream. Not on the wire, as the next three are not: the protocol has no message for it."""

    name: str
    completion_id: int
    chunks: tuple[Chunk, ...]


class StepVoid(msgspec.Struct, frozen=True, gc=False):
    """A try of a step is over without a result: what it wrote is void."""

    completion_id: int


class ProposeStreamed(msgspec.Struct, frozen=True, gc=False):
    """As `ProposeRun`, of a step that has written to streams: what it wrote is stored with its result."""

    completion_id: int
    result: Value | Failure


class HandlerWrite(msgspec.Struct, frozen=True, gc=False):
    """The handler's own code writes to a stream for the `ordinal`-th time (from 0), or (None) closes it."""

    name: str
    ordinal: int
    chunk: Chunk | None


class AwaitingOn(msgspec.Struct, frozen=True):
    """Nothing can go on here before one of these has come, and no step is running. A hint."""

    waiting: Waiting


class StepFailed(msgspec.Struct, frozen=True):
    """A step failed and is tried again in this attempt. For whoever looks."""

    failure: AttemptFailure
    step_attempts: dict[int, int]


class Suspension(msgspec.Struct, frozen=True):
    """Last message: the handler was dropped until this has come; `seen` notifications had been given to it."""

    waiting: Waiting
    seen: int | None = None


class Error(msgspec.Struct, frozen=True):
    """Last message: the attempt failed, the invocation did not. `behavior` is "retry", "pause" or "fail"."""

    failure: AttemptFailure
    delay_ms: int | None = None
    behavior: str = "retry"
    step_attempts: dict[int, int] = {}


class End(msgspec.Struct, frozen=True):
    """Last message: the handler is done, its `Output` came before."""


FromHandler: TypeAlias = Command | ProposeRun | AwaitingOn | StepFailed | Suspension | Error | End
ToStreams: TypeAlias = StepWrite | StepVoid | ProposeStreamed | HandlerWrite
Said: TypeAlias = FromHandler | ToStreams
"""What a handler in the engine's process may say."""
