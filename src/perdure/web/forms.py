"""Forms from JSON schemas: which fields a person fills in, and what JSON their text is. Used by page and terminal.

An object's properties are fields; any other schema is one field. What has no field of its own (lists, objects in
objects, unions) is written as JSON. The schema itself is checked where the answer is taken.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from perdure.errors import Invalid

__all__ = ["Field", "Kind", "fields_of", "read_fields", "value_of"]

Kind: TypeAlias = Literal["text", "long", "number", "integer", "boolean", "choice", "date", "json"]
_LONG: Final = 200  # a text that may be longer than this is written in several lines
_SIMPLE: Final[dict[str, Kind]] = {"number": "number", "integer": "integer", "boolean": "boolean", "string": "text"}
_DEPTH: Final = 20  # of references to references


class Field(NamedTuple):
    """One thing to fill in. `name` is the property's, or "" if the value is this one field."""

    name: str
    kind: Kind
    required: bool
    schema: Mapping[str, Any]
    nullable: bool = False

    @property
    def title(self) -> str:
        return str(self.schema.get("title") or self.name or "Value")

    @property
    def description(self) -> str:
        return str(self.schema.get("description") or "")

    @property
    def choices(self) -> list[Any]:
        if "const" in self.schema:
            return [self.schema["const"]]
        return [each for each in self.schema.get("enum", ()) if each is not None]


def fields_of(schema: Mapping[str, Any] | None) -> list[Field]:
    """What has to be filled in; nothing for a yes or no."""
    if schema is None:
        return []
    whole, nullable = _resolved(schema, schema)
    properties = whole.get("properties")
    if whole.get("type") == "object" and isinstance(properties, Mapping) and properties and not nullable:
        required = whole.get("required", ())
        return [_field(name, each, schema, name in required) for name, each in properties.items()]
    return [_field("", schema, schema, True)]


def _field(name: str, schema: Any, root: Mapping[str, Any], required: bool) -> Field:
    resolved, nullable = _resolved(schema, root)
    kind = _kind(resolved)
    return Field(name, kind, required, resolved, nullable)


def _kind(schema: Mapping[str, Any]) -> Kind:
    if "enum" in schema or "const" in schema:
        return "choice"
    kind = _SIMPLE.get(str(schema.get("type")), "json")
    if kind == "text" and schema.get("format") == "date":
        return "date"
    if kind == "text" and (schema.get("maxLength") or 0) > _LONG:
        return "long"
    return kind


def _resolved(schema: Any, root: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The schema that a reference means, with what is said beside it; and whether null is allowed too."""
    nullable = False
    for _ in range(_DEPTH):
        if not isinstance(schema, Mapping):
            return {}, nullable
        beside = {name: value for name, value in schema.items() if name not in ("$ref", "anyOf", "oneOf", "allOf")}
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if isinstance(ref := schema.get("$ref"), str):
            found = _pointed(ref, root)
        elif isinstance(options, list):
            others = [each for each in options if not (isinstance(each, Mapping) and each.get("type") == "null")]
            nullable = nullable or len(others) < len(options)
            if len(others) != 1:
                return beside, nullable
            found = others[0]
        else:
            types = schema.get("type")
            if isinstance(types, list):
                others = [each for each in types if each != "null"]
                return {**schema, "type": others[0] if len(others) == 1 else None}, nullable or "null" in types
            return schema, nullable
        schema = {**found, **beside} if isinstance(found, Mapping) else {}
    return {}, nullable


def _pointed(ref: str, root: Any) -> Any:
    if not ref.startswith("#"):
        return {}
    for part in ref[1:].strip("/").split("/") if ref != "#" else ():
        part = part.replace("~1", "/").replace("~0", "~")
        root = root.get(part, {}) if isinstance(root, Mapping) else {}
    return root


# ---- what was filled in


def read_fields(fields: list[Field], filled: Mapping[str, str]) -> Any:
    """The value that texts by field name make; a boolean that is not there is false. Raises `Invalid` naming a field.

    What was left empty and need not be filled in is left out.
    """
    if [field.name for field in fields] == [""]:
        return value_of(fields[0], filled.get("", ""))
    value: dict[str, Any] = {}
    for field in fields:
        text = filled.get(field.name, "")
        if text == "" and not field.required:
            continue
        value[field.name] = value_of(field, text)
    return value


def value_of(field: Field, text: str) -> Any:
    """The JSON value of what was filled in. Raises `Invalid` naming the field."""
    where = f"value.{field.name}" if field.name else "value"
    stripped = text.strip()
    if not stripped and field.nullable:
        return None
    if field.kind in ("text", "long"):
        return text.replace("\r\n", "\n")
    if field.kind == "boolean":
        if stripped.lower() in ("", "false", "no", "n", "off"):
            return False
        if stripped.lower() in ("true", "yes", "y", "on"):
            return True
        raise Invalid(f"{where}: {text!r} is neither yes nor no")
    if not stripped:
        raise Invalid(f"{where}: it is missing")
    if field.kind == "choice":
        for choice in field.choices:
            if stripped == (choice if isinstance(choice, str) else msgspec.json.encode(choice).decode()):
                return choice
        raise Invalid(f"{where}: {text!r} is none of {', '.join(map(str, field.choices))}")
    if field.kind == "date":
        return stripped
    try:
        return msgspec.json.decode(stripped, type=_TYPES.get(field.kind, Any), strict=field.kind == "json")
    except msgspec.MsgspecError:
        wanted = {"integer": "a whole number", "number": "a number"}.get(field.kind, "JSON")
        raise Invalid(f"{where}: {text!r} is not {wanted}") from None


_TYPES: Final[dict[str, Any]] = {"integer": int, "number": int | float}
