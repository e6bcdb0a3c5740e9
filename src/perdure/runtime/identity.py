"""The server's identity: the key with which it signs its requests to endpoints, so that these can tell who asks.

The key is a file (PEM, PKCS#8, Ed25519), made when it is first needed. A token is good for a minute to either side, so
one is used again for a while: signing costs more than all else about a request.
"""

import hmac
import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from perdure.errors import Invalid
from perdure.protocol import identity

__all__ = ["Identity"]

REUSE_SECONDS = 20
TOKENS = 4096
"""How many are kept: one for each path and key of an object that was lately asked for."""


class Identity:
    """The key in the file `path`, whose folder has to be there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: bytes | None = None
        self._signed = lru_cache(maxsize=TOKENS)(self._sign)

    @property
    def public_key(self) -> str:
        """What endpoints have to know: `publickeyv1_...`. Raises `Invalid` for a file that is no key."""
        return identity.public_key_text(identity.public_key_of(self._private_key()))

    def secret(self, purpose: str) -> bytes:
        """A secret of 32 bytes for another purpose; the same wherever the key is the same."""
        return hmac.digest(self._private_key(), f"perdure {purpose}".encode(), "sha256")

    def sign(self, path: str, key: str | None, now_ms: int) -> Mapping[str, str]:
        """The headers of a request for `path`; `key` is the object's or workflow's."""
        return self._signed(path, key, now_ms // (REUSE_SECONDS * 1000))

    def _sign(self, path: str, key: str | None, period: int) -> Mapping[str, str]:
        return identity.sign(self._private_key(), path, period * REUSE_SECONDS, key)

    def _private_key(self) -> bytes:
        if self._key is None:
            try:
                pem = self._path.read_bytes()
            except FileNotFoundError:
                pem = _make_key(self._path)
            try:
                self._key = identity.read_private_key(pem)
            except Invalid as error:
                raise Invalid(f"{self._path}: {error.message}") from None
        return self._key


def _make_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # readable by its owner only
    fresh = Path(name)
    with open(handle, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)  # of two who make one at once, one wins and both use it
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return path.read_bytes()
