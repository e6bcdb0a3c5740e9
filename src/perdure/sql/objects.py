"""The tables of objects and workflows, `state`, `sys_promise`, `sys_inbox`, `sys_keyed_service_status` and `sys_locks`,
`sys_stream`, and those of the registry, `sys_service` and `sys_deployment`.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from perdure.core.tables import InboxItem, InvocationItem, Lock
from perdure.model import entries as e
from perdure.model.invocation import Promise
from perdure.model.streams import StreamHead
from perdure.sql import conditions as c
from perdure.sql.relations import (
    Column,
    Derived,
    Partition,
    Relation,
    World,
    each,
    failure_text,
    id_text,
    key_of_id,
    key_of_name,
    sql,
    utf8_or_none,
)
from perdure.sql.schemas import ALWAYS_EMPTY, SCHEMAS

__all__ = ["RELATIONS"]

_decode_item = msgspec.msgpack.Decoder(InboxItem).decode
_decode_lock = msgspec.msgpack.Decoder(Lock).decode
_decode_head = msgspec.msgpack.Decoder(StreamHead).decode
_decode_promise = msgspec.msgpack.Decoder(Promise).decode

_NAMED: Final[dict[str, Column]] = {
    "partition_key": each(key_of_name, "key"),
    "service_name": sql("service"),
    "service_key": sql("key"),
}
_BY_NAME: Final = {"service_name": c.text("service"), "service_key": c.text("key")}


def _ids(partition: Partition, numbers: Sequence[int | None]) -> list[str | None]:
    find = "SELECT id FROM invocation WHERE number = ?"
    rows = [partition.connection.execute(find, (number,)).fetchone() for number in numbers]
    return [None if row is None else id_text(row[0]) for row in rows]


def _waiting_ids(partition: Partition, bodies: Sequence[bytes]) -> list[str | None]:
    items = [_decode_item(body) for body in bodies]
    return _ids(partition, [item.number if isinstance(item, InvocationItem) else None for item in items])


def _holders(partition: Partition, bodies: Sequence[bytes]) -> list[str | None]:
    return _ids(partition, [_decode_lock(body).holder for body in bodies])


def _success(it: Promise) -> bytes | None:
    return it.result.content if isinstance(it.result, e.Value) else None


def _failure(it: Promise) -> str | None:
    return failure_text(it.result.code, it.result.message) if isinstance(it.result, e.Failure) else None


def _services(world: World) -> list[tuple[Any, ...]]:
    return [(it.name, it.revision, it.public, it.kind, it.deployment) for it in world.facts.services]


def _deployments(world: World) -> list[tuple[Any, ...]]:
    return [
        (it.id, it.type, it.endpoint, it.created_at, it.oldest, it.newest, sorted(it.services))
        for it in world.facts.deployments
    ]


RELATIONS: Final = (
    Relation(
        "state",
        SCHEMAS["state"],
        "state",
        {
            **_NAMED,
            "key": sql("name"),
            "key_length": sql("length(CAST(name AS BLOB))"),
            "value_utf8": each(utf8_or_none, "value"),
            "value": sql("value"),
            "value_length": sql("length(value)"),
        },
        filters={**_BY_NAME, "key": c.text("name"), "value_length": c.number("length(value)")},
        bulky=frozenset({"value"}),
    ),
    Relation(
        "sys_promise",
        SCHEMAS["sys_promise"],
        "promise",
        {
            **_NAMED,
            "key": sql("name"),
            "completed": each(lambda it: it.result is not None, "@promise"),
            "completion_success_value": each(_success, "@promise"),
            "completion_success_value_utf8": each(lambda it: utf8_or_none(_success(it)), "@promise"),
            "completion_failure": each(_failure, "@promise"),
        },
        {"@promise": Derived(("body",), lambda partition, bodies: [_decode_promise(body) for body in bodies])},
        {**_BY_NAME, "key": c.text("name")},
        bulky=frozenset({"body"}),
    ),
    Relation(
        "sys_inbox",
        SCHEMAS["sys_inbox"],
        "inbox",
        {**_NAMED, "id": Column(("body",), _waiting_ids), "sequence_number": sql("position")},
        filters={**_BY_NAME, "sequence_number": c.number("position")},
        bulky=frozenset({"body"}),
    ),
    Relation(
        "sys_keyed_service_status",
        SCHEMAS["sys_keyed_service_status"],
        "lock",
        {**_NAMED, "invocation_id": Column(("body",), _holders)},
        filters=_BY_NAME,
    ),
    Relation(
        "sys_locks",
        SCHEMAS["sys_locks"],
        "lock",
        {
            "partition_key": _NAMED["partition_key"],
            "lock_name": sql("service || '/' || key"),
            "acquired_by": Column(("body",), _holders),
        },
    ),
    Relation(
        "sys_stream",
        SCHEMAS["sys_stream"],
        "stream JOIN invocation USING (number)",
        {
            "partition_key": each(key_of_id, "id"),
            "id": each(id_text, "id"),
            "name": sql("name"),
            "chunks": each(lambda head: head.chunks, "@head"),
            "bytes": each(lambda head: head.size, "@head"),
            "closed": each(lambda head: head.closed, "@head"),
            "modified_at": each(lambda head: head.updated_at, "@head"),
        },
        {"@head": Derived(("stream.body",), lambda partition, bodies: [_decode_head(body) for body in bodies])},
        {"id": c.is_invocation("number"), "name": c.text("name")},
    ),
    Relation("sys_service", SCHEMAS["sys_service"], rows=_services),
    Relation("sys_deployment", SCHEMAS["sys_deployment"], rows=_deployments),
    *(Relation(name, SCHEMAS[name], rows=lambda world: []) for name in ALWAYS_EMPTY),
)
