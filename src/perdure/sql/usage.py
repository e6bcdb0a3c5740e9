"""`sys_usage`, a table of perdure's own: the model calls in all journals, their tokens and what they cost.

A model call is a step whose result begins with its usage (`perdure.ai.records`). The file has an index of just these
(`storage/schema.sql`), so what is added up is read, and not all journals.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from perdure.model import entries as e
from perdure.model.usage import Usage
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


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """All fields that a record has; a step's own result that begins alike has others."""

    usage: Usage
    raised: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    plain: bool = False
    span: str = ""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Call(msgspec.Struct):
    completion_id: int
    usage: Usage


_decode = msgspec.json.Decoder(_Record).decode


def _calls(partition: Partition, payloads: Sequence[bytes]) -> list[_Call | None]:
    """What each row is; None for a step of another kind whose result happens to begin like that."""
    found: list[_Call | None] = []
    for payload in payloads:
        entry = decode_entry(e.RUN_COMPLETION, payload)
        assert isinstance(entry, e.Completion)
        try:
            usage = _decode(entry.result.content).usage if isinstance(entry.result, e.Value) else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            usage = None
        found.append(None if usage is None else _Call(entry.completion_id, usage))
    return found


def _places(
    partition: Partition, positions: Sequence[int], calls: Sequence[_Call | None]
) -> list[tuple[int, str] | None]:
    """Where in the journal their steps are, and how they are called: another reading of each journal, and made only of
    those whose name or index is asked for. Rows of one invocation follow each other."""
    steps = lru_cache(maxsize=16)(lambda number: _steps(partition, number))
    return [
        None if call is None else steps(position >> INDEX_BITS).get(call.completion_id)
        for position, call in zip(positions, calls, strict=True)
    ]


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


def _count(name: str) -> Column:
    """NULL if the provider told no tokens."""
    return each(lambda call: getattr(call.usage, name) if call is not None and call.usage.told else None, "@call")


def _place(member: int) -> Column:
    def make(partition: Partition, positions: Sequence[int], calls: Sequence[_Call | None]) -> list[Any]:
        return [place and place[member] for place in _places(partition, positions, calls)]

    return Column(("position", "@call"), make)


def _written(operator: str, values: list[Any]) -> c.Condition | None:
    """A text that is somewhere in the record, if JSON writes it as it is."""
    if any(not isinstance(value, str) or msgspec.json.encode(value)[1:-1] != value.encode() for value in values):
        return None
    return c.holds_text("payload")(operator, values)


def _is_session(operator: str, values: list[Any]) -> c.Condition | None:
    return c.either(c.text("key")(operator, values), _written(operator, values))


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
            "index": _place(0),
            "name": _place(1),
            "provider": _text("provider"),
            "model": _text("model"),
            "input_tokens": _count("input_tokens"),
            "output_tokens": _count("output_tokens"),
            "cached_tokens": _count("cached_tokens"),
            "cache_write_tokens": _count("cache_write_tokens"),
            "reasoning_tokens": _count("reasoning_tokens"),
            "cost": _fact("cost"),
            "prices": _text("prices"),
            "attempt": _fact("attempt"),
            "at": sql("appended_at"),
        },
        {"@call": Derived(("payload",), _calls)},
        {
            "id": c.is_invocation(f"({_NUMBER})"),
            "target_service_name": c.text("service"),
            "target_service_key": c.text("key"),
            "target_handler_name": c.text("handler"),
            "session": _is_session,
            "provider": _written,
            "model": _written,
            "at": c.number("appended_at"),
        },
        bulky=frozenset({"payload"}),
        keep=each(lambda call: call is not None, "@call"),
    ),
)
