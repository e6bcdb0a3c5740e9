"""What went wrong between an MCP client and its server: to be tried again, or for good.

| what happened | what becomes of the step |
| --- | --- |
| no connection, a cut one, a time-out, a session that the server has forgotten | tried again |
| HTTP 408, 425, 429, 5xx | tried again, after the time that the server asks for |
| any other HTTP status from 400 on | `TerminalError` with that status |
| an error of the protocol: no such tool, bad arguments, a broken result | `TerminalError`, `mcp_code` in its metadata |
"""

import re
from collections.abc import Iterator, Mapping

import anyio
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
)
from pydantic import ValidationError

from perdure.ai.provider_errors import asked_delay, classify
from perdure.errors import RetryableError, TerminalError

__all__ = ["HttpTrouble", "is_of_the_connection", "session_is_gone", "translated"]

_TRY_AGAIN = {408, 425, 429}
_STATUS = {INVALID_PARAMS: 400, INVALID_REQUEST: 400, METHOD_NOT_FOUND: 404}
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError, TimeoutError)
_NO_ANSWER = "Server returned an error response"  # how `mcp` words an HTTP status; the status itself it does not tell
_NO_SESSION = re.compile(r"session.*(terminated|not found|expired|unknown)", re.IGNORECASE)  # the protocol has no code


class HttpTrouble:
    """The last HTTP answer that was an error: what `mcp` makes of it has no status."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}


def session_is_gone(error: BaseException) -> bool:
    """Whether the server does not know the session: it did nothing, and a new connection will do."""
    return isinstance(error, MCPError) and error.code == INVALID_REQUEST and bool(_NO_SESSION.search(error.message))


def is_of_the_connection(error: BaseException) -> bool:
    """Whether the connection is not to be used any longer."""
    if isinstance(error, MCPError):
        return error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT) or session_is_gone(error) or _is_http(error)
    return any(isinstance(leaf, _BROKEN) or classify(leaf) is not None for leaf in _leaves(error))


def translated(error: Exception, what: str, trouble: HttpTrouble) -> Exception:
    """The error that a step should raise in place of a client's; the same one if nothing is known of it."""
    if isinstance(error, TerminalError | RetryableError):
        return error
    leaves = list(_leaves(error))
    known = next((leaf for leaf in leaves if isinstance(leaf, MCPError)), None)
    if known is None:
        if isinstance(error, ValidationError | RuntimeError):  # a result that is none, or not of the tool's schema
            return TerminalError(f"{what}: {error}", 502)
        if is_of_the_connection(error):
            return RetryableError(f"{what}: {type(leaves[0]).__name__}: {leaves[0]}", code=503)
        return error
    if _is_http(known) and trouble.status:
        status = trouble.status
        if status >= 500 or status in _TRY_AGAIN:
            return RetryableError(f"{what}: HTTP {status}", asked_delay(trouble.headers), status)
        return TerminalError(f"{what}: HTTP {status}", status, {"status": str(status)})
    if is_of_the_connection(known):
        return RetryableError(f"{what}: {known.message}", code=503)
    return TerminalError(f"{what}: {known.message}", _STATUS.get(known.code, 500), {"mcp_code": str(known.code)})


def _is_http(error: MCPError) -> bool:
    return error.code == INTERNAL_ERROR and error.message == _NO_ANSWER


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error
