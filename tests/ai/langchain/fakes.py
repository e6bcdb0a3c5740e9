"""LangChain's own fake model, with tools."""

import json
import re
from collections.abc import Iterator
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

__all__ = ["Fake", "call", "fake", "says"]


class Fake(GenericFakeChatModel):
    """Says what it is given, one message after the other, and takes tools."""

    asked: list[Any] = []  # noqa: RUF012  # a field of a pydantic model

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        self.asked.append(messages)
        return super()._generate(messages, stop, run_manager, **kwargs)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        self.asked.append(messages)
        message: Any = next(self.messages)
        for word in re.split(r"(?<= )", message.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls: Any = [
            {"name": each["name"], "args": json.dumps(each["args"]), "id": each["id"], "index": index}
            for index, each in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls))


def fake(*messages: AIMessage) -> Fake:
    def forever() -> Iterator[AIMessage]:
        yield from messages

    return Fake(messages=forever(), asked=[])


def call(name: str, id: str, **args: Any) -> Any:
    return {"name": name, "args": args, "id": id, "type": "tool_call"}


def says(text: str = "", *calls: Any) -> AIMessage:
    usage: Any = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "input_token_details": {"cache_read": 2}}
    return AIMessage(text, tool_calls=list(calls), usage_metadata=usage, response_metadata={"finish_reason": "stop"})
