"""`sys_approval`, a table of perdure's own: the state of the built-in object that each approval is."""

from typing import Any, Final

import msgspec

from perdure.protocol.approvals import APPROVALS, STATE, Approval
from perdure.sql import conditions as c
from perdure.sql.relations import Column, Derived, Relation, each
from perdure.sql.schemas import SCHEMAS

__all__ = ["RELATIONS"]

_decode = msgspec.json.Decoder(Approval).decode
_SOURCE: Final = (
    f"(SELECT key, CAST(value AS TEXT) AS record FROM state WHERE service = '{APPROVALS}' AND name = '{STATE}')"
)


def _member(name: str) -> str:
    """A member of the record, as SQLite finds it."""
    return f"record ->> '$.{name}'"


def _fact(name: str) -> Column:
    return each(lambda it: getattr(it, name), "@approval")


def _json(name: str) -> Column:
    def encoded(it: Approval) -> str | None:
        value: Any = getattr(it, name)
        return None if value is None else msgspec.json.encode(value).decode()

    return each(encoded, "@approval")


_STATUS: Final = f"coalesce({_member('status')}, 'open')"

RELATIONS: Final = (
    Relation(
        "sys_approval",
        SCHEMAS["sys_approval"],
        _SOURCE,
        {
            "id": Column(("key",)),
            "status": _fact("status"),
            "title": _fact("title"),
            "invocation_id": _fact("invocation"),
            "target_service_name": _fact("service"),
            "target_service_key": _fact("key"),
            "target_handler_name": _fact("handler"),
            "context_json": _json("context"),
            "schema_json": _json("schema"),
            "value_json": _json("value"),
            "comment": _fact("comment"),
            "answered_by": _fact("by"),
            "assignees": _fact("to"),
            "tags": _fact("tags"),
            "escalations": _fact("escalations"),
            "created_at": _fact("created_at"),
            "expires_at": _fact("expires_at"),
            "closed_at": _fact("closed_at"),
        },
        {"@approval": Derived(("record",), lambda partition, records: [_decode(record) for record in records])},
        {
            "id": c.text("key"),
            "status": c.text(_STATUS),
            "target_service_name": c.text(f"coalesce({_member('service')}, '')"),
        },
        bulky=frozenset({"record"}),
    ),
)
