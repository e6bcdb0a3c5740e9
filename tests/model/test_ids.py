"""Identifiers against the vectors of the Restate service protocol, and against themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Invalid
from perdure.model import ids

KEY = bytes.fromhex("0123456789abcdef")
UUID = bytes.fromhex("0190a1b2c3d4e5f60718293a4b5c6d7e")
TEXT = "inv_1kAt0t9pq7gB3Qz0GFbXEcpNwLLJhbErHr"


def test_an_invocation_id() -> None:
    raw = ids.invocation_id(KEY, UUID)
    assert raw == KEY + UUID
    assert ids.format_invocation_id(raw) == TEXT
    assert ids.parse_invocation_id(TEXT) == raw


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (KEY + UUID, "sign_1ASNFZ4mrze8BkKGyw9Tl9gcYKTpLXG1-AAAAEQ"),
        (bytes(range(24)), "sign_1AAECAwQFBgcICQoLDA0ODxAREhMUFRYXAAAAEQ"),
    ],
)
def test_an_awakeable_id(raw: bytes, text: str) -> None:
    assert ids.awakeable_id(raw, ids.FIRST_AWAKEABLE_SIGNAL) == text
    assert ids.parse_awakeable_id(text) == (raw, 17)
    assert ids.parse_awakeable_id(text + "==") == (raw, 17)  # some write the padding


def test_a_deployment_id() -> None:
    assert ids.deployment_id(bytes.fromhex("019441f1be4f151534e91b9a2173692d")) == "dp_11nGQpCRmau6ypL82KH2TnP"


def test_a_partition_key() -> None:
    assert ids.partition_key_of("my-key").hex() == "842efcb12c916e58"


@pytest.mark.parametrize(
    ("owner", "uuid", "uuid_hex", "text"),
    [
        (
            "my-key",
            ids.workflow_uuid("SignupWorkflow", "my-key"),
            "449c350e0b366fc1f86304a59db1d230",
            "inv_17AIHiTltkYA1u7UYM76Sbw9ATEvTsTHnu",
        ),
        (
            "abc",
            ids.idempotent_uuid("Greeter", None, "greet", "abc"),
            "525648514f1d16907a51b00b82a991c2",
            "inv_11UlL7aT9MLB5V94Uwh9793XSUOPmpouFs",
        ),
        (
            "my-key",
            ids.idempotent_uuid("Counter", "my-key", "add", "abc"),
            "ca89b245af8616445ae063633f11e327",
            "inv_17AIHiTltkYA1dgtbSuEkvQVTeW6EWE9jI",
        ),
    ],
)
def test_an_id_that_names_make(owner: str, uuid: bytes, uuid_hex: str, text: str) -> None:
    assert uuid.hex() == uuid_hex
    raw = ids.invocation_id(ids.partition_key_of(owner), uuid)
    assert ids.format_invocation_id(raw) == text
    assert ids.parse_invocation_id(text) == raw


def test_the_seed() -> None:
    assert ids.random_seed(bytes(range(24))) == 2118008845014434663


# ---- against themselves ----------------------------------------------------------------------------------------------


@given(st.binary(min_size=24, max_size=24))
def test_what_is_formatted_is_parsed(raw: bytes) -> None:
    text = ids.format_invocation_id(raw)
    assert len(text) == 38 and text.isalnum() is False and text[5:].isalnum()
    assert ids.parse_invocation_id(text) == raw


@pytest.mark.parametrize("raw", [bytes(24), b"\xff" * 24, bytes(8) + b"\xff" * 16, b"\xff" * 8 + bytes(16)])
def test_the_smallest_and_the_greatest(raw: bytes) -> None:
    assert ids.parse_invocation_id(ids.format_invocation_id(raw)) == raw


@given(st.binary(min_size=24, max_size=24), st.integers(0, (1 << 32) - 1))
def test_what_an_awakeable_names_is_found(raw: bytes, signal: int) -> None:
    assert ids.parse_awakeable_id(ids.awakeable_id(raw, signal)) == (raw, signal)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has to begin with 'inv_1'"),
        ("sign_1abc", "it has to begin with 'inv_1'"),
        ("inv_", "unknown version ''"),
        ("inv_2" + TEXT[5:], "unknown version '2'"),
        ("inv_1abc", "8 characters, not 38"),
        (TEXT + "0", "39 characters, not 38"),
        ("inv_1" + "-" * 33, "not base62"),
        ("inv_1" + "é" * 33, "not base62"),
        ("inv_1" + "Z" * 33, "not base62"),  # a greater number than fits
        ("inv_1" + "\ud800" * 33, "not base62"),
    ],
)
def test_what_is_no_invocation_id(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as error:
        ids.parse_invocation_id(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has to begin with 'sign_1'"),
        (TEXT, "it has to begin with 'sign_1'"),
        ("prom_1" + "A" * 38, "it has to begin with 'sign_1'"),
        ("sign_1", "0 bytes, not 28"),
        ("sign_1" + "A" * 40, "30 bytes, not 28"),
        ("sign_1" + "A" * 37, "not base64url"),
        ("sign_1" + "!" * 38, "not base64url"),
        ("sign_1" + "é" * 38, "not base64url"),
    ],
)
def test_what_is_no_awakeable_id(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        ids.parse_awakeable_id(text)


def test_a_ulid_is_the_time_and_then_chance() -> None:
    at = 1_700_000_000_000
    assert ids.ulid(at, 0) == at.to_bytes(6, "big") + bytes(10)
    assert ids.ulid(at, 1 << 80 | 5)[6:] == (5).to_bytes(10, "big")  # more chance than there is room for
    assert ids.ulid(at, (1 << 80) - 1) < ids.ulid(at + 1, 0)


@given(st.binary(min_size=24, max_size=24), st.integers(1, 64))
def test_every_id_has_one_of_the_partitions(raw: bytes, partitions: int) -> None:
    assert 0 <= ids.partition_of(raw, partitions) < partitions
    assert ids.partition_of(raw, partitions) == ids.partition_of(raw[:8] + bytes(16), partitions)


def test_the_key_space_is_cut_into_equal_ranges() -> None:
    assert [ids.partition_of(bytes([n]) + bytes(23), 4) for n in (0, 63, 64, 127, 128, 192, 255)] == [
        0,
        0,
        1,
        1,
        2,
        3,
        3,
    ]


def test_names_that_only_together_are_the_same_are_not_the_same() -> None:
    assert ids.idempotent_uuid("s", "k", "h", "i") != ids.idempotent_uuid("s", None, "h", "i")
    assert ids.workflow_uuid("a", "b") != ids.workflow_uuid("b", "a")
