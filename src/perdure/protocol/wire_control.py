"""The messages of an attempt that are no journal entries <-> (type, payload): `control`'s, as each version has them."""

from typing import Any

from google.protobuf.message import DecodeError

from perdure.errors import RemoteProtocolError
from perdure.model import entries as e
from perdure.model.invocation import AttemptFailure, Combinator, Waiting
from perdure.protocol import control, versions
from perdure.protocol import wire_pb2 as wire
from perdure.protocol.messages import decode_failure, encode_failure

__all__ = [
    "AWAITING_ON",
    "END",
    "ERROR",
    "PROPOSE_RUN",
    "PROPOSE_RUN_ACK",
    "START",
    "SUSPENSION",
    "TREE_LIMIT",
    "TREE_TOO_DEEP",
    "decode_awaiting_on",
    "decode_error",
    "decode_proposal",
    "decode_suspension",
    "encode_control",
    "parse",
]

START, SUSPENSION, ERROR, END = 0x0000, 0x0001, 0x0002, 0x0003
PROPOSE_RUN, AWAITING_ON, PROPOSE_RUN_ACK = 0x0005, 0x0006, 0x0007

TREE_LIMIT = 80
"""How deep a tree of awaited things may be; restate-server allows 1,000, protobuf itself 100."""

TREE_TOO_DEEP = 508  # the code of the error that says so

_BEHAVIORS = ("retry", "pause", "fail")
_COMBINATORS: frozenset[int] = frozenset(Combinator)


def parse(message: Any, payload: bytes) -> Any:
    """A protobuf message from its bytes. Raises `RemoteProtocolError`."""
    try:
        return message.FromString(payload)
    except DecodeError as error:
        raise RemoteProtocolError(f"{message.__name__}: the payload can't be decoded: {error}") from None


# ---- decoding, engine's end ----------------------------------------------------------------------------------------


def _waiting(future: wire.Future, depth: int = 1) -> Waiting:
    if depth > TREE_LIMIT:
        raise RemoteProtocolError(f"what is waited for is nested more than {TREE_LIMIT} deep", TREE_TOO_DEEP)
    return Waiting(
        tuple(future.completions),
        tuple(future.signals),
        tuple(future.named_signals),
        tuple([_waiting(child, depth + 1) for child in future.nested]),
        Combinator(future.combinator) if future.combinator in _COMBINATORS else Combinator.UNKNOWN,
    )


def decode_suspension(payload: bytes, seen: int) -> control.Suspension:
    """Of any version: the lists of versions up to 6, the tree of 7."""
    message = parse(wire.Suspension, payload)
    if message.HasField("awaiting"):
        return control.Suspension(_waiting(message.awaiting), seen)
    waiting = Waiting(tuple(message.completions), tuple(message.signals), tuple(message.named_signals))
    return control.Suspension(waiting, seen)


def decode_awaiting_on(payload: bytes) -> control.AwaitingOn:
    return control.AwaitingOn(_waiting(parse(wire.AwaitingOn, payload).awaiting))


def decode_error(payload: bytes, at: int) -> control.Error:
    message = parse(wire.Error, payload)
    failure = AttemptFailure(
        message.message,
        message.code,
        at,
        message.stacktrace,
        message.command_index if message.HasField("command_index") else None,
        message.command_name if message.HasField("command_name") else None,
        message.command_type if message.HasField("command_type") else None,
    )
    delay_ms = message.next_retry_delay_ms if message.HasField("next_retry_delay_ms") else None
    behavior = _BEHAVIORS[message.behavior] if 0 <= message.behavior < len(_BEHAVIORS) else "retry"
    return control.Error(failure, delay_ms, behavior)


def decode_proposal(payload: bytes) -> control.ProposeRun:
    message = parse(wire.ProposeRunCompletion, payload)
    kind = message.WhichOneof("result")
    if kind is None:
        raise RemoteProtocolError("ProposeRunCompletion: neither value nor failure")
    result = e.Value(message.value) if kind == "value" else decode_failure(message.failure)
    return control.ProposeRun(message.completion_id, result)


# ---- encoding, handler's end ---------------------------------------------------------------------------------------


def _future(waiting: Waiting) -> wire.Future:
    return wire.Future(
        completions=waiting.completions,
        signals=waiting.signals,
        named_signals=waiting.names,
        nested=[_future(child) for child in waiting.nested],
        combinator=wire.Combinator.Name(waiting.combinator),
    )


def encode_control(
    message: control.ProposeRun | control.AwaitingOn | control.Suspension | control.Error | control.End, version: int
) -> tuple[int, bytes] | None:
    """What a handler says besides commands; None for what this version has no word for."""
    if isinstance(message, control.ProposeRun):
        return PROPOSE_RUN, _proposal(message, version)
    if isinstance(message, control.End):
        return END, b""
    if isinstance(message, control.Suspension):
        return SUSPENSION, _suspension(message.waiting, version)
    if isinstance(message, control.Error):
        return ERROR, _error(message, version)
    if version < versions.AWAIT_TREES:
        return None
    return AWAITING_ON, wire.AwaitingOn(awaiting=_future(message.waiting)).SerializeToString()


def _proposal(message: control.ProposeRun, version: int) -> bytes:
    if isinstance(message.result, e.Value):
        value = message.result.content
        return wire.ProposeRunCompletion(completion_id=message.completion_id, value=value).SerializeToString()
    failure = encode_failure(message.result)
    if version < versions.FAILURE_METADATA:
        del failure.metadata[:]
    return wire.ProposeRunCompletion(completion_id=message.completion_id, failure=failure).SerializeToString()


def _suspension(waiting: Waiting, version: int) -> bytes:
    if version >= versions.AWAIT_TREES:
        return wire.Suspension(awaiting=_future(waiting)).SerializeToString()
    return wire.Suspension(
        completions=waiting.completions, signals=waiting.signals, named_signals=waiting.names
    ).SerializeToString()


def _error(message: control.Error, version: int) -> bytes:
    failure = message.failure
    behavior = message.behavior if version >= versions.ERROR_BEHAVIOR else "retry"
    return wire.Error(
        code=failure.code,
        message=failure.message,
        stacktrace=failure.stacktrace,
        command_index=failure.command_index,
        command_name=failure.command_name,
        command_type=failure.command_type,
        next_retry_delay_ms=message.delay_ms,
        behavior=wire.ErrorBehavior.Name(_BEHAVIORS.index(behavior)),
    ).SerializeToString()
