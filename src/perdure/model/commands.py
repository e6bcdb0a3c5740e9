"""Everything that can happen to a partition.

Time (`at`, ms since the epoch), fresh ids and chance are stamped by whoever creates the command, always in
`runtime`: the core asks nobody. `token` names the future of whoever asked; it means nothing after a crash.

What an attempt reports carries the invocation's `number` and the `attempt` it comes from; the core drops it
when the invocation has moved on.
"""

from typing import TypeAlias

import msgspec

from perdure.model.deployments import Deployment
from perdure.model.entries import Call, Command, Failure, Input, OneWayCall, Signal, Value
from perdure.model.invocation import AttemptFailure, Retention, Target, Waiter, Waiting
from perdure.model.keys import ApiKey
from perdure.model.services import RetryPolicy
from perdure.model.streams import StreamPart
from perdure.model.tracing import Trace

__all__ = [
    "Append",
    "AppendCall",
    "Attach",
    "Cancel",
    "ChangeState",
    "CreateKey",
    "Deliver",
    "Delivered",
    "Describe",
    "End",
    "Fail",
    "Invoke",
    "Kill",
    "Load",
    "Message",
    "Note",
    "PartitionCommand",
    "Pause",
    "Pin",
    "Propose",
    "Purge",
    "PutDeployment",
    "ReadState",
    "ReadStream",
    "Recover",
    "RemoveDeployment",
    "Restart",
    "Resume",
    "RevokeKey",
    "SendSignalTo",
    "Suspend",
    "Tick",
    "WriteStream",
]


class _Struct(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag=True, tag_field="_"):
    pass


class Invoke(_Struct, frozen=True):
    """A new invocation; or, when its id is known already, a repetition that is told of the first.

    `token` is answered at once with `Accepted` when `wait` is false; otherwise only if the answer is known already
    (a duplicate), for the result of a new one is announced by `Finished`. `waiter` is the calling journal's entry.
    """

    at: int
    id: bytes
    target: Target
    input: Input
    retention: Retention
    execute_at: int | None = None
    idempotency_key: str | None = None
    caller: bytes | None = None
    waiter: Waiter | None = None
    token: int | None = None
    wait: bool = False
    trace: Trace | None = None


class Append(_Struct, frozen=True):
    """The handler issued a command that reaches no other invocation."""

    at: int
    number: int
    attempt: int
    entry: Command


class AppendCall(_Struct, frozen=True):
    """The handler called: the entry, and the invocation that it makes, addressed and named by the runtime."""

    at: int
    number: int
    attempt: int
    entry: Call | OneWayCall
    callee: Invoke


class Propose(_Struct, frozen=True):
    """A step has a result, and maybe has written to streams."""

    at: int
    number: int
    attempt: int
    completion_id: int
    result: Value | Failure
    parts: tuple[StreamPart, ...] = ()


class WriteStream(_Struct, frozen=True):
    """The handler's own code wrote to a stream, for the `ordinal`-th time (from 0), or `closes` it.

    `source` names the write to whoever waits for it to be stored.
    """

    at: int
    number: int
    attempt: int
    part: StreamPart
    ordinal: int
    source: int
    closes: bool = False


class Pin(_Struct, frozen=True):
    """The attempt runs on this deployment, in this version of the protocol, and is about to write to the journal."""

    at: int
    number: int
    attempt: int
    deployment: str
    version: int


class Suspend(_Struct, frozen=True):
    """The handler waits and was dropped. `seen` is how many notifications it was given; None if nobody counted."""

    at: int
    number: int
    attempt: int
    waiting: Waiting
    seen: int | None = None


class End(_Struct, frozen=True):
    """The handler is done; `result` is that of its last `Output` entry."""

    at: int
    number: int
    attempt: int
    result: Value | Failure


class Fail(_Struct, frozen=True):
    """The attempt failed, the invocation did not: it is tried again under `policy`, with `chance` in [0, 1).

    `delay_ms`, where given, takes the place of the policy's delay and uses up none of its attempts. `behavior` is
    "retry", "pause" or "fail". `step_attempts` counts the failed tries of each step still without a result.
    """

    at: int
    number: int
    attempt: int
    failure: AttemptFailure
    policy: RetryPolicy
    chance: float
    delay_ms: int | None = None
    behavior: str = "retry"
    step_attempts: dict[int, int] = {}


class Note(_Struct, frozen=True):
    """A step failed and will be tried again without ending the attempt; remembered for whoever looks."""

    at: int
    number: int
    attempt: int
    failure: AttemptFailure
    step_attempts: dict[int, int]


class Load(_Struct, frozen=True):
    """The runtime has room for an attempt whose `StartAttempt` came without a journal."""

    at: int
    number: int
    attempt: int


class Tick(_Struct, frozen=True):
    """Timers may be due."""

    at: int


class Recover(_Struct, frozen=True):
    """The process starts over; the first command of its life."""

    at: int


class SendSignalTo(_Struct, frozen=True):
    """A signal from outside any handler: an awakeable completed, a named signal."""

    at: int
    target: bytes
    signal: Signal
    token: int | None = None


class Cancel(_Struct, frozen=True):
    at: int
    id: bytes
    token: int | None = None


class Kill(_Struct, frozen=True):
    """End it now, without its code, and its calls too."""

    at: int
    id: bytes
    token: int | None = None


class Pause(_Struct, frozen=True):
    at: int
    id: bytes
    token: int | None = None


class Resume(_Struct, frozen=True):
    """Run it on. `deployment`, where given, takes the place of the one it is pinned to; "": the latest."""

    at: int
    id: bytes
    token: int | None = None
    deployment: str | None = None


class Purge(_Struct, frozen=True):
    """Forget a completed invocation, or only its journal."""

    at: int
    id: bytes
    journal_only: bool = False
    token: int | None = None


class Restart(_Struct, frozen=True):
    """Run a completed invocation again as a new one that keeps the first `keep` entries of its journal.

    It runs on `deployment`; None: on that of the old one; "": on the latest.
    """

    at: int
    id: bytes
    new_id: bytes
    keep: int = 1
    token: int | None = None
    deployment: str | None = ""
    trace: Trace | None = None


class Attach(_Struct, frozen=True):
    """Tell the result: now if there is one, by `Finished` if `wait`, else `NotReady`."""

    at: int
    id: bytes
    wait: bool
    token: int


class Describe(_Struct, frozen=True):
    """Tell everything known of an invocation."""

    at: int
    id: bytes
    token: int


class ReadState(_Struct, frozen=True):
    at: int
    service: str
    key: str
    token: int


class ChangeState(_Struct, frozen=True):
    """Set (bytes) or clear (None) keys of an object from outside, as though by an exclusive handler: in its turn.

    `replace` clears every key that is not named. If the state's `state_version` is not `version` by then, the change is
    dropped.
    """

    at: int
    service: str
    key: str
    changes: dict[str, bytes | None]
    replace: bool = False
    token: int | None = None
    version: str | None = None


class ReadStream(_Struct, frozen=True):
    """Tell all that is stored of a stream."""

    at: int
    id: bytes
    name: str
    token: int


class PutDeployment(_Struct, frozen=True):
    """Services are served there from now on. For partition 0, as is the next."""

    at: int
    deployment: Deployment
    token: int | None = None


class RemoveDeployment(_Struct, frozen=True):
    at: int
    id: str
    token: int | None = None


class CreateKey(_Struct, frozen=True):
    """An API key is good from now on. For partition 0, as is the next."""

    at: int
    key: ApiKey
    token: int | None = None


class RevokeKey(_Struct, frozen=True):
    at: int
    id: str
    token: int | None = None


class CompleteCall(_Struct, frozen=True):
    """The answer to a call, an attach or a promise of an invocation that another partition owns."""

    waiter: Waiter
    result: Value | Failure | None


class AttachFrom(_Struct, frozen=True):
    """An invocation of another partition wants a result; without `wait`, only if there is one."""

    id: bytes
    waiter: Waiter
    wait: bool


class Deliver(_Struct, frozen=True):
    """Message number `position` of the stream from partition `source`; delivered again until acknowledged."""

    at: int
    source: int
    position: int
    message: "Message"


class Delivered(_Struct, frozen=True):
    """Partition `destination` has stored our messages up to `position`."""

    at: int
    destination: int
    position: int


Message: TypeAlias = Invoke | CompleteCall | AttachFrom | SendSignalTo | Cancel | Kill
PartitionCommand: TypeAlias = (
    Invoke
    | Append
    | AppendCall
    | Propose
    | WriteStream
    | Pin
    | Suspend
    | End
    | Fail
    | Note
    | Load
    | Tick
    | Recover
    | SendSignalTo
    | Cancel
    | Kill
    | Pause
    | Resume
    | Purge
    | Restart
    | Attach
    | Describe
    | ReadState
    | ReadStream
    | ChangeState
    | PutDeployment
    | RemoveDeployment
    | CreateKey
    | RevokeKey
    | Deliver
    | Delivered
)
