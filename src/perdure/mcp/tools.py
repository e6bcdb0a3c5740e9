"""Which tool a handler is: its name, what it takes, how its arguments become a request and its result an answer."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from perdure.errors import Invalid

__all__ = ["HandlerTool", "tools_of"]

_NAME_LIMIT = 64  # characters: what clients of models take, which is less than what MCP allows
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
_NO_INPUT: Final = "none"
HIDDEN, TITLE, READ_ONLY = "mcp.hidden", "mcp.title", "mcp.read-only"  # in a handler's metadata


class HandlerTool(NamedTuple):
    """A public handler. `merged`: its input's fields are the tool's arguments; else the input is one of them."""

    name: str
    service: str
    handler: str
    keyed: bool
    workflow: bool
    merged: bool
    takes_input: bool
    content_type: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    description: str
    title: str | None
    read_only: bool

    def request(self, arguments: Mapping[str, Any]) -> tuple[str | None, bytes]:
        """The object's key and the body that these arguments stand for. Raises `Invalid` that names what is wrong."""
        given = dict(arguments)
        key = given.pop("key", None) if self.keyed else None
        if self.keyed and (not isinstance(key, str) or not key):
            raise Invalid(f"{self.name}: key must say which {self.service}: a text that is not empty")
        if self.merged:
            return key, msgspec.json.encode(given)
        has, value = "input" in given, given.pop("input", None)
        if given:
            taken = [name for name, there in (("key", self.keyed), ("input", self.takes_input)) if there]
            raise Invalid(f"{self.name} takes {' and '.join(taken) or 'no arguments'}, not {', '.join(sorted(given))}")
        if not self.takes_input or not has:
            return key, b""
        if "json" not in self.content_type:
            if not isinstance(value, str):
                raise Invalid(f"{self.name}: input must be text, since the handler takes {self.content_type}")
            return key, value.encode()
        return key, msgspec.json.encode(value)


def tools_of(services: Iterable[Mapping[str, Any]], only: frozenset[str] = frozenset()) -> dict[str, HandlerTool]:
    """The tools for what `GET /services` tells; of the services in `only`, if there are any. By name, in order."""
    found: dict[str, HandlerTool] = {}
    for service in sorted(services, key=lambda each: str(each["name"])):
        if only and service["name"] not in only:
            continue
        for handler in service["handlers"]:
            if not handler["public"] or (handler.get("metadata") or {}).get(HIDDEN) == "true":
                continue
            tool = _tool(service, handler)
            number = 2
            while tool.name in found:
                tool = tool._replace(name=_short(f"{_name(service['name'], handler['name'])}_{number}"))
                number += 1
            found[tool.name] = tool
    return found


def _tool(service: Mapping[str, Any], handler: Mapping[str, Any]) -> HandlerTool:
    keyed = service["ty"] != "Service"
    described = str(handler.get("input_description", _NO_INPUT))
    takes_input = described != _NO_INPUT
    content_type = described if "/" in described and not described.startswith("one of") else "application/json"
    content_type = "application/octet-stream" if "*" in content_type else content_type
    schema = _rooted(handler.get("input_json_schema"))
    if takes_input and "json" not in content_type:
        schema = {"type": "string", "description": f"Text, sent as {content_type}."}
    merged = takes_input and _is_object(schema) and not (keyed and "key" in schema.get("properties", {}))
    metadata = handler.get("metadata") or {}
    return HandlerTool(
        name=_short(_name(service["name"], handler["name"])),
        service=service["name"],
        handler=handler["name"],
        keyed=keyed,
        workflow=handler.get("ty") == "Workflow",
        merged=merged,
        takes_input=takes_input,
        content_type=content_type,
        input_schema=_input(service, handler, schema, keyed, merged, takes_input),
        output_schema=_output(handler.get("output_json_schema")),
        description=_description(service, handler),
        title=metadata.get(TITLE),
        read_only=metadata.get(READ_ONLY) == "true",
    )


def _name(service: str, handler: str) -> str:
    return _FORBIDDEN.sub("_", f"{service}_{handler}")


def _short(name: str) -> str:
    if len(name) <= _NAME_LIMIT:
        return name
    return f"{name[: _NAME_LIMIT - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _description(service: Mapping[str, Any], handler: Mapping[str, Any]) -> str:
    text = handler.get("documentation") or f"Calls {service['name']}/{handler['name']}."
    about = service.get("documentation")
    return f"{text}\n\n{service['name']}: {about}" if about else str(text)


def _input(
    service: Mapping[str, Any], handler: Mapping[str, Any], schema: Any, keyed: bool, merged: bool, takes_input: bool
) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    if keyed:
        what = "workflow" if service["ty"] == "Workflow" else "object"
        properties["key"] = {"type": "string", "minLength": 1, "description": f"Which {what} of {service['name']}."}
        required.append("key")
    if merged:
        return {
            **schema,
            "properties": {**properties, **schema.get("properties", {})},
            "required": [*required, *schema.get("required", ())],
        }
    whole: dict[str, Any] = {"type": "object", "additionalProperties": False}
    if takes_input:
        inner = dict(schema) if isinstance(schema, dict) else {}
        if "$defs" in inner:
            whole["$defs"] = inner.pop("$defs")
        properties["input"] = inner
        if isinstance(schema, dict) and not _takes_null(schema):
            required.append("input")
    return whole | {"properties": properties, "required": required}


def _output(schema: Any) -> dict[str, Any] | None:
    rooted = _rooted(schema)
    return rooted if _is_object(rooted) else None


def _rooted(schema: Any) -> Any:
    """The schema with an object's fields at its root, where they are only referred to there."""
    if not isinstance(schema, dict) or set(schema) - {"$ref", "$defs", "$schema"} or "$ref" not in schema:
        return schema
    kind, _, name = str(schema["$ref"]).rpartition("/")
    there = schema.get("$defs", {}).get(name) if kind == "#/$defs" else None
    return schema if not isinstance(there, dict) else {**there, "$defs": schema["$defs"]}


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def _takes_null(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    if kinds is None and not schema.keys() & {"anyOf", "oneOf", "allOf", "$ref", "enum", "const"}:
        return True
    return kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or any(map(_takes_null, _members(schema)))


def _members(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for name in ("anyOf", "oneOf") for each in schema.get(name, ()) if isinstance(each, dict)]
