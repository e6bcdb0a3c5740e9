"""Runs one attempt of a handler: its coroutine on a `HandlerLoop`, a `Machine` for its journal, its steps.

The driver has one rule: run the code until it can do nothing more, then give it the next notification. Around
that rule stands `advance`; everything that happens to an attempt (it begins, a notification comes, a worker
thread asks for something) ends in a call of it, from a plain callback of the real event loop.

When the code waits and no step of it runs, the attempt is *idle*. Once the engine has closed its side
(`close_input`) an idle attempt suspends: the coroutine is dropped, and what it waits for wakes a new attempt.

An attempt on the wire (`conversation`) differs from one in the engine's process in three things. After the end of the
input nothing comes, not even the record of a step's result: the attempt suspends on it. A step under the invocation's
policy is tried again by the server, which counts, shows and limits the attempts, unless other steps are at work here;
how often steps were tried before this attempt is known of the first one only: as often as attempts failed in a row.
And the journal has no clock: see `now_ms`.
"""

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from perdure.errors import (
    AttemptGone,
    JournalMismatch,
    NonDurableOperation,
    RetryableError,
    Suspended,
    TerminalError,
)
from perdure.model import entries as e
from perdure.model.ids import CANCEL_SIGNAL, format_invocation_id
from perdure.model.invocation import AttemptFailure, Waiting
from perdure.model.services import RetryPolicy
from perdure.model.streams import Chunk
from perdure.protocol.control import (
    AwaitingOn,
    End,
    Error,
    HandlerWrite,
    ProposeRun,
    ProposeStreamed,
    Said,
    Start,
    StepFailed,
    StepVoid,
    StepWrite,
    Suspension,
)
from perdure.protocol.machine import Machine
from perdure.sdk.eventloop import HandlerLoop, Timer
from perdure.sdk.serde import Serde, SerdeError
from perdure.sdk.service import HandlerDefinition
from perdure.sdk.steps import Host, Step, clean, failure_of, terminal_failure

__all__ = ["HandlerRun", "MakeMain"]

MakeMain = Callable[["HandlerRun"], Coroutine[Any, Any, Any]]
_log = logging.getLogger("perdure.handler")
_NONE: frozenset[str] = frozenset()
_BASE_CONTEXT = contextvars.Context()
_LONGEST_DELAY_S = 1e12  # before the next try; more is not a number of ms that fits its field, nor is not-a-number

running: "HandlerRun | None" = None  # whose code this thread executes now; read by the loop-lag watchdog


class HandlerRun:
    """One attempt. The engine calls `begin`, `notify`, `close_input` and `abort`, and is answered through `send`."""

    __slots__ = (
        "__weakref__",
        "_advancing",
        "_calls",
        "_cancel_when_known",
        "_draining",
        "_entries",
        "_exhausted",
        "_idle",
        "_in_doubt",
        "_input_closed",
        "_invocation_id",
        "_machine",
        "_make_main",
        "_named",
        "_now_at",
        "_pending",
        "_remote",
        "_send",
        "_signals",
        "_sleeping",
        "_unlaunched",
        "_writes",
        "_written",
        "arrived",
        "cancelled",
        "closed",
        "closed_streams",
        "definition",
        "host",
        "loop",
        "main",
        "spans",
        "start",
        "steps",
        "thread_busy",
    )

    def __init__(
        self,
        definition: HandlerDefinition,
        start: Start,
        send: Callable[[Said], None],
        host: Host,
        make_main: MakeMain,
    ) -> None:
        self.definition = definition
        self.start = start
        self.host = host
        self._send = send
        self._make_main = make_main
        self._invocation_id: str | None = None
        self.steps: dict[int, Step] = {}
        self._entries: list[e.Entry] | None = list(start.entries) if host.replay_always else None
        self._input_closed = False
        self._remote = not start.started_at
        self._in_doubt = start.failures if self._remote else 0  # tries of the step that will be launched first
        self._advancing = False
        self._draining = False
        self.closed = False
        self._written: dict[str, int] | None = None  # how often the handler has written to a stream, in all its replays
        self._exhausted: dict[Step, Error] = {}  # the steps that will not be tried again, and how the attempt then ends
        self._reset(start)

    def _reset(self, start: Start) -> None:
        """Stand at the beginning of the journal."""
        self._machine = Machine(start, self._record if self._entries is not None else self._send)
        machine = self._machine
        seed = start.random_seed
        loop = HandlerLoop(lambda: machine.time / 1000, seed, self._woken)  # type: ignore[abstract]  # the rest refuses
        self.loop = loop
        self._pending: dict[int, asyncio.Future[e.Result]] = {}
        self._signals: dict[int, asyncio.Future[e.Result]] = {}
        self._named: dict[str, deque[asyncio.Future[e.Result]]] = {}
        self.arrived: dict[int | str, deque[e.Result]] = {}
        self._sleeping: dict[int, Timer] = {}
        self._calls: dict[int, tuple[int, str | None]] = {}  # result id -> (id of the callee's id, callee's id)
        self._cancel_when_known: set[int] = set()
        self._unlaunched: list[Step] = []
        self._writes: dict[str, int] | None = None  # the same, in this one
        self.closed_streams: frozenset[str] = _NONE
        self._idle = False
        self._now_at: int | None = None  # how many notifications had been delivered when the clock was read last
        self.cancelled = False
        self.thread_busy = False
        self.spans = 0  # begun by the handler's code so far
        self.main: asyncio.Task[Any] | None = None

    def _record(self, message: Said) -> None:
        """`send` where everything is replayed: what went to the journal is kept for the next replay."""
        if hasattr(message, "TYPE"):
            assert self._entries is not None
            self._entries.append(message)  # type: ignore[arg-type]
        self._send(message)

    # The engine's side

    def begin(self) -> None:
        """Run the handler against the journal, as far as it goes."""
        self.main = self.loop.create_task(
            self._make_main(self), name=str(self.start.target), context=_BASE_CONTEXT.copy()
        )
        self.advance()

    def notify(self, notification: e.Notification) -> None:
        """The engine appended a notification."""
        if self.closed:
            return
        if self._entries is not None:
            if not self.thread_busy:
                self._replay(notification)
                return
            self._entries.append(notification)  # a thread cannot be dropped while it runs
        self._idle = False
        self._machine.feed(notification)
        self.advance()

    def _replay(self, notification: e.Notification) -> None:
        assert self._entries is not None
        self._entries.append(notification)
        self._machine.closed = True
        self.loop.abandon()
        self._reset(replace(self.start, entries=tuple(self._entries), seen=self._machine.seen))
        self.begin()

    def close_input(self) -> None:
        """Nothing more will come in this attempt: suspend as soon as the handler is idle."""
        self._input_closed = True
        if self.closed or self._advancing:
            return
        if self._idle:
            self._suspend()
        elif self._remote:
            self.advance()

    def drain(self) -> bool:
        """Start no more steps; whether none is running, so that hanging up now cuts nothing short."""
        self._draining = True
        return self.closed or all(step.task is None for step in self.steps.values())

    def abort(self) -> None:
        """The engine no longer listens."""
        if not self.closed:
            self._drop()

    def _woken(self, loop: HandlerLoop) -> None:
        """In a thread of somebody else's: it wants to go on with a handler that no journal could wake again."""
        with contextlib.suppress(RuntimeError):  # the process ends
            self.host.loop.call_soon_threadsafe(self._refuse_thread, loop)

    def _refuse_thread(self, loop: HandlerLoop) -> None:
        if loop is not self.loop:
            return  # the replay that came since has its own
        if self.closed:
            _log.error("%s: a thread came back to a handler that did not wait for it any more", self.start.target)
            return
        self._retry(NonDurableOperation("a thread that wakes the handler: waiting for what is done in another thread"))

    # The rule

    def advance(self) -> None:
        """Run the code until it can do nothing more, give it the next notification, and again."""
        global running
        self._advancing = True
        running = self
        try:
            loop, machine = self.loop, self._machine
            while True:
                if loop.ready:
                    loop.pump()
                if self.closed:
                    return
                if machine.failure is not None:
                    self._mismatch(machine.failure)
                    return
                if self.main is not None and self.main.done():
                    self._finish(self.main)
                    return
                if self.thread_busy:
                    return
                if loop.timers:
                    self._journal_timers()
                    if machine.failure is not None:
                        continue
                notification = machine.take()
                if notification is None:
                    break
                self._deliver(notification)
            if machine.replaying:
                failure = machine.stalled()
                assert failure is not None
                self._mismatch(failure)
                return
            self._rest()
        finally:
            self._advancing = False
            running = None

    def _rest(self) -> None:
        """The code waits. Start the steps it asked for; if none runs, the attempt is idle."""
        launched = False
        if not self._exhausted and not self._draining:
            unlaunched = self._unlaunched
            if unlaunched:
                self._unlaunched = []
                for step in unlaunched:
                    if not step.abandoned:
                        if step.replayed:
                            step.tries = max(step.tries, self._in_doubt)
                        self._in_doubt = 0
                        step.launch(self.host)
                        launched = True
                if launched:
                    return
        if self._exhausted:
            self._fail_when_quiet()
            return
        if self.steps and self._at_work():
            return
        self._idle = True
        self._send(AwaitingOn(self._waiting()))
        if self._input_closed:
            self._suspend()

    def _at_work(self) -> bool:
        """Whether a step runs, or has a result of which the journal will tell."""
        if self._remote and self._input_closed:
            return any(step.task is not None for step in self.steps.values())
        return any(step.running for step in self.steps.values())

    def _journal_timers(self) -> None:
        machine = self._machine
        time = machine.time
        for timer in self.loop.take_timers():
            delay_ms = max(0, round(timer.when_ * 1000) - time)
            completion_id = machine.completion_id()
            try:
                sleep = machine.issue(e.Sleep(self.host.now_ms() + delay_ms, completion_id, timer.name))
            except AttemptGone:
                return
            timer.completion_id = completion_id
            timer.wake_up_time = sleep.wake_up_time
            self._sleeping[completion_id] = timer
            machine.tell_time(sleep.wake_up_time - delay_ms)

    def _deliver(self, notification: e.Notification) -> None:
        if isinstance(notification, e.Signal):
            self._deliver_signal(notification)
            return
        completion_id = notification.completion_id
        future = self._pending.pop(completion_id, None)
        kind = notification.type
        if kind == e.RUN_COMPLETION:
            self.steps.pop(completion_id, None)
        elif kind == e.SLEEP_COMPLETION:
            timer = self._sleeping.pop(completion_id, None)
            if timer is not None:
                self._machine.time = max(self._machine.time, round(timer.when_ * 1000))
                self._machine.tell_time(timer.wake_up_time)
                self.loop.fire(timer)
        elif kind == e.CALL_COMPLETION:
            self._calls.pop(completion_id, None)
        elif kind == e.CALL_INVOCATION_ID_COMPLETION:
            self._callee_known(completion_id, notification.result)
        if future is not None and not future.done():
            future.set_result(notification.result)

    def _deliver_signal(self, notification: e.Signal) -> None:
        signal = notification.signal
        if signal == CANCEL_SIGNAL:
            self._cancel()
            return
        future: asyncio.Future[e.Result] | None = None
        if isinstance(signal, int):
            future = self._signals.pop(signal, None)
            if future is None and signal in self.arrived:
                return  # an awakeable is completed once
        else:
            waiting = self._named.get(signal)
            while waiting and (future is None or future.done()):
                future = waiting.popleft()
        if future is not None and not future.done():
            future.set_result(notification.result)
            if isinstance(signal, int):
                self.arrived[signal] = deque()
        else:
            self.arrived.setdefault(signal, deque()).append(notification.result)

    def _callee_known(self, completion_id: int, result: e.Result) -> None:
        assert isinstance(result, e.InvocationIdResult)
        for call, (identity, _) in self._calls.items():
            if identity == completion_id:
                self._calls[call] = (identity, result.invocation_id)
                if call in self._cancel_when_known:
                    self._cancel_callee(result.invocation_id)
                return

    def _cancel(self) -> None:
        """The invocation was cancelled: so are the calls it waits for, and its main task at its next await."""
        self.cancelled = True
        for call, (_, callee) in list(self._calls.items()):
            if callee is None:
                self._cancel_when_known.add(call)
            else:
                self._cancel_callee(callee)
        if self.main is not None:
            self.main.cancel()

    def _cancel_callee(self, callee: str) -> None:
        with contextlib.suppress(AttemptGone):  # a mismatch, found by `advance`
            self._machine.issue(e.SendSignal(callee, CANCEL_SIGNAL, e.VOID))

    # The handler's side

    @property
    def machine(self) -> Machine:
        """The journal's cursor, for the handler's code only: a step runs beside it and may not touch the journal."""
        if not self.loop.is_running() and not self.closed:
            raise TerminalError(
                "the context was used inside a step, or in another thread; a step cannot have steps of its own: "
                "do this in the handler, before or after the step"
            )
        return self._machine

    @property
    def repeating(self) -> bool:
        """Whether the handler's code does what an earlier attempt did, or is being dropped."""
        machine = self._machine
        return machine.closed or machine.repeating

    @property
    def journal_ms(self) -> int | None:
        """The journal's time, ms since the epoch; None if nothing in it says that. Written down nowhere."""
        return self._machine.wall_time

    @property
    def has_clock(self) -> bool:
        """Whether the journal has a clock, so that the time can be asked for anywhere."""
        return not self._remote

    def now_ms(self) -> int:
        """The journal's time, ms since the epoch.

        A journal on the wire has no clock. There the host's is read and written down as a sleep that is over: on
        replay the journal's word for it is the answer. Until the next notification is delivered the time stands still,
        as it does where there is a clock. The sleep's own completion is nobody's.
        """
        if not self._remote:
            return self._machine.time
        machine = self.machine
        if self._now_at != machine.seen:
            sleep = machine.issue(e.Sleep(self.host.now_ms(), machine.completion_id(), "now"))
            machine.tell_time(sleep.wake_up_time)
            self._now_at = machine.seen
        time = machine.wall_time
        assert time is not None
        return time

    @property
    def invocation_id(self) -> str:
        if self._invocation_id is None:
            self._invocation_id = format_invocation_id(self.start.id)
        return self._invocation_id

    def completion(self, completion_id: int) -> "asyncio.Future[e.Result]":
        """The future of a command's answer."""
        future: asyncio.Future[e.Result] = self.loop.create_future()
        self._pending[completion_id] = future
        return future

    def call(self, entry: e.Call) -> "asyncio.Future[e.Result]":
        """Issue a call; the future of its result."""
        self.machine.issue(entry)
        self._calls[entry.completion_id] = (entry.invocation_id_completion_id, None)
        self.completion(entry.invocation_id_completion_id)
        return self.completion(entry.completion_id)

    def signal(self, signal: int | str) -> "asyncio.Future[e.Result]":
        """The future of a signal: an awakeable's by number, or the next with a name."""
        assert self.loop.is_running(), "signals are for the handler's own code"
        future: asyncio.Future[e.Result] = self.loop.create_future()
        arrived = self.arrived.get(signal)
        if arrived:
            future.set_result(arrived.popleft())
        elif isinstance(signal, int):
            self._signals[signal] = future
        else:
            self._named.setdefault(signal, deque()).append(future)
        return future

    def step(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: RetryPolicy | None,
        serde: Serde[Any],
    ) -> "tuple[int, asyncio.Future[e.Result]]":
        """Issue a step, to be run unless the journal has its result; its completion id and the future of it."""
        machine = self.machine
        replayed = machine.replaying
        completion_id = machine.completion_id()
        machine.issue(e.Run(completion_id, name))
        future = self.completion(completion_id)
        if completion_id not in machine.settled and completion_id not in self.steps:
            step = Step(
                completion_id,
                name,
                fn,
                args,
                kwargs,
                retry,
                serde,
                self.start.step_attempts.get(completion_id, 0),
                self.host.now_ms() - self.start.since_progress_ms if self._remote else machine.time,
                self.start,
                self._step_done,
            )
            step.command_index = machine.command_index
            step.replayed = replayed
            self.steps[completion_id] = step
            self._unlaunched.append(step)
        return completion_id, future

    def write_stream(self, name: str, chunk: Chunk | None) -> None:
        """The handler's own code writes to a stream, or closes it; what is stored already is not written again."""
        if self.machine.closed:
            raise AttemptGone
        if name in self.closed_streams:
            raise TerminalError(f"stream {name!r} is closed", 409)
        if self._written is None:
            self._written = {}
        if self._writes is None:
            self._writes = {}
        ordinal = self._writes.get(name, 0)
        written = self._written.get(name)
        if written is None:
            head = self.start.streams.get(name)
            written = 0 if head is None else head.written
        if ordinal >= written:
            self._send(HandlerWrite(name, ordinal, chunk))
            written = ordinal + 1
        self._written[name] = written
        self._writes[name] = ordinal + 1
        if chunk is None:
            self.closed_streams |= {name}

    def send_write(self, message: StepWrite) -> None:
        """A step of this handler writes to a stream."""
        self._send(message)

    def abandon_step(self, completion_id: int) -> None:
        """The code no longer waits for a step."""
        if self._machine.closed:
            return  # it is dropped, not cancelled: the step may yet be wanted
        self._pending.pop(completion_id, None)
        step = self.steps.pop(completion_id, None)
        if step is not None:
            step.abandon()
            if step.info is not None and step.info.writes is not None:
                self._send(StepVoid(completion_id))
            if self._exhausted.pop(step, None) is not None and not self._exhausted:
                for other in self.steps.values():  # those that were not to be tried again are, now
                    if other.retry_at is not None:
                        other.back_off(self.host, max(0, other.retry_at - self.host.now_ms()), self._try_again)

    def _step_done(self, step: Step, outcome: e.Value | e.Failure | BaseException) -> None:
        if self.closed:
            return
        step.task = None
        streamed = step.info is not None and step.info.writes is not None
        if isinstance(outcome, e.Value | e.Failure):
            if streamed:
                self._send(ProposeStreamed(step.completion_id, outcome))
            else:
                self._machine.propose(ProposeRun(step.completion_id, outcome))
        else:
            if streamed:
                self._send(StepVoid(step.completion_id))
            self._step_failed(step, outcome)
        if self.closed:
            return
        if self._exhausted:
            self._fail_when_quiet()
        elif self._remote and self._input_closed:
            self.advance()

    def _step_failed(self, step: Step, error: BaseException) -> None:
        host, policy = self.host, step.retry or self.start.retry_policy
        failure = failure_of(error, host.now_ms())
        failure = AttemptFailure(
            failure.message,
            failure.code,
            failure.at,
            failure.stacktrace,
            step.command_index,
            step.name,
            e.Run.TYPE,
        )
        step.failure = failure
        elapsed_ms = host.now_ms() - (step.started_at or 0)
        too_long = policy.max_duration is not None and elapsed_ms >= policy.max_duration * 1000
        left_to_server = self._remote and step.retry is None
        exhausted = policy.exhausted(step.tries) and not left_to_server
        if isinstance(error, NonDurableOperation) or exhausted or too_long:
            if step.retry is not None:
                self._machine.propose(ProposeRun(step.completion_id, e.Failure(failure.code, failure.message)))
                return
            step.retry_at = host.now_ms()
            self._exhausted[step] = Error(failure, behavior=policy.on_exhausted, step_attempts=self._tries())
            return
        asked_ms = _asked_ms(error)
        if left_to_server and not self._unlaunched and not any(other.task for other in self.steps.values()):
            self._fail(Error(failure, asked_ms))
            return
        step.back_off(
            host, policy.delay_ms(step.tries, host.chance()) if asked_ms is None else asked_ms, self._try_again
        )
        self._send(StepFailed(failure, self._tries()))
        if not self._exhausted and not any(other.running for other in self.steps.values()):
            self._idle = True
            self._send(AwaitingOn(self._waiting()))
            if self._input_closed and not self.closed:
                self._suspend()

    def _try_again(self, step: Step) -> None:
        if not self.closed and not step.abandoned and not self._exhausted and not self._draining:
            self._idle = False
            step.launch(self.host)

    def _fail_when_quiet(self) -> None:
        """A step is beyond hope; the attempt ends with it once no other step is running: their work is kept."""
        if not any(step.task is not None for step in self.steps.values()):
            self._fail(next(iter(self._exhausted.values())))

    def _tries(self) -> dict[int, int]:
        """How often each step has failed. A try that still runs has not."""
        tries = {step.completion_id: step.tries - (step.task is not None) for step in self.steps.values()}
        return {completion_id: failed for completion_id, failed in tries.items() if failed}

    # Ends

    def final(self, error: BaseException) -> bool:
        """Whether the invocation ends with what its main task raised; otherwise it is tried again."""
        if isinstance(error, asyncio.CancelledError):
            return self.cancelled
        return _terminal(error) is not None

    def close_journal(self) -> None:
        """This attempt fails: nothing more that its code does is journaled."""
        self._machine.closed = True

    def _waiting(self) -> Waiting:
        completions = [identity for identity, future in self._pending.items() if not future.done()]
        completions += [identity for identity, timer in self._sleeping.items() if not timer.gone]
        signals = [signal for signal, future in self._signals.items() if not future.done()]
        names = [name for name, futures in self._named.items() if any(not future.done() for future in futures)]
        return Waiting(tuple(sorted(completions)), (CANCEL_SIGNAL, *signals), tuple(names))

    def _suspend(self) -> None:
        """Drop an idle handler; one whose steps all back off is given back to the engine until the first is due."""
        retries = [(step.retry_at, step.failure) for step in self.steps.values() if step.retry_at is not None]
        if retries:
            retry_at, failure = min(retries, key=lambda retry: retry[0])
            assert failure is not None
            delay_ms = max(0, retry_at - self.host.now_ms())
            self._fail(Error(failure, delay_ms=delay_ms, step_attempts=self._tries()))
            return
        waiting = self._waiting()
        if not waiting.completions and not waiting.names and waiting.signals == (CANCEL_SIGNAL,):
            _log.warning(
                "%s (%s) is suspended and waits for nothing that a journal knows: only a cancellation wakes it. "
                "What another thread, or another task of the process, was to tell it belongs into a step",
                self.start.target,
                self.invocation_id,
            )
        self._send(Suspension(waiting, self._machine.seen))
        self._drop()

    def _fail(self, error: Error) -> None:
        self._send(error)
        self._drop()

    def _mismatch(self, mismatch: JournalMismatch) -> None:
        failure = AttemptFailure(str(mismatch), mismatch.code, self.host.now_ms(), command_index=mismatch.command_index)
        self._fail(Error(failure, behavior="pause", step_attempts=self._tries()))

    def _finish(self, main: "asyncio.Task[Any]") -> None:
        """The handler is done: with a value, a terminal failure, or something to be tried again."""
        if main.cancelled():
            if not self.cancelled:
                self._retry(RetryableError("the handler was cancelled, though its invocation was not"))
                return
            result: e.Value | e.Failure = e.Failure(409, "cancelled")
        else:
            error = main.exception()
            if error is None:
                try:
                    result = e.Value(self.definition.output.serialize(main.result()))
                except Exception as problem:  # a user's serde may raise anything
                    result = e.Failure(500, clean(f"the result of {self.start.target} cannot be written: {problem}"))
            elif isinstance(error, AttemptGone | Suspended):
                self._drop()
                return
            else:
                terminal = _terminal(error)
                if terminal is None:
                    self._retry(error)
                    return
                result = terminal_failure(terminal)
        try:
            self._machine.issue(e.Output(result))
        except AttemptGone:
            assert self._machine.failure is not None
            self._mismatch(self._machine.failure)
            return
        self._send(End())
        self._drop()

    def _retry(self, error: BaseException) -> None:
        failure = failure_of(error, self.host.now_ms())
        behavior = "pause" if _beyond_retry(error) else "retry"
        self._fail(Error(failure, _asked_ms(error), behavior, self._tries()))

    def _drop(self) -> None:
        """Let go of everything; nothing of this attempt is heard of again."""
        self.closed = True
        self._machine.closed = True
        for step in self.steps.values():
            step.abandon()
        self.steps = {}
        self.loop.abandon()
        self._pending.clear()
        self._sleeping.clear()
        self._unlaunched.clear()
        self.main = None  # of a circle of references; without it all of this is freed at once, not by the collector


def _asked_ms(error: BaseException) -> int | None:
    """The delay (ms) before the next try that the exception asks for."""
    if not isinstance(error, RetryableError) or error.retry_after is None:
        return None
    return int(max(0.0, error.retry_after) * 1000) if error.retry_after < _LONGEST_DELAY_S else None


def _beyond_retry(error: BaseException) -> bool:
    """Whether no retry mends it, only new code: also where a library has wrapped it, as HTTP clients do."""
    known: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in known:
            continue
        if isinstance(link, NonDurableOperation | SerdeError):
            return True
        known.add(id(link))
        links += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
    return False


def _terminal(error: BaseException) -> TerminalError | None:
    """The terminal error in an exception, its causes, or all of its group; None if it is to be tried again."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TerminalError):
            return seen
        if isinstance(seen, BaseExceptionGroup):
            leaves = [_terminal(member) for member in seen.exceptions]
            return leaves[0] if leaves and all(leaf is not None for leaf in leaves) else None
        seen = seen.__cause__
    return None
