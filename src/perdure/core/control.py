"""What people do to invocations: cancel, kill, pause, resume, purge, restart, look at them, edit state."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from perdure.core import inbox, lifecycle
from perdure.core.tables import INVOCATION, INVOCATION_ID, STATE, StateChange
from perdure.core.turn import Turn
from perdure.model.actions import AbortAttempt, Answer, Description, Done, Refused, Reply, StateAnswer
from perdure.model.commands import (
    Attach,
    AttachFrom,
    Cancel,
    ChangeState,
    Describe,
    Kill,
    Pause,
    Purge,
    ReadState,
    Restart,
    Resume,
    SendSignalTo,
)
from perdure.model.entries import (
    VOID,
    Call,
    Completion,
    Entry,
    Failure,
    Input,
    InvocationIdResult,
    Signal,
)
from perdure.model.ids import CANCEL_SIGNAL, format_invocation_id, parse_awakeable_id, parse_invocation_id
from perdure.model.invocation import Completed, Inboxed, Invocation, Invoked, Paused, Scheduled, Suspended
from perdure.model.services import HandlerKind

__all__ = [
    "attach",
    "attach_from",
    "cancel",
    "change_state",
    "describe",
    "kill",
    "pause",
    "purge",
    "read_state",
    "restart",
    "resume",
    "signal",
]

C = TypeVar("C", Cancel, Kill, Pause, Resume, Purge, Restart)

RANDOM_SEED = 6  # the version of the service protocol from which on a handler is told its seed
_AWAKEABLE: Final = re.compile(rb"sign_1[A-Za-z0-9_-]{38}")
COMPLETED = Refused(409, "the invocation is completed")


def _reply(turn: Turn, token: int | None, outcome: Done | Refused) -> None:
    if token is not None:
        turn.actions.append(Reply(token, outcome))


def _unknown(invocation: bytes) -> Refused:
    return Refused(404, f"invocation {format_invocation_id(invocation)} not found")


def _order(act: Callable[[Turn, Invocation, C], Done | Refused]) -> Callable[[Turn, C], None]:
    """What people order is about one invocation: find it, act, and say what came of it."""

    @wraps(act)
    def ordered(turn: Turn, command: C) -> None:
        invocation = lifecycle.find(turn, command.id)
        _reply(turn, command.token, _unknown(command.id) if invocation is None else act(turn, invocation, command))

    return ordered


def _withdraw(turn: Turn, invocation: Invocation, failure: Failure) -> None:
    """End an invocation that has not begun; nothing of it is kept."""
    status = invocation.status
    if isinstance(status, Inboxed):
        inbox.leave(turn, invocation.target, status.position)
    unkept = replace(invocation.retention, completion_ms=0, journal_ms=0)
    lifecycle.finish(turn, replace(invocation, retention=unkept), failure)


def signal(turn: Turn, command: SendSignalTo) -> None:
    """Deliver a signal; to an unknown or completed invocation it is nothing, as with the first of two."""
    invocation = lifecycle.find(turn, command.target)
    if invocation is not None:
        lifecycle.notify(turn, invocation, replace(command.signal, at=turn.at))
    _reply(turn, command.token, Done())


@_order
def cancel(turn: Turn, invocation: Invocation, command: Cancel) -> Done | Refused:
    """Withdraw what has not begun; let the code of everything else see a cancellation."""
    status = invocation.status
    if isinstance(status, Completed):
        return COMPLETED
    if isinstance(status, Scheduled | Inboxed):
        _withdraw(turn, invocation, Failure(409, "canceled"))
        return Done()
    lifecycle.notify(turn, invocation, Signal(CANCEL_SIGNAL, VOID, turn.at))
    if isinstance(status, Paused) or (isinstance(status, Invoked) and status.retry_at is not None):
        lifecycle.wake(turn, invocation)
    return Done(pending=True)


@_order
def kill(turn: Turn, invocation: Invocation, command: Kill) -> Done | Refused:
    """End it without its code, and the calls it waits for."""
    status = invocation.status
    if isinstance(status, Completed):
        return COMPLETED
    failure = Failure(409, "killed")
    if isinstance(status, Scheduled | Inboxed):
        _withdraw(turn, invocation, failure)
    else:
        for callee in _open_calls(turn, invocation):
            turn.post(callee, Kill(turn.at, callee))
        turn.actions.append(AbortAttempt(invocation.number))
        lifecycle.finish(turn, invocation, failure)
    return Done()


def _open_calls(turn: Turn, invocation: Invocation) -> list[bytes]:
    """The invocations whose results the journal still waits for."""
    entries = [entry for _, entry in turn.tables.journal(invocation.number)]
    completions = {entry.completion_id: entry for entry in entries if isinstance(entry, Completion)}
    callees: list[bytes] = []
    for entry in entries:
        if isinstance(entry, Call) and entry.completion_id not in completions:
            known = completions.get(entry.invocation_id_completion_id)
            if known is not None and isinstance(known.result, InvocationIdResult):
                callees.append(parse_invocation_id(known.result.invocation_id))
    return callees


@_order
def pause(turn: Turn, invocation: Invocation, command: Pause) -> Done | Refused:
    """Stop running it until somebody resumes it."""
    status = invocation.status
    if isinstance(status, Invoked | Suspended):
        turn.actions.append(AbortAttempt(invocation.number))
        failure = status.failure if isinstance(status, Invoked) else None
        lifecycle.move(turn, invocation, Paused(turn.at, failure))
        return Done(pending=True)
    if isinstance(status, Paused):
        return Done()
    return Refused(409, f"the invocation is {type(status).__name__.lower()}, not running")


@_order
def resume(turn: Turn, invocation: Invocation, command: Resume) -> Done | Refused:
    """Run a paused, suspended or backing-off invocation now, its failures forgiven."""
    status = invocation.status
    if isinstance(status, Completed):
        return COMPLETED
    if isinstance(status, Scheduled | Inboxed):
        return Refused(425, "the invocation has not begun")
    waits = not isinstance(status, Invoked) or status.retry_at is not None
    if command.deployment is not None:
        if not waits:
            return Refused(409, "the invocation is running: pause it first, then resume it on another deployment")
        if invocation.deployment is None:
            return Refused(409, "the invocation is not pinned to a deployment: it runs on the latest anyway")
        invocation = replace(invocation, deployment=command.deployment or None)
    if waits:
        lifecycle.wake(turn, invocation)
    return Done()


@_order
def purge(turn: Turn, invocation: Invocation, command: Purge) -> Done | Refused:
    """Forget a completed invocation, or its journal."""
    if not isinstance(invocation.status, Completed):
        return Refused(409, "the invocation is not completed")
    if command.journal_only:
        lifecycle.drop_journal(turn, invocation)
    else:
        lifecycle.forget(turn, invocation)
    return Done()


@_order
def restart(turn: Turn, invocation: Invocation, command: Restart) -> Done | Refused:
    """Run a completed invocation again as a new one, from the first `keep` entries of its journal."""
    if isinstance(invocation.status, Scheduled | Inboxed):
        return Refused(425, "the invocation has not begun")
    if not isinstance(invocation.status, Completed):
        return Refused(409, "the invocation is still running")
    if invocation.target.kind is HandlerKind.WORKFLOW:
        return Refused(422, "a workflow runs once per id and cannot be restarted")
    if command.keep > 1 and 0 < invocation.protocol_version < RANDOM_SEED:
        return Refused(422, "it spoke version 5 of the protocol, where dice go with the id: keep the input only")
    entries = [entry for _, entry in turn.tables.journal(invocation.number)]
    if not entries or not isinstance(entries[0], Input):
        return Refused(410, "the journal, and with it the input, is no longer kept")
    if not 1 <= command.keep <= len(entries):
        return Refused(400, f"keep must be from 1 to {len(entries)}, the length of the journal")
    problem = _incomplete(entries, command.keep) or _unanswerable(entries, command.keep, invocation)
    if problem is not None:
        return Refused(400, problem)
    number = turn.tables.count("number")
    turn.tables.put(INVOCATION_ID, lifecycle.id_key(command.new_id), number)
    prefix = _prefix(entries, command.keep)
    for entry in prefix:
        # A notification keeps its time: it is the journal's clock, and a store keeps it once.
        turn.tables.append(number, entry.at if isinstance(entry, Completion | Signal) else turn.at, entry)
    fresh = Invocation(
        number,
        command.new_id,
        invocation.target,
        Scheduled(turn.at),
        turn.at,
        retention=invocation.retention,
        restarted_from=invocation.id,
        origin=replace(invocation.replays, kept=_commands(prefix)) if command.keep > 1 else None,
        deployment=invocation.deployment if command.deployment is None else command.deployment or None,
        protocol_version=invocation.protocol_version if command.keep > 1 or command.deployment is None else 0,
        trace=command.trace,
    )
    turn.tables.statuses[Scheduled] += 1
    lifecycle.begin(turn, fresh)
    return Done(new_id=command.new_id)


def _completion_ids(entries: list[Entry]) -> set[int]:
    """The ids under which these commands are answered."""
    ids: set[int] = set()
    for entry in entries:
        if not isinstance(entry, Completion):
            for field in ("completion_id", "invocation_id_completion_id"):
                if hasattr(entry, field):
                    ids.add(getattr(entry, field))
    return ids


def _prefix(entries: list[Entry], keep: int) -> list[Entry]:
    """The first `keep` entries and, from the rest, the answers to the commands among them."""
    asked = _completion_ids(entries[:keep])
    answers = [entry for entry in entries[keep:] if isinstance(entry, Completion) and entry.completion_id in asked]
    return [*entries[:keep], *answers]


def _incomplete(entries: list[Entry], keep: int) -> str | None:
    """Why a prefix of a journal cannot be kept, if it cannot: a command in it was never answered."""
    answered = {entry.completion_id for entry in entries if isinstance(entry, Completion)}
    open_ids = _completion_ids(entries[:keep]) - answered
    if not open_ids:
        return None
    return f"{len(open_ids)} of the first {keep} entries have no result yet; keep fewer entries"


def _commands(entries: list[Entry]) -> int:
    return sum(not isinstance(entry, Completion | Signal | Input) for entry in entries)


def _unanswerable(entries: list[Entry], keep: int, invocation: Invocation) -> str | None:
    """Why a prefix of a journal cannot be kept, if it cannot: an awakeable in it is answered later, or never was.

    The awakeables of a new invocation have other ids, which nobody would know. Only ids that entries show are found.
    """
    own = {invocation.id, invocation.replays.id, invocation.restarted_from}
    answered = {entry.signal for entry in entries[:keep] if isinstance(entry, Signal)}
    for index, entry in enumerate(entries[:keep]):
        if isinstance(entry, Input):
            continue
        for text in _AWAKEABLE.findall(msgspec.msgpack.encode(entry)):
            id, signal = parse_awakeable_id(text.decode())
            if id in own and signal not in answered:
                later = next((at for at, each in enumerate(entries) if _answers(each, signal)), None)
                more = "" if later is None else f" or at least {later + 1}"
                return (
                    f"entry {index} gives away an awakeable that is answered later, and nobody knows its new id; "
                    f"keep at most {index}{more}"
                )
    return None


def _answers(entry: Entry, signal: int) -> bool:
    return isinstance(entry, Signal) and entry.signal == signal


def attach(turn: Turn, command: Attach) -> None:
    """Tell the result now, or when there is one."""
    invocation = lifecycle.find(turn, command.id)
    if invocation is None:
        turn.actions.append(Reply(command.token, Refused(404, "not found")))
    elif isinstance(invocation.status, Completed):
        answer = Answer(invocation.id, invocation.status.result, lifecycle.expires_at(invocation))
        turn.actions.append(Reply(command.token, answer))
    elif not command.wait:
        turn.actions.append(Reply(command.token, Refused(470, "the invocation is not completed")))


def attach_from(turn: Turn, command: AttachFrom) -> None:
    """A handler asks for the result of another invocation."""
    invocation = lifecycle.find(turn, command.id)
    if invocation is None:
        lifecycle.complete_waiter(turn, command.waiter, Failure(404, "not found"))
    elif isinstance(invocation.status, Completed):
        lifecycle.complete_waiter(turn, command.waiter, invocation.status.result)
    elif not command.wait:
        lifecycle.complete_waiter(turn, command.waiter, None)
    elif command.waiter not in invocation.waiters:
        waiters = (*invocation.waiters, command.waiter)
        turn.tables.put(INVOCATION, (invocation.number,), replace(invocation, waiters=waiters))


def describe(turn: Turn, command: Describe) -> None:
    """Everything known of an invocation."""
    invocation = lifecycle.find(turn, command.id)
    if invocation is None:
        turn.actions.append(Reply(command.token, _unknown(command.id)))
        return
    ahead = holder = None
    if isinstance(invocation.status, Inboxed):
        ahead = inbox.place(turn, invocation.target, invocation.status.position)
        holder = inbox.holder(turn, invocation.target)
    entries = tuple(turn.tables.journal(invocation.number))
    turn.actions.append(Reply(command.token, Description(invocation, entries, ahead, holder)))


def read_state(turn: Turn, command: ReadState) -> None:
    values = {key[2]: value for key, value in turn.tables.scan(STATE, (command.service, command.key))}
    turn.actions.append(Reply(command.token, StateAnswer(values)))


def change_state(turn: Turn, command: ChangeState) -> None:
    """Edit an object's state from outside, in its turn among the object's exclusive invocations."""
    change = StateChange(command.changes, command.replace, command.version)
    now = inbox.change_state(turn, command.service, command.key, change)
    _reply(turn, command.token, Done(pending=not now))
