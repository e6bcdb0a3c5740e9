"""`sys_journal`: the entries of every journal, also as the JSON that restate-server's clients read.

An entry's JSON names its message from outside (`{"Command":{"Run":{...}}}`); bytes are arrays of numbers there. The
lite form leaves out payloads and names.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.model import entries as e
from perdure.model.headers import is_secret, masked
from perdure.model.ids import InvocationId, parse_invocation_id
from perdure.protocol.messages import decode_entry, encode_entry
from perdure.sql import conditions as c
from perdure.sql.relations import (
    INDEX_BITS,
    INDEX_MASK,
    Column,
    Derived,
    Partition,
    Relation,
    each,
    id_text,
    key_of_id,
    sql,
)
from perdure.sql.schemas import SCHEMAS

__all__ = ["RELATIONS"]

_COMPLETIONS: Final = {
    e.GET_LAZY_STATE_COMPLETION: "GetLazyState",
    e.GET_LAZY_STATE_KEYS_COMPLETION: "GetLazyStateKeys",
    e.GET_PROMISE_COMPLETION: "GetPromise",
    e.PEEK_PROMISE_COMPLETION: "PeekPromise",
    e.COMPLETE_PROMISE_COMPLETION: "CompletePromise",
    e.SLEEP_COMPLETION: "Sleep",
    e.CALL_COMPLETION: "Call",
    e.CALL_INVOCATION_ID_COMPLETION: "CallInvocationId",
    e.RUN_COMPLETION: "Run",
    e.ATTACH_COMPLETION: "AttachInvocation",
    e.GET_OUTPUT_COMPLETION: "GetInvocationOutput",
}
_COMMANDS: Final = {type.TYPE: type.__name__ for type in e.Command.__args__}
_NO_SPAN: Final = {
    "span_context": {
        "trace_id": [0] * 16,
        "span_id": [0] * 8,
        "trace_flags": 0,
        "is_remote": False,
        "trace_state": "",
    },
    "cause": None,
}
_NOT_KEPT: Final = {"secs": 0, "nanos": 0}  # a call's journal entry has no retention: it is the callee's

Fields = dict[str, Any]


def _result(result: Any) -> Any:
    if isinstance(result, e.Value):
        return {"Success": list(result.content)}
    if isinstance(result, e.Failure):
        failure: Fields = {"code": result.code, "message": result.message}
        if result.metadata:
            failure["metadata"] = [{"key": key, "value": value} for key, value in result.metadata]
        return {"Failure": failure}
    return "Void"


def _kind(result: Any) -> str:
    if isinstance(result, e.Value):
        return "Success"
    if isinstance(result, e.InvocationIdResult):
        return "InvocationId"
    return "Void" if isinstance(result, e.Void) else type(result).__name__


def _signal(signal: int | str) -> Fields:
    return {"Name": signal} if isinstance(signal, str) else {"Index": signal}


def _read_target(target: Any) -> Fields:
    if isinstance(target, e.InvocationTarget):
        return {"InvocationId": target.invocation_id}
    if isinstance(target, e.WorkflowTarget):
        return {"Workflow": {"service_name": target.workflow, "key": target.key}}
    return {
        "IdempotentRequest": {
            "service_name": target.service,
            "service_key": target.key,
            "service_handler": target.handler,
            "idempotency_key": target.idempotency_key,
        }
    }


def _id_and_key(entry: Any) -> Fields:
    return {"key": entry.key, "completion_id": entry.completion_id}


_FULL: Final[dict[type, Callable[[Any], Fields]]] = {
    e.Input: lambda it: {
        "headers": [{"name": name, "value": masked(name, value)} for name, value in it.headers],
        "payload": list(it.value),
    },
    e.Output: lambda it: {"result": _result(it.result)},
    e.GetLazyState: _id_and_key,
    e.SetState: lambda it: {"key": it.key, "value": list(it.value)},
    e.ClearState: lambda it: {"key": it.key},
    e.ClearAllState: lambda it: {},
    e.GetLazyStateKeys: lambda it: {"completion_id": it.completion_id},
    e.GetEagerState: lambda it: {"key": it.key, "result": _result(it.result)},
    e.GetEagerStateKeys: lambda it: {"state_keys": list(it.keys)},
    e.GetPromise: _id_and_key,
    e.PeekPromise: _id_and_key,
    e.CompletePromise: lambda it: {
        "key": it.key,
        "value": _result(it.result),
        "completion_id": it.completion_id,
    },
    e.Sleep: lambda it: {"wake_up_time": it.wake_up_time, "completion_id": it.completion_id},
    e.SendSignal: lambda it: {
        "target_invocation_id": it.target,
        "signal_id": _signal(it.signal),
        "result": _result(it.result),
    },
    e.Run: lambda it: {"completion_id": it.completion_id},
    e.AttachInvocation: lambda it: {"target": _read_target(it.target), "completion_id": it.completion_id},
    e.GetInvocationOutput: lambda it: {"target": _read_target(it.target), "completion_id": it.completion_id},
    e.CompleteAwakeable: lambda it: {"id": it.awakeable_id, "result": _result(it.result)},
}
_LITE: Final[dict[type, Callable[[Any], Fields]]] = {
    **_FULL,
    e.Input: lambda it: {},
    e.Output: lambda it: {"result": _kind(it.result)},
    e.SetState: lambda it: {"key": it.key},
    e.GetEagerState: lambda it: {"key": it.key, "result": _kind(it.result)},
    e.GetEagerStateKeys: lambda it: {},
    e.CompletePromise: _id_and_key,
    e.SendSignal: lambda it: {
        "target_invocation_id": it.target,
        "signal_id": _signal(it.signal),
        "result": _kind(it.result),
    },
    e.Run: lambda it: {"completion_id": it.completion_id, "name": it.name},
    e.CompleteAwakeable: lambda it: {"id": it.awakeable_id, "result": _kind(it.result)},
}


def _completion(it: e.Completion) -> Fields:
    facts: Fields = {"completion_id": it.completion_id}
    if isinstance(it.result, e.InvocationIdResult):
        facts["invocation_id"] = it.result.invocation_id
    elif isinstance(it.result, e.StateKeys):
        facts["state_keys"] = list(it.result.keys)
    elif it.type != e.SLEEP_COMPLETION:
        facts["result"] = _result(it.result)
    return {"Notification": {"Completion": {_COMPLETIONS[it.type]: facts}}}


def _lite_notification(it: e.Completion | e.Signal) -> Fields:
    if isinstance(it, e.Completion):
        type: Any = {"Completion": _COMPLETIONS[it.type]}
        id: Fields = {"CompletionId": it.completion_id}
    else:
        type = "Signal"
        id = {"SignalName": it.signal} if isinstance(it.signal, str) else {"SignalIndex": it.signal}
    return {"Notification": {"ty": type, "id": id, "result": _kind(it.result)}}


# ---- calls: the callee's id is in another entry


def _callee(partition: Partition, position: int, completion_id: int) -> str | None:
    """The id that a call was told, from the notification that follows it."""
    end = position | INDEX_MASK
    rows = partition.connection.execute(
        "SELECT type, payload FROM journal WHERE position > ? AND position <= ? AND type = ?",
        (position, end, e.CALL_INVOCATION_ID_COMPLETION),
    )
    for type, payload in rows:
        entry = decode_entry(type, payload)
        if isinstance(entry, e.Completion) and entry.completion_id == completion_id:
            return entry.result.invocation_id if isinstance(entry.result, e.InvocationIdResult) else None
    return None


def _call_target(partition: Partition, it: e.Call | e.OneWayCall, id: InvocationId | None) -> Fields:
    found = None if id is None else partition.find(id)
    kind = partition.world.kinds.get(it.service, "virtual_object" if it.key else "service")
    facts: Fields = {"name": it.service}
    if kind != "service":
        handler_kind = "Exclusive" if found is None else found.kind.value.capitalize()
        facts |= {"key": it.key, "handler": it.handler, "handler_ty": handler_kind}
    else:
        facts["handler"] = it.handler
    name = {"service": "Service", "virtual_object": "VirtualObject", "workflow": "Workflow"}[kind]
    return {name: facts | {"scope": it.scope}}


def _call(partition: Partition, position: int, it: e.Call | e.OneWayCall, lite: bool) -> Fields:
    callee = _callee(partition, position, it.invocation_id_completion_id)
    target = _call_target(partition, it, None if callee is None else parse_invocation_id(callee))
    request: Fields = {"invocation_id": callee, "invocation_target": target}
    if not lite:
        request |= {
            "span_context": _NO_SPAN,
            "parameter": list(it.parameter),
            "headers": [{"name": name, "value": masked(name, value)} for name, value in it.headers],
            "idempotency_key": it.idempotency_key,
            "completion_retention_duration": _NOT_KEPT,
            "journal_retention_duration": _NOT_KEPT,
        }
    facts: Fields = request if lite else {"request": request}
    if isinstance(it, e.OneWayCall):
        facts["invoke_time"] = it.invoke_time
    facts["invocation_id_completion_id"] = it.invocation_id_completion_id
    if isinstance(it, e.Call):
        facts["result_completion_id"] = it.completion_id
    return {"Command": {type(it).__name__: facts if lite else facts | {"name": it.name}}}


def _entry(partition: Partition, position: int, it: Any, lite: bool) -> Fields:
    if isinstance(it, e.Call | e.OneWayCall):
        return _call(partition, position, it, lite)
    if isinstance(it, e.Completion | e.Signal):
        if lite:
            return _lite_notification(it)
        if isinstance(it, e.Completion):
            return _completion(it)
        return {"Notification": {"Signal": {"id": _signal(it.signal), "result": _result(it.result)}}}
    facts = (_LITE if lite else _FULL)[type(it)](it)
    return {"Command": {type(it).__name__: facts if lite else facts | {"name": it.name}}}


def _json(lite: bool) -> Column:
    def make(partition: Partition, positions: Sequence[int], entries: Sequence[Any]) -> list[str]:
        return [
            msgspec.json.encode(_entry(partition, position, entry, lite)).decode()
            for position, entry in zip(positions, entries, strict=True)
        ]

    return Column(("position", "@entry"), make)


def _type(type: int) -> str:
    if type == e.Signal.TYPE:
        return "Notification: Signal"
    command = _COMMANDS.get(type)
    return f"Notification: {_COMPLETIONS.get(type, 'Unknown')}" if command is None else f"Command: {command}"


_TYPE_NUMBERS = {_type(number): number for number in (*_COMMANDS, *_COMPLETIONS, e.Signal.TYPE)}


def _is_type(operator: str, values: list[Any]) -> c.Condition | None:
    if operator not in ("=", "IN"):
        return None
    return c.number("type")("IN", [_TYPE_NUMBERS.get(value, 0) for value in values])


_WITH_HEADERS: Final = frozenset({e.Input.TYPE, e.Call.TYPE, e.OneWayCall.TYPE})


def _raw(type: int, payload: bytes) -> bytes:
    """The message as it is stored, but for headers that are secrets."""
    if type not in _WITH_HEADERS:
        return payload
    entry = decode_entry(type, payload)
    assert isinstance(entry, e.Input | e.Call | e.OneWayCall)
    if not any(is_secret(name) for name, _ in entry.headers):
        return payload
    return encode_entry(replace(entry, headers=tuple((name, masked(name, value)) for name, value in entry.headers)))[1]


_VERSION: Final = sql("2 + 0")  # a number alone would be the place of a column in GROUP BY


def _decode(partition: Partition, types: Sequence[int], payloads: Sequence[bytes]) -> list[Any]:
    return [decode_entry(type, payload) for type, payload in zip(types, payloads, strict=True)]


RELATIONS: Final = (
    Relation(
        "sys_journal",
        SCHEMAS["sys_journal"],
        f"invocation CROSS JOIN journal ON position BETWEEN number << {INDEX_BITS} "
        f"AND number << {INDEX_BITS} | {INDEX_MASK}",
        {
            "partition_key": each(key_of_id, "id"),
            "id": each(id_text, "id"),
            "index": sql(f"position & {INDEX_MASK}"),
            "entry_type": each(_type, "type"),
            "name": each(lambda entry: getattr(entry, "name", None), "@entry"),
            "raw": each(_raw, "type", "payload"),
            "raw_length": sql("length(payload)"),
            "version": _VERSION,
            "entry_json": _json(lite=False),
            "entry_lite_json": _json(lite=True),
            "appended_at": sql("appended_at"),
        },
        {"@entry": Derived(("type", "payload"), _decode)},
        {
            "id": c.is_invocation("number"),
            "index": c.number(f"(position & {INDEX_MASK})"),
            "entry_type": _is_type,
            "appended_at": c.number("appended_at"),
        },
        coarse={"entry_type": each(_type, "type"), "version": _VERSION},
        bulky=frozenset({"payload"}),
        split=("number", "invocation"),
    ),
)
