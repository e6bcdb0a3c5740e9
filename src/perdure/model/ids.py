"""Identifiers: raw bytes inside, printable text outside.

An invocation id is 24 bytes: a partition key (u64, big-endian) and a 128-bit part that is a ULID, or a digest
where the id has to be found again from names (workflow runs, idempotency keys). The printable form is
`inv_1` and two fixed-width base62 groups. The facts are those of the Restate service protocol, so ids made
here parse in its SDKs and the other way round.
"""

import base64
import binascii
import hashlib
import struct
from typing import NewType

import xxhash

from perdure.errors import Invalid

__all__ = [
    "CANCEL_SIGNAL",
    "FIRST_AWAKEABLE_SIGNAL",
    "IN_PROCESS",
    "InvocationId",
    "awakeable_id",
    "deployment_id",
    "format_invocation_id",
    "idempotent_uuid",
    "invocation_id",
    "parse_awakeable_id",
    "parse_deployment_id",
    "parse_invocation_id",
    "partition_key_of",
    "partition_of",
    "random_seed",
    "ulid",
    "workflow_uuid",
]

InvocationId = NewType("InvocationId", bytes)

CANCEL_SIGNAL = 1  # the built-in signals are 1 to 15; only this one is in use
FIRST_AWAKEABLE_SIGNAL = 17  # 16 stays unused

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGIT = {character: value for value, character in enumerate(_ALPHABET)}
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # two digits at a time halves the divisions
_WIDTH = {8: 11, 16: 22}
_BYTES = {11: 8, 22: 16}


def _base62(raw: bytes) -> str:
    number = int.from_bytes(raw, "little")  # the byte swap of the printable form
    pairs: list[str] = []
    while number:
        number, pair = divmod(number, 3844)
        pairs.append(_PAIRS[pair])
    text = "".join(reversed(pairs))
    width = _WIDTH[len(raw)]
    return text[-width:] if len(text) > width else text.rjust(width, "0")


def _unbase62(text: str) -> bytes:
    number = 0
    for character in text:
        number = number * 62 + _DIGIT[character]
    return number.to_bytes(_BYTES[len(text)], "little")


def format_invocation_id(raw: bytes) -> str:
    """24 raw bytes -> `inv_1...` (38 characters)."""
    return "inv_1" + _base62(raw[:8]) + _base62(raw[8:])


def parse_invocation_id(text: str) -> InvocationId:
    """`inv_1...` -> 24 raw bytes. Raises `Invalid` that says what is wrong with the text."""
    if not text.startswith("inv_"):
        raise Invalid(f"invocation id {text!r}: it has to begin with 'inv_1'")
    if text[4:5] != "1":
        raise Invalid(f"invocation id {text!r}: unknown version {text[4:5]!r}, only 1 is known")
    if len(text) != 38:
        raise Invalid(f"invocation id {text!r}: {len(text)} characters, not 38")
    try:
        return InvocationId(_unbase62(text[5:16]) + _unbase62(text[16:]))
    except (KeyError, OverflowError):
        raise Invalid(f"invocation id {text!r}: not base62") from None


def deployment_id(raw: bytes) -> str:
    """16 raw bytes of a ULID -> `dp_1...`."""
    return "dp_1" + _base62(raw)


def parse_deployment_id(text: str) -> bytes:
    """`dp_1...` -> 16 raw bytes. Raises `Invalid` that says what is wrong with the text."""
    if not text.startswith("dp_1"):
        raise Invalid(f"deployment id {text!r}: it has to begin with 'dp_1'")
    if len(text) != 26:
        raise Invalid(f"deployment id {text!r}: {len(text)} characters, not 26")
    try:
        return _unbase62(text[4:])
    except (KeyError, OverflowError):
        raise Invalid(f"deployment id {text!r}: not base62") from None


IN_PROCESS = deployment_id(bytes(16))
"""What stands for a deployment where a service is served by this process: well-formed, and nobody else's."""


def awakeable_id(invocation: bytes, signal: int) -> str:
    """The text by which anyone may complete signal number `signal` of an invocation."""
    raw = invocation + struct.pack(">I", signal)
    return "sign_1" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def parse_awakeable_id(text: str) -> tuple[InvocationId, int]:
    """`sign_1...` -> (invocation, signal number). Raises `Invalid`."""
    if not text.startswith("sign_1"):
        raise Invalid(f"awakeable id {text!r}: it has to begin with 'sign_1'")
    body = text[6:].rstrip("=")
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"awakeable id {text!r}: not base64url") from None
    if len(raw) != 28:
        raise Invalid(f"awakeable id {text!r}: {len(raw)} bytes, not 28")
    return InvocationId(raw[:24]), int(struct.unpack(">I", raw[24:])[0])


def ulid(at: int, entropy: int) -> bytes:
    """16 bytes: `at` (ms since the epoch, 48 bits), then 80 bits of `entropy`."""
    return ((at & (1 << 48) - 1) << 80 | entropy & (1 << 80) - 1).to_bytes(16, "big")


def partition_key_of(name: str) -> bytes:
    """The 8-byte partition key of an object key, workflow id or idempotency key."""
    return xxhash.xxh3_64_digest(name.encode() + b"\xff")


def invocation_id(partition_key: bytes, uuid: bytes) -> InvocationId:
    return InvocationId(partition_key + uuid)


def workflow_uuid(service: str, key: str) -> bytes:
    """The same for every caller that names the same workflow run."""
    return hashlib.sha256(f"wf,{service},{key}".encode()).digest()[:16]


def idempotent_uuid(service: str, key: str | None, handler: str, idempotency_key: str) -> bytes:
    """The same for every request with the same service, key, handler and idempotency key."""
    parts = ["ik", service, *([] if key is None else [key]), handler, idempotency_key]
    return hashlib.sha256(",".join(parts).encode()).digest()[:16]


def partition_of(invocation: bytes, partitions: int) -> int:
    """Which of `partitions` owns the id: the key space is cut into equal ranges."""
    return int.from_bytes(invocation[:8], "big") * partitions >> 64


def random_seed(invocation: bytes) -> int:
    """The seed of `ctx.random`: the rule of protocol version 5, so both ends find the same without asking."""
    return int.from_bytes(hashlib.sha256(invocation).digest()[:8], "big")
