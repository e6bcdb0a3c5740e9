"""The tables of invocations: `sys_invocation`, `sys_invocation_status`, `sys_invocation_state`, `sys_journal_events`.

`sys_invocation` is one scan here, not a join of the other two as in restate-server: a condition on its `status` is
known to be one on the stored column.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from perdure.model import entries as e
from perdure.model.invocation import (
    AttemptFailure,
    Combinator,
    Completed,
    Invocation,
    Invoked,
    Paused,
    Suspended,
    Waiting,
)
from perdure.sql import conditions as c
from perdure.sql.facts import Attempt
from perdure.sql.relations import (
    INDEX_BITS,
    INDEX_MASK,
    Column,
    Derived,
    Partition,
    Relation,
    each,
    failure_text,
    id_text,
    key_of_id,
    sql,
)
from perdure.sql.schemas import SCHEMAS

__all__ = ["RELATIONS"]

_decode = msgspec.msgpack.Decoder(Invocation).decode

_JOURNAL = f"FROM journal WHERE position BETWEEN number << {INDEX_BITS} AND number << {INDEX_BITS} | {INDEX_MASK}"
_LAST = f"(SELECT max(position) {_JOURNAL})"
_STARTED = "status NOT IN ('inboxed', 'scheduled')"
_TYPES = {"PLAIN": "service", "EXCLUSIVE": "virtual_object", "WORKFLOW": "workflow"}
_STORED = {"failed": "completed"}
_SHOWN = {"failed": "completed", "inboxed": "pending"}
_RESULTS = {"completed": "success", "failed": "failure"}
_INVOKED_ID = "CASE status WHEN 'invoked' THEN id END"
_INVOKED_BODY = "CASE status WHEN 'invoked' THEN body END"
_FAILED_BODY = "CASE status WHEN 'failed' THEN body END"
_MODIFIED = f"coalesce(completed_at, (SELECT appended_at FROM journal WHERE position = {_LAST}), created_at)"


# ---- status


def _shown(partition: Partition, stored: Sequence[str], ids: Sequence[Any], bodies: Sequence[Any]) -> list[str]:
    live = partition.world.live
    return [
        _SHOWN.get(status, status) if body is None else _how_invoked(live.get(id), body)
        for status, id, body in zip(stored, ids, bodies, strict=True)
    ]


def _how_invoked(attempt: Attempt | None, body: bytes) -> str:
    if attempt is not None:
        return "running"
    status = _decode(body).status
    return "backing-off" if isinstance(status, Invoked) and status.retry_at is not None else "ready"


def _service_types(partition: Partition, kinds: Sequence[str], services: Sequence[str]) -> list[str]:
    """A handler that is shared belongs to an object or to a workflow: the service's kind tells."""
    known = partition.world.kinds
    return [
        _TYPES.get(kind) or known.get(service, "virtual_object") for kind, service in zip(kinds, services, strict=True)
    ]


def _completion_failure(body: bytes | None) -> str | None:
    if body is None:
        return None
    status = _decode(body).status
    assert isinstance(status, Completed) and isinstance(status.result, e.Failure)
    return f"[{status.result.code}] {status.result.message}"


# ---- who called


def _invoked_by(it: Invocation) -> str:
    if it.restarted_from is not None:
        return "restart_as_new"
    return "ingress" if it.caller is None else "service"


def _of_caller(part: Callable[[Any], Any]) -> Column:
    def make(partition: Partition, them: Sequence[Invocation]) -> list[Any]:
        callers = [None if it.caller is None else partition.find(it.caller) for it in them]
        return [None if caller is None else part(caller) for caller in callers]

    return Column(("@it",), make)


# ---- attempts


def _of_attempt(value: Callable[[Partition, Invocation, Attempt | None], Any]) -> Column:
    """What is known only while it is invoked; NULL otherwise."""

    def make(partition: Partition, them: Sequence[Invocation]) -> list[Any]:
        live = partition.world.live
        return [
            value(partition, it, live.get(it.id)) if isinstance(it.status, Invoked | Paused) else None for it in them
        ]

    return Column(("@it",), make)


def _retry_count(partition: Partition, it: Invocation, attempt: Attempt | None) -> int | None:
    if not isinstance(it.status, Invoked):
        return None
    return it.status.failures + (attempt is not None) or None


def _deployment(partition: Partition, it: Invocation, attempt: Attempt | None) -> str | None:
    return it.deployment if attempt is None else attempt.deployment


def _server(partition: Partition, it: Invocation, attempt: Attempt | None) -> str | None:
    deployment = _deployment(partition, it, attempt)
    return None if deployment is None else partition.world.sdks.get(deployment)


def _failure(it: Invocation) -> AttemptFailure | None:
    return it.status.failure if isinstance(it.status, Invoked | Paused) else None


def _of_failure(value: Callable[[AttemptFailure], Any]) -> Column:
    def make(it: Invocation) -> Any:
        failure = _failure(it)
        return None if failure is None else value(failure)

    return each(make, "@it")


def _failure_text(failure: AttemptFailure) -> str:
    first = failure_text(failure.code, failure.message)
    return f"{first}\n{failure.stacktrace}" if failure.stacktrace else first


_COMMANDS = {type.TYPE: type.__name__ for type in e.Command.__args__}


def _command_type(failure: AttemptFailure) -> str | None:
    return None if failure.command_type is None else _COMMANDS.get(failure.command_type)


# ---- what is waited for

_COMBINATORS = {
    Combinator.UNKNOWN: "Unknown",
    Combinator.FIRST_COMPLETED: "FirstCompleted",
    Combinator.ALL_COMPLETED: "AllCompleted",
    Combinator.FIRST_SUCCEEDED_OR_ALL_FAILED: "FirstSucceededOrAllFailed",
    Combinator.ALL_SUCCEEDED_OR_FIRST_FAILED: "AllSucceededOrFirstFailed",
}


def _tree(waiting: Waiting) -> Any:
    single = [
        *({"CompletionId": id} for id in waiting.completions),
        *({"SignalIndex": index} for index in waiting.signals),
        *({"SignalName": name} for name in waiting.names),
    ]
    leaves = [*({"Single": leaf} for leaf in single), *map(_tree, waiting.nested)]
    return leaves[0] if len(leaves) == 1 else {_COMBINATORS[waiting.combinator]: leaves}


def _of_waiting(value: Callable[[Waiting], Any]) -> Column:
    return each(lambda it: value(it.status.waiting) if isinstance(it.status, Suspended) else None, "@it")


def _flat(part: str) -> Callable[[Waiting], list[int]]:
    def collect(waiting: Waiting) -> list[int]:
        return [*getattr(waiting, part), *(id for each in waiting.nested for id in collect(each))]

    return collect


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# ---- tables

_DERIVED = {"@it": Derived(("body",), lambda partition, bodies: [_decode(body) for body in bodies])}

_COARSE: Final[dict[str, Column]] = {
    "status": each(lambda status: _STORED.get(status, status), "status"),
    "completion_result": each(_RESULTS.get, "status"),
    "target_service_name": sql("service"),
    "target_handler_name": sql("handler"),
    "target_service_ty": Column(("kind", "service"), _service_types),
}
_SHOWN_COARSE = {**_COARSE, "status": each(lambda status: _SHOWN.get(status, status), "status")}

_STATUS: Final[dict[str, Column]] = {
    **_COARSE,
    "partition_key": each(key_of_id, "id"),
    "id": each(id_text, "id"),
    "completion_failure": each(_completion_failure, _FAILED_BODY),
    "target": sql("service || '/' || coalesce(key || '/', '') || handler"),
    "target_service_key": sql("key"),
    "idempotency_key": each(lambda it: it.idempotency_key, "@it"),
    "invoked_by": each(_invoked_by, "@it"),
    "invoked_by_id": each(lambda it: id_text(it.caller), "@it"),
    "invoked_by_service_name": _of_caller(lambda caller: caller.service),
    "invoked_by_target": _of_caller(lambda caller: caller.target),
    "restarted_from": each(lambda it: id_text(it.restarted_from), "@it"),
    "pinned_deployment_id": each(lambda it: it.deployment, "@it"),
    "pinned_service_protocol_version": each(lambda it: it.protocol_version or None, "@it"),
    "journal_size": sql(f"CASE WHEN {_STARTED} THEN coalesce(({_LAST} & {INDEX_MASK}) + 1, 0) END"),
    "journal_commands_size": sql(f"CASE WHEN {_STARTED} THEN (SELECT count(*) {_JOURNAL} AND type < 32768) END"),
    "created_at": sql("created_at"),
    "modified_at": sql(_MODIFIED),
    "inboxed_at": each(lambda it: it.inboxed_at, "@it"),
    "scheduled_at": each(lambda it: None if it.execute_at is None else it.created_at, "@it"),
    "scheduled_start_at": each(lambda it: it.execute_at, "@it"),
    "running_at": each(lambda it: it.started_at, "@it"),
    "completed_at": sql("completed_at"),
    "completion_retention": each(lambda it: it.retention.completion_ms, "@it"),
    "journal_retention": each(lambda it: it.retention.journal_ms, "@it"),
    "suspended_waiting_for_completions": _of_waiting(_flat("completions")),
    "suspended_waiting_for_signals": _of_waiting(_flat("signals")),
    "suspended_waiting_future_json": _of_waiting(lambda waiting: _json(_tree(waiting))),
}

_STATE: Final[dict[str, Column]] = {
    "retry_count": _of_attempt(_retry_count),
    "last_start_at": _of_attempt(lambda partition, it, attempt: None if attempt is None else attempt.since),
    "last_attempt_deployment_id": _of_attempt(_deployment),
    "last_attempt_server": _of_attempt(_server),
    "next_retry_at": each(lambda it: it.status.retry_at if isinstance(it.status, Invoked) else None, "@it"),
    "last_failure": _of_failure(_failure_text),
    "last_failure_error_code": _of_failure(lambda failure: failure.restate_code),
    "last_failure_related_command_index": _of_failure(lambda failure: failure.command_index),
    "last_failure_related_command_name": _of_failure(lambda failure: failure.command_name),
    "last_failure_related_command_type": _of_failure(_command_type),
}

_FILTERS: Final[dict[str, c.Filter]] = {
    "id": c.is_invocation("number"),
    "status": c.is_one_of(
        "status",
        {
            **{status: (status,) for status in ("scheduled", "inboxed", "invoked", "suspended", "paused")},
            "completed": ("completed", "failed"),
        },
    ),
    "completion_result": c.is_one_of(
        "status",
        {
            "success": ("completed",),
            "failure": ("failed",),
            None: ("scheduled", "inboxed", "invoked", "suspended", "paused"),
        },
    ),
    "target": c.is_target,
    "target_service_name": c.text("service"),
    "target_service_key": c.text("key"),
    "target_handler_name": c.text("handler"),
    "target_service_ty": c.is_one_of(
        "kind",
        {"service": ("PLAIN",), "virtual_object": ("EXCLUSIVE", "SHARED"), "workflow": ("WORKFLOW", "SHARED")},
    ),
    "idempotency_key": c.holds_text("body"),
    "pinned_deployment_id": c.holds_text("body"),
    "invoked_by_id": c.holds_id("body"),
    "restarted_from": c.holds_id("body"),
    "created_at": c.number("created_at"),
    "completed_at": c.number("completed_at"),
    "modified_at": c.since_completed("completed_at"),
}
_SHOWN_STATUS = c.is_one_of(
    "status",
    {
        "scheduled": ("scheduled",),
        "pending": ("inboxed",),
        "ready": ("invoked",),
        "running": ("invoked",),
        "backing-off": ("invoked",),
        "suspended": ("suspended",),
        "paused": ("paused",),
        "completed": ("completed", "failed"),
    },
)

_BULKY = frozenset({"body", _INVOKED_BODY, _FAILED_BODY})
_TIMES = {
    "created_at": ("created_at", False),
    "completed_at": ("completed_at", True),
    "modified_at": ("completed_at", True),
}

# ---- events

_EVENTS = """invocation JOIN (
    SELECT 0 AS event, 'invoked' AS at UNION ALL SELECT 0, 'paused' UNION ALL SELECT 1, 'paused'
    UNION ALL SELECT 2, 'suspended'
) ON at = status"""
_EVENT = ("TransientError", "Paused", "Suspended")


def _failure_event(failure: AttemptFailure) -> dict[str, Any]:
    facts = {
        "error_code": failure.code,
        "error_message": failure.message,
        "error_stacktrace": failure.stacktrace or None,
        "restate_doc_error_code": failure.restate_code,
        "related_command_index": failure.command_index,
        "related_command_name": failure.command_name,
        "related_command_type": _command_type(failure),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _event_json(event: int, it: Invocation) -> str:
    facts: dict[str, Any] = {"ty": _EVENT[event]}
    failure = _failure(it)
    if event == 0 and failure is not None:
        facts |= _failure_event(failure)
    elif event == 1 and failure is not None:
        facts["last_failure"] = _failure_event(failure)
    elif isinstance(it.status, Suspended):
        facts["awaiting_on"] = _tree(it.status.waiting)
    return _json(facts)


def _event_at(event: int, it: Invocation) -> int | None:
    failure = _failure(it)
    if event == 0:
        return None if failure is None else failure.at
    return it.status.since if isinstance(it.status, Paused | Suspended) else None


def _happened(event: int, it: Invocation) -> bool:
    return event != 0 or _failure(it) is not None


RELATIONS: Final = (
    Relation(
        "sys_invocation",
        SCHEMAS["sys_invocation"],
        "invocation",
        {**_STATUS, **_STATE, "status": Column(("status", _INVOKED_ID, _INVOKED_BODY), _shown)},
        _DERIVED,
        {**_FILTERS, "status": _SHOWN_STATUS},
        _SHOWN_COARSE,
        frozenset({"status", "id"}),
        bulky=_BULKY,
        times=_TIMES,
        split=("number", "invocation"),
    ),
    Relation(
        "sys_invocation_status",
        SCHEMAS["sys_invocation_status"],
        "invocation",
        _STATUS,
        _DERIVED,
        _FILTERS,
        _COARSE,
        frozenset({"id"}),
        bulky=_BULKY,
        times=_TIMES,
        split=("number", "invocation"),
    ),
    Relation(
        "sys_invocation_state",
        SCHEMAS["sys_invocation_state"],
        "active JOIN invocation USING (number)",
        {
            **_STATE,
            "partition_key": _STATUS["partition_key"],
            "id": _STATUS["id"],
            "in_flight": _of_attempt(lambda partition, it, attempt: attempt is not None),
        },
        _DERIVED,
        {"id": c.is_invocation("active.number")},
        bulky=_BULKY,
    ),
    Relation(
        "sys_journal_events",
        SCHEMAS["sys_journal_events"],
        _EVENTS,
        {
            "partition_key": _STATUS["partition_key"],
            "id": _STATUS["id"],
            "after_journal_entry_index": sql(f"coalesce({_LAST} & {INDEX_MASK}, 0)"),
            "appended_at": each(_event_at, "event", "@it"),
            "event_type": each(_EVENT.__getitem__, "event"),
            "event_json": each(_event_json, "event", "@it"),
        },
        _DERIVED,
        {
            "id": c.is_invocation("number"),
            "event_type": c.text("CASE event WHEN 0 THEN 'TransientError' WHEN 1 THEN 'Paused' ELSE 'Suspended' END"),
        },
        bulky=_BULKY,
        keep=each(_happened, "event", "@it"),
    ),
)
