"""Versions of the service protocol: which are spoken, how one is chosen, and what needs which.

An endpoint says in its manifest which versions it speaks; whoever calls it chooses the highest that both know, and says
so in the content type of every request. An invocation keeps the version it began with.
"""

from typing import Final

__all__ = [
    "ACKS",
    "AWAIT_TREES",
    "ERROR_BEHAVIOR",
    "FAILURE_METADATA",
    "MANIFEST_TYPES",
    "NEWEST",
    "OLDEST",
    "RANDOM_SEED",
    "USUAL",
    "choose",
    "content_type",
    "version_of",
]

OLDEST: Final = 5
NEWEST: Final = 7
USUAL: Final = 6  # the newest that is chosen unless told otherwise: restate-server 1.7 does not choose 7 either

# What came with which version.
RANDOM_SEED: Final = 6
FAILURE_METADATA: Final = 6
AWAIT_TREES: Final = 7  # in a suspension, and `AwaitingOn`
ACKS: Final = 7  # a proposal is acknowledged, its result not sent back
ERROR_BEHAVIOR: Final = 7

MANIFEST_TYPES: Final = {
    version: f"application/vnd.restate.endpointmanifest.v{version}+json" for version in range(1, 5)
}

_PREFIX = "application/vnd.restate.invocation.v"


def content_type(version: int) -> str:
    """The media type of an invocation in this version."""
    return f"{_PREFIX}{version}"


def version_of(content_type: str | None) -> int | None:
    """The version a content type names; None if it is none of those that are spoken here."""
    if content_type is None or not content_type.startswith(_PREFIX):
        return None
    text = content_type[len(_PREFIX) :]
    version = int(text) if text.isascii() and text.isdecimal() else 0
    return version if OLDEST <= version <= NEWEST and text == str(version) else None


def choose(oldest: int, newest: int, limit: int = NEWEST) -> int | None:
    """The highest version that an endpoint (`oldest` to `newest`) and this side (up to `limit`) know; None: none."""
    version = min(newest, limit)
    return version if version >= max(oldest, OLDEST) else None
