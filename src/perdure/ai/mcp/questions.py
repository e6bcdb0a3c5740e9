"""What a server wants to know in the middle of a call: an approval of perdure, which may take days.

Since protocol 2026-07-28 a call that needs an answer ends with its questions, and is made again with the answers; each
such round is a step, and between them nothing waits but the journal. Older servers ask over the open connection, which
nobody can hold for days: they are told no, and the log says so.
"""

import asyncio
import inspect
import logging
from collections.abc import Mapping
from typing import Any

from mcp import types

from perdure.errors import TerminalError
from perdure.sdk.context import Context
from perdure.sdk.threads import SyncContext

__all__ = ["answers", "refuse"]

_log = logging.getLogger("perdure.mcp")
_TITLE_LIMIT = 500  # characters


async def refuse(context: Any, params: types.ElicitRequestParams) -> types.ErrorData:
    """The answer to a server that asks over the open connection."""
    _log.warning(
        "an MCP server asked %r in the middle of a call, over protocol %s, and was refused: "
        "only since 2026-07-28 a question can wait for its answer",
        params.message[:_TITLE_LIMIT],
        context.session.protocol_version,
    )
    return types.ErrorData(
        code=types.INVALID_REQUEST,
        message="a durable client cannot answer over an open connection: protocol 2026-07-28 is needed for that",
    )


async def answers(
    context: Context | SyncContext,
    asked: types.InputRequiredResult,
    tool: str,
    arguments: dict[str, Any] | None,
    options: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Ask a person all that the server asks. Raises `TerminalError` for what is nothing to ask a person."""
    requests = asked.input_requests or {}
    if not requests:
        return None
    for request in requests.values():
        if not isinstance(request, types.ElicitRequest):
            raise TerminalError(
                f"tool {tool}: the server asks for {request.method}, which this client does not do; "
                "give durable() an mcp.Client with a callback for it",
                501,
            )
    calls = [_ask(context, request, tool, arguments, options) for request in requests.values()]
    if isinstance(context, Context):
        return dict(zip(requests, await asyncio.gather(*calls), strict=True))
    return {name: await call for name, call in zip(requests, calls, strict=True)}


async def _ask(
    context: Context | SyncContext,
    request: Any,
    tool: str,
    arguments: dict[str, Any] | None,
    options: Mapping[str, Any],
) -> types.ElicitResult:
    params = request.params
    shown: dict[str, Any] = {"tool": tool, "arguments": arguments or {}}
    schema = None
    if isinstance(params, types.ElicitRequestURLParams):
        shown["url"] = params.url
    else:
        schema = params.requested_schema
    asked: Any = context.approval(params.message[:_TITLE_LIMIT] or tool, schema, context=shown, **options)
    decision = await asked if inspect.isawaitable(asked) else asked
    if not decision.approved:
        return types.ElicitResult(action="decline")
    return types.ElicitResult(action="accept", content=decision.value if schema is not None else None)
