"""`durable(graph)`: the same graph, whose nodes and tasks are steps in a handler."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel, _algo
from langgraph.pregel._read import PregelNode

from perdure.ai.base import (
    durable_call,
    durable_call_sync,
    durable_context,
    runs_in_handler,
    tool_call,
    tool_call_sync,
)
from perdure.ai.langchain.messages import TOOL_RESULT
from perdure.ai.langchain.middleware import FLOW, asked_in_handler, function_of
from perdure.ai.langchain.shown import tool_result
from perdure.ai.langgraph.apart import OUTCOME, Apart, Outcome, replay
from perdure.model.services import RetryPolicy

__all__ = ["durable", "install"]

G = TypeVar("G", bound=Pregel[Any, Any, Any, Any])


def durable(graph: G, *, retry: RetryPolicy | None = None) -> G:
    """The graph, durable in handlers: what is compiled stays as it is, and this is a copy of the outside.

        graph = durable(builder.compile(checkpointer=PerdureSaver()))

        @service.handler()
        async def answer(ctx: Context, question: str) -> str:
            return (await graph.ainvoke({"question": question}))["answer"]

    In a handler each node is a step, `node <name>`, and so is each task of the functional API, `task <name>`: what it
    returns is journaled, and it is not run again. Nodes of one super-step run in parallel. These run in the handler
    instead, and what they do is durable in turn:

    * nodes and tasks marked with `in_handler`, which may use the context, sleep, wait, ask models (each a step);
    * graphs and agents that are nodes: their nodes are steps; the body of an `@entrypoint`: its tasks are;
    * a `ToolNode`: each of its tools is a step; what `create_agent` is made of; the functions of conditional edges.

    `retry` is for nodes and tasks, in place of the invocation's policy. Outside of handlers nothing changes. Raises
    `TypeError` if this is no compiled graph.
    """
    if not isinstance(graph, Pregel):
        raise TypeError(f"durable() takes a compiled graph: durable(builder.compile()), not {type(graph).__name__}")
    return cast(G, _durable(graph, retry, {}))


def _durable(graph: Any, retry: RetryPolicy | None, known: dict[int, Any]) -> Any:
    if id(graph) in known:
        return known[id(graph)]
    known[id(graph)] = copied = copy.copy(graph)
    copied.nodes = {name: _node(graph, name, node, retry, known) for name, node in graph.nodes.items()}
    return copied


def _node(graph: Any, name: str, node: PregelNode, retry: RetryPolicy | None, known: dict[int, Any]) -> PregelNode:
    bound: Any = node.bound
    if isinstance(bound, Pregel):
        inner = _durable(bound, retry, known)
        return node.copy({"bound": inner, "subgraphs": [inner]})
    if isinstance(bound, ToolNode):
        return node.copy({"bound": _tools(bound, retry)})
    if name.startswith("__") or not isinstance(graph, CompiledStateGraph) or _in_handler(bound):
        return node
    return node.copy({"bound": _Step(f"node {name}", bound, retry)})


def _in_handler(bound: Any) -> bool:
    functions = [function for name in ("func", "afunc") if (function := getattr(bound, name, None)) is not None]
    return any(
        runs_in_handler(function) or str(getattr(function, "__module__", "")).startswith("langchain.agents")
        for function in functions
    )


def _tools(node: ToolNode, retry: RetryPolicy | None) -> ToolNode:
    """A `ToolNode` whose tools are steps, within the wrapper that it may have."""
    copied = copy.copy(node)
    outer, aouter = node._wrap_tool_call, node._awrap_tool_call

    def options(request: Any) -> dict[str, Any]:
        call_id = request.tool_call.get("id")
        function = function_of(request.tool)
        options = {"function": function, "call_id": call_id, "shown": tool_result}
        return options | {"serde": TOOL_RESULT, "retry": retry, "control_flow": FLOW}

    def wrap(request: Any, execute: Callable[[Any], Any]) -> Any:
        def step(inner: Any) -> Any:
            call = asked_in_handler(lambda: execute(inner))
            return tool_call_sync(inner.tool_call["name"], call, **options(inner))

        return step(request) if outer is None else outer(request, step)

    async def awrap(request: Any, execute: Callable[[Any], Any]) -> Any:
        async def step(inner: Any) -> Any:
            call = asked_in_handler(lambda: execute(inner))
            return await tool_call(inner.tool_call["name"], call, **options(inner))

        return await (step(request) if aouter is None else aouter(request, step))

    copied._wrap_tool_call = wrap
    copied._awrap_tool_call = awrap
    copied.func, copied.afunc = copied._func, copied._afunc  # the copies were bound to the original
    return copied


class _Step(Runnable[Any, Any]):
    """A node's or a task's function, a step in a handler."""

    def __init__(self, name: str, bound: Runnable[Any, Any], retry: RetryPolicy | None) -> None:
        self.name = name
        self._bound = bound
        self._retry = retry

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        if durable_context() is None:
            return self._bound.invoke(input, config, **kwargs)

        def call() -> Outcome:
            apart = Apart(config)
            with apart.catching():
                apart.outcome.result = self._bound.invoke(input, apart.config, **kwargs)
            return apart.outcome

        return replay(config, durable_call_sync(str(self.name), call, serde=OUTCOME, retry=self._retry))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        if durable_context() is None:
            return await self._bound.ainvoke(input, config, **kwargs)

        async def call() -> Outcome:
            apart = Apart(config)
            with apart.catching():
                apart.outcome.result = await self._bound.ainvoke(input, apart.config, **kwargs)
            return apart.outcome

        return replay(config, await durable_call(str(self.name), call, serde=OUTCOME, retry=self._retry))


def install() -> None:
    """Have the tasks of the functional API be steps in handlers."""
    algorithm: Any = _algo
    original = algorithm.get_runnable_for_task

    def runnable_for_task(func: Callable[..., Any]) -> Any:
        sequence: Any = original(func)
        if durable_context() is None or runs_in_handler(func):
            return sequence
        function, *writers = sequence.steps
        copied = copy.copy(sequence)
        copied.steps = [_Step(f"task {sequence.name}", function, None), *writers]
        return copied

    algorithm.get_runnable_for_task = runnable_for_task
