"""Ids that frameworks make up in a handler: random ones and time-ordered ones, which come from the context and replay.

An id that ends up in state, in a checkpoint or in a step's name would otherwise be another one on every replay. Only
the framework's own modules are touched; the standard library and everybody else's code stay as they are.
"""

import sys
import types
import uuid
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from perdure.ai.base import durable_context

__all__ = ["make_ids_replay", "replaying", "time_ordered"]

_EPOCH = 0x01B21DD213814000  # 100 ns between the calendar of UUIDs (1582) and Unix's
_LAST: "WeakKeyDictionary[Any, int]" = WeakKeyDictionary()


def replaying(original: Callable[..., uuid.UUID]) -> Callable[..., uuid.UUID]:
    """A maker of ids of which nobody wants more than that they differ."""

    def make(*args: Any, **kwargs: Any) -> uuid.UUID:
        context = durable_context()
        return original(*args, **kwargs) if context is None else context.uuid()

    return make


def time_ordered(original: Callable[..., uuid.UUID]) -> Callable[..., uuid.UUID]:
    """A maker of version 6 ids, each greater than the one before; in a handler by the journal's time."""

    def make(node: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
        context = durable_context()
        if context is None:
            return original(node, clock_seq)
        last = _LAST.get(context)  # the clock is read once: on the wire that is an entry of the journal
        now = _EPOCH + int(context.now().timestamp() * 1000) * 10_000 if last is None else last + 1
        _LAST[context] = now
        node = context.random.getrandbits(48) if node is None else node
        sequence = context.random.getrandbits(14) if clock_seq is None else clock_seq & 0x3FFF
        number = (now >> 12 & 0xFFFFFFFFFFFF) << 80 | 6 << 76 | (now & 0xFFF) << 64 | 0b10 << 62
        return uuid.UUID(int=number | sequence << 48 | node & 0xFFFFFFFFFFFF)

    return make


def make_ids_replay(package: str, known: dict[Any, Callable[..., uuid.UUID]] | None = None) -> None:
    """Have the loaded modules of a package make ids that replay.

    These are `uuid4` and `uuid1` of the standard library, and the functions of `known`, each replaced by its value.
    """
    replaced: dict[Any, Any] = {uuid.uuid4: replaying(uuid.uuid4), uuid.uuid1: replaying(uuid.uuid1)}
    replaced |= known or {}
    module_uuid = types.ModuleType("uuid", uuid.__doc__)
    module_uuid.__dict__.update(uuid.__dict__)
    for original, ours in list(replaced.items())[:2]:
        setattr(module_uuid, original.__name__, ours)
    for name, module in list(sys.modules.items()):
        if name != package and not name.startswith(f"{package}."):
            continue
        for attribute, value in list(vars(module).items()):
            if value is uuid:
                setattr(module, attribute, module_uuid)
            elif isinstance(value, types.FunctionType) and value in replaced:
                setattr(module, attribute, replaced[value])
