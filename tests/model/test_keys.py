"""The text of a key, and what of it is kept."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Invalid
from perdure.model.headers import is_secret, masked
from perdure.model.keys import ENTROPY_BYTES, GRANTS, ApiKey, Role, make_key
from perdure.runtime.keys import Keyring, shows_key

RAW = bytes(range(ENTROPY_BYTES))


@given(st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES))
def test_every_key_opens_and_is_not_kept(raw: bytes) -> None:
    key, text = make_key(raw, "ci", Role.ADMIN, 5)
    found = re.fullmatch(r"perdure_([a-z2-7]{16})_([a-z2-7]{52})", text)
    assert found is not None and found[1] == key.id
    assert key.digest == hashlib.sha256(found[2].encode()).digest() and found[2] not in repr(key)
    assert Keyring([key]).find(f"Bearer {text}".encode(), 6) is key
    assert shows_key(f"bearer {text}".encode())


def test_no_two_random_bytes_are_for_nothing() -> None:
    texts = {make_key(RAW[:at] + b"\xff" + RAW[at + 1 :], "ci", Role.READ, 5)[1] for at in range(ENTROPY_BYTES)}
    assert len(texts) == ENTROPY_BYTES


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\x1b[2J"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match="name: 1 to 100 printable characters"):
        make_key(RAW, name, Role.READ, 5)
    with pytest.raises(Invalid, match="expires_in: it has to be more than 0"):
        make_key(RAW, "ci", Role.READ, 5, 5)


def test_how_a_key_stands() -> None:
    key = ApiKey("id", "ci", Role.READ, b"", 0, expires_at=10)
    assert [key.standing(now) for now in (0, 9, 10)] == ["active", "active", "expired"]
    assert (key.ended_at(9), key.ended_at(10)) == (None, 10)
    revoked = ApiKey("id", "ci", Role.READ, b"", 0, expires_at=10, revoked_at=5)
    assert (revoked.standing(5), revoked.ended_at(20)) == ("revoked", 5)


def test_what_each_role_may_do() -> None:
    ingress, read, operator, admin = Role
    assert {ingress: {ingress}, read: {read}, operator: {ingress, read, operator}, admin: set(Role)} == GRANTS


@pytest.mark.parametrize("name", ["authorization", "Cookie", "x-api-key", "X-Token", "proxy-authorization", "secret"])
def test_headers_that_are_secrets(name: str) -> None:
    assert is_secret(name) and masked(name, "v") == "***"


@pytest.mark.parametrize("name", ["x-team", "content-type", "accept", "idempotency-key", "traceparent"])
def test_headers_that_are_none(name: str) -> None:
    assert masked(name, "v") == "v"
