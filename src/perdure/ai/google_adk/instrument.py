"""The places where ADK touches the world, each made durable once, when this package is imported.

Every model (`BaseLlm`) and every tool (`BaseTool`), those to come included: so all kinds of agents are durable, agents
and plugins stay what they are, and callbacks run in the handler, around the step. ADK's clock, ids and random numbers
are the handler's. Outside of handlers, and in steps, each does what it did.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeVar

import msgspec
from google.adk.agents.base_agent import BaseAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.platform import _random as adk_random
from google.adk.platform import time as adk_time
from google.adk.platform import uuid as adk_uuid
from google.adk.sessions import InMemorySessionService
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.transfer_to_agent_tool import TransferToAgentTool
from pydantic_core import to_jsonable_python

from perdure.ai.base import collect, durable_context, model_call, tool_call
from perdure.ai.ids import make_ids_replay
from perdure.ai.instrumented import instrument, only_of_the_handler
from perdure.ai.records import Usage
from perdure.sdk.serde import Serde, serde_for

__all__ = ["durable", "install"]

A = TypeVar("A")

_RESPONSES: Final = serde_for(list[LlmResponse])
_ORCHESTRATION = (AgentTool, TransferToAgentTool)


def durable(agent: A) -> A:
    """The agent, durable in handlers; with its sub-agents, of every kind.

        root = durable(LlmAgent(name="guide", model="gemini-2.5-flash", tools=[weather]))

        @travel.handler()
        async def ask(ctx: Context, question: str) -> str:
            runner = InMemoryRunner(root, app_name="travel")
            ...
            async for event in runner.run_async(...):

    Every model call is a step, `model <name>`, and so is every tool, `tool <name> <call id>`: its result is journaled,
    with what it did to state and to the event's actions, and it is not made again. Tools that the model asks for
    together run in parallel. Agents used as tools, and tools marked with `in_handler`, run in the handler.

    The session service has to be one that the handler makes (`InMemorySessionService` is made anew by the replay).
    Raises `TypeError` if this is neither an agent nor a workflow of ADK.
    """
    if not isinstance(agent, BaseAgent) and not type(agent).__module__.startswith("google.adk."):
        raise TypeError(f"durable() takes an agent of google-adk, not {type(agent).__name__}")
    return agent


def install() -> None:
    """Make ADK durable in handlers."""
    instrument(BaseLlm, {"generate_content_async": _generate})
    instrument(BaseTool, {"run_async": _run_tool})
    sessions = ("create_session", "get_session", "list_sessions", "delete_session", "append_event")
    only_of_the_handler(InMemorySessionService, sessions, "make the runner and its sessions in the handler")
    make_ids_replay(
        "google.adk",
        {
            adk_uuid.new_uuid: _in_handler(adk_uuid.new_uuid, lambda context: str(context.uuid())),
            adk_time.get_time: _in_handler(adk_time.get_time, lambda context: context.now().timestamp()),
            adk_random.get_random: _in_handler(adk_random.get_random, lambda context: context.random),
        },
    )


def _in_handler(original: Callable[[], Any], ours: Callable[[Any], Any]) -> Callable[[], Any]:
    def read() -> Any:
        context = durable_context()
        return original() if context is None else ours(context)

    return read


def _generate(original: Callable[..., Any]) -> Callable[..., Any]:
    async def generate_content_async(self: BaseLlm, *args: Any, **kwargs: Any) -> AsyncIterator[LlmResponse]:
        if durable_context() is None:
            async for response in original(self, *args, **kwargs):
                yield response
            return

        async def ask() -> list[LlmResponse]:
            return await collect(original(self, *args, **kwargs))

        def usage(responses: list[LlmResponse]) -> Usage | None:
            return _usage(self.model, responses)

        for response in await model_call(self.model, ask, serde=_RESPONSES, usage=usage, provider="google"):
            yield response

    return generate_content_async


def _usage(model: str, responses: list[LlmResponse]) -> Usage | None:
    """The tokens; of a stream's responses the last one has them all."""
    counted = next((each.usage_metadata for each in reversed(responses) if each.usage_metadata is not None), None)
    if counted is None:
        return None
    return Usage(
        provider="google",
        model=model,
        input_tokens=counted.prompt_token_count or 0,
        output_tokens=(counted.candidates_token_count or 0) + (counted.thoughts_token_count or 0),
        cached_tokens=counted.cached_content_token_count or 0,
        reasoning_tokens=counted.thoughts_token_count or 0,
    )


def _run_tool(original: Callable[..., Any]) -> Callable[..., Any]:
    async def run_async(self: BaseTool, *, args: dict[str, Any], tool_context: Any) -> Any:
        async def call() -> Any:
            return await original(self, args=args, tool_context=tool_context)

        if durable_context() is None or isinstance(self, _ORCHESTRATION) or type(self).__name__.startswith("_"):
            return await call()
        function = getattr(self, "func", None) or type(self).run_async

        async def step() -> tuple[Any, dict[str, Any]]:
            result = await call()
            return result, tool_context.actions.model_dump(mode="json", exclude_defaults=True)

        call_id = getattr(tool_context, "function_call_id", None)
        outcome = await tool_call(self.name, step, function=function, call_id=call_id, serde=_OUTCOME)
        if not isinstance(outcome, _Outcome):  # a tool marked with in_handler is no step
            return outcome[0]
        _apply(tool_context, outcome.actions)
        return outcome.result

    return run_async


def _apply(tool_context: Any, kept: dict[str, Any]) -> None:
    """Do to the event's actions and to the state what the tool did: on replay, and as written also live."""
    actions = type(tool_context.actions).model_validate(kept)
    for name in actions.model_fields_set - {"state_delta"}:
        setattr(tool_context.actions, name, getattr(actions, name))
    for name, value in actions.state_delta.items():
        tool_context.state[name] = value


class _Outcome(msgspec.Struct):
    result: Any
    actions: dict[str, Any]


class _OutcomeSerde:
    """A tool's result and its event's actions, as JSON."""

    content_type: Final = "application/json"

    def serialize(self, outcome: tuple[Any, dict[str, Any]]) -> bytes:
        result, actions = outcome
        return msgspec.json.encode(_Outcome(to_jsonable_python(result, fallback=str), actions))

    def deserialize(self, data: bytes) -> _Outcome:
        return msgspec.json.decode(data, type=_Outcome)

    def schema(self) -> dict[str, Any] | None:
        return None


_OUTCOME: Final[Serde[Any]] = _OutcomeSerde()
