"""Runs attempts: opens the way to the handler, turns what it says into commands, gives it its notifications.

Attempts go in two lanes, in this process and elsewhere, each with a limit to how many are live; handlers may have a
lower one of their own (`concurrency`). Others wait their turn; when any wait, attempts that are idle are asked to
suspend, those idle longest first, so a thousand handlers that sleep do not keep the next one from running.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec.structs import replace

from perdure.model import entries as e
from perdure.model.actions import ReplayedJournal, StartAttempt
from perdure.model.commands import (
    Append,
    AppendCall,
    End,
    Fail,
    Invoke,
    Load,
    PartitionCommand,
    Pin,
    Propose,
    Suspend,
)
from perdure.model.deployments import Deployment
from perdure.model.ids import InvocationId, format_invocation_id, random_seed
from perdure.model.invocation import AttemptFailure, Invocation, Invoked, Waiting
from perdure.model.services import RetryPolicy
from perdure.model.tracing import STATE_MEMBER, Trace
from perdure.protocol import versions
from perdure.protocol.attempt import Attempt
from perdure.protocol.control import AwaitingOn, Error, Said, Start, StepFailed, Suspension
from perdure.runtime.clock import Clock, TimerHandle
from perdure.runtime.registry import Registry, Route
from perdure.runtime.streams import Streams
from perdure.telemetry.genai import MODEL_STEP
from perdure.telemetry.metrics import HandlerMetrics, Metrics
from perdure.transports.base import Duplex, Transport
from perdure.transports.remote import Remote

if TYPE_CHECKING:  # it needs OpenTelemetry, and is there only where tracing is on
    from perdure.telemetry.tracing import AttemptTrace, Tracing

__all__ = ["Invoker", "Running"]

_log = logging.getLogger("perdure.invocation")

PROGRESS: frozenset[type] = frozenset({StepFailed, AwaitingOn, Error, Suspension})
REMOTE_LIMIT = 4_000
LEAVING_LIMIT = 1_000
_OUTCOMES: dict[type, str] = {End: "completed", Suspend: "suspended", Fail: "failed"}
WRITES: frozenset[type] = frozenset({Append, AppendCall, Propose})

Key = tuple[int, int]  # partition, number of the invocation


class Lane:
    """Attempts that share a limit: how many are live, and which wait for room."""

    __slots__ = ("limit", "live", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.live = 0
        self.waiting: OrderedDict[Key, Invocation] = OrderedDict()


_NOTHING = Waiting()


class Live:
    """One attempt that runs now, since `since`. `pin` is the version under which its deployment is still to be pinned;
    0: it is. `steps` are those without a result: name, and since when. `trace` is None unless it is traced."""

    __slots__ = (
        "attempt",
        "duplex",
        "idle_timer",
        "info",
        "invocation",
        "key",
        "lane",
        "numbers",
        "pin",
        "route",
        "since",
        "steps",
        "submit",
        "trace",
        "waiting",
    )

    def __init__(
        self,
        key: Key,
        invocation: Invocation,
        route: Route,
        lane: Lane,
        attempt: Attempt,
        submit: Callable[[PartitionCommand], None],
        since: int,
        numbers: HandlerMetrics,
    ) -> None:
        self.key = key
        self.submit = submit
        self.since = since
        self.invocation = invocation
        self.route = route
        self.info = route.info
        self.lane = lane
        self.pin = 0
        self.attempt = attempt
        self.duplex: Duplex | None = None
        self.idle_timer: TimerHandle | None = None
        self.waiting = _NOTHING
        self.numbers = numbers
        self.steps: dict[int, tuple[str, int]] = {}
        self.trace: AttemptTrace | None = None


class Running(NamedTuple):
    """Of an attempt that runs now, for whoever looks: since when, and on which deployment (None: none
    that is stored, but this process)."""

    invocation: bytes
    since: int
    deployment: str | None


class Environment(Protocol):
    """What the invoker needs of the node."""

    @property
    def clock(self) -> Clock: ...

    def chance(self) -> float: ...

    def submit(self, partition: int, command: PartitionCommand) -> None: ...

    def submitter(self, partition: int) -> Callable[[PartitionCommand], None]: ...

    def address(self, entry: e.Call | e.OneWayCall, caller: bytes, at: int, trace: Trace | None = None) -> Invoke: ...


class Invoker:
    """The live attempts of a node. All methods run on the event loop's thread."""

    def __init__(
        self,
        environment: Environment,
        registry: Registry,
        transport: Transport,
        limit: int,
        remote: Remote | None = None,
        remote_limit: int = REMOTE_LIMIT,
        newest_version: int = versions.USUAL,
        metrics: Metrics | None = None,
        streams: Streams | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._transport = transport
        self._streams = streams
        self._remote = remote
        self._newest_version = newest_version
        self._here = Lane(limit)
        self._elsewhere = Lane(remote_limit)
        self._live: dict[Key, Live] = {}
        self._idle: OrderedDict[Key, Live] = OrderedDict()
        self._running: dict[tuple[str, str], int] = {}  # live attempts of handlers with a limit of their own
        self._held_back: dict[tuple[str, str], OrderedDict[Key, Invocation]] = {}
        self._stopping = False
        self.on_idle: Callable[[], None] | None = None
        self.tracing: Tracing | None = None
        self._leaving: dict[Key, AttemptTrace] = {}  # of attempts that are gone before their steps' results are on disk

    @property
    def live(self) -> int:
        """How many attempts run."""
        return len(self._live)

    def running(self) -> list[Running]:
        """The attempts that run."""
        found: list[Running] = []
        for live in self._live.values():
            deployment = live.route.deployment
            stored = deployment is not None and deployment.stored
            found.append(Running(live.invocation.id, live.since, deployment.id if deployment and stored else None))
        return found

    @property
    def live_elsewhere(self) -> int:
        """How many attempts run on deployments."""
        return self._elsewhere.live

    def live_by_handler(self) -> dict[tuple[str, str], int]:
        """How many attempts run of each handler, by service and name; not of those of which none does."""
        return Counter((live.info.service, live.info.name) for live in self._live.values())

    @property
    def waiting(self) -> int:
        """How many attempts wait for room."""
        lanes = len(self._here.waiting) + len(self._elsewhere.waiting)
        return lanes + sum(map(len, self._held_back.values()))

    @property
    def busy(self) -> bool:
        """Whether any attempt runs that is not idle, or could."""
        return len(self._live) > len(self._idle) or bool(self._here.waiting or self._elsewhere.waiting)

    def start(self, partition: int, action: StartAttempt) -> None:
        """Run an attempt, now or when there is room."""
        key = (partition, action.invocation.number)
        self.abort(partition, action.invocation.number)
        if self._stopping:
            return
        invocation = action.invocation
        route = self._registry.route(invocation.target, invocation.deployment)
        lane = self._here if route is None or route.deployment is None else self._elsewhere
        if lane.live >= lane.limit:
            # The journal is read again when its turn comes: a queue of journals has no bound.
            lane.waiting[key] = invocation
            self._make_room(lane)
            return
        self._open(key, invocation, action.journal)

    def _open(self, key: Key, invocation: Invocation, journal: ReplayedJournal | None) -> None:
        environment = self._environment
        target = invocation.target
        route = self._registry.route(target, invocation.deployment)
        if route is None:
            self._nowhere(key, invocation)
            return
        info = route.info
        lane = self._here if route.deployment is None else self._elsewhere
        name = (target.service, target.handler)
        if info.concurrency is not None:
            if self._running.get(name, 0) >= info.concurrency:
                self._held_back.setdefault(name, OrderedDict())[key] = invocation
                self._make_room(lane, name)
                return
            self._running[name] = self._running.get(name, 0) + 1
        attempt = Attempt(
            key[1],
            invocation.attempts,
            target,
            info.retry_policy,
            (lambda entry, at: environment.address(entry, invocation.id, at))
            if invocation.trace is None
            else (lambda entry, at: environment.address(entry, invocation.id, at, invocation.trace)),
        )
        now = environment.clock.now_ms()
        numbers = self.metrics.handler(target.service, target.handler)
        numbers.started += 1
        live = Live(key, invocation, route, lane, attempt, environment.submitter(key[0]), now, numbers)
        self._live[key] = live
        lane.live += 1
        if self.tracing is not None:
            deployment = route.deployment
            live.trace = self.tracing.attempt(invocation, now, None if deployment is None else deployment.id)
        if journal is None:
            environment.submit(key[0], Load(now, key[1], invocation.attempts))
        else:
            self._begin(live, journal)

    def _nowhere(self, key: Key, invocation: Invocation) -> None:
        """It can't be run now: its handler, or the deployment it is pinned to, may come back."""
        environment, target = self._environment, invocation.target
        at = environment.clock.now_ms()
        message = f"{target}: no such handler is registered"
        if invocation.deployment is not None:
            message = f"{target}: it began on deployment {invocation.deployment}, which is not registered any more"
        failure = AttemptFailure(message, 404, at, restate_code="RT0011")
        attempt = Attempt(key[1], invocation.attempts, target, RetryPolicy(max_attempts=None), self._no_address)
        environment.submit(key[0], attempt.fail(failure, at, environment.chance()))

    def _no_address(self, entry: e.Call | e.OneWayCall, at: int) -> Invoke:
        raise AssertionError("an attempt that never ran cannot call")

    def _begin(self, live: Live, journal: ReplayedJournal) -> None:
        invocation = live.invocation
        status = invocation.status
        assert isinstance(status, Invoked)
        origin = invocation.replays
        start = Start(
            invocation.id,
            invocation.target,
            journal.entries,
            None if live.info.lazy_state else journal.state,
            random_seed(origin.id),
            invocation.attempts,
            status.fruitless,
            origin.started_at,
            status.step_attempts,
            live.info.retry_policy,
            max(0, self._environment.clock.now_ms() - journal.grown_at) if status.fruitless and journal.grown_at else 0,
            status.seen,
            streams=journal.streams,
            kept=origin.kept,
        )
        trace = invocation.trace
        if trace is not None:
            state = f"{STATE_MEMBER},{trace.state}" if trace.state else STATE_MEMBER
            start = replace(start, trace=trace.context, trace_state=state)
            if live.trace is not None:
                live.trace.tries.update(status.step_attempts)
        if len(journal.entries) > 1:
            live.steps = _unfinished(journal.entries, live.since)
        for entry in reversed(journal.entries):
            if isinstance(entry, e.Output):  # an earlier attempt was cut off between its output and its end
                live.attempt.output = entry.result
            if not isinstance(entry, e.Completion | e.Signal):
                break
        try:
            deployment = live.route.deployment
            if deployment is None:
                if self._streams is not None:
                    live.attempt.open_outlet = partial(
                        self._streams.open, invocation.id, live.key, invocation.attempts, journal.streams
                    )
                live.duplex = self._transport.open(start, partial(self._receive, live))
            else:
                live.duplex = self._open_elsewhere(live, deployment, start)
                if live.duplex is None:
                    return
            live.duplex.begin()
        except Exception as error:
            self._broken(live, error)

    def _open_elsewhere(self, live: Live, deployment: Deployment, start: Start) -> Duplex | None:
        invocation = live.invocation
        version = invocation.protocol_version or versions.choose(
            deployment.oldest, deployment.newest, self._newest_version
        )
        if version is None or not deployment.oldest <= version <= deployment.newest:
            self._unspeakable(live, deployment, version)
            return None
        if invocation.deployment is None and deployment.stored:
            live.pin = version
        assert self._remote is not None, "deployments come from a node that can reach them"
        return self._remote.open(deployment, version, live.info, start, partial(self._receive, live))

    def _unspeakable(self, live: Live, deployment: Deployment, version: int | None) -> None:
        spoken = (
            f"deployment {deployment.id} speaks versions {deployment.oldest} to {deployment.newest} of the protocol"
        )
        if version is None:
            problem, code = f"{spoken}, and this server none of them", "RT0013"
        else:
            problem, code = f"{spoken}, and the invocation began with version {version}", "RT0014"
        at = self._environment.clock.now_ms()
        failure = AttemptFailure(f"[{code}] {problem}", 500, at, restate_code=code)
        live.submit(live.attempt.fail(failure, at, self._environment.chance()))
        live.numbers.failed += 1
        self._trace_end(live, "failed", failure)
        self._gone(live)

    def loaded(self, partition: int, action: StartAttempt) -> bool:
        """Whether this is the journal that a live attempt asked for; it then begins."""
        live = self._live.get((partition, action.invocation.number))
        if live is None or live.duplex is not None or action.journal is None:
            return False
        if live.attempt.attempt != action.invocation.attempts:
            return False
        self._begin(live, action.journal)
        return True

    def notify(self, partition: int, number: int, notification: e.Notification) -> None:
        """Give a live attempt a notification; one that is not live finds it in its journal."""
        key = (partition, number)
        live = self._live.get(key)
        if self.tracing is not None:
            self._trace_notification(key, live, notification)
        if live is None or live.duplex is None:
            return
        if live.idle_timer is not None or live.route.deployment is not None:
            self._no_longer_idle(live)
        try:
            live.duplex.notify(notification)
        except Exception as error:
            self._broken(live, error)

    def _trace_notification(self, key: Key, live: Live | None, notification: e.Notification) -> None:
        left = self._leaving.get(key)
        if left is not None:
            left.told(notification)
            if left.settled:
                del self._leaving[key]
        if live is not None and live.trace is not None:
            live.trace.told(notification)

    def _trace_end(self, live: Live, outcome: str, failure: AttemptFailure | None = None) -> None:
        trace = live.trace
        if trace is not None:
            trace.ended(outcome, self._environment.clock.now_ms(), failure)
            if not trace.settled:
                self._leaving[live.key] = trace
                if len(self._leaving) > LEAVING_LIMIT:  # of those that were killed meanwhile nothing more is heard
                    del self._leaving[next(iter(self._leaving))]

    def _broken(self, live: Live, error: Exception) -> None:
        """A bug of the other end. It ends this attempt; what else is to be done does not suffer."""
        attempt, environment = live.attempt, self._environment
        _tell(live, logging.ERROR, f"attempt {live.invocation.attempts} broke: {error!r}", error)
        live.numbers.failed += 1
        failure = AttemptFailure(f"the attempt broke: {error!r}", 500, environment.clock.now_ms())
        if not attempt.ended:
            live.submit(attempt.fail(failure, failure.at, environment.chance()))
        self._trace_end(live, "failed", failure)
        if live.duplex is not None:
            live.duplex.abort()
        self._gone(live)

    def abort(self, partition: int, number: int) -> None:
        """Hang up on an attempt, live or waiting."""
        key = (partition, number)
        self._here.waiting.pop(key, None)
        self._elsewhere.waiting.pop(key, None)
        for held in self._held_back.values():
            held.pop(key, None)
        live = self._live.get(key)
        if live is not None:
            live.attempt.ended = True
            live.numbers.aborted += 1
            self._trace_end(live, "aborted")
            if live.duplex is not None:
                live.duplex.abort()
            self._gone(live)

    def _receive(self, live: Live, message: Said) -> None:
        environment, attempt = self._environment, live.attempt
        if attempt.ended:
            return  # it was refused and will hear of it, or is gone
        if live.route.deployment is not None and live.key in self._idle and type(message) is not AwaitingOn:
            self._no_longer_idle(live)  # elsewhere it may have been silent only
        at = environment.clock.now_ms()
        command = attempt.receive(message, at, environment.chance())
        made = type(command)
        if command is not None:
            if live.pin and made in WRITES:
                self._pin(live)
            live.submit(command)
        if made is Append:
            if type(message) is e.Run:
                live.steps[message.completion_id] = (message.name, at)
        elif type(command) is Propose:
            begun = live.steps.pop(command.completion_id, None)
            if begun is not None:
                live.numbers.step(begun[0], at - begun[1])
                if begun[0].startswith(MODEL_STEP):
                    self.metrics.model_call(command.result)
                if live.trace is not None:
                    live.trace.proposed(command.completion_id, *begun)
        elif type(command) is Fail and type(message) is not Error:
            self._refuse(live, command)
        elif type(message) in PROGRESS:
            self._watch(live, message)
        if live.trace is not None:
            live.trace.said(message, at)
        if attempt.ended:
            if made is End:
                live.numbers.completed += 1
            elif made is Suspend:
                live.numbers.suspended += 1
            else:
                live.numbers.failed += 1
            if live.trace is not None:
                self._trace_end(live, _OUTCOMES[made], command.failure if type(command) is Fail else None)
            self._gone(live)

    def _pin(self, live: Live) -> None:
        """From its first entry on it stays on its deployment, and in this version of the protocol."""
        deployment, version = live.route.deployment, live.pin
        assert deployment is not None
        live.pin = 0
        at = self._environment.clock.now_ms()
        live.submit(Pin(at, live.key[1], live.invocation.attempts, deployment.id, version))

    def _refuse(self, live: Live, command: Fail) -> None:
        """The handler may not do what it did. It is in the middle of it, so it is hung up on a moment later."""
        duplex = live.duplex
        _tell(live, logging.WARNING, f"attempt {live.invocation.attempts} failed: {command.failure.message}")
        if duplex is not None:
            self._loop.call_soon(duplex.abort)

    def _watch(self, live: Live, message: Said) -> None:
        """Notice what is more than a journal entry."""
        if isinstance(message, AwaitingOn):
            live.waiting = message.waiting
            self._became_idle(live)
        elif isinstance(message, StepFailed):
            live.numbers.step_failures += 1
            if live.trace is not None:
                live.trace.tries.update(message.step_attempts)
            _tell(live, logging.WARNING, f"a step failed and is tried again: {message.failure.message}")
        elif isinstance(message, Error):
            level = logging.ERROR if message.behavior == "pause" else logging.WARNING
            _tell(live, level, f"attempt {live.invocation.attempts} failed: {message.failure.message}")

    def waiting_for(self, id: InvocationId) -> Waiting | None:
        """What an attempt that is idle waits for. None: it is not idle, or does not say."""
        live = next((each for each in self._idle.values() if each.invocation.id == id), None)
        return None if live is None or live.waiting == _NOTHING else live.waiting

    def _became_idle(self, live: Live) -> None:
        if live.idle_timer is not None:
            live.idle_timer.cancel()
        duplex = live.duplex
        if duplex is None:
            return
        timeout_ms = live.info.inactivity_timeout_ms
        target = live.invocation.target
        if timeout_ms <= 0 or live.lane.waiting or self._held_back.get((target.service, target.handler)):
            duplex.close_input()
            return
        self._idle[live.key] = live
        if live.route.deployment is None:  # elsewhere the way itself measures silence
            clock = self._environment.clock
            live.idle_timer = clock.call_at(clock.now_ms() + timeout_ms, duplex.close_input)
        if self.on_idle is not None:
            self.on_idle()

    def _no_longer_idle(self, live: Live) -> None:
        if live.idle_timer is not None:
            live.idle_timer.cancel()
            live.idle_timer = None
        self._idle.pop(live.key, None)

    def _make_room(self, lane: Lane, name: tuple[str, str] | None = None) -> None:
        """Others wait: have the attempt (of the handler `name`) that is idle longest suspend."""
        for live in self._idle.values():
            target = live.invocation.target
            duplex = live.duplex
            if duplex is not None and live.lane is lane and name in (None, (target.service, target.handler)):
                self._no_longer_idle(live)  # whoever waits next asks another one
                duplex.close_input()
                return

    def _gone(self, live: Live) -> None:
        if self._live.get(live.key) is not live:
            return
        self._no_longer_idle(live)
        del self._live[live.key]
        lane = live.lane
        lane.live -= 1
        live.duplex = None  # it refers back to `live`
        if (outlet := live.attempt.outlet) is not None:
            outlet.over()
        target = live.invocation.target
        name = (target.service, target.handler)
        if live.info.concurrency is not None:
            self._running[name] -= 1
            held = self._held_back.get(name)
            if held and not self._stopping:
                key, invocation = held.popitem(last=False)
                self._open(key, invocation, None)
        while lane.waiting and lane.live < lane.limit and not self._stopping:
            key, invocation = lane.waiting.popitem(last=False)
            self._open(key, invocation, None)

    def drain(self) -> bool:
        """Start nothing more and hang up on every attempt that has no step running; whether that was all of them."""
        self._stopping = True
        self._here.waiting.clear()
        self._elsewhere.waiting.clear()
        self._held_back.clear()
        for (partition, number), live in list(self._live.items()):
            if live.duplex is None or live.duplex.drain():
                self.abort(partition, number)
        return not self._live

    def abort_all(self) -> None:
        """Hang up on every attempt."""
        self._stopping = True
        for partition, number in list(self._live):
            self.abort(partition, number)


def _unfinished(entries: tuple[e.Entry, ...], at: int) -> dict[int, tuple[str, int]]:
    """The steps that an earlier attempt began and has no result of; they begin anew, `at` the earliest."""
    steps: dict[int, tuple[str, int]] = {}
    for entry in entries:
        if type(entry) is e.Run:
            steps[entry.completion_id] = (entry.name, at)
        elif type(entry) is e.Completion and entry.type == e.RUN_COMPLETION:
            steps.pop(entry.completion_id, None)
    return steps


def _tell(live: Live, level: int, what: str, error: Exception | None = None) -> None:
    """Log something about an attempt, with the fields that `sdk.logs` gives to what handlers log."""
    if _log.isEnabledFor(level):
        invocation, target = live.invocation, live.invocation.target
        fields: dict[str, object] = {"invocation_id": format_invocation_id(invocation.id)}
        fields |= {"service": target.service, "handler": target.handler, "attempt": invocation.attempts}
        _log.log(level, "%s: %s", target, what, exc_info=error, extra=fields)
