"""The engine's end of an attempt: which message becomes which command, and what a handler may not do."""

from typing import Any, get_args

import pytest

from perdure.errors import Invalid
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.ids import awakeable_id, format_invocation_id
from perdure.model.invocation import AttemptFailure, Retention, Target, Waiting
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.protocol import control
from perdure.protocol.attempt import PRECONDITION, Attempt
from perdure.protocol.messages import encode_entry

AT = 1_700_000_000_000
POLICY = RetryPolicy(max_attempts=3)
ID = bytes(range(24))
TEXT = format_invocation_id(ID)
FAILURE = AttemptFailure("boom", 500, AT)
VALUE = e.Value(b"v")
TARGETS = {
    HandlerKind.PLAIN: Target("greeter", "greet", HandlerKind.PLAIN),
    HandlerKind.EXCLUSIVE: Target("counter", "add", HandlerKind.EXCLUSIVE, "k"),
    HandlerKind.SHARED: Target("flow", "get", HandlerKind.SHARED, "k"),
    HandlerKind.WORKFLOW: Target("flow", "main", HandlerKind.WORKFLOW, "k"),
}
CALLEE = c.Invoke(AT, b"c" * 24, TARGETS[HandlerKind.PLAIN], e.Input(b"p"), Retention())
LONE = "\ud800"


def address(entry: e.Call | e.OneWayCall, at: int) -> c.Invoke:
    if entry.service == "unknown":
        raise Invalid("service 'unknown' not found")
    return CALLEE


def attempt(kind: HandlerKind = HandlerKind.WORKFLOW) -> Attempt:
    return Attempt(3, 5, TARGETS[kind], POLICY, address)


def receive(message: Any, kind: HandlerKind = HandlerKind.WORKFLOW) -> c.PartitionCommand | None:
    return attempt(kind).receive(message, AT, 0.25)


def refusal(it: Attempt, message: Any) -> str:
    """The message of the failure that ends the attempt."""
    command = it.receive(message, AT, 0.25)
    assert isinstance(command, c.Fail)
    assert command == c.Fail(AT, 3, 5, AttemptFailure(command.failure.message, PRECONDITION, AT), POLICY, 0.25)
    assert it.ended
    assert it.receive(e.Run(1, "more"), AT, 0.25) is None
    return command.failure.message


ENTRIES: list[e.Command] = [
    e.Output(VALUE),
    e.GetLazyState("k", 1),
    e.SetState("k", b"v"),
    e.ClearState("k"),
    e.ClearAllState(),
    e.GetLazyStateKeys(1),
    e.GetEagerState("k", VALUE),
    e.GetEagerStateKeys(("k",)),
    e.GetPromise("k", 1),
    e.PeekPromise("k", 1),
    e.CompletePromise("k", VALUE, 1),
    e.Sleep(AT, 1),
    e.Call("s", "h", b"p", 1, 2),
    e.OneWayCall("s", "h", b"p", 1),
    e.SendSignal(TEXT, 17, VALUE),
    e.Run(1, "step"),
    e.AttachInvocation(e.InvocationTarget(TEXT), 1),
    e.GetInvocationOutput(e.IdempotentTarget("s", None, "h", "i"), 1),
    e.CompleteAwakeable(awakeable_id(ID, 17), VALUE),
]


def kind_of(message: object) -> str:
    return type(message).__name__


# ---- what becomes of what --------------------------------------------------------------------------------------------


def test_every_kind_of_entry_is_here() -> None:
    assert {type(entry) for entry in ENTRIES} == set(get_args(e.Command)) - {e.Input}


@pytest.mark.parametrize("entry", ENTRIES, ids=kind_of)
def test_an_entry_is_appended(entry: e.Command) -> None:
    command = receive(entry)
    if isinstance(entry, e.Call | e.OneWayCall):
        assert command == c.AppendCall(AT, 3, 5, entry, CALLEE)
    else:
        assert command == c.Append(AT, 3, 5, entry)


def test_what_is_no_entry() -> None:
    assert receive(control.ProposeRun(1, VALUE)) == c.Propose(AT, 3, 5, 1, VALUE)
    assert receive(control.AwaitingOn(Waiting((1,)))) is None
    assert receive(control.StepFailed(FAILURE, {1: 2})) == c.Note(AT, 3, 5, FAILURE, {1: 2})
    assert receive(control.Suspension(Waiting((1,)), 4)) == c.Suspend(AT, 3, 5, Waiting((1,)), 4)
    assert receive(control.Error(FAILURE)) == c.Fail(AT, 3, 5, FAILURE, POLICY, 0.25)
    error = control.Error(FAILURE, 700, "pause", {1: 2})
    assert receive(error) == c.Fail(AT, 3, 5, FAILURE, POLICY, 0.25, 700, "pause", {1: 2})


def test_the_end_has_the_result_of_the_last_output() -> None:
    it = attempt()
    for result in (e.Failure(500, "no"), VALUE):
        it.receive(e.Output(result), AT, 0.0)
    assert it.receive(control.End(), AT, 0.0) == c.End(AT, 3, 5, VALUE)


@pytest.mark.parametrize(
    "last", [control.Suspension(Waiting((1,))), control.Error(FAILURE), control.End()], ids=kind_of
)
@pytest.mark.parametrize("more", [e.Run(1, "x"), control.End(), control.ProposeRun(1, VALUE)], ids=kind_of)
def test_after_the_last_message_there_is_no_other(last: Any, more: Any) -> None:
    it = attempt()
    it.receive(e.Output(VALUE), AT, 0.0)
    assert it.receive(last, AT, 0.0) is not None and it.ended
    assert it.receive(more, AT, 0.0) is None


# ---- what may not be -------------------------------------------------------------------------------------------------

READS = (e.GetLazyState, e.GetLazyStateKeys, e.GetEagerState, e.GetEagerStateKeys)
WRITES = (e.SetState, e.ClearState, e.ClearAllState)
PROMISES = (e.GetPromise, e.PeekPromise, e.CompletePromise)
FORBIDDEN: dict[HandlerKind, tuple[type, ...]] = {
    HandlerKind.PLAIN: (*READS, *WRITES, *PROMISES),
    HandlerKind.SHARED: WRITES,
    HandlerKind.EXCLUSIVE: PROMISES,
    HandlerKind.WORKFLOW: (),
}


@pytest.mark.parametrize("kind", HandlerKind)
@pytest.mark.parametrize("entry", ENTRIES, ids=kind_of)
def test_state_and_promises_are_for_those_who_have_them(entry: e.Command, kind: HandlerKind) -> None:
    if isinstance(entry, FORBIDDEN[kind]):
        words = {READS: "has no state", WRITES: "may not change state", PROMISES: "has no promises"}
        (expected,) = [text for kinds, text in words.items() if isinstance(entry, kinds)]
        assert f"{TARGETS[kind]} {expected}" in refusal(attempt(kind), entry)
    else:
        assert isinstance(receive(entry, kind), c.Append | c.AppendCall)


@pytest.mark.parametrize(
    "message", [e.Input(b""), e.Completion(e.RUN_COMPLETION, 1, VALUE), e.Signal(1, e.VOID)], ids=kind_of
)
def test_what_the_engine_writes_no_handler_may_send(message: Any) -> None:
    assert refusal(attempt(), message) == f"{type(message).__name__} is the engine's to write"


def test_an_end_needs_an_output() -> None:
    assert refusal(attempt(), control.End()) == "the handler ended without an output"


def test_a_suspension_has_to_wait_for_something() -> None:
    assert refusal(attempt(), control.Suspension(Waiting())) == "a suspension has to wait for something"
    for waiting in (Waiting((1,)), Waiting(signals=(1,)), Waiting(names=("go",))):
        assert isinstance(receive(control.Suspension(waiting)), c.Suspend)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (e.SendSignal("inv_1short", 1, e.VOID), "10 characters, not 38"),
        (e.SendSignal("prom_1abc", "go", e.VOID), "it has to begin with 'inv_1'"),
        (e.CompleteAwakeable("sign_1!", VALUE), "not base64url"),
        (e.CompleteAwakeable(TEXT, VALUE), "it has to begin with 'sign_1'"),
        (e.AttachInvocation(e.InvocationTarget("inv_2" + TEXT[5:]), 1), "unknown version '2'"),
        (e.GetInvocationOutput(e.InvocationTarget("inv_1" + "!" * 33), 1), "not base62"),
        (e.AttachInvocation(e.IdempotentTarget("s", None, "h", ""), 1), "idempotency_key must not be empty"),
        (e.GetInvocationOutput(e.IdempotentTarget("s", "k", "h", ""), 1), "idempotency_key must not be empty"),
        (e.Call("unknown", "h", b"", 1, 2), "service 'unknown' not found"),
        (e.OneWayCall("unknown", "h", b"", 1), "service 'unknown' not found"),
    ],
)
def test_ids_and_names_have_to_be_some(entry: e.Command, words: str) -> None:
    assert words in refusal(attempt(), entry)


def test_a_workflow_target_always_names_one() -> None:
    entry = e.AttachInvocation(e.WorkflowTarget("flow", ""), 1)
    assert receive(entry) == c.Append(AT, 3, 5, entry)


# ---- what no store can hold ------------------------------------------------------------------------------------------

UNSTORABLE: list[Any] = [
    e.Run(1, LONE),
    e.Sleep(AT, 1, LONE),
    e.GetLazyState(LONE, 1),
    e.GetEagerState(LONE, e.VOID),
    e.GetEagerStateKeys((LONE,)),
    e.GetLazyStateKeys(1, LONE),
    e.SetState(LONE, b""),
    e.ClearState(LONE),
    e.ClearAllState(LONE),
    e.GetPromise(LONE, 1),
    e.PeekPromise("k", 1, LONE),
    e.CompletePromise("k", e.Failure(1, LONE), 1),
    e.Call("s", "h", b"", 1, 2, LONE),
    e.Call("s", "h", b"", 1, 2, headers=((LONE, "x"),)),
    e.OneWayCall("s", "h", b"", 1, headers=(("x", LONE),)),
    e.OneWayCall("s", "h", b"", 1, idempotency_key=LONE),
    e.SendSignal(TEXT, LONE, e.VOID),
    e.SendSignal(TEXT, 17, e.Failure(1, "x", (("x", LONE),))),
    e.CompleteAwakeable(awakeable_id(ID, 17), VALUE, LONE),
    e.CompleteAwakeable(awakeable_id(ID, 17), e.Failure(1, LONE)),
    e.AttachInvocation(e.InvocationTarget(TEXT), 1, LONE),
    e.AttachInvocation(e.WorkflowTarget("flow", LONE), 1),
    e.GetInvocationOutput(e.IdempotentTarget("s", None, "h", LONE), 1),
    e.Output(VALUE, LONE),
    e.Output(e.Failure(500, LONE)),
    e.Output(e.Failure(500, "x", ((LONE, "x"),))),
    control.ProposeRun(1, e.Failure(500, LONE)),
    control.ProposeRun(1, e.Failure(500, "x", (("x", LONE),))),
    control.Error(AttemptFailure(LONE)),
    control.StepFailed(AttemptFailure("x", command_name=LONE), {}),
    control.Suspension(Waiting(names=(LONE,))),
    # numbers beyond their field on the wire, and times beyond what a store can order
    e.Output(e.Failure(-1, "x")),
    e.Output(e.Failure(1 << 32, "x")),
    control.ProposeRun(1, e.Failure(-1, "x")),
    e.CompletePromise("k", e.Failure(1 << 32, "x"), 1),
    e.SendSignal(TEXT, 17, e.Failure(-1, "x")),
    e.SendSignal(TEXT, -1, e.VOID),
    e.SendSignal(TEXT, 1 << 32, e.VOID),
    e.CompleteAwakeable(awakeable_id(ID, 17), e.Failure(-1, "x")),
    e.Sleep(1 << 62, 1),
    e.Sleep(-1, 1),
    control.Error(FAILURE, 1 << 62),
    e.Sleep(AT, 1 << 32),
    e.OneWayCall("s", "h", b"", 1, 1 << 62),
    e.Run(-1, "x"),
    control.ProposeRun(1 << 32, VALUE),
]


@pytest.mark.parametrize("message", UNSTORABLE, ids=[f"{n}-{kind_of(m)}" for n, m in enumerate(UNSTORABLE)])
def test_what_cannot_be_stored_ends_the_attempt_and_not_the_partition(message: Any) -> None:
    words = refusal(attempt(), message)
    assert type(message).__name__ in words
    words.encode()  # and the refusal can be stored


@pytest.mark.parametrize(
    "message",
    [
        e.Run(1, "größe \U0001f600"),
        e.Sleep((1 << 62) - 1, 1),
        e.Output(e.Failure((1 << 32) - 1, "é", (("é", "é"),))),
        e.SendSignal(TEXT, (1 << 32) - 1, e.VOID),
        e.Call("s", "h", b"", 1, 2, "é", (("é", "é"),)),
    ],
    ids=kind_of,
)
def test_what_can_be_stored_is(message: e.Command) -> None:
    assert encode_entry(message)
    assert isinstance(receive(message), c.Append | c.AppendCall)


@pytest.mark.parametrize("code", [-1, 1 << 32, 1 << 70])
def test_a_failure_of_an_odd_code_is_kept_without_it(code: int) -> None:
    """It is the user's exception, and all there is to say what went wrong."""
    odd, kept = AttemptFailure("boom", code, AT), AttemptFailure("boom", 500, AT)
    assert receive(control.Error(odd)) == c.Fail(AT, 3, 5, kept, POLICY, 0.25)
    assert receive(control.StepFailed(odd, {})) == c.Note(AT, 3, 5, kept, {})


def test_the_callee_of_a_call_is_asked_for_with_the_time_of_the_call() -> None:
    asked: list[tuple[e.Call | e.OneWayCall, int]] = []

    def note(entry: e.Call | e.OneWayCall, at: int) -> c.Invoke:
        asked.append((entry, at))
        return CALLEE

    it = Attempt(3, 5, TARGETS[HandlerKind.PLAIN], POLICY, note)
    entry = e.Call("s", "h", b"p", 1, 2)
    it.receive(entry, AT + 9, 0.0)
    assert asked == [(entry, AT + 9)]
