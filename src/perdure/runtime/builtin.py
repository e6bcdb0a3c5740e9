"""Calls of the built-in objects by the engine's own routes and clients."""

from typing import Final

from perdure.errors import Conflict, Invalid, NotFound, RequestError
from perdure.model.actions import Answer
from perdure.model.entries import Failure
from perdure.runtime.node import Node

__all__ = ["call_builtin"]

_ERRORS: Final[dict[int, type[RequestError]]] = {error.status: error for error in (Invalid, NotFound, Conflict)}


async def call_builtin(
    node: Node, service: str, handler: str, key: str, body: bytes, idempotency_key: str | None = None
) -> bytes:
    """The result of a handler of a built-in object; its failure as the error of that status."""
    outcome = await node.call(node.registry.target(service, handler, key), body, idempotency_key=idempotency_key)
    assert isinstance(outcome, Answer)
    result = outcome.result
    if isinstance(result, Failure):
        raise _ERRORS.get(result.code, RequestError)(result.message)
    return result.content
