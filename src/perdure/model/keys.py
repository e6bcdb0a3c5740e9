"""API keys: who may ask what of a server. The store has a digest of the secret, never the secret.

A key's text is `perdure_<id>_<secret>`. The secret is 256 random bits, so one SHA-256 is all the hashing it needs:
nobody guesses it, and slow hashes are for what people can remember.
"""

import base64
import enum
import hashlib

import msgspec

from perdure.errors import Invalid

__all__ = ["ENTROPY_BYTES", "GRANTS", "PREFIX", "ApiKey", "Role", "digest_of", "make_key"]

PREFIX = "perdure_"
ENTROPY_BYTES = 42  # 10 name the key, 32 are its secret
NAME_LIMIT = 100


class Role(enum.StrEnum):
    """What a key is for; also what a route needs at least."""

    INGRESS = "ingress-only"
    READ = "read-only"
    OPERATOR = "operator"
    ADMIN = "admin"


GRANTS: dict[Role, frozenset[Role]] = {  # a key's role -> the needs of routes that it meets
    Role.INGRESS: frozenset({Role.INGRESS}),
    Role.READ: frozenset({Role.READ}),
    Role.OPERATOR: frozenset({Role.INGRESS, Role.READ, Role.OPERATOR}),
    Role.ADMIN: frozenset(Role),
}


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as it is stored. Times are ms since the epoch; `digest` is the SHA-256 of the secret."""

    id: str
    name: str
    role: Role
    digest: bytes
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def ended_at(self, now: int) -> int | None:
        """Since when it opens nothing any more; None while it is good."""
        ends = [at for at in (self.expires_at, self.revoked_at) if at is not None and at <= now]
        return min(ends, default=None)

    def standing(self, now: int) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.ended_at(now) is None else "expired"


def digest_of(secret: bytes) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret).digest()


def make_key(entropy: bytes, name: str, role: Role, at: int, expires_at: int | None = None) -> tuple[ApiKey, str]:
    """A new key of `ENTROPY_BYTES` random bytes, and its text, which is nowhere else. Raises `Invalid`."""
    if not 1 <= len(name) <= NAME_LIMIT or not name.isprintable():
        raise Invalid(f"name: 1 to {NAME_LIMIT} printable characters")
    if expires_at is not None and expires_at <= at:
        raise Invalid("expires_in: it has to be more than 0")
    assert len(entropy) == ENTROPY_BYTES
    id, secret = _text(entropy[:10]), _text(entropy[10:])
    return ApiKey(id, name, role, digest_of(secret.encode()), at, expires_at), f"{PREFIX}{id}_{secret}"


def _text(raw: bytes) -> str:
    return base64.b32encode(raw).decode().lower().rstrip("=")
