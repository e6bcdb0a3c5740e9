"""From accepted to forgotten: repetitions, suspension, retries, fences, retention."""

from typing import get_args

import pytest
from msgspec.structs import replace

from perdure.core import lifecycle
from perdure.core.lifecycle import ALLOWED, EAGER_STATE_LIMIT
from perdure.core.tables import ACTIVE, INVOCATION, JOURNAL, PROMISE, STATE, TIMER, TimerKind
from perdure.core.turn import Turn
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model import invocation as i
from perdure.model.actions import Accepted, AlreadyInvoked, Answer, Finished, Refused, SetTimer, StartAttempt
from perdure.model.ids import invocation_id, partition_key_of, workflow_uuid
from perdure.model.invocation import AttemptFailure, Completed, Invoked, Paused, Retention, Suspended, Waiter, Waiting
from perdure.model.services import RetryPolicy
from tests.core.invariants import check
from tests.core.world import AT, KEPT, TOKEN, World, text, value

# ---- accepted --------------------------------------------------------------------------------------------------------


def test_a_new_invocation_starts_in_the_batch_that_accepts_it() -> None:
    world = World()
    id = world.invoke(token=TOKEN)
    (start,) = world.all(StartAttempt)
    assert start.journal is not None
    assert (start.journal.entries, start.journal.state) == ((e.Input(b"in"),), None)
    assert (start.invocation.attempts, start.invocation.started_at, start.invocation.created_at) == (1, AT, AT)
    assert world.reply() == Accepted(id, True)
    assert world.rows(ACTIVE) == {(1,): True}


def test_who_waits_is_answered_by_the_end_only() -> None:
    world = World()
    world.invoke(token=TOKEN, wait=True)
    assert [type(action) for action in world.actions] == [StartAttempt]


def test_a_later_time_is_kept_as_a_timer() -> None:
    world = World()
    id = world.invoke(execute_at=AT + 500, token=TOKEN)
    assert world.actions == [SetTimer(AT + 500), world.actions[-1]]
    assert world.reply() == Accepted(id, True, AT + 500)
    world.tick(499)
    assert world.actions == [SetTimer(AT + 500)] and world.kind(id) == "Scheduled"
    world.tick(1)
    assert world.started() == [id]
    assert world[id].started_at == AT + 500


@pytest.mark.parametrize("execute_at", [AT, AT - 1, 0])
def test_a_time_that_has_passed_is_now(execute_at: int) -> None:
    world = World()
    id = world.invoke(execute_at=execute_at, token=TOKEN)
    assert world.started() == [id]
    assert world.reply() == Accepted(id, True)


def test_a_scheduled_invocation_of_an_object_queues_when_its_time_has_come() -> None:
    world = World()
    later = world.invoke("counter/k/add", execute_at=AT + 10)
    holder = world.invoke("counter/k/add")
    assert world.kind(holder) == "Invoked"
    world.tick(10)
    assert world.kind(later) == "Inboxed"
    assert not check([world.snapshot()])
    world.end(holder)
    assert (world[later].execute_at, world[later].inboxed_at) == (AT + 10, AT + 10)  # told of it when it has moved on
    assert (world[holder].execute_at, world[holder].inboxed_at) == (None, None)


# ---- repeated --------------------------------------------------------------------------------------------------------


def test_a_repeated_idempotency_key_is_told_of_the_first() -> None:
    world = World()
    id = world.invoke(idempotency_key="once", execute_at=AT + 10, token=TOKEN)
    for answer in (Accepted(id, False, AT + 10), Accepted(id, False)):
        world.invoke(id=id, idempotency_key="once", token=TOKEN)
        assert world.reply() == answer and not world.changed()
        world.tick(10)
    world.invoke(id=id, idempotency_key="once", token=TOKEN, wait=True)
    assert not world.actions  # its end will tell
    world.invoke(id=id, idempotency_key="once")
    assert not world.actions
    world.end(id)
    world.invoke(id=id, idempotency_key="once", token=TOKEN, wait=True)
    assert world.reply() == Answer(id, value("out"), world.at + KEPT.completion_ms)
    assert len(world.rows(INVOCATION)) == 1


def test_repeated_calls_from_journals_all_get_the_result() -> None:
    world = World()
    id = world.fresh_id()
    callers = [world.invoke() for _ in range(3)]
    for caller in callers[:2]:
        world.call(caller, "greeter/greet", (1, 2), id, idempotency_key="once")
    repeated = Waiter(callers[0], 2, e.CALL_COMPLETION, world[callers[0]].number)
    world.apply(world.invocation_of("greeter/greet", id, idempotency_key="once", waiter=repeated))
    assert len(world[id].waiters) == 2  # the same entry does not wait twice
    world.end(id)
    world.call(callers[2], "greeter/greet", (1, 2), id, idempotency_key="once")
    for caller in callers:
        assert world.journal(caller)[-1] == e.Completion(e.CALL_COMPLETION, 2, value("out"), AT)


def test_an_id_without_an_idempotency_key_is_never_looked_for() -> None:
    """Such an id is a fresh one; asking for it would cost every invocation a look-up."""
    world = World()
    world.invoke(idempotency_key=None)
    assert world.started()


def test_a_workflow_runs_once() -> None:
    world = World()
    id = invocation_id(partition_key_of("k"), workflow_uuid("flow", "k"))
    world.invoke("flow/k/main", id)
    caller = world.invoke()
    refusal = e.Failure(409, "the workflow method was already invoked")
    for completion_id in (2, 4):
        world.call(caller, "flow/k/main", (completion_id - 1, completion_id), id)
        assert world.journal(caller)[-1] == e.Completion(e.CALL_COMPLETION, completion_id, refusal, AT)
        world.invoke("flow/k/main", id, token=TOKEN, wait=True)
        assert world.reply() == AlreadyInvoked(id)
        world.invoke("flow/k/main", id, token=TOKEN)
        assert world.reply() == Accepted(id, False)
        if completion_id == 2:
            world.end(id)
    world.append(caller, e.AttachInvocation(e.WorkflowTarget("flow", "k"), 5))
    assert world.journal(caller)[-1] == e.Completion(e.ATTACH_COMPLETION, 5, value("out"), AT)


def test_a_workflow_that_is_forgotten_may_run_again_and_finds_nothing_of_the_first() -> None:
    world = World()
    id = world.invoke("flow/k/main")
    world.append(id, e.SetState("n", b"1"), e.CompletePromise("p", value("v"), 1))
    world.end(id)
    world.tick(KEPT.completion_ms)
    assert not world.rows(STATE) and not world.rows(PROMISE)
    world.invoke("flow/k/main", id)
    (start,) = world.all(StartAttempt)
    assert start.journal is not None and start.journal.state == {}
    assert start.invocation.attempts == 1


def test_an_answer_to_a_run_that_is_forgotten_is_not_taken_for_one_to_the_next_run() -> None:
    world = World()
    workflow, callee = world.invoke("flow/k/main", retention=Retention()), world.fresh_id()
    world.call(workflow, "greeter/greet", (1, 2), callee)
    world.end(workflow)  # without waiting for the call
    world.invoke("flow/k/main", workflow)
    world.append(workflow, e.Run(1, "one"), e.Run(2, "two"))
    world.end(callee)
    assert world.journal(workflow)[1:] == [e.Run(1, "one"), e.Run(2, "two")]


# ---- started ---------------------------------------------------------------------------------------------------------


def test_state_goes_along_up_to_a_limit() -> None:
    world = World()
    first = world.invoke("counter/k/add")
    world.append(first, e.SetState("a", bytes(EAGER_STATE_LIMIT)))
    world.invoke("counter/k/get")
    (start,) = world.all(StartAttempt)
    assert start.journal is not None and start.journal.state == {"a": bytes(EAGER_STATE_LIMIT)}
    world.append(first, e.SetState("b", b"1"))
    world.invoke("counter/k/get")
    (start,) = world.all(StartAttempt)
    assert start.journal is not None and start.journal.state is None


def test_a_journal_is_loaded_for_the_attempt_that_asks_and_no_other() -> None:
    world = World()
    id = world.invoke("counter/k/add")
    world.append(id, e.Run(1, "step"), e.SetState("n", b"1"))
    world.recover()
    assert world.only(StartAttempt).journal is None
    it = world[id]
    world.apply(c.Load(AT, it.number, it.attempts))
    (start,) = world.all(StartAttempt)
    assert start.invocation == it and start.journal is not None
    assert start.journal.entries == (e.Input(b"in"), e.Run(1, "step"), e.SetState("n", b"1"))
    assert start.journal.state == {"n": b"1"}
    assert not world.changed()
    for number, attempt in ((it.number, it.attempts - 1), (it.number, it.attempts + 1), (99, 1)):
        assert not world.apply(c.Load(AT, number, attempt))


# ---- fences ----------------------------------------------------------------------------------------------------------


def reports(number: int, attempt: int) -> list[c.PartitionCommand]:
    """Everything an attempt can say."""
    failure = AttemptFailure("late")
    callee = World().invocation_of("greeter/greet", b"c" * 24)
    return [
        c.Append(AT, number, attempt, e.Run(9, "late")),
        c.AppendCall(AT, number, attempt, e.Call("greeter", "greet", b"", 9, 10), callee),
        c.Propose(AT, number, attempt, 1, value("late")),
        c.Suspend(AT, number, attempt, Waiting(signals=(17,))),
        c.End(AT, number, attempt, value("late")),
        c.Fail(AT, number, attempt, failure, RetryPolicy(), 0.0),
        c.Note(AT, number, attempt, failure, {}),
        c.Load(AT, number, attempt),
    ]


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("place", ["restarted", "BackingOff", "Suspended", "Paused", "Completed", "forgotten"])
def test_what_a_past_attempt_says_is_dropped(place: str, index: int) -> None:
    world = World()
    id = world.invoke(retention=Retention() if place == "forgotten" else KEPT)
    it = world[id]
    if place == "restarted":
        world.recover()
    elif place == "BackingOff":
        world.fail(id)
    elif place == "Suspended":
        world.suspend(id, signals=(17,))
    elif place == "Paused":
        world.order(c.Pause, id)
    else:
        world.end(id)
    before = world.snapshot()
    actions = world.apply(reports(it.number, it.attempts)[index])
    assert actions == [] and world.snapshot() == before


# ---- suspended -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "notification", "wakes"),
    [
        (Waiting(completions=(1,)), e.Completion(e.RUN_COMPLETION, 1, e.VOID), True),
        (Waiting(completions=(2,)), e.Completion(e.RUN_COMPLETION, 1, e.VOID), False),
        (Waiting(completions=(1,)), e.Signal(17, e.VOID), False),
        (Waiting(signals=(17,)), e.Signal(17, e.VOID), True),
        (Waiting(signals=(17,)), e.Signal(18, e.VOID), False),
        (Waiting(signals=(17,)), e.Signal("17", e.VOID), False),
        (Waiting(names=("go",)), e.Signal("go", e.VOID), True),
        (Waiting(names=("go",)), e.Signal("stop", e.VOID), False),
        (Waiting(completions=(1,)), e.Signal(1, e.VOID), True),  # a cancellation wakes whatever it is that waits
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_what_wakes(waiting: Waiting, notification: e.Notification, wakes: bool, early: bool) -> None:
    """Early is the lost wake-up: it comes between the decision to suspend and the command that says so."""
    world = World()
    id = world.invoke()
    turn = Turn(world.tables[0], AT)
    if early:
        lifecycle.notify(turn, world[id], notification)
        world.suspend(id, *waiting.completions, seen=0, signals=waiting.signals, names=waiting.names)
        started = world.started()
    else:
        world.suspend(id, *waiting.completions, seen=0, signals=waiting.signals, names=waiting.names)
        lifecycle.notify(turn, world[id], notification)
        started = [action.invocation.id for action in turn.actions if isinstance(action, StartAttempt)]
    assert started == ([id] if wakes else [])
    assert world.kind(id) == ("Invoked" if wakes else "Suspended")
    assert world.journal(id)[-1] == notification


def test_what_the_handler_had_seen_does_not_wake_it_again() -> None:
    """A named signal may come many times: the first, which the handler was given, is not the one it waits for."""
    world = World()
    id = world.invoke()
    for _ in range(2):
        world.apply(c.SendSignalTo(AT, id, e.Signal("go", e.VOID)))
    world.suspend(id, seen=1, names=("go",))
    assert world.started() == [id]
    world.suspend(id, seen=2, names=("go",))
    assert world.kind(id) == "Suspended"
    world.apply(c.SendSignalTo(AT, id, e.Signal("go", e.VOID)))
    assert world.started() == [id]


def test_where_nobody_counted_all_of_the_journal_counts() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Run(1, "step"))
    world.propose(id, 1)
    world.suspend(id, 1)
    assert world.started() == [id]
    world.suspend(id, 2)
    assert world.status(id) == Suspended(AT, Waiting((2,)))


# ---- ended -----------------------------------------------------------------------------------------------------------


def test_an_end_tells_everybody_who_waits() -> None:
    world = World()
    id = world.invoke()
    callers = [world.invoke() for _ in range(2)]
    for caller in callers:
        world.append(caller, e.AttachInvocation(e.InvocationTarget(text(id)), 1))
    world.end(id, e.Failure(418, "teapot", (("k", "v"),)))
    result = e.Failure(418, "teapot", (("k", "v"),))
    assert world.only(Finished) == Finished(id, result, AT + KEPT.completion_ms)
    assert world.notified() == [e.Completion(e.ATTACH_COMPLETION, 1, result, AT)] * 2
    assert world.status(id) == Completed(AT, result) and world[id].waiters == ()


def test_whoever_waited_and_is_gone_is_not_told() -> None:
    world = World()
    caller, callee = world.invoke(retention=Retention()), world.fresh_id()
    world.call(caller, "greeter/greet", (1, 2), callee)
    world.end(caller)
    world.end(callee)
    assert not world.notified() and world.find(caller) is None


@pytest.mark.parametrize(
    ("retention", "timers", "journal"),
    [
        (Retention(), set(), False),
        (Retention(0, 100), set(), False),  # without a result there is nothing to keep a journal of
        (Retention(100, 0), {(AT + 100, TimerKind.EXPIRE)}, False),
        (Retention(100, 50), {(AT + 100, TimerKind.EXPIRE), (AT + 50, TimerKind.EXPIRE_JOURNAL)}, True),
        (Retention(100, 100), {(AT + 100, TimerKind.EXPIRE)}, True),
        (Retention(100, 200), {(AT + 100, TimerKind.EXPIRE)}, True),
    ],
)
def test_what_is_kept_and_how_long(retention: Retention, timers: set[tuple[int, int]], journal: bool) -> None:
    world = World()
    id = world.invoke(retention=retention)
    world.end(id)
    assert {(key[0], key[2]) for key in world.rows(TIMER)} == timers
    assert {(action.at) for action in world.all(SetTimer)} == {due for due, _ in timers}
    assert bool(world.rows(JOURNAL)) == journal
    if not timers:
        assert world.find(id) is None
        return
    world.tick(50)
    assert bool(world.rows(JOURNAL)) == (retention.journal_ms > 50)
    assert isinstance(world.ask(c.Attach, id, wait=False), Answer)
    world.tick(50)
    assert world.ask(c.Attach, id, wait=False) == Refused(404, "not found")
    assert not [name for name, rows in world.snapshot().items() if rows and name != "meta"]


def test_the_illegal_move_is_a_missing_key() -> None:
    assert ALLOWED.keys() == set(get_args(i.Status))
    world = World()
    id = world.invoke()
    world.end(id)
    with pytest.raises(AssertionError, match="Completed -> Invoked"):
        lifecycle.move(Turn(world.tables[0], AT), world[id], Invoked())


# ---- failed ----------------------------------------------------------------------------------------------------------

POLICY = RetryPolicy(initial_interval=1.0, factor=2.0, max_interval=5.0, max_attempts=5)


def test_failures_back_off_until_the_policy_is_exhausted() -> None:
    world = World()
    id = world.invoke()
    delays = []
    for failures in range(1, 5):
        world.fail(id, POLICY, chance=0.0 if failures < 4 else 0.999)
        status = world.status(id)
        assert isinstance(status, Invoked) and status.failures == failures and status.failure is not None
        assert status.retry_at is not None and world.all(SetTimer) == [SetTimer(status.retry_at)]
        assert not check([world.snapshot()])
        delays.append(status.retry_at - world.at)
        world.tick(delays[-1] - 1)
        assert not world.started()
        world.tick(1)
        assert world.started() == [id]
        assert world.only(StartAttempt).invocation.status == replace(status, retry_at=None)
        assert world[id].attempts == failures + 1
    assert delays == [1000, 2000, 4000, 6665]
    world.fail(id, POLICY)
    assert isinstance(world.status(id), Paused) and not world.started()


def test_exhausted_may_mean_failed() -> None:
    world = World()
    id = world.invoke()
    world.fail(id, RetryPolicy(max_attempts=1, on_exhausted="fail"))
    assert world.status(id) == Completed(AT, e.Failure(500, "boom"))
    assert world.only(Finished).result == e.Failure(500, "boom")


@pytest.mark.parametrize(("behavior", "kind"), [("pause", "Paused"), ("fail", "Completed")])
def test_an_attempt_may_say_what_is_to_become_of_it(behavior: str, kind: str) -> None:
    world = World()
    id = world.invoke()
    world.fail(id, RetryPolicy(max_attempts=None), behavior=behavior)
    assert world.kind(id) == kind


def test_a_delay_that_is_given_uses_up_no_attempt() -> None:
    world = World()
    id = world.invoke()
    for n in range(3):
        world.fail(id, RetryPolicy(max_attempts=1), delay_ms=700)
        assert world.status(id) == Invoked(0, world.at + 700, AttemptFailure("boom", 500, world.at), fruitless=n + 1)
        world.tick(700)
        assert world.started() == [id]


def test_a_delay_of_nothing_is_another_attempt_at_once() -> None:
    world = World()
    id = world.invoke()
    world.fail(id, delay_ms=0, step_attempts={1: 2})
    assert world.started() == [id]
    assert world.status(id) == Invoked(0, None, AttemptFailure("boom", 500, AT), {1: 2}, 1)
    world.fail(id, RetryPolicy(initial_interval=0), step_attempts={1: 3})
    assert world.started() == [id]
    assert world.status(id) == Invoked(1, None, AttemptFailure("boom", 500, AT), {1: 3}, 2)
    assert world[id].attempts == 3 and not world.rows(TIMER)


@pytest.mark.parametrize("call", [False, True])
def test_a_new_command_makes_up_for_the_failures_before_it(call: bool) -> None:
    world = World()
    id = world.invoke()
    world.fail(id, POLICY, step_attempts={3: 1})
    world.tick(60_000)
    if call:
        world.call(id, "greeter/greet", (1, 2), world.fresh_id())
    else:
        world.append(id, e.Run(1, "step"))
    assert world.status(id) == Invoked(step_attempts={3: 1})


def test_the_result_of_a_step_does_not_make_up_for_failures() -> None:
    world = World()
    id = world.invoke()
    world.append(id, e.Run(1, "step"))
    world.fail(id, POLICY)
    world.tick(60_000)
    world.propose(id, 1)
    status = world.status(id)
    assert isinstance(status, Invoked) and status.failures == 1


def test_a_failed_step_is_noted() -> None:
    world = World()
    id = world.invoke()
    world.fail(id, POLICY)
    world.tick(60_000)
    it = world[id]
    failure = AttemptFailure("the step failed", 503, world.at)
    world.apply(c.Note(world.at, it.number, it.attempts, failure, {1: 2}))
    assert world.status(id) == Invoked(1, None, failure, {1: 2}, 1) and not world.actions


def test_the_timer_of_an_attempt_is_for_no_other() -> None:
    """The first was woken before it was due; the second has to wait its own time."""
    world = World()
    id = world.invoke()
    world.fail(id, POLICY)
    world.order(c.Cancel, id)
    assert world.started() == [id]
    world.at += 500
    world.fail(id, POLICY)
    world.tick(500)
    assert world.started() == [] and world.kind(id) == "BackingOff"
    world.tick(500)
    assert world.started() == [id]
    assert world[id].attempts == 3


@pytest.mark.parametrize(
    ("failures", "chance", "delay_ms"), [(1, 0.0, 500), (1, 0.5, 583), (8, 0.0, 60_000), (5000, 0.0, 60_000)]
)
def test_the_delays_of_the_default_policy(failures: int, chance: float, delay_ms: int) -> None:
    assert RetryPolicy().delay_ms(failures, chance) == delay_ms
