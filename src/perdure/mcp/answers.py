"""What an invocation gives, as MCP has it: results as text and as structured content, failures with `is_error`."""

import base64
from typing import Any, Final

import msgspec
from mcp import types

from perdure.errors import PerdureError, RequestError, TerminalError

__all__ = ["CODE", "INVOCATION", "answered", "failed"]

INVOCATION: Final = "perdure/invocation-id"
"""Where in a result's `_meta` the invocation's id is: attach to it, look at it, cancel it by this."""
CODE: Final = "perdure/code"
"""Where in the `_meta` of a failure its code is."""


def answered(content: bytes, structured: bool, id: str) -> types.CallToolResult:
    """A handler's result; `structured` if the tool has an output schema."""
    meta = {INVOCATION: id}
    if not content:
        return types.CallToolResult(content=[], _meta=meta)
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return types.CallToolResult(content=[_of_bytes(content, id)], _meta=meta)
    text = value if isinstance(value, str) else content.decode()
    block = types.TextContent(type="text", text=text)
    if structured and isinstance(value, dict):
        return types.CallToolResult(content=[block], structured_content=value, _meta=meta)
    return types.CallToolResult(content=[block], _meta=meta)


def failed(error: PerdureError, id: str | None) -> types.CallToolResult:
    """A failure, for the model to see: of the invocation, or to reach the server at all."""
    code = error.code if isinstance(error, TerminalError) else getattr(error, "status", 500)
    words = error.message if isinstance(error, TerminalError | RequestError) else str(error)
    meta: dict[str, Any] = {CODE: code}
    if id is not None:
        meta[INVOCATION] = id
    if isinstance(error, TerminalError) and error.metadata:
        meta["perdure/metadata"] = dict(error.metadata)
    text = types.TextContent(type="text", text=f"{words} (code {code})")
    return types.CallToolResult(content=[text], is_error=True, _meta=meta)


def _of_bytes(content: bytes, id: str) -> types.ContentBlock:
    try:
        return types.TextContent(type="text", text=content.decode())
    except UnicodeDecodeError:
        blob = base64.b64encode(content).decode()
        held = types.BlobResourceContents(uri=f"perdure://{id}/result", blob=blob, mime_type="application/octet-stream")
        return types.EmbeddedResource(type="resource", resource=held)
