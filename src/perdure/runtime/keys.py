"""The API keys that a process knows: whoever shows one is looked up here, once per request."""

import hashlib
import hmac
from collections.abc import Iterable

from perdure.errors import Unauthorized
from perdure.model.keys import PREFIX, ApiKey

__all__ = ["Keyring", "shows_key"]

_PREFIX = PREFIX.encode()
_ID = slice(len(PREFIX), len(PREFIX) + 16)
_SECRET = len(PREFIX) + 17
_sha256 = hashlib.sha256
_same = hmac.compare_digest

_HOW = "send the header authorization: Bearer KEY"


class Keyring:
    """All keys of partition 0, as they are now. `required` is whether requests have to show one.

    That is so from the first key on, or always. It never ends while the process lives.
    """

    def __init__(self, keys: Iterable[ApiKey] = (), *, required: bool = False) -> None:
        self._keys: dict[bytes, ApiKey] = {}
        self.required = required
        for key in keys:
            self.learn(key)

    def learn(self, key: ApiKey) -> None:
        """A key is there, or has changed."""
        self._keys[key.id.encode()] = key
        self.required = True

    def forget(self, id: str) -> None:
        """A key is gone."""
        self._keys.pop(id.encode(), None)

    def all(self) -> list[ApiKey]:
        """Oldest first, those that open nothing any more among them."""
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    def find(self, authorization: bytes | None, now: int) -> ApiKey:
        """The key that a header shows. Raises `Unauthorized`, which says nothing of what was shown."""
        if authorization is None:
            raise Unauthorized(f"an API key is needed: {_HOW}")
        text = authorization[7:]
        key = self._keys.get(text[_ID])
        if (
            key is None
            or authorization[:7].lower() != b"bearer "
            or not text.startswith(_PREFIX)
            or text[_SECRET - 1 : _SECRET] != b"_"
            or not _same(_sha256(text[_SECRET:]).digest(), key.digest)
        ):
            raise Unauthorized(f"the API key is not known here: {_HOW}")
        if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
            raise Unauthorized(f"the API key {key.id} ({key.name}) is {key.standing(now)}")
        return key


def shows_key(authorization: bytes) -> bool:
    """Whether a header shows what looks like one of our keys, which nobody else is to see."""
    return authorization[:7].lower() == b"bearer " and authorization[7:].startswith(_PREFIX)
