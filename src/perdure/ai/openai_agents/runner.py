"""`DurableRunner`: the framework's Runner, with its methods and their parameters."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from agents import (
    Agent,
    AgentsException,
    MultiProvider,
    RunConfig,
    Runner,
    RunResult,
    RunResultStreaming,
    RunState,
    Session,
)
from agents.run import DEFAULT_MAX_TURNS, AgentRunner, get_default_agent_runner, set_default_agent_runner

from perdure.ai.base import ModelSteps, count_model_steps, durable_context, refuse_in_handler
from perdure.ai.openai_agents.sessions import in_steps
from perdure.ai.spans import AgentRun, agent_run
from perdure.errors import NonDurableOperation, RetryableError, TerminalError
from perdure.sdk.serde import SerdeError

__all__ = ["DurableRunner", "install"]


class _Durably(AgentRunner):
    """What every run goes through once this package is imported, also those inside of guardrails and tools."""

    def __init__(self, framework: AgentRunner) -> None:
        self._framework = framework

    async def run(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        if durable_context() is None:
            return await self._framework.run(starting_agent, input, **options)
        with count_model_steps() as steps, _final(), agent_run(starting_agent.name, "openai-agents"):
            result = await self._framework.run(starting_agent, input, **_in_handler(options))
            _check(steps, input, result)
            return result

    def run_sync(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        if durable_context() is None:
            return self._framework.run_sync(starting_agent, input, **options)
        with count_model_steps() as steps, _final(), agent_run(starting_agent.name, "openai-agents"):
            result = self._framework.run_sync(starting_agent, input, **_in_handler(options))
            _check(steps, input, result)
            return result

    def run_streamed(self, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResultStreaming:
        if durable_context() is None:
            return self._framework.run_streamed(starting_agent, input, **options)
        run = AgentRun(starting_agent.name, "openai-agents")
        with count_model_steps() as steps, run.current():
            result = self._framework.run_streamed(starting_agent, input, **_in_handler(options))
        events = result.stream_events

        async def stream_events(*args: Any, **options: Any) -> AsyncIterator[Any]:
            try:
                with _final():
                    async for event in events(*args, **options):
                        yield event
                    _check(steps, input, result)
            finally:
                run.end()

        result.stream_events = stream_events  # type: ignore[method-assign]
        return result


_RUNNER = _Durably(get_default_agent_runner())


class DurableRunner(Runner):
    """Runs agents as `agents.Runner` does, and in a handler durably.

        @research.handler()
        async def answer(ctx: Context, question: str) -> str:
            result = await DurableRunner.run(agent, question)
            return result.final_output

    In a handler every model call and every tool is a step: its result is journaled, and it is not made again. Tools
    that the model asks for together run in parallel. Agents used as tools, and tools marked with `in_handler`, run in
    the handler, and what they do is durable in turn. What the framework raises (`MaxTurnsExceeded`, a guardrail's
    tripwire) can be caught; uncaught it ends the invocation, for another attempt would end the same. The framework's
    tracing is off: the journal is the trace, and a replay would send it again.

    Raises `NonDurableOperation` for what would go around the journal.
    """

    @classmethod
    async def run(cls, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        """`Runner.run`, with its parameters."""
        return await _RUNNER.run(starting_agent, input, **options)

    @classmethod
    def run_sync(cls, starting_agent: Agent[Any], input: Any, **options: Any) -> RunResult:
        """`Runner.run_sync`, with its parameters: for plain `def` handlers. Tools then run one after the other."""
        return _RUNNER.run_sync(starting_agent, input, **options)

    @classmethod
    def run_streamed(
        cls,
        starting_agent: Agent[Any],
        input: Any,
        context: Any = None,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        hooks: Any = None,
        run_config: Any = None,
        previous_response_id: str | None = None,
        auto_previous_response_id: bool = False,
        conversation_id: str | None = None,
        session: Session | None = None,
        *,
        error_handlers: Any = None,
    ) -> RunResultStreaming:
        """`Runner.run_streamed`, with its parameters. In a handler a response's events come when it is complete."""
        return _RUNNER.run_streamed(
            starting_agent,
            input,
            context=context,
            max_turns=max_turns,
            hooks=hooks,
            run_config=run_config,
            previous_response_id=previous_response_id,
            auto_previous_response_id=auto_previous_response_id,
            conversation_id=conversation_id,
            session=session,
            error_handlers=error_handlers,
        )


def install() -> None:
    """Have the framework's own `Runner` run in handlers as `DurableRunner` does."""
    set_default_agent_runner(_RUNNER)


def _in_handler(options: dict[str, Any]) -> dict[str, Any]:
    config = options.get("run_config")
    if isinstance(config, RunConfig):
        config = replace(config, tracing_disabled=True)
    else:
        # With a provider of its own the runner would close it in a task, also of a handler that is being dropped.
        config = {"model_provider": MultiProvider(), **(config or {}), "tracing_disabled": True}
    sandbox = config.sandbox if isinstance(config, RunConfig) else config.get("sandbox")
    if sandbox is not None:
        refuse_in_handler("a run in a sandbox (RunConfig.sandbox)")
    return {**options, "run_config": config, "session": in_steps(options.get("session"))}


def _check(steps: ModelSteps, input: Any, result: RunResult | RunResultStreaming) -> None:
    """That no model call went around the journal, whatever way the framework found."""
    before = len(getattr(input, "_model_responses", ())) if isinstance(input, RunState) else 0
    steps.require(len(result.raw_responses) - before, "DurableRunner.run")


@contextlib.contextmanager
def _final() -> Iterator[None]:
    """What the framework raises is the run's result: another attempt would replay to the same."""
    try:
        yield
    except AgentsException as error:
        if not any(isinstance(link, _KNOWN) for link in _chain(error)):
            error.__cause__ = TerminalError(f"{type(error).__name__}: {error}")
        raise


_KNOWN = (TerminalError, RetryableError, NonDurableOperation, SerdeError)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
