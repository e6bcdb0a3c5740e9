"""LangGraph's in-memory checkpointer in a handler: fine if the handler made it, refused if it is older than that."""

from collections.abc import Callable
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from perdure.ai.base import durable_context, refuse_in_handler
from perdure.ai.instrumented import instrument

__all__ = ["install"]

_MADE = "_perdure_made_in_handler"


def install() -> None:
    """Have a checkpointer that outlives the handler refused: a replay would find there what it has still to do."""
    refused = ("get_tuple", "list", "put", "put_writes", "delete_thread")
    instrument(InMemorySaver, {"__init__": _init, **dict.fromkeys(refused, _refused)})


def _init(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: InMemorySaver, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.__dict__[_MADE] = durable_context() is not None

    return init


def _refused(original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: InMemorySaver, *args: Any, **kwargs: Any) -> Any:
        if not self.__dict__.get(_MADE):
            refuse_in_handler("an InMemorySaver that was not made in this handler (PerdureSaver is durable)")
        return original(self, *args, **kwargs)

    return method
