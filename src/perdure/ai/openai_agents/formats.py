"""How the journal writes what openai-agents works with: model responses, stream events, tools' results."""

import dataclasses
from functools import cache
from typing import Any, Final, get_args

import msgspec
from agents import ModelResponse, Usage
from agents.items import TResponseOutputItem
from agents.tool import ToolOutputFileContent, ToolOutputImage, ToolOutputText
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from perdure.ai import records
from perdure.sdk.serde import Serde, SerdeError, serde_for

__all__ = ["EVENTS", "RESPONSE", "ToolResultSerde", "usage_of", "usage_of_events"]

_UNTYPED = serde_for(None)


def _dump(value: Any) -> Any:
    """A model as the provider sent it: fields that were not there stay away."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    return to_jsonable_python(value)


@cache
def _items() -> TypeAdapter[Any]:
    return TypeAdapter(TResponseOutputItem)


@cache
def _usage() -> TypeAdapter[Usage]:
    return TypeAdapter(Usage)


@cache
def _event_classes() -> dict[str, type[BaseModel]]:
    """The class of a stream event by its `type`; trying the classes of the union in turn takes 50 times as long."""
    union = ResponseStreamEvent
    while not all(isinstance(member, type) for member in get_args(union)):
        union = get_args(union)[0]  # Annotated[Union[...], ...]
    classes: dict[str, type[BaseModel]] = {}
    for event in get_args(union):
        for name in get_args(event.model_fields["type"].annotation):
            classes[name] = event
    return classes


def _item(data: Any) -> Any:
    try:
        return _items().validate_python(data)
    except ValidationError:  # newer than this library, or a gateway's own: the framework takes a dict
        return data


def _event(data: Any) -> Any:
    known = _event_classes().get(data.get("type"))
    if known is None:
        raise SerdeError("deserialize", "stream event", f"there is no event of type {data.get('type')!r}")
    try:
        return known.model_validate(data)
    except ValidationError:  # the provider's client does not validate either
        return known.model_construct(**data)


class _ResponseSerde:
    """A `ModelResponse`, all of its fields included."""

    content_type: Final = "application/json"

    def serialize(self, response: ModelResponse) -> bytes:
        fields = {field.name: getattr(response, field.name) for field in dataclasses.fields(response)}
        fields["output"] = [_dump(item) for item in response.output]
        fields["usage"] = _usage().dump_python(response.usage, mode="json", warnings=False)
        return msgspec.json.encode(fields)

    def deserialize(self, data: bytes) -> ModelResponse:
        fields = msgspec.json.decode(data)
        fields["output"] = [_item(item) for item in fields["output"]]
        fields["usage"] = _usage().validate_python(fields["usage"])
        return ModelResponse(**fields)

    def schema(self) -> dict[str, Any] | None:
        return None


class _EventsSerde:
    """All events of one streamed response."""

    content_type: Final = "application/json"

    def serialize(self, events: list[Any]) -> bytes:
        return msgspec.json.encode([_dump(event) for event in events])

    def deserialize(self, data: bytes) -> list[Any]:
        return [_event(event) for event in msgspec.json.decode(data)]

    def schema(self) -> dict[str, Any] | None:
        return None


RESPONSE: Final[Serde[ModelResponse]] = _ResponseSerde()
EVENTS: Final[Serde[list[Any]]] = _EventsSerde()

_OUTPUTS = {
    "text": ToolOutputText,
    "image": ToolOutputImage,
    "file": ToolOutputFileContent,
}


class ToolResultSerde:
    """What a tool returned, and whether it is the framework's own message that the tool has failed.

    The result is of the type that the tool is annotated with; else one of the framework's outputs (text, image, file)
    or plain JSON; else its `str()`, which is what the framework would make of it.
    """

    content_type: Final = "application/json"

    def __init__(self, annotated: Serde[Any]) -> None:
        self._annotated = annotated

    def serialize(self, result: tuple[Any, bool]) -> bytes:
        value, failed = result
        form, written = self._write(value)
        return msgspec.json.encode({"form": form, "failed": failed, "value": msgspec.Raw(written or b"null")})

    def _write(self, value: Any) -> tuple[str, bytes]:
        if isinstance(value, list) and value and all(isinstance(each, tuple(_OUTPUTS.values())) for each in value):
            return "outputs", msgspec.json.encode(to_jsonable_python(value))
        if isinstance(value, tuple(_OUTPUTS.values())):
            return "output", msgspec.json.encode(to_jsonable_python(value))
        for form, serde in (("typed", self._annotated), ("plain", _UNTYPED)):
            if serde.content_type == "application/json" and (form == "plain" or serde is not _UNTYPED):
                try:
                    data = serde.serialize(value)
                    serde.deserialize(data)
                    return form, data
                except SerdeError:
                    continue
        return "plain", msgspec.json.encode(str(value))

    def deserialize(self, data: bytes) -> tuple[Any, bool]:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        form, failed = msgspec.json.decode(fields["form"]), msgspec.json.decode(fields["failed"])
        raw = bytes(fields["value"])
        if form == "outputs":
            return [_OUTPUTS[each["type"]](**each) for each in msgspec.json.decode(raw)], failed
        if form == "output":
            each = msgspec.json.decode(raw)
            return _OUTPUTS[each["type"]](**each), failed
        return (self._annotated if form == "typed" else _UNTYPED).deserialize(raw), failed

    def schema(self) -> dict[str, Any] | None:
        return None


def usage_of(model: str) -> Any:
    """The function that reads the tokens of that model's response."""

    def read(response: ModelResponse) -> records.Usage:
        return _tokens(model, response.usage)

    return read


def usage_of_events(model: str) -> Any:
    """The function that reads the tokens of that model's streamed response."""

    def read(events: list[Any]) -> records.Usage | None:
        final = next((event.response for event in reversed(events) if getattr(event, "response", None)), None)
        usage = getattr(final, "usage", None)
        return None if usage is None else _tokens(model, usage)

    return read


def _tokens(model: str, usage: Any) -> records.Usage:
    def number(holder: Any, name: str) -> int:
        value = getattr(holder, name, 0)
        return value if isinstance(value, int) else 0

    read, written = getattr(usage, "input_tokens_details", None), getattr(usage, "output_tokens_details", None)
    return records.Usage(
        provider="openai",
        model=model,
        input_tokens=number(usage, "input_tokens"),
        output_tokens=number(usage, "output_tokens"),
        cached_tokens=number(read, "cached_tokens"),
        cache_write_tokens=number(read, "cache_write_tokens"),
        reasoning_tokens=number(written, "reasoning_tokens"),
    )
