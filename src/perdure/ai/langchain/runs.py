"""Runs of agents and graphs, nested ones too: each is a span where the handler is traced."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from langgraph.pregel import Pregel

from perdure.ai.instrumented import instrument
from perdure.ai.spans import AgentRun
from perdure.sdk.tracing import handler_is_traced

__all__ = ["install"]

_UNNAMED = "LangGraph"  # what the framework calls a graph without a name


def install() -> None:
    """Have runs be spans. `invoke` and `ainvoke` go through `stream` and `astream`."""
    instrument(Pregel, {"stream": _stream, "astream": _astream})


def _run(graph: Any) -> AgentRun:
    name = graph.get_name()
    return AgentRun(None if name == _UNNAMED else name, "langgraph")


def _stream(original: Callable[..., Any]) -> Callable[..., Any]:
    def stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        events = original(self, *args, **kwargs)
        return _within(self, events) if handler_is_traced() else events

    return stream


def _astream(original: Callable[..., Any]) -> Callable[..., Any]:
    def astream(self: Any, *args: Any, **kwargs: Any) -> Any:
        events = original(self, *args, **kwargs)
        return _awithin(self, events) if handler_is_traced() else events

    return astream


def _within(graph: Any, events: Any) -> Iterator[Any]:
    run = _run(graph)
    try:
        while True:
            with run.current():  # for what the graph does, and not for who reads
                try:
                    event = next(events)
                except StopIteration:
                    return
            yield event
    finally:
        events.close()
        run.end()


async def _awithin(graph: Any, events: Any) -> AsyncIterator[Any]:
    run = _run(graph)
    try:
        while True:
            with run.current():
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event
    finally:
        run.end()  # what is left of the events is closed by the handler's loop, as without this
