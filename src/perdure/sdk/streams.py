"""`ctx.stream(name)`: show what the handler does while it does it, chunk by chunk, to whoever reads along.

A write goes to the readers at once. What a step writes is stored with the step's result, in one row; if a try of the
step comes to nothing, so does what it wrote, and readers are told. What the handler writes outside of steps is stored
by itself, and not written again on replay.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from perdure.errors import Invalid, TerminalError
from perdure.model.entries import Failure, Value
from perdure.model.streams import RAW, STEP_LIMIT, Chunk, check_stream_name
from perdure.protocol.control import StepWrite
from perdure.sdk.serde import SerdeError, serde_for
from perdure.sdk.steps import StepInfo, current_info, terminal_failure

if TYPE_CHECKING:
    from perdure.sdk.driver import HandlerRun

__all__ = ["Stream", "current_stream"]

_encode = msgspec.json.Encoder().encode
_DEFAULT: contextvars.ContextVar["Stream | None"] = contextvars.ContextVar("perdure_stream", default=None)
_first_write = threading.Lock()


class Bridge(Protocol):
    """How a handler's thread has things done on its loop."""

    def ask(self, operation: Callable[[], Any]) -> Any: ...


def current_stream() -> "Stream":
    """The stream that `with stream.default():` has put here. Raises `LookupError` where there is none."""
    stream = _DEFAULT.get()
    if stream is None:
        raise LookupError("current_stream() is known only inside `with ctx.stream(name).default():`")
    return stream


class Stream:
    """One of the invocation's streams, by name. To be written from the handler, and from its steps, also in parallel.

    `path` is where the ingress serves it: `/restate/streams/{invocation id}/{name}`.
    """

    def __init__(self, run: "HandlerRun", name: str, bridge: Bridge | None = None) -> None:
        try:
            check_stream_name(name)
        except Invalid as error:
            raise TerminalError(error.message, 400) from None
        if not run.has_clock:
            raise TerminalError(
                "ctx.stream() works in handlers that run in the engine's process; this one is called over HTTP, "
                "and the protocol has no message for it",
                501,
            )
        self._run = run
        self._bridge = bridge
        self.name = name

    def __repr__(self) -> str:
        return f"Stream({self.name!r})"

    @property
    def id(self) -> str:
        """The id of the invocation whose stream it is; with the name, it is how readers find the stream."""
        return self._run.invocation_id

    @property
    def path(self) -> str:
        from urllib.parse import quote

        return f"/restate/streams/{self.id}/{quote(self.name, safe='')}"

    def write(self, chunk: Any) -> None:
        """Give readers a chunk: text, bytes, or any value that JSON can hold. Not a coroutine; costs microseconds.

        In a step (and the tasks and threads it starts by `asyncio`), the chunk belongs to this try of the step: it is
        stored with the step's result, or void with its failure. Outside of steps it is stored at once.

        Raises `TerminalError`: 400 for what cannot be written as JSON, 409 if the stream is closed or the step is
        over, 413 over 8 MiB in one step or 16 MiB in a stream. Raises `Overloaded` if all streams of the process
        together hold too much that is not stored yet; a step that fails by it is tried again.
        """
        data = _encoded(chunk)
        info = current_info()
        run = self._run
        if info is not None:
            writes = info.writes
            if writes is None:
                with _first_write:
                    writes = info.writes = info.writes or StepWrites(run, info)
            writes.write(self, data)
        elif self._bridge is not None:
            self._bridge.ask(lambda: run.write_stream(self.name, data))
        else:
            run.write_stream(self.name, data)

    def close(self) -> None:
        """Tell readers that nothing more will come, before the invocation ends. Only outside of steps."""
        if current_info() is not None:
            raise TerminalError("a stream is closed by the handler, not by one of its steps, which may run again", 400)
        run = self._run
        if self._bridge is not None:
            self._bridge.ask(lambda: run.write_stream(self.name, None))
        else:
            run.write_stream(self.name, None)

    @contextlib.contextmanager
    def default(self) -> Iterator["Stream"]:
        """Make this stream known as `current_stream()` to the code within, and to the steps it starts."""
        token = _DEFAULT.set(self)
        try:
            yield self
        finally:
            _DEFAULT.reset(token)


def _encoded(chunk: Any) -> Chunk:
    kind = type(chunk)
    try:
        if kind is str:
            return _encode(chunk)
        if chunk is None:
            return b"null"
        if kind is bytes:
            return RAW + bytes(chunk)
        serde = serde_for(kind if hasattr(kind, "__pydantic_validator__") else None)
        data: bytes = serde.serialize(chunk)
        return data
    except (SerdeError, ValueError, TypeError) as error:
        raise TerminalError(f"this cannot be written to a stream: {error}", 400) from error


class StepWrites:
    """What one try of a step writes. Threads hand their chunks to the event loop's, in order and many at a time."""

    __slots__ = ("_completion_id", "_error", "_info", "_loop_thread", "_pending", "_run", "_scheduled", "_size")

    def __init__(self, run: "HandlerRun", info: StepInfo) -> None:
        invocation, completion_id = info.identity
        if run.start.id != invocation:
            raise TerminalError("this stream belongs to another invocation than the step that writes to it", 400)
        self._run = run
        self._info = info
        self._completion_id = completion_id
        self._loop_thread: int | None = None
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            self._loop_thread = get_ident()
        self._pending: list[tuple[str, Chunk]] = []
        self._scheduled = False
        self._size = 0
        self._error: Exception | None = None

    def write(self, stream: Stream, data: Chunk) -> None:
        run, name = self._run, stream.name
        if stream._run is not run:
            raise TerminalError("this stream belongs to another attempt than the step that writes to it", 409)
        if self._info.over or run.closed:
            raise TerminalError(f"stream {name!r}: the step that writes is over", 409)
        if name in run.closed_streams:
            raise TerminalError(f"stream {name!r} is closed", 409)
        if self._error is not None:
            raise self._error
        if get_ident() != self._loop_thread:
            self._size += len(data)
            if self._size > STEP_LIMIT:
                raise TerminalError(f"a step may write {STEP_LIMIT:,} bytes to streams: split it into several", 413)
            self._pending.append((name, data))
            if not self._scheduled:
                self._scheduled = True
                run.host.loop.call_soon_threadsafe(self._flush)
            return
        if self._pending:
            self._flush()
        run.send_write(StepWrite(name, self._completion_id, (data,)))

    def _flush(self) -> None:
        self._loop_thread = get_ident()
        self._scheduled = False
        pending, self._pending = self._pending, []
        if self._info.over or self._error is not None:
            return
        try:
            start = 0
            for end in range(1, len(pending) + 1):
                if end == len(pending) or pending[end][0] != pending[start][0]:
                    chunks = tuple(data for _, data in pending[start:end])
                    self._run.send_write(StepWrite(pending[start][0], self._completion_id, chunks))
                    start = end
        except Exception as error:  # the thread that wrote is told at its next write, or the step when it is done
            self._error = error

    def finish(self, outcome: Value | Failure | BaseException) -> Value | Failure | BaseException:
        """The try is over; its outcome, unless what it wrote could not be taken."""
        self._flush()
        if self._error is None or not isinstance(outcome, Value):
            return outcome
        return terminal_failure(self._error) if isinstance(self._error, TerminalError) else self._error
