"""`DurableMiddleware`: for `create_agent(..., middleware=[DurableMiddleware()])`."""

import inspect
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, NoReturn

from langchain.agents.middleware import AgentMiddleware
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.prebuilt import tool_node as tool_threads
from langgraph.pregel import _executor as graph_threads

from perdure.ai.base import durable_context, tool_call, tool_call_sync
from perdure.ai.langchain.messages import TOOL_RESULT, pack, unpack
from perdure.ai.langchain.models import retried
from perdure.ai.langchain.shown import tool_result
from perdure.ai.records import ControlFlow
from perdure.errors import NonDurableOperation
from perdure.model.services import RetryPolicy

__all__ = ["FLOW", "DurableMiddleware", "asked_in_handler", "function_of", "install"]

FLOW = (
    ControlFlow(ParentCommand, dump=lambda error: pack(error.args[0]), load=lambda data: ParentCommand(unpack(data))),
)


class DurableMiddleware(AgentMiddleware[Any, Any, Any]):
    """Makes an agent durable in handlers.

        agent = create_agent(model, tools, middleware=[DurableMiddleware()])

        @support.handler()
        async def answer(ctx: Context, question: str) -> str:
            state = await agent.ainvoke({"messages": [("user", question)]})
            return state["messages"][-1].text

    Every model call and every tool is a step: its result is journaled, and it is not made again. Tools that the model
    asks for together run in parallel. Outside of handlers nothing changes.

    `retry` is for model calls, `tool_retry` for tools, in place of the invocation's policy: with a number of attempts,
    what still fails is raised in the agent, where a fallback or an error middleware sees it.

    The order among middlewares is the framework's: the first is the outermost. What stands before this one runs in the
    handler, around the tool's step; what stands after it wraps the tool within the step.
    """

    def __init__(self, *, retry: RetryPolicy | None = None, tool_retry: RetryPolicy | None = None) -> None:
        super().__init__()
        self._retry = retry
        self._tool_retry = tool_retry

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """The model's own step does it; here is said how often it is tried."""
        with retried(self._retry):
            return handler(request)

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """The same for `ainvoke` and `astream`."""
        with retried(self._retry):
            return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """The tool is a step."""
        if durable_context() is None:
            return handler(request)
        call = asked_in_handler(lambda: handler(request))
        return tool_call_sync(request.tool_call["name"], call, **self._options(request))

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """The same for `ainvoke` and `astream`."""
        if durable_context() is None:
            return await handler(request)
        call = asked_in_handler(lambda: handler(request))
        return await tool_call(request.tool_call["name"], call, **self._options(request))

    def _options(self, request: Any) -> dict[str, Any]:
        return {
            "function": function_of(request.tool),
            "call_id": request.tool_call.get("id"),
            "shown": tool_result,
            "serde": TOOL_RESULT,
            "retry": self._tool_retry,
            "control_flow": FLOW,
        }


def asked_in_handler(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call of a tool. An `interrupt()` in one that is a step is refused: its answer would reach the tool, and on
    replay nobody else would know that it is taken."""

    def refuse(interrupt: GraphInterrupt) -> NoReturn:
        if durable_context() is not None:
            raise interrupt
        raise NonDurableOperation("interrupt() in a tool that is a step (mark the tool with in_handler)") from interrupt

    async def awaited(value: Any) -> Any:
        try:
            return await value
        except GraphInterrupt as interrupt:
            refuse(interrupt)

    def checked() -> Any:
        try:
            value = call()
        except GraphInterrupt as interrupt:
            refuse(interrupt)
        return awaited(value) if inspect.isawaitable(value) else value

    return checked


def function_of(tool: Any) -> Any:
    """The user's function of a tool, or the method of a tool that is a class."""
    for name in ("coroutine", "func", "_arun", "_run"):
        function = getattr(tool, name, None)
        if function is not None:
            return function
    return None


class _OwnThread(Executor):
    """Does at once what it is given. A plain handler's context is for the handler's own thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def install() -> None:
    """Have tools and nodes that would run in threads run in the handler's own, if it is a plain one."""
    for module in (tool_threads, graph_threads):
        module.get_executor_for_config = _executor(module.get_executor_for_config)  # type: ignore[attr-defined]


def _executor(original: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def executor(config: Any) -> Any:
        if durable_context() is not None:
            yield _OwnThread()
        else:
            with original(config) as threads:
                yield threads

    return executor
