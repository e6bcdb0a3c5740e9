"""Who asks: requests signed with the server's Ed25519 key, as JWTs, scheme "v1" of the service protocol.

The server signs the path it asks for (`sign`), an endpoint that knows the server's public key checks it (`verify`).
A private key is its 32 bytes of seed, a public key its 32 bytes; `now` is in seconds since the epoch.

Needs the package `cryptography`, which is loaded when it is first needed.
"""

import base64
import binascii
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from perdure.errors import Invalid, Unauthorized

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["audience", "parse_public_key", "public_key_of", "public_key_text", "read_private_key", "sign", "verify"]

SCHEME_HEADER: Final = "x-restate-signature-scheme"
TOKEN_HEADER: Final = "x-restate-jwt-v1"
LIFETIME_S: Final = 60
LONGEST_TOKEN: Final = 8192

_PREFIX = "publickeyv1_"
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


# ---- keys


def public_key_text(key: bytes) -> str:
    """A public key as people write it: `publickeyv1_...`."""
    number, text = int.from_bytes(key, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    zeros = len(key) - len(key.lstrip(b"\0"))
    return _PREFIX + "1" * zeros + text


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of a `publickeyv1_...`. Raises `Invalid`, which does not repeat the text: it may be a secret."""
    if not text.startswith(_PREFIX):
        raise Invalid(f"a public key begins with {_PREFIX!r}")
    digits = text[len(_PREFIX) :]
    number = 0
    for digit in digits:
        value = _ALPHABET.find(digit)
        if value < 0:
            raise Invalid("the public key has a character that is not of base58")
        number = number * 58 + value
    zeros = len(digits) - len(digits.lstrip("1"))
    key = b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(key) != 32:
        raise Invalid(f"a public key has 32 bytes, not {len(key)}")
    return key


def read_private_key(pem: bytes) -> bytes:
    """The private key in a PEM file (PKCS#8, unencrypted, Ed25519). Raises `Invalid`."""
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise Invalid(f"this is no unencrypted private key in PEM: {type(error).__name__}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid("the private key is not one of Ed25519")
    return key.private_bytes_raw()


def public_key_of(private_key: bytes) -> bytes:
    """The public key that belongs to a private one."""
    return _private(private_key).public_key().public_bytes_raw()


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise Invalid("identity keys need the package cryptography: pip install cryptography") from None


@lru_cache(maxsize=16)
def _private(key: bytes) -> "Ed25519PrivateKey":
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(key)


@lru_cache(maxsize=64)
def _public(key: bytes) -> "Ed25519PublicKey":
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(key)


# ---- requests


def audience(path: str) -> str:
    """What of a path is signed: `/discover` or `/invoke/{service}/{handler}`, wherever the endpoint is mounted."""
    segments = path.split("/")
    if len(segments) >= 3 and segments[-3] == "invoke":
        return "/" + "/".join(segments[-3:])
    return "/discover" if segments[-1] == "discover" else path


def sign(
    private_key: bytes, audience: str, now: float, subject: str | None = None, lifetime_s: int = LIFETIME_S
) -> dict[str, str]:
    """The headers that prove a request to the path `audience`; `subject` is the object's or workflow's key.

    They are good from `lifetime_s` before `now` until as long after it.
    """
    second = int(now)
    key = public_key_text(public_key_of(private_key))
    claims: dict[str, Any] = {
        "aud": audience,
        "iat": second,
        "nbf": second - max(lifetime_s, 1),
        "exp": second + max(lifetime_s, 1),
    }
    if subject is not None:
        claims["sub"] = subject
    parts = [_encode(msgspec.json.encode(part)) for part in ({"typ": "JWT", "alg": "EdDSA", "kid": key}, claims)]
    signed = b".".join(parts)
    token = b".".join((signed, _encode(_private(private_key).sign(signed))))
    return {SCHEME_HEADER: "v1", TOKEN_HEADER: token.decode()}


def verify(headers: Mapping[str, str], path: str, keys: Collection[bytes], now: float) -> None:
    """Check that a request (header names in lower case) was signed for its path by the holder of one of the keys.

    Raises `Unauthorized`, which says what is missing and nothing of what was given. Without keys all is accepted.
    """
    if not keys:
        return
    scheme = headers.get(SCHEME_HEADER)
    if scheme != "v1":
        raise Unauthorized(f"the request is not signed with scheme v1: {SCHEME_HEADER} is needed")
    token = headers.get(TOKEN_HEADER)
    if token is None:
        raise Unauthorized(f"the request is not signed: {TOKEN_HEADER} is needed")
    if len(token) > LONGEST_TOKEN or token.count(".") != 2:
        raise Unauthorized("the request's token is malformed")
    signed, _, signature = token.rpartition(".")
    header, _, claims = signed.partition(".")
    if _read(header).get("alg") != "EdDSA":
        raise Unauthorized("the request's token is not signed with EdDSA")
    if not _is_signed(signed.encode("utf-8", "replace"), _decode(signature), keys):
        raise Unauthorized("the request is signed with none of the keys that are known here")
    _check_claims(_read(claims), audience(path), now)


def _is_signed(signed: bytes, signature: bytes, keys: Collection[bytes]) -> bool:
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature

    for key in keys:
        try:
            _public(key).verify(signature, signed)
        except InvalidSignature:
            continue
        return True
    return False


def _check_claims(claims: Mapping[str, Any], path: str, now: float) -> None:
    for claim in ("exp", "nbf", "iat"):
        if type(claims.get(claim)) not in (int, float):
            raise Unauthorized(f"the request's token has no {claim}")
    if claims["exp"] < now:
        raise Unauthorized("the request's token has expired")
    if claims["nbf"] > now:
        raise Unauthorized("the request's token is not valid yet")
    audiences = claims.get("aud")
    if audiences != path and not (isinstance(audiences, list) and path in audiences):
        raise Unauthorized("the request's token is for another path")


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Unauthorized("the request's token is malformed") from None


def _read(part: str) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(_decode(part))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unauthorized("the request's token is malformed") from None
    if not isinstance(value, dict):
        raise Unauthorized("the request's token is malformed")
    return value
