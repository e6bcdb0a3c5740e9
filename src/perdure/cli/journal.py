"""A journal's entries in words, from `GET /invocations/{id}`: what each says, and which are not answered yet."""

import base64
from collections.abc import Sequence
from typing import Any

from perdure.cli.asking import one_line
from perdure.cli.tables import moment, shown_bytes

__all__ = ["callee_of", "entry_in_words", "result_in_words", "target_of", "unanswered"]

JSON = dict[str, Any]


def target_of(entry: JSON) -> str:
    """`Service/handler` or `Object/key/handler` of a call."""
    middle = f"/{entry['key']}" if entry.get("key") else ""
    return one_line(f"{entry['service']}{middle}/{entry['handler']}")


def _bytes(text: str) -> str:
    return shown_bytes(base64.b64decode(text))


def result_in_words(result: JSON) -> str:
    """A result: of an invocation, or of a command."""
    if "content" in result:
        return f"-> {_bytes(result['content'])}" if result["content"] else "-> nothing"
    if "message" in result:
        return f"failed: {one_line(result['message'])} (code {result['code']})"
    if "invocation_id" in result:
        return f"is {result['invocation_id']}"
    return f"keys {', '.join(result['keys'])}" if "keys" in result else "-> nothing"


def _sought(target: JSON) -> str:
    if "invocation_id" in target:
        return str(target["invocation_id"])
    if "workflow" in target:
        return f"{target['workflow']}/{target['key']}"
    return f"{target_of(target)} with idempotency key {target['idempotency_key']}"


def _said(entry: JSON) -> str:
    match entry["kind"]:
        case "Input":
            return _bytes(entry["value"])
        case "Output":
            return result_in_words(entry["result"])
        case "SetState":
            return f"{entry['key']} = {_bytes(entry['value'])}"
        case "GetEagerState":
            return f"{entry['key']} {result_in_words(entry['result'])}"
        case "GetEagerStateKeys":
            return ", ".join(entry["keys"])
        case "CompletePromise":
            return f"{entry['key']} {result_in_words(entry['result'])}"
        case "Sleep":
            return f"until {moment(entry['wake_up_time'])}"
        case "Call":
            return f"{target_of(entry)} {_bytes(entry['parameter'])}"
        case "OneWayCall":
            later = f" at {moment(entry['invoke_time'])}" if entry["invoke_time"] else ""
            return f"{target_of(entry)}{later} {_bytes(entry['parameter'])}"
        case "SendSignal":
            return f"{entry['signal']} of {entry['target']} {result_in_words(entry['result'])}"
        case "AttachInvocation" | "GetInvocationOutput":
            return _sought(entry["target"])
        case "CompleteAwakeable":
            return f"{entry['awakeable_id']} {result_in_words(entry['result'])}"
        case "Signal":
            name = "cancellation" if entry["signal"] == 1 else f"signal {entry['signal']}"
            return f"{name} {result_in_words(entry['result'])}"
    return str(entry.get("key", ""))


def entry_in_words(entry: JSON, journal: Sequence[JSON]) -> str:
    """What an entry says; a completion names what it answers."""
    if entry["kind"] == "Completion":
        command = next((each for each in journal if _answered_by(each, entry["completion_id"])), None)
        asked = "" if command is None else f"of {command['index']} {command['kind']} "
        text = asked + result_in_words(entry["result"])
    else:
        text = _said(entry)
    name = one_line(entry.get("name") or "")
    return " ".join(part for part in (f"[{name}]" if name else "", one_line(text)) if part)


def _answered_by(command: JSON, completion_id: int) -> bool:
    if command["kind"] == "Completion":
        return False
    return completion_id in (command.get("completion_id"), command.get("invocation_id_completion_id"))


def unanswered(journal: Sequence[JSON]) -> list[JSON]:
    """The commands whose result is not there yet, oldest first."""
    answered = {each["completion_id"] for each in journal if each["kind"] == "Completion"}
    return [
        each
        for each in journal
        if each["kind"] != "Completion" and "completion_id" in each and each["completion_id"] not in answered
    ]


def callee_of(call: JSON, journal: Sequence[JSON]) -> str | None:
    """The id of the invocation that a call made, once it is known."""
    for each in journal:
        if each["kind"] == "Completion" and each["completion_id"] == call["invocation_id_completion_id"]:
            return str(each["result"].get("invocation_id", "")) or None
    return None
