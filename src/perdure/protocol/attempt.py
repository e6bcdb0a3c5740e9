"""The engine's end of one attempt: what the handler says becomes a partition's commands.

The attempt checks what a handler may not do and the core need not know: state from the wrong kind of handler,
ids that do not parse, anything after the last message. A message that breaks a rule ends the attempt.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from perdure.errors import Invalid, RemoteProtocolError
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.ids import parse_awakeable_id, parse_invocation_id
from perdure.model.invocation import AttemptFailure, Target
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.model.streams import Chunk, StreamPart
from perdure.protocol import control

__all__ = ["Attempt", "Outlet", "check_storable"]

M = TypeVar("M", control.Error, control.StepFailed)

_READERS = frozenset({HandlerKind.EXCLUSIVE, HandlerKind.SHARED, HandlerKind.WORKFLOW})
_WRITERS = frozenset({HandlerKind.EXCLUSIVE, HandlerKind.WORKFLOW})
_PROMISERS = frozenset({HandlerKind.SHARED, HandlerKind.WORKFLOW})  # a shared one may yet be an object's

NUMBERS = 1 << 32  # ids, signals and codes are below: it is what their fields hold on the wire
LATEST = 1 << 62  # times and delays (ms) are below, so that their sum is a number of 64 bits
_TIMES = frozenset({"at", "delay_ms", "invoke_time", "wake_up_time"})

PRECONDITION = 500  # the code of a failure that says: this handler may not do that


class Outlet(Protocol):
    """Where an attempt's chunks go: to whoever reads them now, and kept until they are stored or void."""

    def write(self, name: str, completion_id: int, chunks: tuple[Chunk, ...]) -> None:
        """A step writes. Raises `Overloaded` if too much is being written at once."""
        ...

    def void(self, completion_id: int) -> None:
        """What the step wrote counts for nothing."""
        ...

    def take(self, completion_id: int) -> tuple[StreamPart, ...]:
        """What the step wrote, to be stored."""
        ...

    def write_once(self, name: str, chunk: Chunk | None) -> tuple[int, StreamPart]:
        """The handler writes (None: the end): the write's name for `StreamStored`, and what to store."""
        ...

    def over(self) -> None:
        """The attempt has ended."""
        ...


class Attempt:
    """One run of a handler. `receive` turns each of its messages into the command it stands for, or None.

    `address` makes the invocation that a call names: it knows the services and mints ids. It raises `Invalid`
    for a call that cannot be made. `open_outlet` makes the outlet, once the handler writes to a stream.
    """

    __slots__ = ("_address", "attempt", "ended", "number", "open_outlet", "outlet", "output", "policy", "target")

    def __init__(
        self,
        number: int,
        attempt: int,
        target: Target,
        policy: RetryPolicy,
        address: Callable[[e.Call | e.OneWayCall, int], c.Invoke],
    ) -> None:
        self.number = number
        self.attempt = attempt
        self.target = target
        self.policy = policy
        self.ended = False
        self.output: e.Value | e.Failure | None = None
        self._address = address
        self.open_outlet: Callable[[], Outlet] | None = None
        self.outlet: Outlet | None = None

    def receive(self, message: control.Said, at: int, chance: float) -> c.PartitionCommand | None:
        """What the message asks of the partition. After the last message of an attempt there is no other."""
        if self.ended:
            return None
        try:
            return _RECEIVERS.get(type(message), _entry)(self, message, at, chance)
        except (Invalid, RemoteProtocolError) as error:
            return self.fail(AttemptFailure(str(error), PRECONDITION, at), at, chance)

    def fail(
        self,
        failure: AttemptFailure,
        at: int,
        chance: float,
        *,
        delay_ms: int | None = None,
        behavior: str = "retry",
        step_attempts: dict[int, int] | None = None,
    ) -> c.Fail:
        """End the attempt with a failure."""
        self.ended = True
        return c.Fail(
            at, self.number, self.attempt, failure, self.policy, chance, delay_ms, behavior, step_attempts or {}
        )


def check_storable(what: str, value: Any) -> None:
    """Refuse what no store can hold, with `Invalid`: found by the store it would end the partition."""
    problem = _problem(what, value)
    if problem is not None:
        raise Invalid(problem)


def _check(message: Any) -> None:
    problem = _problem("message", message)
    if problem is not None:
        raise Invalid(f"{type(message).__name__}: {problem}")


def _problem(field: str, value: Any) -> str | None:
    kind = type(value)
    if kind is str:
        return None if value.isascii() or _is_unicode(value) else f"the {field} {value!r} is not valid Unicode"
    if kind is int:
        limit = LATEST if field in _TIMES else NUMBERS
        return None if 0 <= value < limit else f"the {field} {value} is out of range"
    parts: Any = ()
    if kind is tuple:
        parts = [(field, item) for item in value]
    elif isinstance(value, msgspec.Struct):
        parts = [(name, getattr(value, name)) for name in value.__struct_fields__]
    return next((problem for name, part in parts if (problem := _problem(name, part)) is not None), None)


def _is_unicode(text: str) -> bool:
    """Not so if it has a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storable(message: M) -> M:
    """Exceptions number their codes as they like; what went wrong is worth more than its code."""
    if not 0 <= message.failure.code < NUMBERS:
        message = replace(message, failure=replace(message.failure, code=500))
    _check(message)
    return message


def _entry(attempt: Attempt, message: Any, at: int, chance: float) -> c.Append:
    _check(message)
    return c.Append(at, attempt.number, attempt.attempt, message)


def _run(attempt: Attempt, message: e.Run, at: int, chance: float) -> c.Append:
    if not (message.name.isascii() and 0 <= message.completion_id < NUMBERS):  # a step is too frequent for more
        _check(message)
    return c.Append(at, attempt.number, attempt.attempt, message)


def _read(attempt: Attempt, message: Any, at: int, chance: float) -> c.Append:
    _check(message)
    if attempt.target.kind not in _READERS:
        raise Invalid(f"{attempt.target} has no state: it is the handler of a service")
    return c.Append(at, attempt.number, attempt.attempt, message)


def _write(attempt: Attempt, message: Any, at: int, chance: float) -> c.Append:
    _check(message)
    if attempt.target.kind not in _WRITERS:
        raise Invalid(f"{attempt.target} may not change state: only exclusive handlers and a workflow's main may")
    return c.Append(at, attempt.number, attempt.attempt, message)


def _promise(attempt: Attempt, message: Any, at: int, chance: float) -> c.Append:
    _check(message)
    if attempt.target.kind not in _PROMISERS:
        raise Invalid(f"{attempt.target} has no promises: it is not the handler of a workflow")
    return c.Append(at, attempt.number, attempt.attempt, message)


def _call(attempt: Attempt, message: e.Call | e.OneWayCall, at: int, chance: float) -> c.AppendCall:
    _check(message)
    callee = attempt._address(message, at)
    return c.AppendCall(at, attempt.number, attempt.attempt, message, callee)


def _send_signal(attempt: Attempt, message: e.SendSignal, at: int, chance: float) -> c.Append:
    _check(message)
    parse_invocation_id(message.target)
    return c.Append(at, attempt.number, attempt.attempt, message)


def _complete_awakeable(attempt: Attempt, message: e.CompleteAwakeable, at: int, chance: float) -> c.Append:
    _check(message)
    parse_awakeable_id(message.awakeable_id)
    return c.Append(at, attempt.number, attempt.attempt, message)


def _attach(attempt: Attempt, message: e.AttachInvocation | e.GetInvocationOutput, at: int, chance: float) -> c.Append:
    _check(message)
    if isinstance(message.target, e.InvocationTarget):
        parse_invocation_id(message.target.invocation_id)
    elif isinstance(message.target, e.IdempotentTarget) and not message.target.idempotency_key:
        raise Invalid("idempotency_key must not be empty")
    return c.Append(at, attempt.number, attempt.attempt, message)


def _output(attempt: Attempt, message: e.Output, at: int, chance: float) -> c.Append:
    _check(message)
    attempt.output = message.result
    return c.Append(at, attempt.number, attempt.attempt, message)


def _propose(attempt: Attempt, message: control.ProposeRun, at: int, chance: float) -> c.Propose:
    if not (type(message.result) is e.Value and 0 <= message.completion_id < NUMBERS):
        _check(message)
    return c.Propose(at, attempt.number, attempt.attempt, message.completion_id, message.result)


def _outlet(attempt: Attempt) -> Outlet:
    if attempt.outlet is None:
        if attempt.open_outlet is None:
            raise RemoteProtocolError("this handler cannot write to streams")
        attempt.outlet = attempt.open_outlet()
    return attempt.outlet


def _step_write(attempt: Attempt, message: control.StepWrite, at: int, chance: float) -> None:
    _outlet(attempt).write(message.name, message.completion_id, message.chunks)


def _step_void(attempt: Attempt, message: control.StepVoid, at: int, chance: float) -> None:
    _outlet(attempt).void(message.completion_id)


def _propose_streamed(attempt: Attempt, message: control.ProposeStreamed, at: int, chance: float) -> c.Propose:
    _check(message)
    parts = _outlet(attempt).take(message.completion_id)
    return c.Propose(at, attempt.number, attempt.attempt, message.completion_id, message.result, parts)


def _handler_write(attempt: Attempt, message: control.HandlerWrite, at: int, chance: float) -> c.WriteStream:
    source, part = _outlet(attempt).write_once(message.name, message.chunk)
    closes = message.chunk is None
    return c.WriteStream(at, attempt.number, attempt.attempt, part, message.ordinal, source, closes)


def _awaiting(attempt: Attempt, message: control.AwaitingOn, at: int, chance: float) -> None:
    return None


def _step_failed(attempt: Attempt, message: control.StepFailed, at: int, chance: float) -> c.Note:
    message = _storable(message)
    return c.Note(at, attempt.number, attempt.attempt, message.failure, message.step_attempts)


def _suspension(attempt: Attempt, message: control.Suspension, at: int, chance: float) -> c.Suspend:
    _check(message)
    waiting = message.waiting
    if not (waiting.completions or waiting.signals or waiting.names):
        raise RemoteProtocolError("a suspension has to wait for something")
    attempt.ended = True
    return c.Suspend(at, attempt.number, attempt.attempt, waiting, message.seen)


def _error(attempt: Attempt, message: control.Error, at: int, chance: float) -> c.Fail:
    message = _storable(message)
    return attempt.fail(
        message.failure,
        at,
        chance,
        delay_ms=message.delay_ms,
        behavior=message.behavior,
        step_attempts=message.step_attempts,
    )


def _end(attempt: Attempt, message: control.End, at: int, chance: float) -> c.End:
    if attempt.output is None:
        raise RemoteProtocolError("the handler ended without an output")
    attempt.ended = True
    return c.End(at, attempt.number, attempt.attempt, attempt.output)


def _refuse(attempt: Attempt, message: Any, at: int, chance: float) -> None:
    raise RemoteProtocolError(f"{type(message).__name__} is the engine's to write")


_RECEIVERS: dict[type[Any], Callable[[Attempt, Any, int, float], c.PartitionCommand | None]] = {
    e.Input: _refuse,
    e.Completion: _refuse,
    e.Signal: _refuse,
    e.Output: _output,
    e.GetLazyState: _read,
    e.GetLazyStateKeys: _read,
    e.GetEagerState: _read,
    e.GetEagerStateKeys: _read,
    e.SetState: _write,
    e.ClearState: _write,
    e.ClearAllState: _write,
    e.GetPromise: _promise,
    e.PeekPromise: _promise,
    e.CompletePromise: _promise,
    e.Call: _call,
    e.OneWayCall: _call,
    e.SendSignal: _send_signal,
    e.CompleteAwakeable: _complete_awakeable,
    e.AttachInvocation: _attach,
    e.GetInvocationOutput: _attach,
    e.Run: _run,
    control.ProposeRun: _propose,
    control.StepWrite: _step_write,
    control.StepVoid: _step_void,
    control.ProposeStreamed: _propose_streamed,
    control.HandlerWrite: _handler_write,
    control.AwaitingOn: _awaiting,
    control.StepFailed: _step_failed,
    control.Suspension: _suspension,
    control.Error: _error,
    control.End: _end,
}
