"""How the journal writes messages: exactly, with their ids, tool calls, tokens and metadata."""

import base64
from typing import Any, Final

import msgspec
from langchain_core.messages import BaseMessage, ToolMessage, message_to_dict, messages_from_dict
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic_core import to_jsonable_python

from perdure.ai.records import Usage
from perdure.sdk.serde import Serde, SerdeError

__all__ = [
    "CHUNKS",
    "RESULT",
    "TOOL_RESULT",
    "Packer",
    "pack",
    "read_message",
    "unpack",
    "usage_of_chunks",
    "usage_of_result",
    "write_message",
]


class Packer:
    """Any value that LangGraph's own checkpoints can hold, as two strings: the kind, and base64."""

    def __init__(self, serializer: Any) -> None:
        self._serializer = serializer

    def __call__(self, value: Any) -> list[str]:
        try:
            kind, data = self._serializer.dumps_typed(value)
        except Exception as error:
            reason = f"{error}; LangGraph's serializer cannot hold it"
            raise SerdeError("serialize", type(value).__name__, reason) from error
        return [kind, base64.b64encode(data).decode()]

    def unpack(self, packed: list[str]) -> Any:
        kind, data = packed
        return self._serializer.loads_typed((kind, base64.b64decode(data)))


pack = Packer(JsonPlusSerializer(allowed_msgpack_modules=True))  # only what this program has packed is unpacked
unpack = pack.unpack


def write_message(message: BaseMessage) -> Any:
    """The message as JSON; packed, if JSON would change it."""
    try:
        written = to_jsonable_python(message_to_dict(message))
        if read_message(written) == message:
            return written
    except Exception:
        return pack(message)
    return pack(message)


def read_message(written: Any) -> Any:
    """What `write_message` has written."""
    return unpack(written) if isinstance(written, list) else messages_from_dict([written])[0]


class _ResultSerde:
    """A `ChatResult`."""

    content_type: Final = "application/json"

    def serialize(self, result: ChatResult) -> bytes:
        generations = [
            {"message": write_message(each.message), "info": to_jsonable_python(each.generation_info, fallback=str)}
            for each in result.generations
        ]
        output = to_jsonable_python(result.llm_output, fallback=str)
        return msgspec.json.encode({"generations": generations, "llm_output": output})

    def deserialize(self, data: bytes) -> ChatResult:
        written = msgspec.json.decode(data)
        generations = [
            ChatGeneration(message=read_message(each["message"]), generation_info=each["info"])
            for each in written["generations"]
        ]
        return ChatResult(generations=generations, llm_output=written["llm_output"])

    def schema(self) -> dict[str, Any] | None:
        return None


class _ChunksSerde:
    """All chunks of a streamed response."""

    content_type: Final = "application/json"

    def serialize(self, chunks: list[ChatGenerationChunk]) -> bytes:
        written = [
            {"message": write_message(each.message), "info": to_jsonable_python(each.generation_info, fallback=str)}
            for each in chunks
        ]
        return msgspec.json.encode(written)

    def deserialize(self, data: bytes) -> list[ChatGenerationChunk]:
        return [
            ChatGenerationChunk(message=read_message(each["message"]), generation_info=each["info"])
            for each in msgspec.json.decode(data)
        ]

    def schema(self) -> dict[str, Any] | None:
        return None


class _ToolResultSerde:
    """What a tool call comes to: a message, or a `Command`, or several."""

    content_type: Final = "application/json"

    def serialize(self, result: Any) -> bytes:
        if isinstance(result, ToolMessage) and result.artifact is not None:
            bare = result.model_copy(update={"artifact": None})
            return msgspec.json.encode({"message": write_message(bare), "artifact": pack(result.artifact)})
        if isinstance(result, BaseMessage):
            return msgspec.json.encode({"message": write_message(result)})
        return msgspec.json.encode({"packed": pack(result)})

    def deserialize(self, data: bytes) -> Any:
        written = msgspec.json.decode(data)
        if "packed" in written:
            return unpack(written["packed"])
        message = read_message(written["message"])
        if "artifact" in written:
            message.artifact = unpack(written["artifact"])
        return message

    def schema(self) -> dict[str, Any] | None:
        return None


RESULT: Final[Serde[ChatResult]] = _ResultSerde()
CHUNKS: Final[Serde[list[ChatGenerationChunk]]] = _ChunksSerde()
TOOL_RESULT: Final[Serde[Any]] = _ToolResultSerde()


def usage_of_result(provider: str, model: str) -> Any:
    """The function that reads the tokens of a result."""

    def read(result: ChatResult) -> Usage | None:
        return _usage(provider, model, [each.message for each in result.generations])

    return read


def usage_of_chunks(provider: str, model: str) -> Any:
    """The function that reads the tokens of a stream's chunks."""

    def read(chunks: list[ChatGenerationChunk]) -> Usage | None:
        return _usage(provider, model, [each.message for each in chunks])

    return read


def _usage(provider: str, model: str, messages: list[BaseMessage]) -> Usage | None:
    counted = [used for each in messages if (used := getattr(each, "usage_metadata", None))]
    if not counted:
        return None

    def total(name: str, details: str | None = None) -> int:
        return sum(((used.get(details) or {}) if details else used).get(name) or 0 for used in counted)

    return Usage(
        provider=provider,
        model=model,
        input_tokens=total("input_tokens"),
        output_tokens=total("output_tokens"),
        cached_tokens=total("cache_read", "input_token_details"),
        cache_write_tokens=total("cache_creation", "input_token_details"),
        reasoning_tokens=total("reasoning", "output_token_details"),
    )
