"""The places where openai-agents touches the world, each made durable once, when this package is imported.

Classes are instrumented, not agents: every `Model` and every `MCPServer`, those to come included, and the one function
through which function tools are invoked. So it does not matter how a model gets into a run (an instance, a name, a
provider, a run's configuration), agents stay the objects they were, handoffs may go in circles, and a run inside of a
guardrail or of a tool is as durable as the one around it. Outside of handlers, and in steps, each does what it did.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, get_type_hints

from agents import (
    AgentsException,
    ApplyPatchTool,
    ComputerTool,
    CustomTool,
    FunctionTool,
    LocalShellTool,
    Model,
    ModelBehaviorError,
    ModelSettings,
    ShellTool,
    ToolTimeoutError,
    UserError,
)
from agents import tool as tools
from agents.mcp import MCPServer
from agents.models import _retry_runtime as client_retries
from agents.run_internal import tool_execution

from perdure.ai.base import collect, durable_context, model_call, refuse_in_handler, runs_in_handler, tool_call
from perdure.ai.ids import make_ids_replay
from perdure.ai.instrumented import instrument
from perdure.ai.openai_agents import formats, mcp
from perdure.ai.openai_agents.shown import EventsShown, show_response
from perdure.ai.records import ControlFlow
from perdure.errors import NonDurableOperation, RetryableError, TerminalError
from perdure.sdk.serde import Serde, SerdeError, serde_for
from perdure.sdk.steps import current_step

__all__ = ["install"]

_DONE = "__perdure_durable__"
_TOOL_CALLS = "_invoke_function_tool_with_metadata"
_OURS = (TerminalError, RetryableError, NonDurableOperation, SerdeError)

_FLOW = (
    ControlFlow(
        ToolTimeoutError,
        dump=lambda error: [error.tool_name, error.timeout_seconds],
        load=lambda data: ToolTimeoutError(*data),
    ),
    ControlFlow(ModelBehaviorError, dump=str, load=ModelBehaviorError),
    ControlFlow(UserError, dump=str, load=UserError),
    ControlFlow(AgentsException, dump=str, load=AgentsException),
)


def install() -> None:
    """Make openai-agents durable in handlers. Once; a second time it does nothing."""
    if getattr(Model, _DONE, False):
        return
    setattr(Model, _DONE, True)
    instrument(Model, {"get_response": _get_response, "stream_response": _stream_response})
    instrument(MCPServer, mcp.METHODS)
    original = getattr(tool_execution, _TOOL_CALLS)  # without it nothing of this can be imported, which is as it should
    setattr(tool_execution, _TOOL_CALLS, _invoke_tool(original))
    _let_through_what_is_ours()
    make_ids_replay("agents")


# -- models ------------------------------------------------------------------------------------------


def _get_response(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    async def get_response(self: Model, *args: Any, **kwargs: Any) -> Any:
        if durable_context() is None:
            return await original(self, *args, **kwargs)
        call = _Request(signature, self, args, kwargs)

        async def ask() -> Any:
            with client_retries.provider_managed_retries_disabled(True):
                return show_response(await call.make(original))

        name = _model_name(self)
        return await model_call(name, ask, serde=formats.RESPONSE, usage=formats.usage_of(name), provider="openai")

    return get_response


def _stream_response(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    async def stream_response(self: Model, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if durable_context() is None:
            async for event in original(self, *args, **kwargs):
                yield event
            return
        call = _Request(signature, self, args, kwargs)

        async def ask() -> Any:
            with client_retries.provider_managed_retries_disabled(True):
                return _whole(await collect(call.make(original), EventsShown().show))

        name = _model_name(self)
        usage = formats.usage_of_events(name)
        for event in await model_call(name, ask, serde=formats.EVENTS, usage=usage, provider="openai"):
            yield event

    return stream_response


def _whole(events: list[Any]) -> list[Any]:
    """A stream that ends without saying so was cut."""
    ends = {"response.completed", "response.incomplete", "response.failed", "error"}
    if not any(getattr(event, "type", None) in ends for event in events):
        raise RetryableError("the stream of the model's response ended in the middle", code=503)
    return events


class _Request:
    """The arguments of one model call: looked at in the handler, completed in the step."""

    def __init__(self, signature: inspect.Signature, model: Model, args: Any, kwargs: Any) -> None:
        self._bound = signature.bind(model, *args, **kwargs)
        for tool in self._bound.arguments.get("tools") or ():
            if isinstance(tool, ApplyPatchTool | ComputerTool | CustomTool | LocalShellTool | ShellTool) and not (
                isinstance(tool, ShellTool) and tool.executor is None
            ):
                refuse_in_handler(f"the {type(tool).__name__}, which works on this machine from within the handler,")

    def make(self, original: Callable[..., Any]) -> Any:
        """Make it, with the step's idempotency key among the request's headers."""
        bound = self._bound
        settings = bound.arguments.get("model_settings")
        if isinstance(settings, ModelSettings):
            headers = {"Idempotency-Key": current_step().token, **(settings.extra_headers or {})}
            bound.arguments["model_settings"] = replace(settings, extra_headers=headers)
        return original(*bound.args, **bound.kwargs)


def _model_name(model: Model) -> str:
    name = getattr(model, "model", None)
    return str(name) if isinstance(name, str) and name else type(model).__name__


# -- tools -------------------------------------------------------------------------------------------


def _invoke_tool(original: Callable[..., Any]) -> Callable[..., Any]:
    """The function that invokes a function tool, its time-out and its `failure_error_function` included: a step."""
    outcome = get_type_hints(original)["return"]

    async def invoke(*, function_tool: FunctionTool, context: Any, arguments: str) -> Any:
        async def call() -> Any:
            return await original(function_tool=function_tool, context=context, arguments=arguments)

        function = getattr(function_tool, "__wrapped__", None) or function_tool.on_invoke_tool
        if durable_context() is None or function_tool._is_agent_tool or runs_in_handler(function):
            return await call()

        async def result() -> tuple[Any, bool]:
            made = await call()
            return made.output, made.is_sdk_generated_error

        value, failed = await tool_call(
            function_tool.name,
            result,
            call_id=context.tool_call_id,
            serde=formats.ToolResultSerde(_annotated(function)),
            control_flow=_FLOW,
            shown=lambda made: made[0],
        )
        return outcome(value, failed)

    return functools.wraps(original)(invoke)


@functools.lru_cache(maxsize=4096)
def _annotated(function: Any) -> Serde[Any]:
    try:
        return serde_for(get_type_hints(function).get("return"))
    except (NameError, TypeError, AttributeError, SerdeError):
        return serde_for(None)


def _let_through_what_is_ours() -> None:
    """A tool's error becomes a message for the model, as the framework says; those with a meaning here do not."""
    original = tools.maybe_invoke_function_tool_failure_error_function

    @functools.wraps(original)
    async def message(*, function_tool: FunctionTool, context: Any, error: BaseException) -> str | None:
        if isinstance(error, _OURS):
            return None
        return await original(function_tool=function_tool, context=context, error=error)

    for module in (tools, tool_execution):
        module.maybe_invoke_function_tool_failure_error_function = message  # type: ignore[attr-defined]
