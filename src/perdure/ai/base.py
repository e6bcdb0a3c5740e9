"""What an integration of an agent framework is made of: durable model calls, durable tool calls, and where they apply.

Where code runs decides what becomes of it, and `durable_context()` tells:

* in a handler: model calls and tools are steps, `ctx.run(...)`, and what they return is journaled;
* in a step (a tool that is one): as the framework alone; the step is the unit that is repeated or not;
* anywhere else: as the framework alone.

An integration calls `model_call` around the request that the framework makes, and `tool_call` around a tool's body.
Both do the right thing in all three places, so they can be called unconditionally:

    async def get_response(self, *args):                                    # the framework's model interface
        return await model_call(
            self.name, lambda: self.wrapped.get_response(*args), type=ModelResponse, usage=usage_of, provider="openai"
        )

    async def invoke(arguments):                                            # the framework's tool interface
        return await tool_call(tool.name, lambda: tool.invoke(arguments), function=tool.function, call_id=call.id)

Guarantees, in a handler: a call whose result is journaled is never made again. One that was cut off in flight is made
again, with the same `current_step().token` (hand it on as the idempotency key). Results come back as their bytes say,
live as on replay, so both see the same. Several calls awaited at once (`gather`) run in parallel.

In a plain `def` handler the context is a `SyncContext`: use `model_call_sync` and `tool_call_sync`, or the async ones
if the framework brings its own event loop into the handler's thread (`agent.run_sync()`); each call then blocks that
thread, so they run one after the other. A blocking call in an async handler is refused with `NonDurableOperation`: it
would hold up every other handler, and no journal could hold it.
"""

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar, cast, get_type_hints

from perdure.ai.provider_errors import classify
from perdure.ai.records import ControlFlow, Record, RecordSerde, Usage
from perdure.ai.showing import showing
from perdure.ai.spans import span_of_handler
from perdure.ai.usage import before_model_call, priced, spend, told_by
from perdure.errors import NonDurableOperation, TerminalError
from perdure.model.services import RetryPolicy
from perdure.model.tracing import SPAN
from perdure.sdk.context import Context, current_context
from perdure.sdk.serde import Serde, SerdeError, serde_for
from perdure.sdk.steps import current_step
from perdure.sdk.threads import SyncContext

__all__ = [
    "ModelSteps",
    "collect",
    "count_model_steps",
    "durable_call",
    "durable_call_sync",
    "durable_context",
    "ends_invocation",
    "in_handler",
    "model_call",
    "model_call_sync",
    "refuse_in_handler",
    "runs_in_handler",
    "tool_call",
    "tool_call_sync",
]

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__perdure_in_handler__"
_COUNTING: contextvars.ContextVar["tuple[ModelSteps, ...]"] = contextvars.ContextVar("perdure_model_steps", default=())


# -- where -----------------------------------------------------------------------------------------


def durable_context() -> Context | SyncContext | None:
    """The context of the handler that this code runs in; None in a step, and outside of handlers.

    None means: behave as the framework alone. A `SyncContext` means a plain `def` handler: its operations block.
    """
    try:
        return current_context()
    except LookupError:
        return None


def refuse_in_handler(operation: str) -> None:
    """Raise `NonDurableOperation` if this is a handler; for what an integration can't make durable.

    `operation` is the subject of the sentence "... is not durable: it would be done again on every replay". The
    invocation is paused with it, not failed: after a fix it can go on. In a step and elsewhere nothing happens.
    """
    if durable_context() is not None:
        raise NonDurableOperation(operation)


class ModelSteps:
    """How many model calls were made steps: see `count_model_steps`."""

    def __init__(self) -> None:
        self.total = 0

    def require(self, calls: int, run: str) -> None:
        """Raise `NonDurableOperation` if the framework made more model calls than there were steps.

        `calls` is the framework's own count (its usage, its messages), `run` names the run: "Runner.run(...)".
        """
        if self.total < calls:
            raise NonDurableOperation(f"{run}: {calls - self.total} of its {calls} model calls went around the journal")


@contextlib.contextmanager
def count_model_steps() -> Iterator[ModelSteps]:
    """Count the model calls that become steps within the block, in whatever tasks; also those of nested agents.

    The guard against a framework that finds a way around the integration: compare with what the framework counted.
    Model calls answered from the journal count as well.
    """
    counted = ModelSteps()
    token = _COUNTING.set((*_COUNTING.get(), counted))
    try:
        yield counted
    finally:
        _COUNTING.reset(token)


def ends_invocation(error: E, code: int = 500) -> E:
    """The framework's exception, which ends the invocation as a `TerminalError` would if no handler catches it.

    For what would come to the same on replay: turns or retries of the model that are used up, limits. It stays the
    exception it is, and can be caught as such; what it was caused by, in the end, is a `TerminalError` now.
    """
    last: BaseException = error
    for _ in range(64):
        if last.__cause__ is None or isinstance(last, TerminalError):
            break
        last = last.__cause__
    if not isinstance(last, TerminalError):
        last.__cause__ = TerminalError(f"{type(error).__name__}: {error}", code)
    return error


# -- tools that want the handler's context ---------------------------------------------------------


def in_handler(function: F) -> F:
    """Marks a tool whose body runs in the handler, not in a step: it may use the context, and what it does is durable.

        @agent.tool_plain          # or @function_tool, @tool, ...: the framework's decorator goes on top
        @in_handler
        async def ask_a_human(question: str) -> str:
            approval = current_context().awakeable(str)
            await current_context().run("ask", post, question, approval.id)
            return await approval                                           # may be days

    Calls of other handlers, sleeps, awakeables, steps, and agents of its own are all allowed in it. Anything else that
    touches the world has to be a step: a socket is refused, as in every handler.
    """
    setattr(function, _MARK, True)
    return function


def runs_in_handler(function: object) -> bool:
    """Whether the tool was marked with `in_handler`; looks through methods, partials and `functools.wraps`."""
    return any(getattr(layer, _MARK, False) is True for layer in _layers(function))


def _layers(function: object) -> Iterator[object]:
    for _ in range(32):
        if function is None:
            return
        yield function
        if isinstance(function, partial):
            function = function.func
        else:
            function = getattr(function, "__wrapped__", None) or getattr(function, "__func__", None)


# -- calls -----------------------------------------------------------------------------------------


async def durable_call(
    name: str,
    call: Callable[[], Any],
    *,
    type: Any = None,
    serde: Serde[Any] | None = None,
    usage: Callable[[Any], Usage | None] | None = None,
    provider: str = "",
    retry: RetryPolicy | None = None,
    control_flow: Sequence[ControlFlow[Any]] = (),
    in_thread: bool = False,
) -> Any:
    """Ask a provider for something that is no model's answer (a list of files, say): in a handler a step `name`.

    Everything else is as of `model_call`.
    """
    context = durable_context()
    if context is None:
        return await _as_ever(call, in_thread)
    step = _Step(call, provider, usage, control_flow, in_thread)
    with step.traced():
        record = await _ran(context.run(name, step.function, retry=retry, serde=_record_serde(type, serde)))
    return step.outcome(record)


def durable_call_sync(
    name: str,
    call: Callable[[], T],
    *,
    type: Any = None,
    serde: Serde[Any] | None = None,
    usage: Callable[[Any], Usage | None] | None = None,
    provider: str = "",
    retry: RetryPolicy | None = None,
    control_flow: Sequence[ControlFlow[Any]] = (),
) -> T:
    """`durable_call` for clients that block: for plain `def` handlers. `call` runs in a worker thread.

    Raises `NonDurableOperation` in an async handler.
    """
    context = _blocking(f"a blocking call ({name}) in an async handler")
    if context is None:
        return call()
    step = _Step(call, provider, usage, control_flow, in_thread=True)
    with step.traced():
        record = context.run(name, step.function, retry=retry, serde=_record_serde(type, serde))
    return cast(T, step.outcome(record))


async def model_call(
    model: str,
    call: Callable[[], Any],
    *,
    type: Any = None,
    serde: Serde[Any] | None = None,
    usage: Callable[[Any], Usage | None] | None = None,
    provider: str = "",
    retry: RetryPolicy | None = None,
    control_flow: Sequence[ControlFlow[Any]] = (),
    in_thread: bool = False,
) -> Any:
    """Ask a model: in a handler a step named `model <model>`, elsewhere just `call()`.

    `call` takes nothing and makes the request with the client's own retries off (perdure's policy retries, across
    restarts too). It may return an awaitable; with `in_thread` it blocks and runs in a worker thread. The response
    is written by `serde`, else as `type` says, else as plain JSON; what it must keep is everything that the framework
    reads from it later, provider details and usage included. `usage` reads the tokens from the response; they are kept
    with the result (`records`).

    Errors of the provider become `TerminalError` or are retried under `retry`, else the invocation's policy, after the
    time that the provider asks for: see `provider_errors`. Exceptions of `control_flow` are results, raised again.
    """
    _count()
    before_model_call()
    return await durable_call(
        f"model {model}",
        call,
        type=type,
        serde=serde,
        usage=told_by(usage, provider, model),
        provider=provider,
        retry=retry,
        control_flow=control_flow,
        in_thread=in_thread,
    )


def model_call_sync(
    model: str,
    call: Callable[[], T],
    *,
    type: Any = None,
    serde: Serde[Any] | None = None,
    usage: Callable[[Any], Usage | None] | None = None,
    provider: str = "",
    retry: RetryPolicy | None = None,
    control_flow: Sequence[ControlFlow[Any]] = (),
) -> T:
    """`model_call` for clients that block: for plain `def` handlers. `call` runs in a worker thread.

    Raises `NonDurableOperation` in an async handler.
    """
    _count()
    before_model_call()
    return durable_call_sync(
        f"model {model}",
        call,
        type=type,
        serde=serde,
        usage=told_by(usage, provider, model),
        provider=provider,
        retry=retry,
        control_flow=control_flow,
    )


async def tool_call(
    tool: str,
    call: Callable[[], Any],
    *,
    function: object = None,
    call_id: str | None = None,
    type: Any = None,
    serde: Serde[Any] | None = None,
    retry: RetryPolicy | None = None,
    control_flow: Sequence[ControlFlow[Any]] = (),
    in_thread: bool = False,
    shown: Callable[[Any], Any] | None = None,
) -> Any:
    """Use a tool: in a handler a step named `tool <tool> <call_id>`, elsewhere just `call()`.

    `function` is the user's own function, if the framework lets one see it: if it is marked with `in_handler` then
    `call` runs in the handler and is no step, and its annotation says how the result is written. `type` or `serde`
    have precedence; without any of them it is plain JSON, so a model comes back as a dict. A result that is not what
    the annotation says is plain JSON too.

    `call_id` is the model's id of this call. It must be the same on replay: one from a journaled model response is; one
    made up outside of a step is not.

    In the step, `current_step().token` is the idempotency key of this call. A `TerminalError` of the tool is raised
    here; any other exception is retried under `retry`, else the invocation's policy. A framework's own exceptions that
    are meant for the model or for the framework are to be named in `control_flow`.

    With a `call_id` the outcome is shown to the stream that the handler has named, if it has (`perdure.ai.showing`):
    what `shown` makes of it, if it is more than the tool's own result.
    """
    context = durable_context()
    if context is None:
        return await _as_ever(call, in_thread)
    if runs_in_handler(function):
        value = await _as_ever(call, in_thread=False)
        _show_result(call_id, value, shown)
        return value
    step = _Step(call, "", None, control_flow, in_thread, call_id, shown)
    written = _tool_serde(function, type, serde)
    with step.traced():
        record = await _ran(context.run(_tool_name(tool, call_id), step.function, retry=retry, serde=written))
    return step.outcome(record)


def tool_call_sync(
    tool: str,
    call: Callable[[], T],
    *,
    function: object = None,
    call_id: str | None = None,
    type: Any = None,
    serde: Serde[Any] | None = None,
    retry: RetryPolicy | None = None,
    control_flow: Sequence[ControlFlow[Any]] = (),
    shown: Callable[[T], Any] | None = None,
) -> T:
    """`tool_call` for plain `def` handlers; `call` runs in a worker thread. See there, and `model_call_sync`."""
    if durable_context() is None:
        return call()
    if runs_in_handler(function):
        value = call()
        _show_result(call_id, value, shown)
        return value
    context = _blocking(f"a blocking call (tool {tool}) in an async handler")
    assert context is not None
    step = _Step(call, "", None, control_flow, True, call_id, shown)
    written = _tool_serde(function, type, serde)
    with step.traced():
        record = context.run(_tool_name(tool, call_id), step.function, retry=retry, serde=written)
    return cast(T, step.outcome(record))


async def collect(stream: AsyncIterator[T], on_item: Callable[[T], object] | None = None) -> list[T]:
    """Everything that a stream gives, to be a model call's result; `on_item` sees each item as it comes.

    A handler sees a step's result when it is journaled, so a stream reaches it whole. `on_item` runs in the step: live,
    once per attempt, and not on replay. A stream that is cut raises, and the step is tried again from its beginning:
    `current_step().attempt` tells the attempts apart.
    """
    items: list[T] = []
    async for item in stream:
        items.append(item)
        if on_item is not None:
            seen = on_item(item)
            if inspect.isawaitable(seen):
                await seen
    return items


class _Step:
    """The function of one step: calls, and makes of the outcome a `Record` or an error that says what to do."""

    def __init__(
        self,
        call: Callable[[], Any],
        provider: str,
        usage: Callable[[Any], Usage | None] | None,
        control_flow: Sequence[ControlFlow[Any]],
        in_thread: bool,
        tool_call_id: str | None = None,
        shown: Callable[[Any], Any] | None = None,
    ) -> None:
        self._call = call
        self._shown = shown
        self._tool_call_id = tool_call_id
        self._span = span_of_handler()
        self._provider = provider
        self._usage = usage
        self._control_flow = control_flow
        self.function: Callable[[], Any] = self._in_thread if in_thread else self._on_loop

    async def _on_loop(self) -> Record:
        try:
            value = self._call()
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:
            return self._caught(error)
        return self._record(value)

    def _in_thread(self) -> Any:
        try:
            value = self._call()
        except Exception as error:
            return self._caught(error)
        return self._awaited(value) if inspect.isawaitable(value) else self._record(value)

    async def _awaited(self, value: Awaitable[Any]) -> Record:
        try:
            return self._record(await value)
        except Exception as error:
            return self._caught(error)

    def _record(self, value: Any) -> Record:
        _show_result(self._tool_call_id, value, self._shown)
        usage = None if self._usage is None else self._usage(value)
        return Record(value, usage=None if usage is None else priced(usage, current_step().attempt), span=self._span)

    def _caught(self, error: Exception) -> Record:
        for flow in self._control_flow:
            if isinstance(error, flow.kind):
                return Record(raised=(flow.label, flow.dump(error)), span=self._span)
        known = classify(error, self._provider)
        if isinstance(known or error, TerminalError) and self._tool_call_id and (shown := showing()) is not None:
            shown.tool_error(self._tool_call_id, str(known or error))
        if isinstance(known or error, TerminalError) and self._span:
            known = _below(cast(TerminalError, known or error), self._span)
        if known is None or known is error:
            raise error
        raise known from error

    @contextlib.contextmanager
    def traced(self) -> Iterator[None]:
        """The step's failure is the handler's without what it says to the trace."""
        try:
            yield
        except TerminalError as failure:
            failure.metadata.pop(SPAN, None)
            raise

    def outcome(self, record: Record) -> Any:
        if record.usage is not None:
            spend(record.usage)
        if record.raised is None:
            return record.value
        label, data = record.raised
        flow = next((flow for flow in self._control_flow if flow.label == label), None)
        if flow is None:
            raise SerdeError("deserialize", label, "the journal has control flow that this code does not know")
        raise flow.load(data)


def _below(failure: TerminalError, span: str) -> TerminalError:
    """The failure, as it is journaled where the handler is traced: it has no record that could say the span above."""
    return TerminalError(failure.message, failure.code, {**failure.metadata, SPAN: span})


async def _as_ever(call: Callable[[], Any], in_thread: bool) -> Any:
    value = await asyncio.to_thread(call) if in_thread else call()
    return await value if inspect.isawaitable(value) else value


async def _ran(step: Any) -> Record:
    """What `run` of a context gives: an awaitable, or of a `SyncContext` the result."""
    return cast(Record, await step if inspect.isawaitable(step) else step)


def _blocking(operation: str) -> SyncContext | None:
    context = durable_context()
    if isinstance(context, Context):
        raise NonDurableOperation(operation)
    return context


def _show_result(call_id: str | None, value: Any, shown: Callable[[Any], Any] | None) -> None:
    if call_id and (readers := showing()) is not None:
        readers.tool_result(call_id, value if shown is None else shown(value))


def _count() -> None:
    counting = _COUNTING.get()
    if counting and durable_context() is not None:
        for counted in counting:
            counted.total += 1


def _tool_name(tool: str, call_id: str | None) -> str:
    return f"tool {tool} {call_id}" if call_id else f"tool {tool}"


def _record_serde(type: Any, serde: Serde[Any] | None) -> RecordSerde:
    return RecordSerde(serde_for(type) if serde is None else serde)


def _tool_serde(function: object, type: Any, serde: Serde[Any] | None) -> RecordSerde:
    if serde is not None or type is not None or function is None:
        return _record_serde(type, serde)
    innermost = list(_layers(function))[-1]
    return RecordSerde(_annotated(innermost) if isinstance(innermost, Hashable) else serde_for(None), lenient=True)


@lru_cache(maxsize=4096)
def _annotated(function: Any) -> Serde[Any]:
    try:
        hint = get_type_hints(function).get("return")
        return serde_for(None if isinstance(hint, TypeVar) else hint)
    except (NameError, TypeError, AttributeError, SerdeError):  # what cannot be written as it says is plain JSON
        return serde_for(None)
