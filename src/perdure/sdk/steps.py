"""Steps: the functions that `ctx.run` was given, run outside the handler's loop, each until it has a result.

An async function runs as a task of the real event loop, a plain one in a worker thread. A step that fails is
tried again here, in memory, so that its neighbours in the same handler go on undisturbed; only when nothing else
is left to do for a long while is the attempt given back to the engine (`driver`).
"""

import asyncio
import contextvars
import inspect
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol

from perdure.errors import RetryableError, TerminalError
from perdure.model.entries import Failure, Value
from perdure.model.ids import format_invocation_id
from perdure.model.invocation import AttemptFailure
from perdure.model.services import RetryPolicy
from perdure.protocol.control import Start
from perdure.sdk import tracing
from perdure.sdk.serde import Serde, SerdeError, serde_for

if TYPE_CHECKING:
    from perdure.sdk.streams import StepWrites

__all__ = ["Handle", "Host", "Step", "StepInfo", "current_step", "failure_of"]

_UNTYPED = serde_for(None)
STACK_LIMIT = 16 * 1024  # characters of a stack trace kept with a failure


class Handle(Protocol):
    def cancel(self) -> object: ...


class Host(Protocol):
    """What the process gives to handlers: its event loop, its clock, its threads, chance."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def step_threads(self) -> Executor | None: ...

    @property
    def handler_threads(self) -> Executor | None: ...

    @property
    def replay_always(self) -> bool:
        """Drop and replay every handler before each notification: finds what does not replay."""
        ...

    def now_ms(self) -> int: ...

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Handle: ...

    def chance(self) -> float: ...


class StepInfo:
    """What a step can know of itself: `name`, `attempt` (1, 2, ...), `token`.

    The token is the same for every attempt of this step and different for every other step of every invocation:
    hand it to the world as an idempotency key.
    """

    __slots__ = ("attempt", "identity", "name", "over", "writes")

    def __init__(self, name: str, attempt: int, identity: tuple[bytes, int]) -> None:
        self.name = name
        self.attempt = attempt
        self.identity = identity
        self.writes: StepWrites | None = None  # to streams
        self.over = False  # what its code still does, in a thread or a task left behind, counts for nothing

    @property
    def token(self) -> str:
        invocation, completion_id = self.identity
        return f"{format_invocation_id(invocation)}-{completion_id}"

    def __repr__(self) -> str:
        return f"StepInfo(name={self.name!r}, attempt={self.attempt}, token={self.token!r})"


_CURRENT: contextvars.ContextVar[StepInfo | None] = contextvars.ContextVar("perdure_step", default=None)


def current_step() -> StepInfo:
    """The step this code runs in. Raises `LookupError` outside of one."""
    info = _CURRENT.get()
    if info is None:
        raise LookupError("current_step() is known only inside a function given to ctx.run")
    return info


def current_info() -> StepInfo | None:
    """The step this code runs in, or None."""
    return _CURRENT.get()


def in_step() -> bool:
    """Whether this code runs in a step."""
    return _CURRENT.get() is not None


def clean(text: str) -> str:
    """The text, with what is no Unicode (a file name's stray bytes, say) written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _message(error: BaseException) -> str:
    """What the exception says; of a group, what its first member says too, for the group says nothing."""
    if isinstance(error, BaseExceptionGroup):
        first = error.exceptions[0]
        return f"{error}: {type(first).__name__}: {_message(first)}"
    return str(error)


def failure_of(error: BaseException, at: int) -> AttemptFailure:
    """An exception, as it is kept for whoever looks."""
    try:
        text = clean(_message(error))
    except Exception:
        text = "(it cannot be printed)"
    name = type(error).__name__
    stack = clean("".join(traceback.format_exception(error))[-STACK_LIMIT:])
    return AttemptFailure(f"{name}: {text}" if text else name, _code(getattr(error, "code", 500)), at, stacktrace=stack)


def terminal_failure(error: TerminalError) -> Failure:
    """A terminal error as it is journaled: with the types that a journal has, whatever its raiser put into it."""
    metadata = tuple((clean(str(name)), clean(str(value))) for name, value in error.metadata.items())
    return Failure(_code(error.code), clean(str(error.message)), metadata)


def _code(code: object) -> int:
    return code if type(code) is int and 0 <= code < 1 << 32 else 500


def _is_async(fn: Callable[..., Any]) -> bool:
    if type(fn) is FunctionType:  # by far the most; the general question costs a microsecond
        return bool(fn.__code__.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(fn)
    return inspect.iscoroutinefunction(fn)


class Step:
    """One step of one handler: what to run, how often it was tried, and whether it runs now."""

    __slots__ = (
        "abandoned",
        "args",
        "command_index",
        "completion_id",
        "context",
        "failure",
        "fn",
        "info",
        "is_async",
        "issued_at",
        "kwargs",
        "name",
        "replayed",
        "report",
        "retry",
        "retry_at",
        "serde",
        "start",
        "started_at",
        "task",
        "timer",
        "tries",
    )

    def __init__(
        self,
        completion_id: int,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: RetryPolicy | None,
        serde: Serde[Any],
        tries: int,
        issued_at: int,
        start: Start,
        report: "Callable[[Step, Value | Failure | BaseException], None]",
    ) -> None:
        self.completion_id = completion_id
        self.name = name
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.retry = retry
        self.serde = serde
        self.tries = tries
        self.issued_at = issued_at
        self.start = start
        self.report = report
        self.is_async = _is_async(fn)
        self.context = contextvars.copy_context()
        self.info: StepInfo | None = None
        self.task: asyncio.Task[None] | None = None
        self.timer: Handle | None = None
        self.retry_at: int | None = None
        self.started_at: int | None = None
        self.abandoned = False
        self.command_index: int | None = None
        self.failure: AttemptFailure | None = None  # of the last try
        self.replayed = False  # an earlier attempt had journaled its beginning

    def launch(self, host: Host) -> None:
        """Try it (again). To be called outside of the handler's loop."""
        self.retry_at = None
        self.timer = None
        if self.started_at is None:  # after tries in an earlier attempt, the journal knows best when the first was
            self.started_at = self.issued_at if self.tries else host.now_ms()
        self.tries += 1
        self.info = StepInfo(self.name, self.tries, (self.start.id, self.completion_id))
        self.context.run(_CURRENT.set, self.info)
        if self.start.trace:
            tracing.enter_step(self.context, self.start, self.completion_id)
        self.task = asyncio.Task(self._execute(host), loop=host.loop, name=f"step {self.name}", context=self.context)

    def back_off(self, host: Host, delay_ms: int, again: "Callable[[Step], None]") -> None:
        """Try it again after a while."""
        if self.timer is not None:
            self.timer.cancel()
        self.task = None
        self.retry_at = host.now_ms() + delay_ms
        self.timer = host.call_later(delay_ms, lambda: again(self))

    def abandon(self) -> None:
        """Nobody wants the result any more. A thread cannot be stopped; what it returns is not looked at."""
        self.abandoned = True
        if self.info is not None:
            self.info.over = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.task is not None and not self.task.done():
            self.task.cancel()

    @property
    def running(self) -> bool:
        return self.retry_at is None

    async def _execute(self, host: Host) -> None:
        outcome: Value | Failure | BaseException
        made: list[Any] = []
        try:
            if self.is_async:
                value = await self.fn(*self.args, **self.kwargs)
            else:
                value = await host.loop.run_in_executor(host.step_threads, self._in_thread, self.context.copy(), made)
                if inspect.isawaitable(value):
                    value = await value
            data = self.serde.serialize(value)
            if self.serde is not _UNTYPED:
                self.serde.deserialize(data)  # what cannot be read must not be journaled
            outcome = Value(data)
        except TerminalError as error:
            outcome = terminal_failure(error)
        except SerdeError as error:
            outcome = Failure(500, clean(f"step {self.name!r}: {error}"))
        except asyncio.CancelledError:
            if self.abandoned:
                _discard(made)
                return
            outcome = RetryableError(f"step {self.name!r} cancelled itself")
        except (KeyboardInterrupt, GeneratorExit):
            raise  # meant for the process, and for this coroutine
        except BaseException as error:  # a SystemExit too: a step must not take the engine along
            outcome = error
        if not self.abandoned:
            info = self.info
            assert info is not None, "it was launched"
            if info.writes is not None:
                outcome = info.writes.finish(outcome)
            info.over = True
            self.report(self, outcome)

    def _in_thread(self, context: contextvars.Context, made: list[Any]) -> Any:
        try:
            value = context.run(self.fn, *self.args, **self.kwargs)
        except StopIteration as error:  # no future can hold one
            raise RuntimeError(f"step {self.name!r} raised StopIteration") from error
        made.append(value)
        if self.abandoned:
            _discard(made)
        return value


def _discard(made: list[Any]) -> None:
    """Close the coroutines that a step's function has returned and nobody is there to await."""
    for value in made:
        if inspect.iscoroutine(value):
            value.close()
