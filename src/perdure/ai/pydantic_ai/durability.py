"""pydantic-ai, durable: `Agent(model, tools=[...], capabilities=[PerdureDurability()])`.

Built on pydantic-ai's own API for durable execution (`pydantic_ai.durable_exec`). In a handler, `agent.run(...)` and
its relatives make a step of each request of the model, each call of a tool (functions, MCP servers, dynamic and other
toolsets), each validation by an `args_validator`, each discovery of an MCP server's tools. Elsewhere the agent is as
it was. The agent's loop between the steps is replayed.

* Tools that the model asks for at once run at once. `ModelRetry`, `CallDeferred`, `ApprovalRequired` and the like are
  kept as values, so a deferred or unapproved call ends the run with `DeferredToolRequests` as ever.
* A tool marked with `perdure.ai.in_handler`, or with `metadata={"perdure": False}`, runs in the handler: it may use the
  context, and agents that it runs are durable step by step. An agent that is run within a tool's step is part of that
  step. `metadata={"perdure": {"retry": RetryPolicy(...)}}` gives a tool a policy of its own.
* Errors of the provider are retried under the step's policy, after the time that it asks for, or end the invocation
  (`perdure.ai.provider_errors`). Exhausted retries of the model, usage limits and the like can be caught as
  pydantic-ai's own errors; uncaught, they end the invocation.
* In a plain `def` handler `agent.run_sync(...)` is durable too; there, tools run one after the other.
* What would go around the journal is refused: toolsets given to a single run, models that are not known (`models=`),
  sockets of code that runs in the handler, such as output functions and history processors.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypedDict, cast

from pydantic_ai.agent import Agent, EventStreamHandler
from pydantic_ai.agent.abstract import AbstractAgent
from pydantic_ai.capabilities.abstract import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    BoundDurableOperation,
    CallToolResult,
    CapabilityOperationId,
    DurabilityEngineSpec,
    DurableOperation,
    DurableOperationBackend,
    EventStreamHandlerId,
    ModelCancelSuspendedResponseId,
    ModelCompactMessagesId,
    ModelRequestId,
    ModelRequestParams,
    ToolsetCallToolId,
    ToolsetGetInstructionsId,
    ToolsetGetToolsId,
    ToolsetValidateToolArgumentsId,
    conversation_id_from_run_id,
    durable_unit_scope,
)
from pydantic_ai.durable_exec._toolset import unwrap_tool_call_result, wrap_tool_call_result
from pydantic_ai.exceptions import AgentRunError, RunCancelled
from pydantic_ai.messages import AgentStreamEvent
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResult
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import AgentDepsT, RunContext
from pydantic_ai.toolsets import AbstractToolset, ExternalToolset, FunctionToolset, ToolsetTool, WrapperToolset

from perdure.ai.base import durable_call, durable_context, ends_invocation, model_call, runs_in_handler, tool_call
from perdure.ai.pydantic_ai.shown import PartsShown, show_response, tool_result
from perdure.ai.records import Usage
from perdure.ai.showing import showing
from perdure.ai.spans import agent_run
from perdure.errors import TerminalError
from perdure.model.services import RetryPolicy
from perdure.sdk.steps import current_step

try:  # from 2.67 on: no spans of what was replayed
    from pydantic_ai.durable_exec import record_durable_unit, replay_scope
except ImportError:

    def record_durable_unit(*, executed: bool) -> None:
        pass

    @contextlib.contextmanager
    def replay_scope(*, is_replaying: Callable[[], bool] | None = None) -> Iterator[None]:
        yield


__all__ = ["PerdureDurability", "ToolConfig"]

_KEY = "perdure"  # of a tool's metadata


class ToolConfig(TypedDict, total=False):
    """What a tool's `metadata={"perdure": ...}` may say; False in its place: run it in the handler."""

    retry: RetryPolicy


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="perdure-tool")


def _cannot_be_written(error: Exception) -> TerminalError:
    return TerminalError(f"the result cannot be journaled: {error}")


class PerdureDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes an agent durable in perdure's handlers; see the module.

    * `models`: further models by name, for `agent.run(model=...)`; the agent's own need not be named.
    * `event_stream_handler`: sees the model's events as they come, within the step (again if the step is tried again,
      not on replay), and every other event in a step of its own.
    * `retry`: the policy of model requests; by default the invocation's.
    * `name`: what the agent is called in messages, if not by its own name.
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="perdure",
        durable_unit_noun="step",
        durable_container_noun="handler",
        codec=JSON_CODEC,
        serialization_failure=_cannot_be_written,
        wrapped_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        # A session that a step opens cannot be closed by the handler, which is on another loop. So each step opens its
        # own, unless somebody outside of handlers holds the toolset open.
        toolset_lifecycles={"function": "enter-always", "mcp": "enter-never", "dynamic": "enter-never"},
        unsupported_runtime_toolset_kinds=frozenset({"function", "mcp", "dynamic"}),
        tool_config_key=_KEY,
    )

    def __init__(
        self,
        *,
        models: Mapping[str, Model] | None = None,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        retry: RetryPolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(models=models, event_stream_handler=event_stream_handler, name=name or "agent")
        self._named = name is not None
        self._retry = retry

    def _model_stream_event_handler(self) -> EventStreamHandler[AgentDepsT] | None:
        """What consumes a model's stream, in the step: readers are shown it, then the user's handler has it."""
        handler = super()._model_stream_event_handler()
        shown = _SHOWN.get()
        if shown is None:
            return handler

        async def show(ctx: RunContext[AgentDepsT], stream: AsyncIterable[AgentStreamEvent]) -> None:
            async def seen() -> AsyncIterator[AgentStreamEvent]:
                async for event in stream:
                    shown.show(event)
                    yield event

            if handler is not None:
                await handler(ctx, seen())
            async for _ in seen():  # also what the handler has left
                pass

        return show

    def _bind_to_agent(self, agent: AbstractAgent[AgentDepsT, Any]) -> None:
        if not self._named and agent.name:
            self.name = agent.name
        super()._bind_to_agent(agent)

    def _wrap_other_leaf_toolset(self, ts: AbstractToolset[AgentDepsT]) -> WrapperToolset[AgentDepsT] | None:
        return None if isinstance(ts, ExternalToolset) else _Other(ts)

    @property
    def in_durable_context(self) -> bool:
        return durable_context() is not None

    def get_durable_operation_backend(self) -> DurableOperationBackend[ToolConfig]:
        return _Backend(self._retry)

    def get_default_run_id(self) -> str | None:
        context = durable_context()
        return None if context is None else str(context.uuid())

    def get_default_conversation_id(self, run_id: str) -> str | None:
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    def get_run_clock(self) -> Callable[[], datetime] | None:
        context = durable_context()
        if context is None:
            return None
        latest = context.now()

        def clock() -> datetime:
            nonlocal latest
            if durable_context() is context:  # a step sees the time at which it was asked for
                latest = context.now()
            return latest

        return clock

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        context = durable_context()
        return None if context is None else context.now()

    async def wrap_run(self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        if not self.in_durable_context:
            return await super().wrap_run(ctx, handler=handler)
        try:
            # On the handler's loop what is given to an executor runs at once; out of other threads nothing comes back
            # to it. In a step it is a thread of these.
            name = ctx.agent.name if ctx.agent is not None else None
            with replay_scope(), Agent.using_thread_executor(_threads()), agent_run(name, "pydantic-ai"):
                return await super().wrap_run(ctx, handler=handler)
        except RunCancelled:
            raise
        except AgentRunError as error:  # on replay it would come to the same
            ends_invocation(error)
            raise


class _Backend(DurableOperationBackend[ToolConfig]):
    """Runs pydantic-ai's operations as steps."""

    def __init__(self, retry: RetryPolicy | None) -> None:
        self.retry = retry

    def bind(self, operation: DurableOperation[Any, Any, Any]) -> BoundDurableOperation[Any, Any, Any]:
        return _Operation(operation, self.retry)

    def config_for_tool(
        self, operation: DurableOperation[Any, Any, Any], *, tool: object | None, tool_name: str
    ) -> ToolConfig | Literal[False]:
        return _tool_config(cast("ToolsetTool[Any] | None", tool), tool_name)

    def registrations(self) -> tuple[()]:
        return ()


class _Operation(BoundDurableOperation[Any, Any, Any]):
    """One of pydantic-ai's operations, to be run as a step each time."""

    def __init__(self, operation: DurableOperation[Any, Any, Any], retry: RetryPolicy | None) -> None:
        self._operation = operation
        self._retry = retry

    @property
    def operation(self) -> DurableOperation[Any, Any, Any]:
        return self._operation

    async def __call__(self, params: Any, *, config: object | None = None) -> Any:
        operation, id = self._operation, self._operation.operation_id
        ran = False

        async def body() -> object:
            nonlocal ran
            ran = True
            with durable_unit_scope(), _asked_once(params) as given, _shown_as_it_comes() as shown:
                result = await operation.handler(given)
                if shown is not None and not shown.anything:
                    show_response(result)
                return operation.result_codec.dump(result)

        match id:
            case ModelRequestId(model_name=name):
                provider = str(getattr(params.run_context.model, "system", ""))
                payload = await model_call(str(name), body, usage=_usage, provider=provider, retry=self._retry)
            case ToolsetCallToolId():
                retry = cast(ToolConfig, config or {}).get("retry")
                call_id = params.ctx.tool_call_id
                payload = await tool_call(params.name, body, call_id=call_id, retry=retry, shown=tool_result)
            case _:
                payload = await durable_call(_step_name(id, params), body)
        record_durable_unit(executed=ran)
        return operation.result_codec.load(payload)


def _step_name(id: object, params: Any) -> str:
    match id:
        case ModelCompactMessagesId(model_name=name):
            return f"compact messages {name}"
        case ModelCancelSuspendedResponseId(model_name=name):
            return f"cancel response {name}"
        case EventStreamHandlerId():
            return f"event {params.event.event_kind}"
        case ToolsetGetToolsId(toolset_id=toolset):
            return f"list tools {toolset}"
        case ToolsetGetInstructionsId(toolset_id=toolset):
            return f"instructions {toolset}"
        case ToolsetValidateToolArgumentsId():
            return f"validate {params.name}"
        case CapabilityOperationId(capability_id=capability, operation=operation):
            return f"{capability} {operation}"
        case _:
            return type(id).__name__.removesuffix("Id")


@contextlib.contextmanager
def _asked_once(params: Any) -> Iterator[Any]:
    """A model request with the step's token as its idempotency key, and the client's own retries off meanwhile."""
    if not isinstance(params, ModelRequestParams):
        yield params
        return
    settings: Any = params.model_settings or {}
    headers = {"Idempotency-Key": current_step().token, **(settings.get("extra_headers") or {})}
    with _without_client_retries(params.run_context.model):
        yield replace(params, model_settings=cast(ModelSettings, {**settings, "extra_headers": headers}))


_SHOWN: ContextVar[PartsShown | None] = ContextVar("perdure_pydantic_ai_shown", default=None)


@contextlib.contextmanager
def _shown_as_it_comes() -> Iterator[PartsShown | None]:
    """Have what streams in be shown, if anybody is to see it."""
    if showing() is None:
        yield None
        return
    shown = PartsShown()
    token = _SHOWN.set(shown)
    try:
        yield shown
    finally:
        _SHOWN.reset(token)


_HELD: dict[int, list[int]] = {}  # a client's own number of retries, and how many requests hold it at none


@contextlib.contextmanager
def _without_client_retries(model: object) -> Iterator[None]:
    clients = {id(client): client for client in _clients(model)}
    for key, client in clients.items():
        held = _HELD.setdefault(key, [client.max_retries, 0])
        held[1] += 1
        client.max_retries = 0
    try:
        yield
    finally:
        for key, client in clients.items():
            held = _HELD[key]
            held[1] -= 1
            if not held[1]:
                client.max_retries = _HELD.pop(key)[0]


def _clients(model: object) -> Iterator[Any]:
    """The clients (of `openai`, `anthropic` and alike) behind a model, through wrappers and fallbacks."""
    models, seen = [model], set[int]()
    while models:
        each = models.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        client = getattr(each, "client", None)
        if type(getattr(client, "max_retries", None)) is int:
            yield client
        models += [getattr(each, "wrapped", None), *getattr(each, "models", ())]


def _usage(payload: Mapping[str, Any]) -> Usage:
    counts = payload.get("usage") or {}
    return Usage(
        provider=payload.get("provider_name") or "",
        model=payload.get("model_name") or "",
        input_tokens=counts.get("input_tokens") or 0,
        output_tokens=counts.get("output_tokens") or 0,
        cached_tokens=counts.get("cache_read_tokens") or 0,
        cache_write_tokens=counts.get("cache_write_tokens") or 0,
        reasoning_tokens=(counts.get("details") or {}).get("reasoning_tokens") or 0,
        finish_reason=payload.get("finish_reason") or "",
    )


def _tool_config(tool: ToolsetTool[Any] | None, name: str) -> ToolConfig | Literal[False]:
    if tool is None:
        return {}
    if runs_in_handler(_function(tool, name)):
        return False
    config = (tool.tool_def.metadata or {}).get(_KEY, {})
    if config is False:
        return False
    if not isinstance(config, Mapping) or set(config) - {"retry"}:
        raise TypeError(
            f"tool {name}: metadata[{_KEY!r}] must be False or {{'retry': RetryPolicy(...)}}, not {config!r}"
        )
    return cast(ToolConfig, config)


def _function(tool: ToolsetTool[Any], name: str) -> object:
    """The user's function behind a tool, if there is one."""
    toolset = tool.toolset
    while isinstance(toolset, WrapperToolset):
        toolset = toolset.wrapped
    if not isinstance(toolset, FunctionToolset):
        return None
    known = toolset.tools.get(getattr(tool, "original_name", None) or name)
    return None if known is None else known.function


class _Other(WrapperToolset[AgentDepsT]):
    """A toolset of the user's own class: what it lists is the handler's affair, what it calls is a step."""

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[AgentDepsT], tool: ToolsetTool[AgentDepsT]
    ) -> Any:
        call = self.wrapped.call_tool
        config = _tool_config(tool, name)
        if durable_context() is None or config is False:
            return await call(name, tool_args, ctx, tool)

        async def body() -> object:
            return JSON_CODEC.dump(CallToolResult, await wrap_tool_call_result(call(name, tool_args, ctx, tool)))

        payload = await tool_call(name, body, call_id=ctx.tool_call_id, retry=config.get("retry"))
        return unwrap_tool_call_result(JSON_CODEC.load(CallToolResult, payload))
