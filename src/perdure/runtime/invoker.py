"""Runs attempts: opens the way to the handler, turns what it says into commands, gives it its notifications.

At most `limit` attempts are live, fewer for handlers that say so (`concurrency`). Others wait their turn; when
any wait, attempts that are idle are asked to suspend, those idle longest first, so a thousand handlers that
sleep do not keep the next one from running.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from perdure.model import entries as e
from perdure.model.actions import ReplayedJournal, StartAttempt
from perdure.model.commands import Fail, Invoke, Load, PartitionCommand
from perdure.model.ids import random_seed
from perdure.model.invocation import AttemptFailure, Invocation, Invoked
from perdure.model.services import HandlerInfo, RetryPolicy
from perdure.protocol.attempt import Attempt
from perdure.protocol.control import AwaitingOn, Error, FromHandler, Start, StepFailed, Suspension
from perdure.runtime.clock import Clock, TimerHandle
from perdure.runtime.registry import Registry
from perdure.transports.base import Duplex, Transport

__all__ = ["Invoker"]

_log = logging.getLogger("perdure.invocation")

PROGRESS: frozenset[type] = frozenset({StepFailed, AwaitingOn, Error, Suspension})


class Live:
    """One attempt that runs now."""

    __slots__ = ("attempt", "duplex", "idle_timer", "info", "invocation", "key", "submit")

    def __init__(
        self,
        key: tuple[int, int],
        invocation: Invocation,
        info: HandlerInfo,
        attempt: Attempt,
        submit: Callable[[PartitionCommand], None],
    ) -> None:
        self.key = key
        self.submit = submit
        self.invocation = invocation
        self.info = info
        self.attempt = attempt
        self.duplex: Duplex | None = None
        self.idle_timer: TimerHandle | None = None


class Environment(Protocol):
    """What the invoker needs of the node."""

    @property
    def clock(self) -> Clock: ...

    def chance(self) -> float: ...

    def submit(self, partition: int, command: PartitionCommand) -> None: ...

    def submitter(self, partition: int) -> Callable[[PartitionCommand], None]: ...

    def address(self, entry: e.Call | e.OneWayCall, caller: bytes, at: int) -> Invoke: ...


class Invoker:
    """The live attempts of a node. All methods run on the event loop's thread."""

    def __init__(self, environment: Environment, registry: Registry, transport: Transport, limit: int) -> None:
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._registry = registry
        self._transport = transport
        self._limit = limit
        self._live: dict[tuple[int, int], Live] = {}
        self._waiting: OrderedDict[tuple[int, int], Invocation] = OrderedDict()
        self._idle: OrderedDict[tuple[int, int], Live] = OrderedDict()
        self._running: dict[tuple[str, str], int] = {}  # live attempts of handlers with a limit of their own
        self._held_back: dict[tuple[str, str], OrderedDict[tuple[int, int], Invocation]] = {}
        self._stopping = False
        self.on_idle: Callable[[], None] | None = None

    @property
    def live(self) -> int:
        """How many attempts run."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """How many attempts wait for room."""
        return len(self._waiting) + sum(map(len, self._held_back.values()))

    @property
    def busy(self) -> bool:
        """Whether any attempt runs that is not idle, or could."""
        return len(self._live) > len(self._idle) or bool(self._waiting)

    def start(self, partition: int, action: StartAttempt) -> None:
        """Run an attempt, now or when there is room."""
        key = (partition, action.invocation.number)
        self.abort(partition, action.invocation.number)
        if self._stopping:
            return
        if len(self._live) >= self._limit:
            # The journal is read again when its turn comes: a queue of journals has no bound.
            self._waiting[key] = action.invocation
            self._make_room()
            return
        self._open(key, action.invocation, action.journal)

    def _open(self, key: tuple[int, int], invocation: Invocation, journal: ReplayedJournal | None) -> None:
        environment = self._environment
        target = invocation.target
        info = self._registry.handler(target.service, target.handler)
        at = environment.clock.now_ms()
        if info is None:
            failure = AttemptFailure(f"{target}: no such handler is registered", 404, at)
            attempt = Attempt(key[1], invocation.attempts, target, RetryPolicy(max_attempts=None), self._no_address)
            environment.submit(key[0], attempt.fail(failure, at, environment.chance()))
            return
        name = (target.service, target.handler)
        if info.concurrency is not None:
            if self._running.get(name, 0) >= info.concurrency:
                self._held_back.setdefault(name, OrderedDict())[key] = invocation
                self._make_room(name)
                return
            self._running[name] = self._running.get(name, 0) + 1
        policy = info.retry_policy
        attempt = Attempt(
            key[1],
            invocation.attempts,
            target,
            policy,
            lambda entry, at: environment.address(entry, invocation.id, at),
        )
        live = Live(key, invocation, info, attempt, environment.submitter(key[0]))
        self._live[key] = live
        if journal is None:
            environment.submit(key[0], Load(at, key[1], invocation.attempts))
        else:
            self._begin(live, journal)

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
            journal.state,
            random_seed(origin.id),
            invocation.attempts,
            status.failures,
            origin.started_at,
            status.step_attempts,
            live.info.retry_policy,
        )
        for entry in reversed(journal.entries):
            if isinstance(entry, e.Output):  # an earlier attempt was cut off between its output and its end
                live.attempt.output = entry.result
            if not isinstance(entry, e.Completion | e.Signal):
                break
        try:
            live.duplex = self._transport.open(start, partial(self._receive, live))
            live.duplex.begin()
        except Exception as error:
            self._broken(live, error)

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
        live = self._live.get((partition, number))
        if live is None or live.duplex is None:
            return
        if live.idle_timer is not None:
            self._no_longer_idle(live)
        try:
            live.duplex.notify(notification)
        except Exception as error:
            self._broken(live, error)

    def _broken(self, live: Live, error: Exception) -> None:
        """A bug of the other end. It ends this attempt; what else is to be done does not suffer."""
        target, attempt, environment = live.invocation.target, live.attempt, self._environment
        _log.error("%s: attempt %d broke: %r", target, live.invocation.attempts, error, exc_info=error)
        if not attempt.ended:
            at = environment.clock.now_ms()
            live.submit(
                attempt.fail(AttemptFailure(f"the attempt broke: {error!r}", 500, at), at, environment.chance())
            )
        if live.duplex is not None:
            live.duplex.abort()
        self._gone(live)

    def abort(self, partition: int, number: int) -> None:
        """Hang up on an attempt, live or waiting."""
        key = (partition, number)
        self._waiting.pop(key, None)
        for held in self._held_back.values():
            held.pop(key, None)
        live = self._live.get(key)
        if live is not None:
            live.attempt.ended = True
            if live.duplex is not None:
                live.duplex.abort()
            self._gone(live)

    def _receive(self, live: Live, message: FromHandler) -> None:
        environment, attempt = self._environment, live.attempt
        if attempt.ended:
            return  # it was refused and will hear of it, or is gone
        command = attempt.receive(message, environment.clock.now_ms(), environment.chance())
        if command is not None:
            live.submit(command)
        if type(command) is Fail and type(message) is not Error:
            self._refuse(live, command)
        elif type(message) in PROGRESS:
            self._watch(live, message)
        if attempt.ended:
            self._gone(live)

    def _refuse(self, live: Live, command: Fail) -> None:
        """The handler may not do what it did. It is in the middle of it, so it is hung up on a moment later."""
        target, duplex = live.invocation.target, live.duplex
        _log.warning("%s: attempt %d failed: %s", target, live.invocation.attempts, command.failure.message)
        if duplex is not None:
            self._loop.call_soon(duplex.abort)

    def _watch(self, live: Live, message: FromHandler) -> None:
        """Notice what is more than a journal entry."""
        invocation = live.invocation
        if isinstance(message, AwaitingOn):
            self._became_idle(live)
        elif isinstance(message, StepFailed):
            _log.warning("%s: a step failed and is tried again: %s", invocation.target, message.failure.message)
        elif isinstance(message, Error):
            level = logging.ERROR if message.behavior == "pause" else logging.WARNING
            _log.log(
                level, "%s: attempt %d failed: %s", invocation.target, invocation.attempts, message.failure.message
            )

    def _became_idle(self, live: Live) -> None:
        if live.idle_timer is not None:
            live.idle_timer.cancel()
        duplex = live.duplex
        if duplex is None:
            return
        timeout_ms = live.info.inactivity_timeout_ms
        target = live.invocation.target
        if timeout_ms <= 0 or self._waiting or self._held_back.get((target.service, target.handler)):
            duplex.close_input()
            return
        self._idle[live.key] = live
        clock = self._environment.clock
        live.idle_timer = clock.call_at(clock.now_ms() + timeout_ms, duplex.close_input)
        if self.on_idle is not None:
            self.on_idle()

    def _no_longer_idle(self, live: Live) -> None:
        if live.idle_timer is not None:
            live.idle_timer.cancel()
            live.idle_timer = None
        self._idle.pop(live.key, None)

    def _make_room(self, name: tuple[str, str] | None = None) -> None:
        """Others wait: have the attempt (of the handler `name`) that is idle longest suspend."""
        for live in self._idle.values():
            target = live.invocation.target
            duplex = live.duplex
            if duplex is not None and name in (None, (target.service, target.handler)):
                self._no_longer_idle(live)  # whoever waits next asks another one
                duplex.close_input()
                return

    def _gone(self, live: Live) -> None:
        if self._live.get(live.key) is not live:
            return
        self._no_longer_idle(live)
        del self._live[live.key]
        live.duplex = None  # it refers back to `live`
        target = live.invocation.target
        name = (target.service, target.handler)
        if live.info.concurrency is not None:
            self._running[name] -= 1
            held = self._held_back.get(name)
            if held and not self._stopping:
                key, invocation = held.popitem(last=False)
                self._open(key, invocation, None)
        while self._waiting and len(self._live) < self._limit and not self._stopping:
            key, invocation = self._waiting.popitem(last=False)
            self._open(key, invocation, None)

    def drain(self) -> bool:
        """Start nothing more and hang up on every attempt that has no step running; whether that was all of them."""
        self._stopping = True
        self._waiting.clear()
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
