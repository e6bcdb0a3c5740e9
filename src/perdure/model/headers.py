"""Headers that hold secrets: told to whom they are for, shown to nobody."""

from typing import Final

__all__ = ["MASK", "is_secret", "masked"]

MASK: Final = "***"
_SECRET: Final = ("auth", "cookie", "credential", "key", "password", "secret", "session", "signature", "token")


def is_secret(name: str) -> bool:
    """Whether the value of a header of this name is likely a secret; `idempotency-key` is none."""
    lower = name.lower()
    return lower != "idempotency-key" and any(word in lower for word in _SECRET)


def masked(name: str, value: str) -> str:
    """The value as it may be shown."""
    return MASK if is_secret(name) else value
