"""Values to bytes and back, for any typed value.

`serde_for(type)` finds out once how a type is best written and keeps the answer. Everything is JSON, except
`bytes`, which stay as they are, and None, which is no bytes at all:

* what msgspec knows (builtins, dataclasses, Struct, TypedDict, NamedTuple, datetime, Enum, ...) it encodes;
* a type with a pydantic model anywhere in it, or one that msgspec refuses and pydantic does not (a union of
  dataclasses), goes through pydantic, which is imported only then;
* without a type, values come back as what JSON has: dict, list, str, int, float, bool, None.

A value that would come back different without a word (NaN is `null` in JSON) is refused when it is written.
"""

import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from contextlib import suppress
from inspect import Parameter
from pathlib import PurePath
from types import NoneType
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import inspect as shapes

from perdure.errors import PerdureError

__all__ = ["BytesSerde", "JsonSerde", "NoneSerde", "PydanticSerde", "Serde", "SerdeError", "serde_for"]

T = TypeVar("T")

JSON: Final = "application/json"


class SerdeError(PerdureError):
    """A value could not be written as bytes, or bytes could not be read as a value.

    `direction` is "serialize", "deserialize", or "describe" (the type itself is of no use); `type_name` names the
    type and `reason` says what is wrong. The library's own exception is `__cause__`.
    """

    def __init__(self, direction: str, type_name: str, reason: str) -> None:
        super().__init__(f"cannot {direction} {type_name}: {reason}")
        self.direction = direction
        self.type_name = type_name
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.direction, self.type_name, self.reason)


class Serde(Protocol[T]):
    """How values of one type become bytes and come back. Write your own for a format of your own."""

    @property
    def content_type(self) -> str | None:
        """The media type of the bytes; None if there are never any."""
        ...

    def serialize(self, value: T) -> bytes:
        """The bytes of `value`; the same value must always give the same bytes."""
        ...

    def deserialize(self, data: bytes) -> T:
        """The value whose bytes these are."""
        ...

    def schema(self) -> dict[str, Any] | None:
        """A JSON schema of the bytes, if there is one."""
        ...


class NoneSerde:
    """For what has no value: no bytes. Bytes that are there anyway are not looked at."""

    __slots__ = ()
    content_type: Final = None

    def serialize(self, value: None) -> bytes:
        if value is not None:
            raise SerdeError("serialize", "None", f"got a value of type {_name(type(value))}")
        return b""

    def deserialize(self, data: bytes) -> None:
        return None

    def schema(self) -> dict[str, Any] | None:
        return None


class BytesSerde:
    """Bytes as they are."""

    __slots__ = ()
    content_type: Final = "application/octet-stream"

    def serialize(self, value: bytes) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        raise SerdeError("serialize", "bytes", f"got a value of type {_name(type(value))}")

    def deserialize(self, data: bytes) -> bytes:
        return data

    def schema(self) -> dict[str, Any] | None:
        return None


class JsonSerde:
    """JSON by msgspec. `JsonSerde()` is for values of no particular type."""

    __slots__ = ("_decode", "_encode", "_lossy_null", "_nullable", "_type")
    content_type: Final = JSON

    def __init__(self, type_: Any = Any, shape: shapes.Type | None = None) -> None:
        found = {type(node) for node in _walk(shape)} if shape is not None else {shapes.AnyType}
        self._type = type_
        # A set has no order to rely on, and a journal is compared byte by byte. Dicts have one, so they keep it.
        sorted_sets = bool(found & _SETS) and not found & _OPEN
        self._encode = (_SORTING_ENCODER if sorted_sets else _ENCODER).encode
        self._decode = msgspec.json.Decoder(type_, dec_hook=_decode_foreign).decode
        self._nullable = _is_none(self._decode)
        self._lossy_null = bool(found & _FLOATS)

    def serialize(self, value: Any) -> bytes:
        if value is None:
            if self._nullable:
                return b""
            raise SerdeError("serialize", _name(self._type), "got None")
        try:
            data = self._encode(value)
        except Exception as error:
            raise SerdeError("serialize", _name_value(self._type, value), _reason(error)) from error
        if self._lossy_null and b"null" in data and self._loses(value, data):
            raise SerdeError(
                "serialize", _name_value(self._type, value), "JSON has no NaN and no infinity; use None or a str"
            )
        return data

    def deserialize(self, data: bytes) -> Any:
        if not data:
            if self._nullable:
                return None
            raise SerdeError("deserialize", _name(self._type), "there are no bytes")
        try:
            return self._decode(data)
        except Exception as error:
            raise SerdeError("deserialize", _name(self._type), _reason(error)) from error

    def schema(self) -> dict[str, Any] | None:
        if self._type is Any:
            return None
        try:
            return msgspec.json.schema(self._type)
        except Exception:  # a part of the type is beyond JSON schema
            return None

    def _loses(self, value: Any, data: bytes) -> bool:
        """Whether a `null` of these bytes was a number. The comparison is cheap and mostly ends the matter."""
        try:
            if bool(self._decode(data) == value):
                return False
        except Exception:  # an `__eq__`, or a decoder that met the null it cannot take; look at the value itself
            pass
        return _has_non_finite(msgspec.to_builtins(value, enc_hook=_look_into))


class PydanticSerde:
    """JSON by pydantic's `TypeAdapter`.

    Fields are written under their aliases, except in types where what is written under an alias could not be read
    back. Computed fields are written too, except where reading them back would be an error. Otherwise a model's own
    configuration rules: what it excludes is not kept, bytes are UTF-8 and NaN is null unless it says otherwise.
    """

    __slots__ = ("_adapter", "_dump", "_nullable", "_read", "_round_trip", "_type", "_use_alias")
    content_type: Final = JSON

    def __init__(self, type_: Any) -> None:
        from pydantic import TypeAdapter

        adapter = TypeAdapter(type_)
        self._type = type_
        self._adapter: Any = adapter
        self._dump: Callable[..., bytes] = adapter.serializer.to_json
        self._read: Callable[..., Any] = adapter.validator.validate_json
        self._use_alias, self._round_trip = _how_to_dump(type_, adapter.core_schema)
        self._nullable = _is_none(self._read)

    def serialize(self, value: Any) -> bytes:
        if value is None:
            if self._nullable:
                return b""
            raise SerdeError("serialize", _name(self._type), "got None")
        try:
            return self._dump(value, by_alias=self._use_alias, round_trip=self._round_trip, warnings=False)
        except Exception as error:
            raise SerdeError("serialize", _name_value(self._type, value), _reason(error)) from error

    def deserialize(self, data: bytes) -> Any:
        if not data:
            if self._nullable:
                return None
            raise SerdeError("deserialize", _name(self._type), "there are no bytes")
        try:
            if self._use_alias:
                return self._read(data)
            return self._read(data, by_alias=True, by_name=True)
        except Exception as error:
            raise SerdeError("deserialize", _name(self._type), _reason(error)) from error

    def schema(self) -> dict[str, Any] | None:
        try:
            schema: dict[str, Any] = self._adapter.json_schema(by_alias=self._use_alias)
        except Exception:  # a part of the type is beyond JSON schema
            return None
        return schema


def serde_for(type_: Any) -> Serde[Any]:
    """The serde of a type: anything that can stand in an annotation. None, `Any` and no annotation mean any JSON.

    Raises `SerdeError` if values of the type cannot be written and read back.
    """
    try:
        known = _SERDES.get(type_)
    except TypeError:  # not hashable, such as Annotated[int, {"unit": "km"}]
        known = None
    if known is not None:
        return known
    serde = _make(type_)
    with suppress(TypeError):
        _SERDES[type_] = serde
    return serde


def _make(type_: Any) -> Serde[Any]:
    try:
        shape = shapes.type_info(type_)
    except Exception as refusal:
        return _make_pydantic(type_, refusal)
    foreign = [node for node in _walk(shape) if _is_foreign(node)]
    if not foreign:
        return JsonSerde(type_, shape)
    unknown = [node.cls for node in foreign if not _is_pydantic(node.cls)]
    if any(cls in _ONE_WAY for cls in unknown):
        raise SerdeError("describe", _name(type_), "it can be read only once; say list[...]")
    if unknown or isinstance(shape, shapes.CustomType):
        return _make_pydantic(type_, TypeError(f"nothing says how to write {_name(unknown[0])}") if unknown else None)
    try:
        return PydanticSerde(type_)
    except Exception:
        # A msgspec Struct, say, with a model in it: msgspec writes it, and asks pydantic for what is inside.
        for node in foreign:
            serde_for(node.cls)
        return JsonSerde(type_, shape)


def _make_pydantic(type_: Any, refusal: Exception | None) -> Serde[Any]:
    try:
        return PydanticSerde(type_)
    except SerdeError:
        raise
    except ImportError as error:
        reason = f"{refusal}; pydantic may know better: pip install 'perdure[pydantic]'"
        raise SerdeError("describe", _name(type_), reason) from error
    except Exception as error:
        reason = _reason(refusal or error)
        fix = "give a serde, or use a dataclass, a TypedDict, a pydantic model or plain JSON types"
        raise SerdeError("describe", _name(type_), f"{reason}; {fix}") from error


def _walk(shape: shapes.Type) -> Iterator[Any]:
    """The type and all types in it, each once."""
    seen: set[int] = set()
    stack: list[Any] = [shape]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, shapes.Type):
            yield node
        for name in node.__struct_fields__:
            part = getattr(node, name)
            parts = part if isinstance(part, tuple) else (part,)
            stack += (each for each in parts if isinstance(each, (shapes.Type, shapes.Field)))


def _is_foreign(node: Any) -> bool:
    """Whether msgspec cannot read, or should not, what this stands for."""
    if isinstance(node, shapes.CustomType):
        return node.cls is not object
    return isinstance(node, shapes.DataclassType) and _is_pydantic(node.cls)


def _is_pydantic(cls: Any) -> bool:
    return hasattr(cls, "__pydantic_core_schema__")


def _decode_foreign(type_: Any, value: Any) -> Any:
    if type_ is object:
        return value
    return serde_for(type_).deserialize(_ENCODER.encode(value))


def _encode_foreign(value: Any) -> Any:
    cls = type(value)
    if _is_pydantic(cls):
        return msgspec.Raw(serde_for(cls).serialize(value))
    if isinstance(value, str):  # a subclass, that is, as of the next three: NumPy's float64, say
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Sequence, Set)):
        return list(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{_name(cls)} has no JSON; return plain values, a dataclass or a model, or say how with a serde")


def _look_into(value: Any) -> Any:
    """As `_encode_foreign`, to look for NaN; whether a model writes it as null is the model's own affair."""
    return None if _is_pydantic(type(value)) or isinstance(value, msgspec.Raw) else _encode_foreign(value)


def _has_non_finite(value: Any) -> bool:
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, float):
            if not math.isfinite(node):
                return True
        elif isinstance(node, dict):
            stack += node.values()
        elif isinstance(node, (list, tuple, set, frozenset)):
            stack += node
    return False


def _is_none(decode: Callable[[bytes], Any]) -> bool:
    try:
        return decode(b"null") is None
    except Exception:
        return False


def _how_to_dump(type_: Any, core_schema: Any) -> tuple[bool, bool]:
    """Whether to write fields under their aliases, and whether to leave out what could not be read back."""
    use_alias, round_trip = True, False
    stack: list[Any] = [core_schema]
    while stack:
        node = stack.pop()
        if isinstance(node, (list, tuple)):
            stack += node
        if not isinstance(node, dict):
            continue
        written = node.get("serialization")
        if isinstance(written, dict) and written.get("type") == "function-plain":
            if _masks(written["function"]):
                reason = "a pydantic secret would be kept as asterisks; pass its name, or give it a serializer"
                raise SerdeError("describe", _name(type_), reason)
            continue
        fields = node.get("fields")
        if isinstance(fields, dict):
            named = list(fields.items())
        else:
            named = [(each.get("name"), each) for each in fields or () if isinstance(each, dict)]
        use_alias = use_alias and all(_alias_returns(name, field) for name, field in named)
        extra = node.get("extra_behavior") or (node.get("config") or {}).get("extra_fields_behavior")
        inner = node.get("schema")
        computed = node.get("computed_fields") or (isinstance(inner, dict) and inner.get("computed_fields"))
        round_trip = round_trip or node.get("type") == "json" or bool(computed and extra in ("allow", "forbid"))
        stack += (part for name, part in node.items() if name != "metadata")
    return use_alias, round_trip


def _alias_returns(name: str, field: dict[str, Any]) -> bool:
    """Whether a field that is written under its alias is also read under it."""
    written = field.get("serialization_alias", name)
    read = field.get("validation_alias", name)
    if isinstance(read, list):  # AliasChoices and AliasPath: a path, or several
        return read == [written] or [written] in read
    return bool(written == read)


def _masks(function: Any) -> bool:
    return getattr(function, "__module__", "") == "pydantic.types" and "secret" in getattr(function, "__name__", "")


def _name(type_: Any) -> str:
    if type_ is Any:
        return "JSON"
    if isinstance(type_, type) and not hasattr(type_, "__args__"):
        return type_.__qualname__ if type_ is not NoneType else "None"
    return repr(type_).replace("typing.", "")


def _name_value(type_: Any, value: Any) -> str:
    actual = _name(type(value))
    return actual if type_ is Any or type_ is type(value) else f"{actual} as {_name(type_)}"


def _reason(error: Exception) -> str:
    """What a library says, on one line."""
    details = getattr(error, "errors", None)
    if callable(details) and hasattr(error, "error_count"):  # pydantic's ValidationError
        parts = details(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{part['msg']} - at `{'.'.join(['$', *map(str, part['loc'])])}`" for part in parts)
    text = " ".join(str(error).split())
    return text or type(error).__name__


_ONE_WAY = {Iterable, Iterator, Generator, AsyncIterable, AsyncIterator, AsyncGenerator}
_SETS = {shapes.SetType, shapes.FrozenSetType}
_OPEN = {shapes.DictType, shapes.AnyType, shapes.CustomType}  # there may be dicts here
_FLOATS = {shapes.FloatType, shapes.AnyType, shapes.CustomType}
_ENCODER = msgspec.json.Encoder(enc_hook=_encode_foreign)
_SORTING_ENCODER = msgspec.json.Encoder(enc_hook=_encode_foreign, order="deterministic")
_UNTYPED = JsonSerde()
_SERDES: dict[Any, Serde[Any]] = {
    None: _UNTYPED,
    Any: _UNTYPED,
    object: _UNTYPED,
    Parameter.empty: _UNTYPED,
    NoneType: NoneSerde(),
    bytes: BytesSerde(),
}
