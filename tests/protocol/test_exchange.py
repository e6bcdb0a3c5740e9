"""Both ends of an attempt back to back, as bytes; and what each says to an end that breaks the rules."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.errors import ProtocolError, RemoteProtocolError
from perdure.model import entries as e
from perdure.model.ids import random_seed
from perdure.model.invocation import AttemptFailure, Combinator, Target, Waiting
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.protocol import control
from perdure.protocol import wire_control as w
from perdure.protocol import wire_pb2 as wire
from perdure.protocol.exchange import EngineEnd, HandlerEnd
from perdure.protocol.frames import encode_frame
from perdure.protocol.messages import encode_entry

ID = bytes(range(24))
TARGET = Target("Box", "put", HandlerKind.EXCLUSIVE, "k")
VERSIONS = [5, 6, 7]
RAN = e.Completion(e.RUN_COMPLETION, 1, e.Value(b"42"))


def start(*entries: e.Entry, state: dict[str, bytes] | None = None, failures: int = 0) -> control.Start:
    journal = (e.Input(b"in", (("a", "b"),)), *entries)
    return control.Start(ID, TARGET, journal, state, random_seed(ID), failures + 1, failures, 0, {}, RetryPolicy())


def ends(version: int, *entries: e.Entry, **options: Any) -> tuple[EngineEnd, HandlerEnd, control.Start]:
    """Both ends after the opening, and what the handler's was told."""
    engine = EngineEnd(start(*entries, **options), version)
    handler = HandlerEnd(Target("Box", "put", HandlerKind.EXCLUSIVE), version, RetryPolicy())
    (told,) = handler.feed(engine.opening())
    assert isinstance(told, control.Start)
    return engine, handler, told


def across(engine: EngineEnd, handler: HandlerEnd, message: control.FromHandler) -> list[control.FromHandler]:
    return list(engine.feed(handler.encode(message), 9))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("state", [None, {}, {"a": b"1", "b": b""}])
def test_the_opening(version: int, state: dict[str, bytes] | None) -> None:
    journal = (e.Run(1, "step"), RAN, e.Sleep(5, 2))
    _, _, told = ends(version, *journal, state=state)
    assert told == start(*journal, state=state)


def test_the_time_since_the_journal_grew_comes_along() -> None:
    engine = EngineEnd(replace(start(), since_progress_ms=1234), 6)
    (told,) = HandlerEnd(TARGET, 6, RetryPolicy()).feed(engine.opening())
    assert isinstance(told, control.Start) and told.since_progress_ms == 1234


def test_failed_attempts_come_along() -> None:
    _, _, told = ends(6, e.Run(1, "a"), failures=4)
    assert (told.attempt, told.failures, told.step_attempts) == (5, 4, {})


COMMANDS: list[control.FromHandler] = [
    e.Run(1, "step"),
    e.Sleep(1_700_000_000_000, 2, "nap"),
    e.Call("S", "h", b"p", 3, 4, "k", (("a", "b"),), "i"),
    e.SetState("a", b""),
    e.SendSignal("inv_1", 1, e.VOID),
    e.Output(e.Failure(409, "no", (("a", "b"),))),
    control.ProposeRun(1, e.Value(b"")),
    control.Suspension(Waiting((1, 2), (1,), ("go",)), 0),
    control.Error(AttemptFailure("m", 500, 9, "stack", 3, "step", 0x411), 100),
    control.Error(AttemptFailure("m", 570, 9), None),
    control.End(),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("message", COMMANDS, ids=lambda message: type(message).__name__)
def test_what_a_handler_says_arrives(version: int, message: control.FromHandler) -> None:
    engine, handler, _ = ends(version)
    assert across(engine, handler, message) == [message]


TREE = Waiting((1,), (1,), ("a",), (Waiting((2, 3), combinator=Combinator.ALL_COMPLETED),), Combinator.FIRST_COMPLETED)


def test_version_7_has_trees_hints_and_behaviours() -> None:
    engine, handler, _ = ends(7)
    assert across(engine, handler, control.AwaitingOn(TREE)) == [control.AwaitingOn(TREE)]
    paused = control.Error(AttemptFailure("m", 500, 9), None, "pause")
    assert across(engine, handler, paused) == [paused]
    engine, handler, _ = ends(7)
    assert across(engine, handler, control.Suspension(TREE)) == [control.Suspension(TREE, 0)]


@pytest.mark.parametrize("version", [5, 6])
def test_older_versions_do_without(version: int) -> None:
    engine, handler, _ = ends(version)
    assert across(engine, handler, control.AwaitingOn(TREE)) == []
    (error,) = across(engine, handler, control.Error(AttemptFailure("m"), None, "pause"))
    assert isinstance(error, control.Error) and error.behavior == "retry"


@pytest.mark.parametrize("version", VERSIONS)
def test_metadata_of_a_steps_failure_came_with_version_6(version: int) -> None:
    engine, handler, _ = ends(version)
    (proposal,) = across(engine, handler, control.ProposeRun(1, e.Failure(400, "no", (("a", "b"),))))
    assert isinstance(proposal, control.ProposeRun)
    assert proposal.result == e.Failure(400, "no", (("a", "b"),) if version >= 6 else ())


def test_nothing_is_said_of_a_failed_try() -> None:
    _, handler, _ = ends(7)
    assert handler.encode(control.StepFailed(AttemptFailure("m"), {})) == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_steps_result_comes_back(version: int) -> None:
    """In version 7 as an ack, which stands for what the handler has proposed."""
    engine, handler, _ = ends(version)
    across(engine, handler, e.Run(1, "step"))
    assert engine.running == {1}
    across(engine, handler, control.ProposeRun(1, e.Value(b"42")))
    assert engine.running == set()
    data = engine.notify(RAN)
    assert (b"42" in data) == (version < 7)
    assert list(handler.feed(data)) == [RAN]
    assert engine.seen == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "notification",
    [
        e.Completion(e.SLEEP_COMPLETION, 1, e.VOID),
        e.Completion(e.CALL_COMPLETION, 2, e.Failure(400, "no")),
        e.Completion(e.CALL_INVOCATION_ID_COMPLETION, 3, e.InvocationIdResult("inv_1")),
        e.Completion(e.GET_LAZY_STATE_KEYS_COMPLETION, 4, e.StateKeys(("a",))),
        e.Signal(1, e.VOID),
        e.Signal("go", e.Value(b"v")),
    ],
    ids=str,
)
def test_notifications_arrive(version: int, notification: e.Notification) -> None:
    engine, handler, _ = ends(version)
    assert list(handler.feed(engine.notify(notification))) == [notification]


journals = st.lists(
    st.one_of(
        st.builds(e.Run, st.integers(1, 1 << 20), st.text(max_size=20)),
        st.builds(e.SetState, st.text(max_size=5), st.binary(max_size=50)),
        st.builds(
            e.Completion, st.just(e.RUN_COMPLETION), st.integers(1, 99), st.builds(e.Value, st.binary(max_size=99))
        ),
        st.builds(e.Signal, st.text(min_size=1, max_size=5), st.just(e.VOID)),
    ),
    max_size=10,
)


@given(journals, st.sampled_from(VERSIONS), st.lists(st.integers(0, 1 << 12), max_size=9), st.booleans())
def test_any_chopping_gives_the_same_conversation(
    journal: list[e.Entry], version: int, cuts: list[int], more: bool
) -> None:
    engine = EngineEnd(start(*journal), version)
    handler = HandlerEnd(TARGET, version, RetryPolicy())
    data = engine.opening() + (engine.notify(e.Signal(1, e.VOID)) if more else b"")
    points = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    seen = [message for a, b in itertools.pairwise(points) for message in handler.feed(data[a:b])]
    assert seen == [start(*journal), e.Signal(1, e.VOID)][: 1 + more]
    handler.close()


# Rules that are broken


def refused(feed: Iterator[Any]) -> int:
    with pytest.raises(RemoteProtocolError) as caught:
        list(feed)
    return caught.value.code


def test_start_comes_first() -> None:
    handler = HandlerEnd(TARGET, 6, RetryPolicy())
    assert refused(handler.feed(encode_frame(*encode_entry(e.Input())))) == 571


@pytest.mark.parametrize(("id", "known"), [(ID, 0), (ID[:23], 1), (b"", 1)])
def test_a_start_that_is_none(id: bytes, known: int) -> None:
    payload = wire.Start(id=id, known_entries=known).SerializeToString()
    assert refused(HandlerEnd(TARGET, 6, RetryPolicy()).feed(encode_frame(w.START, payload))) == 500


def test_a_state_whose_keys_are_no_text() -> None:
    state = [wire.StateEntry(key=b"\xff", value=b"")]
    payload = wire.Start(id=ID, known_entries=1, state=state).SerializeToString()
    data = encode_frame(w.START, payload) + encode_frame(*encode_entry(e.Input()))
    assert refused(HandlerEnd(TARGET, 6, RetryPolicy()).feed(data)) == 571


def test_a_journal_begins_with_the_input() -> None:
    payload = wire.Start(id=ID, known_entries=1).SerializeToString()
    data = encode_frame(w.START, payload) + encode_frame(*encode_entry(e.Run(1)))
    assert refused(HandlerEnd(TARGET, 6, RetryPolicy()).feed(data)) == 571


@pytest.mark.parametrize("cut", [0, 1, 8, 60, -1])
def test_an_end_in_the_middle_of_the_journal(cut: int) -> None:
    handler = HandlerEnd(TARGET, 6, RetryPolicy())
    list(handler.feed(EngineEnd(start(e.Run(1, "x" * 99)), 6).opening()[:cut]))
    with pytest.raises(RemoteProtocolError) as caught:
        handler.close()
    assert caught.value.code == 571


def test_an_end_in_the_middle_of_a_notification() -> None:
    engine, handler, _ = ends(6)
    handler.close()
    list(handler.feed(engine.notify(RAN)[:-1]))
    with pytest.raises(RemoteProtocolError):
        handler.close()


@pytest.mark.parametrize("entry", [e.Run(1), e.Input(), e.Output(e.Value(b""))], ids=lambda entry: type(entry).__name__)
def test_commands_after_the_journal(entry: e.Command) -> None:
    _, handler, _ = ends(6)
    assert refused(handler.feed(encode_frame(*encode_entry(entry)))) == 571


@pytest.mark.parametrize("kind", [0x0000, 0x0003, 0x0004, 0x0008, 0x040F, 0x8001, 0xFC00, 0xFFFF])
def test_messages_that_are_not_the_engines(kind: int) -> None:
    _, handler, _ = ends(6)
    assert refused(handler.feed(encode_frame(kind, b""))) == 571


def test_an_ack_of_what_was_not_proposed() -> None:
    _, handler, _ = ends(7)
    ack = encode_frame(w.PROPOSE_RUN_ACK, wire.ProposeRunCompletionAck(completion_id=1).SerializeToString())
    assert refused(handler.feed(ack)) == 571
    _, handler, _ = ends(7)
    handler.encode(control.ProposeRun(1, e.Value(b"")))
    assert len(list(handler.feed(ack))) == 1
    assert refused(handler.feed(ack)) == 571  # once


@pytest.mark.parametrize("kind", [0x0000, 0x0004, 0x0006, 0x0007, 0x800C, 0xFBFF, 0xFC00])
def test_messages_that_are_not_a_handlers(kind: int) -> None:
    engine, _, _ = ends(6)
    assert refused(engine.feed(encode_frame(kind, b"\x08\x01\x22\x00"), 0)) == 571
    assert engine.ended


@pytest.mark.parametrize("kind", [0x0001, 0x0002, 0x0005, 0x0401, 0x0411])
def test_payloads_that_are_none(kind: int) -> None:
    engine, _, _ = ends(6)
    assert refused(engine.feed(encode_frame(kind, b"\xff\xff\xff"), 0)) == 571


def test_a_proposal_without_a_result() -> None:
    engine, _, _ = ends(6)
    assert refused(engine.feed(encode_frame(w.PROPOSE_RUN, b"\x08\x01"), 0)) == 571


@pytest.mark.parametrize("last", [control.End(), COMMANDS[7], COMMANDS[8]], ids=lambda last: type(last).__name__)
def test_nothing_comes_after_the_last_message(last: control.FromHandler) -> None:
    engine, handler, _ = ends(6)
    assert across(engine, handler, last) == [last]
    engine.close()
    assert refused(engine.feed(handler.encode(e.Run(1)), 0)) == 571


def test_a_response_that_ends_before_its_last_message() -> None:
    engine, handler, _ = ends(6)
    across(engine, handler, e.Run(1))
    with pytest.raises(RemoteProtocolError):
        engine.close()


def test_numbers_that_mean_nothing_are_taken_for_the_least() -> None:
    engine, _, _ = ends(7)
    tree = b"\x08\x01\x28\x63"  # completion 1, combinator 99
    (hint,) = engine.feed(encode_frame(w.AWAITING_ON, b"\x0a\x04" + tree), 0)
    assert hint == control.AwaitingOn(Waiting((1,)))
    minus = b"\x08\x01\x28" + b"\xff" * 9 + b"\x01"  # and -1
    (hint,) = engine.feed(encode_frame(w.AWAITING_ON, b"\x0a\x0d" + minus), 0)
    assert hint == control.AwaitingOn(Waiting((1,)))
    (error,) = engine.feed(encode_frame(w.ERROR, b"\x48" + b"\xff" * 9 + b"\x01"), 0)
    assert isinstance(error, control.Error) and error.behavior == "retry"


def test_a_tree_that_is_too_deep() -> None:
    engine, handler, _ = ends(7)
    tree = Waiting((1,))
    for _ in range(w.TREE_LIMIT):
        tree = Waiting((), (), (), (tree,), Combinator.ALL_COMPLETED)
    assert refused(engine.feed(handler.encode(control.AwaitingOn(tree)), 0)) == w.TREE_TOO_DEEP


@given(st.binary(max_size=200))
def test_no_bytes_are_worse_than_a_protocol_error(data: bytes) -> None:
    engine, handler, _ = ends(7)
    for end in (engine.feed(data, 0), handler.feed(data), HandlerEnd(TARGET, 7, RetryPolicy()).feed(data)):
        with contextlib.suppress(ProtocolError):
            list(end)


@given(st.integers(0, 0xFFFF), st.binary(max_size=60), st.booleans())
def test_no_frame_is_worse_than_a_protocol_error(kind: int, payload: bytes, ack: bool) -> None:
    engine, handler, _ = ends(7)
    data = encode_frame(kind, payload, ack)
    for end in (engine.feed(data, 0), handler.feed(data), HandlerEnd(TARGET, 7, RetryPolicy()).feed(data)):
        with contextlib.suppress(ProtocolError):
            list(end)
