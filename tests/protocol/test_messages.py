"""The codec against bytes put together by hand from the protocol's tables, and against itself."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import RemoteProtocolError
from perdure.model import entries as e
from perdure.protocol import wire_pb2 as wire
from perdure.protocol.messages import decode_entry, encode_entry

AT = 1_700_000_000_000
VALUE = e.Value(b"v")
FAILURE = e.Failure(409, "no", (("k", "v"),))
FAILURE_BYTES = "08 99 03" + "12 02 6e 6f" + "1a 06 0a 01 6b 12 01 76"  # code, message, one pair of metadata: 15 bytes

VECTORS: list[tuple[e.Entry, str]] = [
    # from the specification
    (e.Signal(1, e.VOID, AT), "10 01 22 00"),
    (e.Completion(e.SLEEP_COMPLETION, 1, e.VOID, AT), "08 01 22 00"),
    # commands
    (e.Input(b"v", (("h", "x"),), "n"), "0a 06 0a 01 68 12 01 78" + "62 01 6e" + "72 03 0a 01 76"),
    (e.Input(), "72 00"),
    (e.Output(VALUE, "n"), "62 01 6e" + "72 03 0a 01 76"),
    (e.Output(e.Value(b"")), "72 00"),
    (e.Output(FAILURE), "7a 0f" + FAILURE_BYTES),
    (e.GetLazyState("é", 2, "n"), "0a 02 c3 a9" + "58 02" + "62 01 6e"),
    (e.SetState("k", b"v", "n"), "0a 01 6b" + "1a 03 0a 01 76" + "62 01 6e"),
    (e.ClearState("k"), "0a 01 6b"),
    (e.ClearAllState(), ""),
    (e.GetLazyStateKeys(3), "58 03"),
    (e.GetEagerState("k", e.VOID), "0a 01 6b" + "6a 00"),
    (e.GetEagerState("k", VALUE), "0a 01 6b" + "72 03 0a 01 76"),
    (e.GetEagerStateKeys(("a", "b")), "72 06 0a 01 61 0a 01 62"),
    (e.GetEagerStateKeys(()), "72 00"),
    (e.GetPromise("p", 4), "0a 01 70" + "58 04"),
    (e.PeekPromise("p", 5), "0a 01 70" + "58 05"),
    (e.CompletePromise("p", VALUE, 6), "0a 01 70" + "12 03 0a 01 76" + "58 06"),
    (e.CompletePromise("p", FAILURE, 6), "0a 01 70" + "1a 0f" + FAILURE_BYTES + "58 06"),
    (e.Sleep(300, 7, "n"), "08 ac 02" + "58 07" + "62 01 6e"),
    (
        e.Call("s", "h", b"p", 8, 9, "k", (("a", "b"),), "i", "c", "l", "n"),
        "0a 01 73 12 01 68 1a 01 70 22 06 0a 01 61 12 01 62 2a 01 6b 32 01 69 3a 01 63 42 01 6c 50 08 58 09 62 01 6e",
    ),
    (e.Call("s", "h", b"", 8, 9, idempotency_key=""), "0a 01 73 12 01 68 32 00 50 08 58 09"),
    (
        e.OneWayCall("s", "h", b"p", 8, 300, "k", (("a", "b"),), "i", "c", "l", "n"),
        "0a 01 73 12 01 68 1a 01 70 20 ac 022a 06 0a 01 61 12 01 62 32 01 6b 3a 01 69 42 01 63 4a 01 6c 50 08 62 01 6e",
    ),
    (e.SendSignal("t", 17, VALUE, "n"), "0a 01 74" + "10 11" + "2a 03 0a 01 76" + "62 01 6e"),
    (e.SendSignal("t", "s", e.VOID), "0a 01 74" + "1a 01 73" + "22 00"),
    (e.SendSignal("t", 1, FAILURE), "0a 01 74" + "10 01" + "32 0f" + FAILURE_BYTES),
    (e.Run(7, "n"), "58 07" + "62 01 6e"),
    (e.Run(300, ""), "58 ac 02"),
    (e.AttachInvocation(e.InvocationTarget("i"), 1), "0a 01 69" + "58 01"),
    (
        e.AttachInvocation(e.IdempotentTarget("s", None, "h", "i", "c"), 1),
        "1a 0c 0a 01 73 1a 01 68 22 01 69 2a 01 63" + "58 01",
    ),
    (e.GetInvocationOutput(e.WorkflowTarget("w", "k", "c"), 1), "22 09 0a 01 77 12 01 6b 1a 01 63" + "58 01"),
    (e.CompleteAwakeable("a", VALUE), "0a 01 61" + "12 03 0a 01 76"),
    (e.CompleteAwakeable("a", FAILURE), "0a 01 61" + "1a 0f" + FAILURE_BYTES),
    # notifications
    (e.Completion(e.RUN_COMPLETION, 7, VALUE, AT), "08 07" + "2a 03 0a 01 76"),
    (e.Completion(e.RUN_COMPLETION, 7, e.Value(b""), AT), "08 07" + "2a 00"),
    (e.Completion(e.RUN_COMPLETION, 7, FAILURE, AT), "08 07" + "32 0f" + FAILURE_BYTES),
    (e.Completion(e.CALL_INVOCATION_ID_COMPLETION, 7, e.InvocationIdResult("i"), AT), "08 07" + "82 01 01 69"),
    (e.Completion(e.GET_LAZY_STATE_KEYS_COMPLETION, 7, e.StateKeys(("a",)), AT), "08 07" + "8a 01 03 0a 01 61"),
    (e.Completion(e.GET_LAZY_STATE_KEYS_COMPLETION, 7, e.StateKeys(()), AT), "08 07" + "8a 01 00"),
    (e.Signal("s", VALUE, AT), "1a 01 73" + "2a 03 0a 01 76"),
]


@pytest.mark.parametrize(("entry", "payload"), VECTORS, ids=lambda value: type(value).__name__)
def test_vectors(entry: e.Entry, payload: str) -> None:
    assert encode_entry(entry) == (entry.TYPE, bytes.fromhex(payload))
    assert decode_entry(entry.TYPE, bytes.fromhex(payload), AT) == entry


TEXT = st.text(max_size=20)
BYTES = st.binary(max_size=40) | st.integers(0, 20_000).map(bytes)  # lengths whose varint has one, two, three bytes
U32 = st.integers(0, 300) | st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)
KEYS = st.lists(TEXT, max_size=3).map(tuple)
OPTIONAL = st.none() | TEXT
VALUES = st.builds(e.Value, BYTES)
FAILURES = st.builds(e.Failure, U32, TEXT, PAIRS)
VOIDS = st.just(e.VOID)
ENDS = VALUES | FAILURES
TARGETS = (
    st.builds(e.InvocationTarget, TEXT)
    | st.builds(e.IdempotentTarget, TEXT, OPTIONAL, TEXT, TEXT, OPTIONAL)
    | st.builds(e.WorkflowTarget, TEXT, TEXT, OPTIONAL)
)
COMPLETIONS = st.sampled_from(
    [type for type in range(0x8000, 0x8020) if type & 0xFF in (2, 6, *range(9, 15), 17, 18, 19)]
)

ENTRIES: dict[type, st.SearchStrategy[Any]] = {
    e.Input: st.builds(e.Input, BYTES, PAIRS, TEXT),
    e.Output: st.builds(e.Output, ENDS, TEXT),
    e.GetLazyState: st.builds(e.GetLazyState, TEXT, U32, TEXT),
    e.SetState: st.builds(e.SetState, TEXT, BYTES, TEXT),
    e.ClearState: st.builds(e.ClearState, TEXT, TEXT),
    e.ClearAllState: st.builds(e.ClearAllState, TEXT),
    e.GetLazyStateKeys: st.builds(e.GetLazyStateKeys, U32, TEXT),
    e.GetEagerState: st.builds(e.GetEagerState, TEXT, VALUES | VOIDS, TEXT),
    e.GetEagerStateKeys: st.builds(e.GetEagerStateKeys, KEYS, TEXT),
    e.GetPromise: st.builds(e.GetPromise, TEXT, U32, TEXT),
    e.PeekPromise: st.builds(e.PeekPromise, TEXT, U32, TEXT),
    e.CompletePromise: st.builds(e.CompletePromise, TEXT, ENDS, U32, TEXT),
    e.Sleep: st.builds(e.Sleep, U64, U32, TEXT),
    e.Call: st.builds(e.Call, TEXT, TEXT, BYTES, U32, U32, TEXT, PAIRS, OPTIONAL, OPTIONAL, OPTIONAL, TEXT),
    e.OneWayCall: st.builds(e.OneWayCall, TEXT, TEXT, BYTES, U32, U64, TEXT, PAIRS, OPTIONAL, OPTIONAL, OPTIONAL, TEXT),
    e.SendSignal: st.builds(e.SendSignal, TEXT, U32 | TEXT, ENDS | VOIDS, TEXT),
    e.Run: st.builds(e.Run, U32, TEXT),
    e.AttachInvocation: st.builds(e.AttachInvocation, TARGETS, U32, TEXT),
    e.GetInvocationOutput: st.builds(e.GetInvocationOutput, TARGETS, U32, TEXT),
    e.CompleteAwakeable: st.builds(e.CompleteAwakeable, TEXT, ENDS, TEXT),
    e.Completion: st.builds(
        e.Completion,
        COMPLETIONS,
        U32,
        ENDS | VOIDS | st.builds(e.InvocationIdResult, TEXT) | st.builds(e.StateKeys, KEYS),
        U64,
    ),
    e.Signal: st.builds(e.Signal, U32 | TEXT, ENDS | VOIDS, U64),
}


def test_every_kind_of_entry_is_covered() -> None:
    assert set(ENTRIES) == set(e.Entry.__args__)
    assert {type(entry) for entry, _ in VECTORS} == set(e.Entry.__args__)


@pytest.mark.parametrize("kind", ENTRIES, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type) -> None:
    @given(ENTRIES[kind])
    def check(entry: Any) -> None:
        type, payload = encode_entry(entry)
        assert type == entry.TYPE
        assert decode_entry(type, payload, getattr(entry, "at", 0)) == entry

    check()


@given(U32, TEXT | st.just("n" * 20_000))
def test_a_step_is_written_as_protobuf_would(completion_id: int, name: str) -> None:
    expected = wire.Run(completion_id=completion_id, name=name).SerializeToString()
    assert encode_entry(e.Run(completion_id, name)) == (0x0411, expected)


@given(U32, BYTES | st.integers(16_370, 16_390).map(bytes) | st.integers(120, 130).map(bytes))
def test_a_result_is_written_as_protobuf_would(completion_id: int, content: bytes) -> None:
    expected = wire.Notification(completion_id=completion_id, value=wire.Value(content=content)).SerializeToString()
    assert encode_entry(e.Completion(e.RUN_COMPLETION, completion_id, e.Value(content))) == (0x8011, expected)


@given(st.integers(0, 0xFFFF), st.binary(max_size=60))
def test_any_bytes_are_an_entry_or_the_other_sides_fault(type: int, payload: bytes) -> None:
    try:
        entry = decode_entry(type, payload, AT)
    except RemoteProtocolError:
        return
    assert decode_entry(*encode_entry(entry), AT) == entry


@pytest.mark.parametrize("type", [0x0000, 0x0005, 0x040F, 0x0415, 0x8000, 0x8010, 0xFC00])
def test_unknown_types_are_refused(type: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{type:#06x} is unknown"):
        decode_entry(type, b"")


@pytest.mark.parametrize(
    ("type", "payload", "missing"),
    [
        (0x0401, "", "result"),
        (0x0410, "0a 01 74 22 00", "signal's number or name"),
        (0x0412, "58 01", "target"),
        (e.RUN_COMPLETION, "08 01", "result"),
        (e.RUN_COMPLETION, "22 00", "completion id"),
        (e.RUN_COMPLETION, "10 01 22 00", "completion id"),
        (0xFBFF, "10 01", "result"),
        (0xFBFF, "08 01 22 00", "signal's number or name"),
    ],
)
def test_what_is_missing_is_named(type: int, payload: str, missing: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"the {missing} is missing"):
        decode_entry(type, bytes.fromhex(payload))


def test_unknown_fields_are_ignored() -> None:
    assert decode_entry(0x0411, bytes.fromhex("58 07 62 01 6e aa 06 01 78")) == e.Run(7, "n")


def test_a_state_key_has_to_be_text() -> None:
    with pytest.raises(RemoteProtocolError, match="can't be decoded"):
        decode_entry(0x0404, bytes.fromhex("0a 01 ff"))


@pytest.mark.parametrize(
    "entry", [e.Run(2**32), e.Run(-1), e.Sleep(-1, 1), e.Run(1, "\ud800"), e.SetState("\ud800", b"")]
)
def test_what_no_message_can_hold_is_a_value_error(entry: e.Entry) -> None:
    with pytest.raises(ValueError):
        encode_entry(entry)
