"""Frames out of bytes, however the bytes are cut."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import RemoteProtocolError
from perdure.protocol.frames import MESSAGE_TOO_LARGE, Frame, FrameReader, encode_frame

frames = st.lists(
    st.builds(Frame, st.integers(0, 0xFFFF), st.binary(max_size=300), st.booleans()), min_size=0, max_size=12
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    points = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(points)]


@given(frames, st.lists(st.integers(0, 1 << 16), max_size=30))
def test_any_chopping_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    reader = FrameReader()
    data = b"".join(encode_frame(*frame) for frame in sent)
    seen = [frame for piece in pieces(data, cuts) for frame in reader.feed(piece)]
    assert seen == sent
    assert reader.pending == 0


@given(frames, st.integers(1, 10))
def test_what_is_not_whole_is_pending(sent: list[Frame], missing: int) -> None:
    data = b"".join(encode_frame(*frame) for frame in [*sent, Frame(1, b"0123456789")])
    reader = FrameReader()
    assert list(reader.feed(data[:-missing])) == sent
    assert reader.pending == 18 - missing
    assert list(reader.feed(data[-missing:])) == [Frame(1, b"0123456789")]


def test_byte_by_byte() -> None:
    reader = FrameReader()
    data = encode_frame(5, b"abc", ack=True) + encode_frame(6, b"")
    assert [frame for byte in data for frame in reader.feed(bytes([byte]))] == [Frame(5, b"abc", True), Frame(6, b"")]


def test_the_header_of_a_proposal_with_an_ack() -> None:
    assert encode_frame(5, b"abc", ack=True)[:8].hex() == "0005800000000003"


def test_a_frame_over_the_limit_is_refused_when_its_header_is_read() -> None:
    reader = FrameReader(limit=10)
    assert list(reader.feed(encode_frame(1, b"x" * 10))) == [Frame(1, b"x" * 10)]
    with pytest.raises(RemoteProtocolError) as caught:
        list(reader.feed(struct.pack(">HHI", 1, 0, 11)))
    assert caught.value.code == MESSAGE_TOO_LARGE


def test_flags_that_are_reserved_mean_nothing() -> None:
    assert list(FrameReader().feed(struct.pack(">HHI", 1, 0x7FFF, 0))) == [Frame(1, b"", False)]


def test_a_large_frame_in_many_pieces_takes_no_time() -> None:
    """Each piece used to move all that had come before it: 2,000 pieces would take 30 GB of copying."""
    payload = bytes(30_000_000)
    data = encode_frame(1, payload)
    reader = FrameReader()
    seen = [frame for at in range(0, len(data), 15_000) for frame in reader.feed(data[at : at + 15_000])]
    assert seen == [Frame(1, payload)]
