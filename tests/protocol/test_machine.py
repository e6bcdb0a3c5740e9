"""The handler's end of an attempt: what is matched, what is sent, and what a difference is called."""

from collections.abc import Callable

import pytest

from perdure.errors import AttemptGone, JournalMismatch
from perdure.model import entries as e
from perdure.model.invocation import Target, Waiting
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.protocol.control import AwaitingOn, FromHandler, ProposeRun, Start
from perdure.protocol.machine import Machine, differences

AT = 1_700_000_000_000
INPUT = e.Input(b"in")


def start(*entries: e.Entry, state: dict[str, bytes] | None = None) -> Start:
    target = Target("counter", "add", HandlerKind.EXCLUSIVE, "k")
    return Start(bytes(24), target, (INPUT, *entries), state, 7, 1, 0, AT, {}, RetryPolicy())


def machine(*entries: e.Entry, state: dict[str, bytes] | None = None) -> tuple[Machine, list[FromHandler]]:
    """A machine at the beginning of a journal, and what it sends."""
    sent: list[FromHandler] = []
    return Machine(start(*entries, state=state), sent.append), sent


def value(text: str) -> e.Value:
    return e.Value(text.encode())


# ---- replay ----------------------------------------------------------------------------------------------------------


def test_commands_are_matched_first_and_sent_from_then_on() -> None:
    it, sent = machine(e.Run(1, "a"), e.Run(2, "b"))
    assert it.replaying
    it.issue(e.Run(it.completion_id(), "a"))
    assert it.replaying and it.command_index == 1
    it.issue(e.Run(it.completion_id(), "b"))
    assert not it.replaying and not sent
    it.issue(e.Run(it.completion_id(), "c"))
    assert sent == [e.Run(3, "c")] and it.command_index == 3


def test_what_is_no_command_is_sent_as_it_is() -> None:
    it, sent = machine()
    for message in (ProposeRun(1, value("v")), AwaitingOn(Waiting((1,)))):
        it.propose(message)
    assert sent == [ProposeRun(1, value("v")), AwaitingOn(Waiting((1,)))]
    assert it.command_index == 0


def test_ids_count_up_whatever_the_journal_holds() -> None:
    it, _ = machine(e.Run(1, "a"), e.Completion(e.RUN_COMPLETION, 1, value("v"), AT))
    assert [it.completion_id() for _ in range(3)] == [1, 2, 3]
    assert [it.signal_id() for _ in range(3)] == [17, 18, 19]


def test_notifications_come_in_the_order_of_the_journal_and_then_as_they_are_fed() -> None:
    first = e.Completion(e.RUN_COMPLETION, 2, value("b"), AT + 5)
    second = e.Signal("go", e.VOID, AT + 3)
    third = e.Completion(e.RUN_COMPLETION, 1, value("a"), AT + 9)
    it, _ = machine(e.Run(1, "a"), first, e.Run(2, "b"), second)
    assert it.settled == {2}
    it.feed(third)
    assert (it.time, it.seen) == (AT, 0)
    taken = [(it.take(), it.time, it.seen) for _ in range(4)]
    assert taken == [(first, AT + 5, 1), (second, AT + 5, 2), (third, AT + 9, 3), (None, AT + 9, 3)]
    assert it.settled == {2} and it.started_at == AT


# ---- differences -----------------------------------------------------------------------------------------------------

CALL = e.Call("s", "h", b"p", 1, 2, "k", (("a", "b"),), "i", "scope", "limit", "name")
ONE_WAY = e.OneWayCall("s", "h", b"p", 1, AT, "k", (("a", "b"),), "i", "scope", "limit", "name")
COMMANDS: dict[e.Command, dict[str, object]] = {  # a command, and for each field that matters another value
    e.Output(value("v"), "n"): {"result": e.Failure(500, "no"), "name": "m"},
    e.GetLazyState("k", 1, "n"): {"key": "l", "completion_id": 2, "name": "m"},
    e.SetState("k", b"v", "n"): {"key": "l", "value": b"w", "name": "m"},
    e.ClearState("k", "n"): {"key": "l", "name": "m"},
    e.ClearAllState("n"): {"name": "m"},
    e.GetLazyStateKeys(1, "n"): {"completion_id": 2, "name": "m"},
    e.GetEagerState("k", value("v"), "n"): {"key": "l", "result": e.VOID, "name": "m"},
    e.GetEagerStateKeys(("k",), "n"): {"keys": ("l",), "name": "m"},
    e.GetPromise("k", 1, "n"): {"key": "l", "completion_id": 2, "name": "m"},
    e.PeekPromise("k", 1, "n"): {"key": "l", "completion_id": 2, "name": "m"},
    e.CompletePromise("k", value("v"), 1, "n"): {
        "key": "l",
        "result": e.Failure(1, ""),
        "completion_id": 2,
        "name": "m",
    },
    e.Sleep(AT, 1, "n"): {"name": "m"},
    CALL: {
        "service": "t",
        "handler": "g",
        "parameter": b"q",
        "invocation_id_completion_id": 3,
        "completion_id": 4,
        "key": "l",
        "headers": (),
        "idempotency_key": None,
        "scope": None,
        "limit_key": None,
        "name": "m",
    },
    ONE_WAY: {
        "service": "t",
        "handler": "g",
        "parameter": b"q",
        "invocation_id_completion_id": 3,
        "key": "l",
        "headers": (("a", "c"),),
        "idempotency_key": "j",
        "scope": "other",
        "limit_key": "other",
        "name": "m",
    },
    e.SendSignal("t", 17, e.VOID, "n"): {"target": "u", "signal": "17", "result": value("v"), "name": "m"},
    e.Run(1, "n"): {"completion_id": 2, "name": "m"},
    e.AttachInvocation(e.InvocationTarget("i"), 1, "n"): {
        "target": e.WorkflowTarget("i", "i"),
        "completion_id": 2,
        "name": "m",
    },
    e.GetInvocationOutput(e.InvocationTarget("i"), 1, "n"): {
        "target": e.InvocationTarget("j"),
        "completion_id": 2,
        "name": "m",
    },
    e.CompleteAwakeable("a", value("v"), "n"): {"awakeable_id": "b", "result": value("w"), "name": "m"},
}
IGNORED = {e.Sleep: {"wake_up_time", "completion_id"}, e.OneWayCall: {"invoke_time"}}


def altered(command: e.Command, field: str, to: object) -> e.Command:
    fields = {name: getattr(command, name) for name in command.__struct_fields__}
    return type(command)(**{**fields, field: to})


def test_every_kind_of_command_is_compared() -> None:
    from typing import get_args

    assert {type(command) for command in COMMANDS} == set(get_args(e.Command)) - {e.Input}
    for command, fields in COMMANDS.items():
        assert fields.keys() | IGNORED.get(type(command), set()) == set(command.__struct_fields__)


@pytest.mark.parametrize(
    ("command", "field", "to"),
    [(command, field, to) for command, fields in COMMANDS.items() for field, to in fields.items()],
    ids=lambda part: type(part).__name__ if isinstance(part, e.Command) else str(part),
)
def test_a_field_that_differs_is_named_with_both_of_its_values(command: e.Command, field: str, to: object) -> None:
    code = altered(command, field, to)
    assert differences(command, code) == {field: (getattr(command, field), to)}
    it, sent = machine(command)
    with pytest.raises(AttemptGone):
        it.issue(code)
    assert it.failure is not None and not sent
    assert it.failure.differences == {field: (getattr(command, field), to)}
    assert f"  {field}: journal {getattr(command, field)!r}, code {to!r}" in str(it.failure)
    assert it.failure.command_index == 1 and it.failure.code == 570


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_is_equal_is_no_difference(command: e.Command) -> None:
    it, sent = machine(command)
    assert differences(command, altered(command, "name", command.name)) == {}
    assert it.issue(altered(command, "name", command.name)) == command
    assert it.failure is None and not sent


def test_what_depended_on_the_clock_may_differ_and_the_journal_is_right() -> None:
    sleep, call = e.Sleep(AT, 1, "n"), ONE_WAY
    it, _ = machine(sleep, call)
    assert it.issue(e.Sleep(AT + 5, 1, "n")) is sleep
    assert it.issue(altered(ONE_WAY, "invoke_time", 0)) is call


@pytest.mark.parametrize(
    ("journal", "code", "words"),
    [
        (e.Run(1, "charge"), e.Sleep(AT, 1), "the journal holds Run('charge'), the code asks for Sleep"),
        (e.SetState("n", b""), e.Run(1, ""), "the journal holds SetState('n'), the code asks for Run"),
        (CALL, e.ClearAllState(), "the journal holds Call('name'), the code asks for ClearAllState"),
        (e.Call("s", "h", b"", 1, 2), e.ClearAllState(), "the journal holds Call('h'), the code asks for"),
    ],
)
def test_another_kind_of_command_is_a_mismatch(journal: e.Command, code: e.Command, words: str) -> None:
    it, _ = machine(e.Run(9, "first"), journal)
    it.issue(e.Run(9, "first"))
    with pytest.raises(AttemptGone):
        it.issue(code)
    assert str(it.failure).startswith(f"journal mismatch at command 2: {words}")
    assert "docs/determinism.md" in str(it.failure)


def test_after_a_mismatch_nothing_more_may_be_issued() -> None:
    it, sent = machine(e.Run(1, "a"))
    with pytest.raises(AttemptGone):
        it.issue(e.Run(1, "b"))
    failure = it.failure
    for command in (e.Run(1, "a"), e.Run(2, "c")):
        with pytest.raises(AttemptGone):
            it.issue(command)
    assert it.failure is failure and it.closed and not sent
    assert it.stalled() is failure


def test_a_closed_machine_issues_nothing() -> None:
    it, sent = machine()
    it.closed = True
    with pytest.raises(AttemptGone):
        it.issue(e.Run(1, "late"))
    assert it.failure is None and not sent and it.command_index == 0


def test_code_that_waits_while_the_journal_goes_on_is_a_mismatch() -> None:
    it, _ = machine(e.Run(1, "a"), e.Sleep(AT, 2))
    it.issue(e.Run(1, "a"))
    failure = it.stalled()
    assert isinstance(failure, JournalMismatch) and failure is it.failure and it.closed
    assert str(failure).startswith(
        "journal mismatch at command 2: the journal holds Sleep, the code asks for nothing: it waits"
    )


def test_code_that_waits_at_the_end_of_the_journal_does_what_it_should() -> None:
    it, _ = machine(e.Run(1, "a"))
    it.issue(e.Run(1, "a"))
    assert it.stalled() is None and not it.closed


# ---- state -----------------------------------------------------------------------------------------------------------


def test_a_known_key_is_read_from_the_view_and_the_answer_journaled() -> None:
    it, sent = machine(state={"a": b"1"})
    assert it.get_state("a") == value("1")
    assert it.get_state("b") == e.VOID
    assert sent == [e.GetEagerState("a", value("1")), e.GetEagerState("b", e.VOID)]
    assert it.completion_id() == 3  # a read uses up an id, wherever the answer comes from


def test_an_unknown_key_is_asked_for() -> None:
    it, sent = machine(state=None)
    assert it.get_state("a") == 1
    assert it.get_state_keys() == 2
    assert it.get_state("a") == 3  # the answer is not kept in the view
    assert sent == [e.GetLazyState("a", 1), e.GetLazyStateKeys(2), e.GetLazyState("a", 3)]


@pytest.mark.parametrize("state", [None, {"a": b"1", "b": b"2"}])
def test_what_is_written_is_known(state: dict[str, bytes] | None) -> None:
    it, sent = machine(state=state)
    it.set_state("a", b"3")
    it.clear_state("c")
    it.set_state("d", b"")
    it.clear_state("d")
    assert it.get_state("a") == value("3")
    assert it.get_state("c") == e.VOID
    assert it.get_state("d") == e.VOID
    assert sent[:4] == [e.SetState("a", b"3"), e.ClearState("c"), e.SetState("d", b""), e.ClearState("d")]
    assert it.get_state_keys() == (4 if state is None else ("a", "b"))


def test_when_all_is_cleared_all_is_known() -> None:
    it, sent = machine(state=None)
    it.set_state("a", b"1")
    it.clear_all_state()
    assert it.get_state("a") == e.VOID
    assert it.get_state_keys() == ()
    it.set_state("b", b"2")
    it.set_state("a", b"3")
    assert it.get_state_keys() == ("a", "b")
    assert sent[1] == e.ClearAllState() and sent[-1] == e.GetEagerStateKeys(("a", "b"))


def test_on_replay_a_read_gives_what_it_gave_and_writes_keep_up_the_view() -> None:
    """The state that comes with a later attempt is what later writes made of it; what was read stays read."""
    journal = (
        e.GetEagerState("n", value("1")),
        e.SetState("n", b"2"),
        e.GetEagerStateKeys(("n",)),
        e.GetEagerState("n", value("2")),
        e.ClearState("m"),
    )
    it, sent = machine(*journal, state={"n": b"2"})
    assert it.get_state("n") == value("1")
    it.set_state("n", b"2")
    assert it.get_state_keys() == ("n",)
    assert it.get_state("n") == value("2")
    it.clear_state("m")
    assert not it.replaying and not sent
    assert it.get_state("n") == value("2")
    assert it.get_state("m") == e.VOID


def test_on_replay_a_lazy_read_stays_lazy_and_an_eager_one_eager() -> None:
    """Whether the state came along may differ from attempt to attempt."""
    lazy, _ = machine(e.GetLazyState("n", 1), e.GetLazyStateKeys(2), state={"n": b"9"})
    assert lazy.get_state("n") == 1
    assert lazy.get_state_keys() == 2
    eager, _ = machine(e.GetEagerState("n", e.VOID), e.GetEagerStateKeys(("x",)), state=None)
    assert eager.get_state("n") == e.VOID
    assert eager.get_state_keys() == ("x",)
    assert (lazy.completion_id(), eager.completion_id()) == (3, 3)


@pytest.mark.parametrize(
    ("recorded", "act"),
    [
        (e.GetEagerState("n", e.VOID), lambda it: it.get_state("other")),
        (e.GetLazyState("n", 1), lambda it: it.get_state("other")),
        (e.Run(1, "n"), lambda it: it.get_state("n")),
        (e.Run(1, "n"), lambda it: it.get_state_keys()),
        (e.SetState("n", b"1"), lambda it: it.set_state("n", b"2")),
        (e.SetState("n", b"1"), lambda it: it.clear_state("n")),
        (e.ClearState("n"), lambda it: it.clear_all_state()),
    ],
)
def test_state_that_differs_from_the_journal_is_a_mismatch(
    recorded: e.Command, act: Callable[[Machine], object]
) -> None:
    it, sent = machine(recorded, state={})
    with pytest.raises(AttemptGone):
        act(it)
    assert it.failure is not None and not sent
