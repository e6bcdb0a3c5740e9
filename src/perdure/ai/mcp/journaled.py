"""How results of MCP are kept in the journal: as they came over the wire, images and structured content included."""

from typing import Any, Final

from mcp import types
from pydantic import TypeAdapter, ValidationError

from perdure.sdk.serde import SerdeError

__all__ = ["ANSWER", "WireSerde", "wire"]


class WireSerde:
    """A model of `mcp.types`, or a union of them, as the JSON of the protocol."""

    content_type: Final = "application/json"

    def __init__(self, type: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(type)
        self._name = getattr(type, "__name__", str(type))

    def serialize(self, value: Any) -> bytes:
        # What was not said must not come back as said: "no structured content" is not "null".
        unset = not isinstance(value, types.InputRequiredResult)
        try:
            return self._adapter.dump_json(value, by_alias=True, exclude_unset=unset)
        except ValueError as error:
            raise SerdeError("serialize", self._name, str(error)) from error

    def deserialize(self, data: bytes) -> Any:
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise SerdeError("deserialize", self._name, str(error)) from error

    def schema(self) -> dict[str, Any] | None:
        return None


_SERDES: dict[Any, WireSerde] = {}


def wire(type: Any) -> WireSerde:
    """The serde of a result's type: one of a few classes."""
    return _SERDES.get(type) or _SERDES.setdefault(type, WireSerde(type))


ANSWER: Final = WireSerde(types.CallToolResult | types.InputRequiredResult)
"""Of a tool's call: its result, or what the server wants to know first."""
