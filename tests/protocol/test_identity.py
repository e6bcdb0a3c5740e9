"""Signed requests: keys, tokens, and everything that is not one."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Invalid, Unauthorized
from perdure.protocol.identity import (
    audience,
    parse_public_key,
    public_key_of,
    public_key_text,
    read_private_key,
    sign,
    verify,
)

SECRET = bytes(range(32))
KEY = public_key_of(SECRET)
OTHER = public_key_of(bytes(32))
NOW = 1_700_000_000.5
PATH = "/invoke/Greeter/greet"


def token(claims: dict[str, Any], header: dict[str, Any] | None = None, secret: bytes = SECRET) -> dict[str, str]:
    """Any claims under any header, properly signed."""
    parts = [header or {"typ": "JWT", "alg": "EdDSA"}, claims]
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = Ed25519PrivateKey.from_private_bytes(secret).sign(signed)
    text = signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")
    return {"x-restate-signature-scheme": "v1", "x-restate-jwt-v1": text.decode()}


GOOD = {"aud": PATH, "iat": 1_700_000_000, "nbf": 1_699_999_940, "exp": 1_700_000_060}


def refused(headers: dict[str, str], path: str = PATH, now: float = NOW) -> str:
    with pytest.raises(Unauthorized) as caught:
        verify(headers, path, [KEY], now)
    return caught.value.message


@given(st.binary(min_size=32, max_size=32))
def test_a_public_key_is_written_and_read(key: bytes) -> None:
    assert parse_public_key(public_key_text(key)) == key


def test_base58_as_others_write_it() -> None:
    assert public_key_text(bytes(32)) == "publickeyv1_" + "1" * 32
    assert public_key_text(bytes(31) + b"\x3a") == "publickeyv1_" + "1" * 31 + "21"


@pytest.mark.parametrize(
    "text", ["", "publickeyv1_", "publickeyv2_1", "publickeyv1_0", "publickeyv1_l", "publickeyv1_" + "1" * 33, "x" * 40]
)
def test_what_is_no_public_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_public_key(text)
    assert len(text) < 13 or text not in str(caught.value)


def test_a_private_key_is_read_from_pem() -> None:
    key = Ed25519PrivateKey.from_private_bytes(SECRET)
    assert read_private_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())) == SECRET


def test_private_keys_that_cannot_be_used() -> None:
    key = Ed25519PrivateKey.from_private_bytes(SECRET)
    rsa = generate_private_key(65537, 2048)
    for pem in (
        b"",
        b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n",
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ):
        with pytest.raises(Invalid):
            read_private_key(pem)


def test_what_is_signed_is_accepted() -> None:
    verify(sign(SECRET, PATH, NOW), PATH, [KEY], NOW)
    verify(sign(SECRET, PATH, NOW, "an object's key"), "/some/where" + PATH, [OTHER, KEY], NOW + 59)
    verify(sign(SECRET, "/discover", NOW), "/mounted/discover", [KEY], NOW - 59)


def test_the_claims() -> None:
    headers = sign(SECRET, PATH, NOW, "k", 10)
    header, claims, _ = (part + "==" for part in headers["x-restate-jwt-v1"].split("."))
    assert json.loads(base64.urlsafe_b64decode(header)) == {"typ": "JWT", "alg": "EdDSA", "kid": public_key_text(KEY)}
    second = int(NOW)
    wanted = {"aud": PATH, "iat": second, "nbf": second - 10, "exp": second + 10, "sub": "k"}
    assert json.loads(base64.urlsafe_b64decode(claims)) == wanted


def test_without_keys_all_is_accepted() -> None:
    verify({}, PATH, [], NOW)


def test_a_token_by_hand_is_accepted() -> None:
    verify(token(GOOD), PATH, [KEY], NOW)
    verify(token(GOOD | {"aud": ["/other", PATH]}), PATH, [KEY], NOW)


def test_requests_that_are_not_signed() -> None:
    assert "not signed" in refused({})
    assert "not signed" in refused({"x-restate-signature-scheme": "unsigned"})
    assert "not signed" in refused({"x-restate-signature-scheme": "v1"})
    assert "not signed" in refused({"x-restate-jwt-v1": sign(SECRET, PATH, NOW)["x-restate-jwt-v1"]})


def test_requests_that_somebody_else_signed() -> None:
    assert "none of the keys" in refused(sign(bytes(32), PATH, NOW))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256", "eddsa", None])
def test_no_other_algorithm_counts(algorithm: str | None) -> None:
    assert "EdDSA" in refused(token(GOOD, {"alg": algorithm}))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "aud"])
def test_every_claim_is_needed(claim: str) -> None:
    refused(token({name: value for name, value in GOOD.items() if name != claim}))
    refused(token(GOOD | {claim: None}))
    refused(token(GOOD | {claim: "1"}))


def test_the_times_are_kept_to_the_second() -> None:
    assert "expired" in refused(token(GOOD), now=1_700_000_060.1)
    assert "not valid yet" in refused(token(GOOD), now=1_699_999_939.9)
    verify(token(GOOD), PATH, [KEY], 1_700_000_060)
    verify(token(GOOD), PATH, [KEY], 1_699_999_940)


def test_a_token_is_for_one_path() -> None:
    assert "another path" in refused(token(GOOD), "/invoke/Greeter/other")
    assert "another path" in refused(token(GOOD), "/discover")


@pytest.mark.parametrize(
    "text", ["", ".", "..", "...", "a.b.c", "é.é.é", "e30.e30.e30", "W10.W10.W10", "!!!.e30.e30", "a" * 9000 + ".b.c"]
)
def test_tokens_that_are_none(text: str) -> None:
    refused({"x-restate-signature-scheme": "v1", "x-restate-jwt-v1": text})


@given(st.text(max_size=60), st.integers(0, 2))
def test_no_token_is_worse_than_unauthorized(text: str, place: int) -> None:
    parts = sign(SECRET, PATH, NOW)["x-restate-jwt-v1"].split(".")
    if parts[place] != text:
        parts[place] = text
        refused({"x-restate-signature-scheme": "v1", "x-restate-jwt-v1": ".".join(parts)})


@pytest.mark.parametrize(
    ("path", "signed"),
    [
        ("/discover", "/discover"),
        ("/a/b/discover", "/discover"),
        ("/invoke/S/h", "/invoke/S/h"),
        ("/a/invoke/S/h", "/invoke/S/h"),
        ("/invoke/S/discover", "/invoke/S/discover"),
        ("/a/invoke/discover", "/discover"),
        ("/other", "/other"),
        ("/invoke/S", "/invoke/S"),
    ],
)
def test_the_path_that_is_signed(path: str, signed: str) -> None:
    assert audience(path) == signed
