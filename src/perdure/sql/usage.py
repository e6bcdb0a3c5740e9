"""`sys_usage`, a table of perdure's own: the model calls in all journals, their tokens and what they cost.

A model call is a step whose result begins with its usage (`perdure.ai.records`). The file has an index of just these
(`storage/schema.sql`), so what is added up is read, and not all journals.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from perdure.model import entries as e
from perdure.protocol.messages import decode_entry
from perdure.sql import conditions as c
from perdure.sql.relations import INDEX_BITS, INDEX_MASK, Column, Derived, Partition, Relation, each, id_text, sql
from perdure.sql.schemas import SCHEMAS

__all__ = ["RELATIONS"]

_NUMBER: Final = f"position >> {INDEX_BITS}"
_SOURCE: Final = (
    "(SELECT position, appended_at, payload FROM journal INDEXED BY journal_usage "  # as its WHERE says it
    f"WHERE type = {e.RUN_COMPLETION} AND instr(substr(payload, 1, 40), X'7B227573616765223A'))"
    f" CROSS JOIN invocation ON number = {_NUMBER}"
)


class _Usage(msgspec.Struct):
    """As `perdure.ai.records` writes it."""

    provider: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    prices: str = ""
    session: str = ""
    attempt: int = 1


class _Record(msgspec.Struct):
    usage: _Usage


class _Call(msgspec.Struct):
    index: int
    name: str
    usage: _Usage


_decode = msgspec.json.Decoder(_Record).decode


def _calls(partition: Partition, positions: Sequence[int], payloads: Sequence[bytes]) -> list[_Call | None]:
    """What each row is; None for a step of another kind whose result happens to begin like that."""
    steps = lru_cache(maxsize=16)(lambda number: _steps(partition, number))
    found: list[_Call | None] = []
    for position, payload in zip(positions, payloads, strict=True):
        entry = decode_entry(e.RUN_COMPLETION, payload)
        assert isinstance(entry, e.Completion)
        try:
            usage = _decode(entry.result.content).usage if isinstance(entry.result, e.Value) else None
        except msgspec.MsgspecError:
            usage = None
        index, name = (0, "") if usage is None else steps(position >> INDEX_BITS).get(entry.completion_id, (0, ""))
        found.append(None if usage is None else _Call(index, name, usage))
    return found


def _steps(partition: Partition, number: int) -> dict[int, tuple[int, str]]:
    """The steps of an invocation by their completion's id: where they are in the journal, and how they are called."""
    rows = partition.connection.execute(
        "SELECT position, payload FROM journal WHERE position BETWEEN ? AND ? AND type = ?",
        (number << INDEX_BITS, number << INDEX_BITS | INDEX_MASK, e.Run.TYPE),
    )
    found: dict[int, tuple[int, str]] = {}
    for position, payload in rows:
        entry = decode_entry(e.Run.TYPE, payload)
        assert isinstance(entry, e.Run)
        found[entry.completion_id] = position & INDEX_MASK, entry.name
    return found


def _fact(name: str) -> Column:
    return each(lambda call: None if call is None else getattr(call.usage, name), "@call")


def _text(name: str) -> Column:
    return each(lambda call: None if call is None else getattr(call.usage, name) or None, "@call")


def _session(call: _Call | None, key: str | None) -> str | None:
    return (None if call is None else call.usage.session) or key


def _own(name: str) -> Column:
    def make(call: _Call | None) -> Any:
        return None if call is None else getattr(call, name)

    return each(make, "@call")


RELATIONS: Final = (
    Relation(
        "sys_usage",
        SCHEMAS["sys_usage"],
        _SOURCE,
        {
            "id": each(id_text, "id"),
            "target_service_name": sql("service"),
            "target_service_key": sql("key"),
            "target_handler_name": sql("handler"),
            "session": each(_session, "@call", "key"),
            "index": _own("index"),
            "name": _own("name"),
            "provider": _text("provider"),
            "model": _text("model"),
            "input_tokens": _fact("input_tokens"),
            "output_tokens": _fact("output_tokens"),
            "cached_tokens": _fact("cached_tokens"),
            "cache_write_tokens": _fact("cache_write_tokens"),
            "reasoning_tokens": _fact("reasoning_tokens"),
            "cost": _fact("cost"),
            "prices": _text("prices"),
            "attempt": _fact("attempt"),
            "at": sql("appended_at"),
        },
        {"@call": Derived(("position", "payload"), _calls)},
        {
            "id": c.is_invocation(f"({_NUMBER})"),
            "target_service_name": c.text("service"),
            "target_service_key": c.text("key"),
            "target_handler_name": c.text("handler"),
            "at": c.number("appended_at"),
        },
        bulky=frozenset({"payload"}),
        keep=each(lambda call: call is not None, "@call"),
    ),
)
