"""What a journal may hold: the commands a handler issued and the notifications it was sent, in one order.

Each entry is a message of the Restate service protocol, whoever wrote it; `TYPE` is the message's number
there. In one process these objects themselves travel between handler and engine; as bytes they exist on the
wire and in the store only (`protocol.messages`).

A command that will be answered carries a `completion_id`, chosen by the handler's side; the answer is a
`Completion` with the same id.
"""

from typing import ClassVar, TypeAlias

import msgspec

__all__ = [
    "VOID",
    "AttachInvocation",
    "Call",
    "ClearAllState",
    "ClearState",
    "Command",
    "CompleteAwakeable",
    "CompletePromise",
    "Completion",
    "Entry",
    "Failure",
    "GetEagerState",
    "GetEagerStateKeys",
    "GetInvocationOutput",
    "GetLazyState",
    "GetLazyStateKeys",
    "GetPromise",
    "IdempotentTarget",
    "Input",
    "InvocationIdResult",
    "InvocationTarget",
    "Notification",
    "OneWayCall",
    "Output",
    "PeekPromise",
    "Result",
    "Run",
    "SendSignal",
    "SetState",
    "Signal",
    "Sleep",
    "StateKeys",
    "Value",
    "Void",
    "WorkflowTarget",
]


class _Struct(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag=True, tag_field="_"):
    """Frozen and acyclic, so the garbage collector may ignore it (thousands are made each second)."""


class Value(_Struct, frozen=True):
    content: bytes


class Failure(_Struct, frozen=True):
    """A terminal failure: `code` follows HTTP."""

    code: int
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


class Void(_Struct, frozen=True):
    """Done, with nothing to say; for a state read: there is no such key."""


class InvocationIdResult(_Struct, frozen=True):
    invocation_id: str


class StateKeys(_Struct, frozen=True):
    keys: tuple[str, ...]


VOID = Void()
Result: TypeAlias = Value | Failure | Void | InvocationIdResult | StateKeys
Headers: TypeAlias = tuple[tuple[str, str], ...]


class Input(_Struct, frozen=True):
    """Entry 0 of every journal, written by the engine."""

    TYPE: ClassVar[int] = 0x0400
    value: bytes = b""
    headers: Headers = ()
    name: str = ""


class Output(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0401
    result: Value | Failure
    name: str = ""


class GetLazyState(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0402
    key: str
    completion_id: int
    name: str = ""


class SetState(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0403
    key: str
    value: bytes
    name: str = ""


class ClearState(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0404
    key: str
    name: str = ""


class ClearAllState(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0405
    name: str = ""


class GetLazyStateKeys(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0406
    completion_id: int
    name: str = ""


class GetEagerState(_Struct, frozen=True):
    """A read answered from the state that came with the start of the attempt; the answer is part of the entry."""

    TYPE: ClassVar[int] = 0x0407
    key: str
    result: Value | Void
    name: str = ""


class GetEagerStateKeys(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0408
    keys: tuple[str, ...]
    name: str = ""


class GetPromise(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0409
    key: str
    completion_id: int
    name: str = ""


class PeekPromise(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x040A
    key: str
    completion_id: int
    name: str = ""


class CompletePromise(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x040B
    key: str
    result: Value | Failure
    completion_id: int
    name: str = ""


class Sleep(_Struct, frozen=True):
    """`wake_up_time` is in ms since the epoch."""

    TYPE: ClassVar[int] = 0x040C
    wake_up_time: int
    completion_id: int
    name: str = ""


class Call(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x040D
    service: str
    handler: str
    parameter: bytes
    invocation_id_completion_id: int
    completion_id: int
    key: str = ""
    headers: Headers = ()
    idempotency_key: str | None = None
    scope: str | None = None
    limit_key: str | None = None
    name: str = ""


class OneWayCall(_Struct, frozen=True):
    """`invoke_time` is in ms since the epoch; 0 is now."""

    TYPE: ClassVar[int] = 0x040E
    service: str
    handler: str
    parameter: bytes
    invocation_id_completion_id: int
    invoke_time: int = 0
    key: str = ""
    headers: Headers = ()
    idempotency_key: str | None = None
    scope: str | None = None
    limit_key: str | None = None
    name: str = ""


class SendSignal(_Struct, frozen=True):
    """`signal` is the number of a built-in signal or awakeable, or the name of a named one."""

    TYPE: ClassVar[int] = 0x0410
    target: str
    signal: int | str
    result: Value | Failure | Void
    name: str = ""


class Run(_Struct, frozen=True):
    """A step began; its result is a `Completion`."""

    TYPE: ClassVar[int] = 0x0411
    completion_id: int
    name: str = ""


class InvocationTarget(_Struct, frozen=True):
    invocation_id: str


class IdempotentTarget(_Struct, frozen=True):
    service: str
    key: str | None
    handler: str
    idempotency_key: str
    scope: str | None = None


class WorkflowTarget(_Struct, frozen=True):
    workflow: str
    key: str
    scope: str | None = None


class AttachInvocation(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0412
    target: InvocationTarget | IdempotentTarget | WorkflowTarget
    completion_id: int
    name: str = ""


class GetInvocationOutput(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0413
    target: InvocationTarget | IdempotentTarget | WorkflowTarget
    completion_id: int
    name: str = ""


class CompleteAwakeable(_Struct, frozen=True):
    TYPE: ClassVar[int] = 0x0414
    awakeable_id: str
    result: Value | Failure
    name: str = ""


class Completion(_Struct, frozen=True):
    """The answer to a command. `type` is the notification's number: the command's with the high bit set.

    `at` (ms since the epoch) is when it was appended. It is the journal's clock: what a handler is told of
    time comes from here, so that a replay is told the same.
    """

    type: int
    completion_id: int
    result: Result
    at: int = 0

    @property
    def TYPE(self) -> int:
        return self.type


class Signal(_Struct, frozen=True):
    """Something from outside: a cancellation (1), an awakeable's result (17 and up), or a named signal."""

    TYPE: ClassVar[int] = 0xFBFF
    signal: int | str
    result: Value | Failure | Void
    at: int = 0


Command: TypeAlias = (
    Input
    | Output
    | GetLazyState
    | SetState
    | ClearState
    | ClearAllState
    | GetLazyStateKeys
    | GetEagerState
    | GetEagerStateKeys
    | GetPromise
    | PeekPromise
    | CompletePromise
    | Sleep
    | Call
    | OneWayCall
    | SendSignal
    | Run
    | AttachInvocation
    | GetInvocationOutput
    | CompleteAwakeable
)
Notification: TypeAlias = Completion | Signal
Entry: TypeAlias = Command | Notification

GET_LAZY_STATE_COMPLETION = 0x8002
GET_LAZY_STATE_KEYS_COMPLETION = 0x8006
GET_PROMISE_COMPLETION = 0x8009
PEEK_PROMISE_COMPLETION = 0x800A
COMPLETE_PROMISE_COMPLETION = 0x800B
SLEEP_COMPLETION = 0x800C
CALL_COMPLETION = 0x800D
CALL_INVOCATION_ID_COMPLETION = 0x800E
RUN_COMPLETION = 0x8011
ATTACH_COMPLETION = 0x8012
GET_OUTPUT_COMPLETION = 0x8013
