"""What each entry a handler issues does to the tables: one small function per kind, and `ENTRIES` names them all.

An effect and its entry are in the same batch. A command whose answer is known at once is answered in the
entry right behind it; every other answer is appended when it comes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec.structs import replace

from perdure.core import lifecycle, streams
from perdure.core.tables import INVOCATION, PROMISE, STATE, TIMER, TimerKind
from perdure.core.turn import Turn
from perdure.errors import Invalid
from perdure.model import entries as e
from perdure.model.actions import AbortAttempt, SetTimer
from perdure.model.commands import Append, AppendCall, AttachFrom, Cancel, Propose, SendSignalTo
from perdure.model.ids import (
    CANCEL_SIGNAL,
    InvocationId,
    format_invocation_id,
    idempotent_uuid,
    invocation_id,
    parse_awakeable_id,
    parse_invocation_id,
    partition_key_of,
    workflow_uuid,
)
from perdure.model.invocation import AttemptFailure, Invocation, Invoked, Paused, Promise, Waiter

__all__ = ["ENTRIES", "JOURNAL_LIMIT", "append", "append_call", "propose", "resolve_target"]

JOURNAL_LIMIT = 1_000_000  # entries of one journal; a store can take sixteen times as many
Effect: TypeAlias = Callable[[Turn, Invocation, Any], None]


def append(turn: Turn, command: Append) -> None:
    """The handler issued a command."""
    invocation = lifecycle.current(turn, command.number, command.attempt)
    if invocation is None:
        return
    status = invocation.status
    if type(status) is Invoked and status.failure is not None:
        invocation = _made_progress(turn, invocation, status)
    entry = command.entry
    if turn.tables.append(command.number, turn.at, entry) >= JOURNAL_LIMIT:
        _full(turn, invocation)
        return
    effect = ENTRIES[type(entry)]
    if effect is not None:
        effect(turn, invocation, entry)


def _full(turn: Turn, invocation: Invocation) -> None:
    """A journal without end is a loop without end, or will not be replayed in any time worth waiting for."""
    problem = f"the journal has {JOURNAL_LIMIT:,} entries, the limit: split the work into invocations of their own"
    turn.actions.append(AbortAttempt(invocation.number))
    lifecycle.move(turn, invocation, Paused(turn.at, AttemptFailure(problem, 500, turn.at)))


def _made_progress(turn: Turn, invocation: Invocation, status: Invoked) -> Invocation:
    """A new command in the journal is progress: the failures before it no longer count."""
    fresh = replace(invocation, status=replace(status, failures=0, failure=None, fruitless=0))
    turn.tables.put(INVOCATION, (invocation.number,), fresh)
    return fresh


def append_call(turn: Turn, command: AppendCall) -> None:
    """The handler called: the callee is made, or handed to its partition, in the same batch."""
    invocation = lifecycle.current(turn, command.number, command.attempt)
    if invocation is None:
        return
    status = invocation.status
    if type(status) is Invoked and status.failure is not None:
        invocation = _made_progress(turn, invocation, status)
    entry, callee = command.entry, command.callee
    turn.tables.append(command.number, turn.at, entry)
    known = e.InvocationIdResult(format_invocation_id(callee.id))
    _answer(turn, invocation, e.CALL_INVOCATION_ID_COMPLETION, entry.invocation_id_completion_id, known)
    if callee.waiter is not None:
        callee = replace(callee, waiter=replace(callee.waiter, number=invocation.number))
    turn.post(callee.id, callee)


def propose(turn: Turn, command: Propose) -> None:
    """A step has a result: from here on it never runs again."""
    invocation = lifecycle.current(turn, command.number, command.attempt)
    if invocation is not None:
        if command.parts:
            invocation = streams.store(turn, invocation, command.parts, command.completion_id)
        completion = e.Completion(e.RUN_COMPLETION, command.completion_id, command.result, turn.at)
        lifecycle.notify(turn, invocation, completion)


def _answer(turn: Turn, invocation: Invocation, kind: int, completion_id: int, result: e.Result) -> None:
    lifecycle.notify(turn, invocation, e.Completion(kind, completion_id, result, turn.at))


def _owner(invocation: Invocation) -> tuple[str, str | None]:
    return invocation.target.service, invocation.target.key


def _set_state(turn: Turn, invocation: Invocation, entry: e.SetState) -> None:
    turn.tables.put(STATE, (*_owner(invocation), entry.key), entry.value)


def _clear_state(turn: Turn, invocation: Invocation, entry: e.ClearState) -> None:
    turn.tables.delete(STATE, (*_owner(invocation), entry.key))


def _clear_all_state(turn: Turn, invocation: Invocation, entry: e.ClearAllState) -> None:
    turn.tables.drop(STATE, _owner(invocation))


def _get_state(turn: Turn, invocation: Invocation, entry: e.GetLazyState) -> None:
    value = turn.tables.get(STATE, (*_owner(invocation), entry.key))
    result = e.VOID if value is None else e.Value(value)
    _answer(turn, invocation, e.GET_LAZY_STATE_COMPLETION, entry.completion_id, result)


def _get_state_keys(turn: Turn, invocation: Invocation, entry: e.GetLazyStateKeys) -> None:
    keys = tuple(key[2] for key, _ in turn.tables.scan(STATE, _owner(invocation)))
    _answer(turn, invocation, e.GET_LAZY_STATE_KEYS_COMPLETION, entry.completion_id, e.StateKeys(keys))


def _sleep(turn: Turn, invocation: Invocation, entry: e.Sleep) -> None:
    key = (entry.wake_up_time, invocation.number, TimerKind.SLEEP, entry.completion_id)
    turn.tables.put(TIMER, key, True)
    turn.actions.append(SetTimer(entry.wake_up_time))


def _get_promise(turn: Turn, invocation: Invocation, entry: e.GetPromise) -> None:
    key = (*_owner(invocation), entry.key)
    promise = turn.tables.get(PROMISE, key) or Promise()
    if promise.result is not None:
        _answer(turn, invocation, e.GET_PROMISE_COMPLETION, entry.completion_id, promise.result)
        return
    waiter = Waiter(invocation.id, entry.completion_id, e.GET_PROMISE_COMPLETION, invocation.number)
    turn.tables.put(PROMISE, key, Promise(waiters=(*promise.waiters, waiter)))


def _peek_promise(turn: Turn, invocation: Invocation, entry: e.PeekPromise) -> None:
    promise = turn.tables.get(PROMISE, (*_owner(invocation), entry.key))
    result = e.VOID if promise is None or promise.result is None else promise.result
    _answer(turn, invocation, e.PEEK_PROMISE_COMPLETION, entry.completion_id, result)


def _complete_promise(turn: Turn, invocation: Invocation, entry: e.CompletePromise) -> None:
    key = (*_owner(invocation), entry.key)
    promise = turn.tables.get(PROMISE, key) or Promise()
    answer: e.Void | e.Failure = e.VOID
    if promise.result is not None:
        answer = e.Failure(409, "promise was already completed")
    else:
        turn.tables.put(PROMISE, key, Promise(entry.result))
    _answer(turn, invocation, e.COMPLETE_PROMISE_COMPLETION, entry.completion_id, answer)
    if promise.result is None:
        for waiter in promise.waiters:
            lifecycle.complete_waiter(turn, waiter, entry.result)


def _send_signal(turn: Turn, invocation: Invocation, entry: e.SendSignal) -> None:
    target = parse_invocation_id(entry.target)
    if entry.signal == CANCEL_SIGNAL:
        turn.post(target, Cancel(turn.at, target))
    else:
        turn.post(target, SendSignalTo(turn.at, target, e.Signal(entry.signal, entry.result, turn.at)))


def _complete_awakeable(turn: Turn, invocation: Invocation, entry: e.CompleteAwakeable) -> None:
    target, signal = parse_awakeable_id(entry.awakeable_id)
    turn.post(target, SendSignalTo(turn.at, target, e.Signal(signal, entry.result, turn.at)))


def resolve_target(target: e.InvocationTarget | e.IdempotentTarget | e.WorkflowTarget) -> InvocationId:
    """The id that a target names; raises `Invalid` when it names none."""
    if isinstance(target, e.InvocationTarget):
        return parse_invocation_id(target.invocation_id)
    if isinstance(target, e.WorkflowTarget):
        return invocation_id(partition_key_of(target.key), workflow_uuid(target.workflow, target.key))
    if not target.idempotency_key:
        raise Invalid("idempotency_key must not be empty")
    uuid = idempotent_uuid(target.service, target.key, target.handler, target.idempotency_key)
    owner = target.idempotency_key if target.key is None else target.key
    return invocation_id(partition_key_of(owner), uuid)


def _attach(turn: Turn, invocation: Invocation, entry: e.AttachInvocation) -> None:
    target = resolve_target(entry.target)
    waiter = Waiter(invocation.id, entry.completion_id, e.ATTACH_COMPLETION, invocation.number)
    turn.post(target, AttachFrom(target, waiter, True))


def _get_output(turn: Turn, invocation: Invocation, entry: e.GetInvocationOutput) -> None:
    target = resolve_target(entry.target)
    waiter = Waiter(invocation.id, entry.completion_id, e.GET_OUTPUT_COMPLETION, invocation.number)
    turn.post(target, AttachFrom(target, waiter, False))


ENTRIES: dict[type[e.Command], Effect | None] = {  # None: the entry is all there is to it
    e.Run: None,
    e.Output: None,
    e.GetEagerState: None,
    e.GetEagerStateKeys: None,
    e.GetLazyState: _get_state,
    e.GetLazyStateKeys: _get_state_keys,
    e.SetState: _set_state,
    e.ClearState: _clear_state,
    e.ClearAllState: _clear_all_state,
    e.Sleep: _sleep,
    e.GetPromise: _get_promise,
    e.PeekPromise: _peek_promise,
    e.CompletePromise: _complete_promise,
    e.SendSignal: _send_signal,
    e.CompleteAwakeable: _complete_awakeable,
    e.AttachInvocation: _attach,
    e.GetInvocationOutput: _get_output,
}
