"""What each entry of a journal does, and who answers it."""

from collections.abc import Callable

import pytest

from perdure.core import journal
from perdure.core.journal import resolve_target
from perdure.core.tables import PROMISE, STATE, TIMER, TimerKind
from perdure.errors import Invalid
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import AbortAttempt, SetTimer
from perdure.model.ids import awakeable_id, idempotent_uuid, invocation_id, partition_key_of, workflow_uuid
from perdure.model.invocation import Paused, Promise, Retention, Waiter
from tests.core.invariants import check
from tests.core.world import AT, KEPT, TOKEN, World, text, value


def answer(world: World, id: bytes) -> e.Result:
    """The result of the completion that the last command appended and sent."""
    (notification,) = world.notified()
    assert isinstance(notification, e.Completion) and world.journal(id)[-1] == notification
    assert notification.at == world.at
    return notification.result


@pytest.mark.parametrize(
    "entry",
    [e.Run(1, "step"), e.Output(value("v")), e.GetEagerState("k", e.VOID), e.GetEagerStateKeys(("k",))],
    ids=lambda entry: type(entry).__name__,
)
def test_some_entries_are_all_there_is_to_it(entry: e.Command) -> None:
    world = World()
    id = world.invoke("counter/k/add")
    world.append(id, entry)
    assert world.journal(id) == [e.Input(b"in"), entry] and not world.actions
    assert {name for name, rows in world.snapshot().items() if rows} == {
        "active",
        "invocation",
        "invocation_id",
        "journal",
        "lock",
        "meta",
    }


# ---- state -----------------------------------------------------------------------------------------------------------


def test_state_is_written_with_its_entry_and_read_at_once() -> None:
    world = World()
    id = world.invoke("counter/k/add")
    other = world.invoke("counter/other/add")
    world.append(other, e.SetState("a", b"other"))
    world.append(id, e.GetLazyState("a", 1))
    assert answer(world, id) == e.VOID
    world.append(id, e.SetState("b", b"2"), e.SetState("a", b"1"), e.GetLazyState("a", 2))
    assert answer(world, id) == value("1")
    world.append(id, e.GetLazyStateKeys(3))
    assert answer(world, id) == e.StateKeys(("a", "b"))
    world.append(id, e.ClearState("a"), e.ClearState("never"), e.GetLazyStateKeys(4))
    assert answer(world, id) == e.StateKeys(("b",))
    world.append(id, e.ClearAllState(), e.GetLazyStateKeys(5))
    assert answer(world, id) == e.StateKeys(())
    assert world.rows(STATE) == {("counter", "other", "a"): b"other"}
    kinds = {entry.type for entry in world.journal(id) if isinstance(entry, e.Completion)}
    assert kinds == {e.GET_LAZY_STATE_COMPLETION, e.GET_LAZY_STATE_KEYS_COMPLETION}
    assert not check([world.snapshot()])


# ---- sleep -----------------------------------------------------------------------------------------------------------


def test_a_sleep_ends_with_its_timer() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Sleep(AT + 50, 1), e.Sleep(AT + 20, 2))
    assert world.all(SetTimer) == [SetTimer(AT + 20)]
    assert world.rows(TIMER).keys() == {(AT + 50, 1, TimerKind.SLEEP, 1), (AT + 20, 1, TimerKind.SLEEP, 2)}
    world.tick(20)
    assert world.notified() == [e.Completion(e.SLEEP_COMPLETION, 2, e.VOID, AT + 20)]
    assert world.all(SetTimer) == [SetTimer(AT + 50)]
    world.suspend(id, 1)
    world.tick(30)
    assert world.started() == [id] and not world.rows(TIMER)


def test_a_sleep_into_the_past_ends_at_the_next_look() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Sleep(AT - 1, 1))
    assert world.only(SetTimer).at == AT - 1
    world.tick()
    assert answer(world, id) == e.VOID


# ---- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_makes_its_callee_in_the_same_batch() -> None:
    world = World()
    id, callee = world.invoke(), world.fresh_id()
    world.call(id, "greeter/greet", (1, 2), callee)
    assert answer(world, id) == e.InvocationIdResult(text(callee))
    assert world.started() == [callee]
    assert world[callee].waiters == (Waiter(id, 2, e.CALL_COMPLETION, world[id].number),)
    assert not check([world.snapshot()])
    world.end(callee, e.Failure(400, "no"))
    assert answer(world, id) == e.Failure(400, "no")


def test_a_one_way_call_is_answered_with_an_id_only() -> None:
    world = World()
    id, callee = world.invoke(), world.fresh_id()
    it = world[id]
    entry = e.OneWayCall("greeter", "greet", b"in", 1, AT + 10)
    invoke = world.invocation_of("greeter/greet", callee, execute_at=AT + 10)
    world.apply(c.AppendCall(AT, it.number, it.attempts, entry, invoke))
    assert answer(world, id) == e.InvocationIdResult(text(callee))
    assert world.kind(callee) == "Scheduled"
    world.tick(10)
    world.end(callee)
    assert not world.notified()


# ---- promises --------------------------------------------------------------------------------------------------------


def test_a_promise_is_completed_once_and_read_by_many() -> None:
    world = World()
    main, shared = world.invoke("flow/k/main"), world.invoke("flow/k/get")
    other = world.invoke("flow/other/main")
    world.append(main, e.PeekPromise("p", 1))
    assert answer(world, main) == e.VOID
    world.append(main, e.GetPromise("p", 2))
    world.append(shared, e.GetPromise("p", 1), e.GetPromise("p", 2))
    world.append(other, e.GetPromise("p", 1))
    assert not world.actions
    world.suspend(shared, 1, 2)
    world.append(shared := world.invoke("flow/k/get"), e.CompletePromise("p", value("v"), 1))
    answers = [n for n in world.notified() if isinstance(n, e.Completion)]
    assert [(n.type, n.result) for n in answers] == [
        (e.COMPLETE_PROMISE_COMPLETION, e.VOID),
        (e.GET_PROMISE_COMPLETION, value("v")),  # main's; then the first of the sleeper's wakes it, with its second
        (e.GET_PROMISE_COMPLETION, value("v")),
    ]
    assert len(world.started()) == 1
    world.append(shared, e.CompletePromise("p", value("again"), 2))
    assert answer(world, shared) == e.Failure(409, "promise was already completed")
    world.append(shared, e.PeekPromise("p", 3))
    assert answer(world, shared) == value("v")
    world.append(shared, e.GetPromise("p", 4))
    assert answer(world, shared) == value("v")
    assert world.rows(PROMISE)[("flow", "k", "p")] == Promise(value("v"))
    assert len(world.rows(PROMISE)[("flow", "other", "p")].waiters) == 1
    assert not check([world.snapshot()])


def test_a_promise_may_be_rejected_and_may_be_completed_before_the_workflow_runs() -> None:
    world = World()
    early = world.invoke("flow/k/get")
    world.append(early, e.CompletePromise("p", e.Failure(400, "no"), 1))
    main = world.invoke("flow/k/main")
    world.append(main, e.GetPromise("p", 1))
    assert answer(world, main) == e.Failure(400, "no")
    world.append(main, e.PeekPromise("p", 2))
    assert answer(world, main) == e.Failure(400, "no")


@pytest.mark.parametrize("how", ["expired", "purged", "withdrawn", "killed, and nothing is kept"])
def test_who_waits_for_a_promise_of_a_workflow_that_is_forgotten_is_told(how: str) -> None:
    """Nobody is left who knows that they wait: untold, they would wait for ever, and nobody would notice."""
    world = World()
    execute_at = AT + 10 if how == "withdrawn" else None
    retention = Retention() if how.startswith("killed") else KEPT
    main = world.invoke("flow/k/main", retention=retention, execute_at=execute_at)
    sleeper, awake = world.invoke("flow/k/get"), world.invoke("flow/k/get")
    world.append(sleeper, e.GetPromise("p", 1))
    world.suspend(sleeper, 1)
    world.append(awake, e.GetPromise("p", 1))
    if how == "withdrawn":
        world.order(c.Cancel, main)
    elif how == "expired":
        world.end(main)
        world.tick(KEPT.completion_ms)
    elif how == "purged":
        world.end(main)
        world.order(c.Purge, main)
    else:
        world.order(c.Kill, main)
    assert world.find(main) is None and not world.rows(PROMISE)
    gone = e.Failure(410, "the workflow is no longer kept, and with it the promise 'p'")
    for id in (sleeper, awake):
        assert world.journal(id)[-1] == e.Completion(e.GET_PROMISE_COMPLETION, 1, gone, world.at)
    assert world.started() == [sleeper]
    assert not check([world.snapshot()])


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "signal"),
    [
        (lambda id: e.SendSignal(text(id), 17, value("v")), e.Signal(17, value("v"), AT)),
        (lambda id: e.SendSignal(text(id), "go", e.Failure(1, "no")), e.Signal("go", e.Failure(1, "no"), AT)),
        (lambda id: e.SendSignal(text(id), 1, e.VOID), e.Signal(1, e.VOID, AT)),
        (lambda id: e.CompleteAwakeable(awakeable_id(id, 18), value("v")), e.Signal(18, value("v"), AT)),
    ],
)
def test_a_handler_sends_signals(entry: Callable[[bytes], e.Command], signal: e.Signal) -> None:
    world = World()
    sender, receiver = world.invoke(), world.invoke()
    world.append(sender, entry(receiver))
    assert world.notified() == [signal] and world.journal(receiver)[-1] == signal
    assert world.journal(sender) == [e.Input(b"in"), entry(receiver)]
    world.append(sender, entry(world.fresh_id()))
    assert not world.actions


def test_a_handler_that_cancels_what_has_not_begun_withdraws_it() -> None:
    world = World()
    sender, receiver = world.invoke(), world.invoke(execute_at=AT + 10)
    world.append(sender, e.SendSignal(text(receiver), 1, e.VOID))
    assert world.find(receiver) is None


def test_a_handler_may_signal_itself() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.CompleteAwakeable(awakeable_id(id, 17), value("me")))
    assert world.notified() == [e.Signal(17, value("me"), AT)]


# ---- the output of others --------------------------------------------------------------------------------------------


def test_attach_and_get_output() -> None:
    world = World()
    id, target = world.invoke(), world.invoke()
    named = e.InvocationTarget(text(target))
    world.append(id, e.GetInvocationOutput(named, 1))
    assert answer(world, id) == e.VOID
    world.append(id, e.AttachInvocation(named, 2))
    assert not world.actions
    asked = Waiter(id, 2, e.ATTACH_COMPLETION, world[id].number)
    world.apply(c.Deliver(AT, 0, 1, c.AttachFrom(target, asked, True)))
    assert world[target].waiters == (asked,)  # asking again changes nothing
    world.end(target)
    assert answer(world, id) == value("out")
    world.append(id, e.AttachInvocation(named, 3))
    assert answer(world, id) == value("out")
    world.append(id, e.GetInvocationOutput(named, 4))
    assert answer(world, id) == value("out")
    unknown = e.InvocationTarget(text(world.fresh_id()))
    for entry in (e.AttachInvocation(unknown, 5), e.GetInvocationOutput(unknown, 6)):
        world.append(id, entry)
        assert answer(world, id) == e.Failure(404, "not found")
    kinds = [entry.type for entry in world.journal(id) if isinstance(entry, e.Completion)]
    assert kinds == [
        e.GET_OUTPUT_COMPLETION,
        e.ATTACH_COMPLETION,
        e.ATTACH_COMPLETION,
        e.GET_OUTPUT_COMPLETION,
        e.ATTACH_COMPLETION,
        e.GET_OUTPUT_COMPLETION,
    ]


def test_targets_name_ids() -> None:
    id = b"i" * 24
    assert resolve_target(e.InvocationTarget(text(id))) == id
    assert resolve_target(e.WorkflowTarget("flow", "k")) == invocation_id(
        partition_key_of("k"), workflow_uuid("flow", "k")
    )
    assert resolve_target(e.IdempotentTarget("greeter", None, "greet", "once")) == invocation_id(
        partition_key_of("once"), idempotent_uuid("greeter", None, "greet", "once")
    )
    assert resolve_target(e.IdempotentTarget("counter", "k", "add", "once")) == invocation_id(
        partition_key_of("k"), idempotent_uuid("counter", "k", "add", "once")
    )
    with pytest.raises(Invalid, match="must not be empty"):
        resolve_target(e.IdempotentTarget("greeter", None, "greet", ""))


def test_an_idempotent_call_is_found_again_by_its_names() -> None:
    world = World()
    target = e.IdempotentTarget("greeter", None, "greet", "once")
    id = resolve_target(target)
    world.invoke(id=id, idempotency_key="once", token=TOKEN)
    asker = world.invoke()
    world.append(asker, e.AttachInvocation(target, 1))
    world.end(id)
    assert answer(world, asker) == value("out")


def test_a_journal_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "JOURNAL_LIMIT", 4)
    world = World()
    id = world.invoke()
    for completion_id in (1, 2, 3):
        world.append(id, e.Run(completion_id, "step"))
    assert world.kind(id) == "Invoked"
    world.append(id, e.Run(4, "one too many"))
    status = world.status(id)
    assert isinstance(status, Paused) and status.failure is not None
    assert status.failure.message.startswith("the journal has 4 entries, the limit")
    assert any(isinstance(action, AbortAttempt) for action in world.actions)
    world.append(id, e.Run(5, "of an attempt that is over"))
    assert world.kind(id) == "Paused"
