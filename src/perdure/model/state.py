"""What an object or workflow keeps under its key."""

import base64
import hashlib
from collections.abc import Mapping

__all__ = ["state_version"]


def state_version(state: Mapping[str, bytes]) -> str:
    """What names the content of an object's state: a digest of its sorted pairs, as restate-server makes it."""
    digest = hashlib.sha256()
    for index, (name, value) in enumerate(sorted(state.items())):
        digest.update(index.to_bytes(8, "big") + b"\1" + name.encode() + b"\2" + value + b"\3")
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
