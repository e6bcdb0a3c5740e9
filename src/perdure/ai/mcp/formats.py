"""Tools of an MCP server as clients of models take them, and results as models read them."""

from collections.abc import Iterable
from typing import Any

import msgspec
from mcp.types import CallToolResult, EmbeddedResource, ResourceLink, TextContent, TextResourceContents, Tool

__all__ = ["anthropic_tools", "openai_response_tools", "openai_tools", "text_of"]


def openai_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """For `tools=` of OpenAI's chat completions, and of everything that speaks as they do."""
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def openai_response_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """For `tools=` of OpenAI's responses."""
    return [{"type": "function", **_function(tool), "strict": False} for tool in tools]


def anthropic_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """For `tools=` of Anthropic's messages."""
    return [
        {"name": tool.name, "description": tool.description or "", "input_schema": tool.input_schema} for tool in tools
    ]


def text_of(result: CallToolResult) -> str:
    """A result in words, for a model that reads text: images and sounds are named, not shown."""
    if not result.content and result.structured_content is not None:
        return msgspec.json.encode(result.structured_content).decode()
    return "\n".join(_text(block) for block in result.content)


def _function(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}


def _text(block: Any) -> str:
    if isinstance(block, TextContent):
        return block.text
    if isinstance(block, EmbeddedResource):
        held = block.resource
        return held.text if isinstance(held, TextResourceContents) else f"[{held.mime_type or 'data'}: {held.uri}]"
    if isinstance(block, ResourceLink):
        return f"[{block.name}: {block.uri}]"
    return f"[{block.mime_type}]"
