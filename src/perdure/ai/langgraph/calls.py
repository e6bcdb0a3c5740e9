"""How LangGraph's memory asks its virtual objects: durably in a handler, by a client elsewhere."""

import inspect
from typing import Any

from perdure.ai.base import durable_context
from perdure.errors import NonDurableOperation
from perdure.sdk.context import Context

__all__ = ["ask", "ask_sync"]

_NOBODY = (
    "there is nobody to ask outside of handlers, nor in a step: give it a client, PerdureSaver(Client(...)), or mark "
    "the node or tool that uses it with in_handler"
)


async def ask(client: Any, handler: str, key: str, argument: Any) -> Any:
    """The answer of a handler of the virtual object `key`."""
    context: Any = durable_context() or client
    if context is None:
        raise LookupError(_NOBODY)
    answer = context.call(handler, argument, key=key, type=Any)
    return await answer if inspect.isawaitable(answer) else answer


def ask_sync(client: Any, handler: str, key: str, argument: Any) -> Any:
    """The same where code blocks: in a plain handler, or with a `SyncClient`."""
    context: Any = durable_context()
    if isinstance(context, Context):
        raise NonDurableOperation(f"a blocking call of {handler} in an async handler")
    context = context or client
    if context is None:
        raise LookupError(_NOBODY)
    answer = context.call(handler, argument, key=key, type=Any)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("this client is asynchronous: use ainvoke, aget_tuple, ..., or give a SyncClient")
    return answer
