"""Who runs, who waits, who is asked to make room, and what becomes of what a handler says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest

from perdure.errors import Invalid
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import ReplayedJournal, StartAttempt
from perdure.model.ids import random_seed
from perdure.model.invocation import AttemptFailure, Invocation, Invoked, Retention, Target, Waiting
from perdure.model.services import HandlerInfo, HandlerKind, RetryPolicy, ServiceInfo, ServiceKind
from perdure.model.tracing import Trace
from perdure.protocol.control import AwaitingOn, End, Error, FromHandler, ProposeRun, Start, StepFailed, Suspension
from perdure.runtime.clock import VirtualClock
from perdure.runtime.invoker import Invoker
from perdure.runtime.registry import Registry
from perdure.transports.base import Receive

AT = 1_700_000_000_000
INPUT = e.Input(b"in")
IDLE = AwaitingOn(Waiting((1,)))
POLICY = RetryPolicy(max_attempts=3)


class FakeDuplex:
    """The way to one attempt: notes what the engine says, and says what the test has it say."""

    def __init__(self, start: Start, receive: Receive, log: list[str]) -> None:
        self.start = start
        self.say = receive
        self.log = log
        self.suspends = True  # at once, when its input is closed
        self.busy = False
        self.closed = False
        self.notified: list[e.Notification] = []
        self.on_begin: Callable[[FakeDuplex], None] = lambda duplex: None

    def note(self, what: str) -> None:
        self.log.append(f"{what} {self.start.id[-1]}")

    def begin(self) -> None:
        self.note("begin")
        self.on_begin(self)

    def notify(self, notification: e.Notification) -> None:
        self.notified.append(notification)
        if isinstance(notification, e.Signal) and notification.signal == "explode":
            raise ZeroDivisionError("the other end has a bug")

    def close_input(self) -> None:
        self.note("close")
        if self.suspends:
            self.say(Suspension(Waiting((1,)), 0))

    def drain(self) -> bool:
        return not self.busy

    def abort(self) -> None:
        self.note("abort")
        self.closed = True


class Rig:
    """An invoker with its node and its transport played by the test."""

    def __init__(self, limit: int = 10, **handler: Any) -> None:
        self.clock = VirtualClock(AT)
        self.log: list[str] = []
        self.duplexes: list[FakeDuplex] = []
        self.submitted: list[tuple[int, c.PartitionCommand]] = []
        self.on_begin: Callable[[FakeDuplex], None] = lambda duplex: None
        handlers = {
            "greet": HandlerInfo("greeter", "greet", HandlerKind.PLAIN, retry_policy=POLICY),
            "few": HandlerInfo("greeter", "few", HandlerKind.PLAIN, retry_policy=POLICY, **handler),
        }
        self.registry = Registry([ServiceInfo("greeter", ServiceKind.SERVICE, handlers)])
        self.invoker = Invoker(self, self.registry, self, limit)

    def chance(self) -> float:
        return 0.5

    def submit(self, partition: int, command: c.PartitionCommand) -> None:
        self.submitted.append((partition, command))

    def submitter(self, partition: int) -> Callable[[c.PartitionCommand], None]:
        return lambda command: self.submit(partition, command)

    def address(self, entry: e.Call | e.OneWayCall, caller: bytes, at: int, trace: Trace | None = None) -> c.Invoke:
        if entry.service == "unknown":
            raise Invalid("service 'unknown' not found")
        target = Target(entry.service, entry.handler, HandlerKind.PLAIN)
        return c.Invoke(at, caller, target, e.Input(entry.parameter), Retention())

    def open(self, start: Start, receive: Receive) -> FakeDuplex:
        if start.target.handler == "broken":
            raise ZeroDivisionError("no way there")
        duplex = FakeDuplex(start, receive, self.log)
        duplex.on_begin = self.on_begin
        self.duplexes.append(duplex)
        return duplex

    def action(
        self,
        number: int,
        *entries: e.Entry,
        handler: str = "greet",
        attempt: int = 1,
        loaded: bool = True,
        status: Invoked | None = None,
        state: dict[str, bytes] | None = None,
    ) -> StartAttempt:
        target = Target("greeter", handler, HandlerKind.PLAIN)
        id = bytes(23) + bytes([number])
        invocation = Invocation(number, id, target, status or Invoked(), AT, AT - 5, attempt)
        return StartAttempt(invocation, ReplayedJournal((INPUT, *entries), state) if loaded else None)

    def start(self, number: int, *entries: e.Entry, **options: Any) -> None:
        """What `perform` does with such an action."""
        action = self.action(number, *entries, **options)
        if not self.invoker.loaded(0, action):
            self.invoker.start(0, action)

    def duplex(self, number: int) -> FakeDuplex:
        """The newest way to an invocation."""
        return [duplex for duplex in self.duplexes if duplex.start.id[-1] == number][-1]

    def idle(self, *numbers: int) -> None:
        for number in numbers:
            self.duplex(number).say(IDLE)

    def loads(self) -> list[int]:
        """The journals asked for since the last call."""
        asked = [command.number for _, command in self.submitted if isinstance(command, c.Load)]
        self.submitted = [(to, command) for to, command in self.submitted if not isinstance(command, c.Load)]
        return asked

    def commands(self) -> list[c.PartitionCommand]:
        commands, self.submitted = [command for _, command in self.submitted], []
        return commands


def in_loop(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(body)
    def test(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            await body(*args, **kwargs)

        asyncio.run(main())

    return test


async def turn() -> None:
    await asyncio.sleep(0)


# ---- one attempt -----------------------------------------------------------------------------------------------------


@in_loop
async def test_an_attempt_begins_with_all_there_is() -> None:
    rig = Rig()
    run = e.Run(1, "step")
    rig.start(7, run, attempt=3, status=Invoked(2, None, None, {1: 4}, 2), state={"n": b"1"})
    target = Target("greeter", "greet", HandlerKind.PLAIN)
    id = bytes(23) + b"\x07"
    assert rig.duplex(7).start == Start(
        id, target, (INPUT, run), {"n": b"1"}, random_seed(id), 3, 2, AT - 5, {1: 4}, POLICY
    )
    assert rig.log == ["begin 7"] and rig.invoker.live == 1 and rig.invoker.busy


@in_loop
async def test_what_a_handler_says_becomes_commands() -> None:
    rig = Rig()
    rig.start(7)
    say = rig.duplex(7).say
    say(e.Run(1, "step"))
    say(ProposeRun(1, e.Value(b"v")))
    say(e.Call("greeter", "greet", b"p", 2, 3))
    say(e.Output(e.Value(b"out")))
    say(End())
    callee = rig.address(e.Call("greeter", "greet", b"p", 2, 3), rig.duplexes[0].start.id, AT)
    assert rig.commands() == [
        c.Append(AT, 7, 1, e.Run(1, "step")),
        c.Propose(AT, 7, 1, 1, e.Value(b"v")),
        c.AppendCall(AT, 7, 1, e.Call("greeter", "greet", b"p", 2, 3), callee),
        c.Append(AT, 7, 1, e.Output(e.Value(b"out"))),
        c.End(AT, 7, 1, e.Value(b"out")),
    ]
    assert rig.invoker.live == 0 and not rig.invoker.busy
    say(e.Run(2, "late"))
    assert rig.commands() == []


@in_loop
async def test_an_output_that_an_earlier_attempt_left_in_the_journal_is_the_result() -> None:
    rig = Rig()
    rig.start(7, e.Run(1, "x"), e.Output(e.Value(b"out")), e.Signal("late", e.VOID))
    rig.duplex(7).say(End())
    assert rig.commands() == [c.End(AT, 7, 1, e.Value(b"out"))]


@in_loop
async def test_notifications_go_to_who_is_live() -> None:
    rig = Rig()
    rig.start(7)
    signal = e.Signal("go", e.VOID, AT)
    rig.invoker.notify(0, 7, signal)
    rig.invoker.notify(1, 7, signal)
    rig.invoker.notify(0, 8, signal)
    assert rig.duplex(7).notified == [signal]
    rig.start(9, loaded=False)
    rig.invoker.notify(0, 9, signal)  # it is in the journal that is being read
    assert rig.loads() == [9]


@in_loop
async def test_a_new_attempt_ends_the_one_before() -> None:
    rig = Rig()
    rig.start(7)
    old = rig.duplex(7)
    rig.start(7, attempt=2)
    assert rig.log == ["begin 7", "abort 7", "begin 7"] and rig.invoker.live == 1
    old.say(e.Run(1, "late"))
    old.say(IDLE)
    assert rig.commands() == []
    rig.duplex(7).say(e.Run(1, "step"))
    assert rig.commands() == [c.Append(AT, 7, 2, e.Run(1, "step"))]


@in_loop
async def test_hanging_up_is_final() -> None:
    rig = Rig()
    rig.start(7)
    rig.invoker.abort(0, 7)
    rig.invoker.abort(0, 7)
    rig.invoker.abort(0, 99)
    rig.duplex(7).say(e.Output(e.Value(b"")))
    assert rig.log == ["begin 7", "abort 7"] and rig.invoker.live == 0 and rig.commands() == []


@in_loop
async def test_a_handler_that_is_not_registered_is_asked_for_again_without_end() -> None:
    rig = Rig()
    rig.start(7, handler="missing", attempt=4)
    (command,) = rig.commands()
    assert isinstance(command, c.Fail) and command.attempt == 4 and command.policy.max_attempts is None
    assert command.failure == AttemptFailure(
        "greeter/missing: no such handler is registered", 404, AT, restate_code="RT0011"
    )
    assert rig.invoker.live == 0 and rig.duplexes == []


# ---- attempts that go wrong ------------------------------------------------------------------------------------------


def test_what_is_refused_ends_the_attempt_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise its handler would go on, beside the next attempt, with steps that nobody waits for."""

    async def body() -> None:
        rig = Rig()
        rig.start(7)
        duplex = rig.duplex(7)
        duplex.say(e.Call("unknown", "h", b"", 1, 2))
        duplex.say(e.Run(3, "beside"))
        duplex.say(IDLE)
        (command,) = rig.commands()
        assert isinstance(command, c.Fail) and command.failure.message == "service 'unknown' not found"
        assert rig.invoker.live == 0 and not rig.invoker.busy
        await turn()
        assert duplex.closed
        assert rig.clock.next_ms() is None

    asyncio.run(body())
    assert [record.message for record in caplog.records] == [
        "greeter/greet: attempt 1 failed: service 'unknown' not found"
    ]


@in_loop
async def test_a_refusal_that_is_cleared_up_late_does_not_disturb_the_next_attempt() -> None:
    rig = Rig()
    rig.start(7)
    rig.duplex(7).say(e.Input(b""))
    rig.start(7, attempt=2)
    await turn()
    assert [duplex.closed for duplex in rig.duplexes] == [True, False]
    assert rig.invoker.live == 1


@pytest.mark.parametrize("moment", ["open", "begin", "notify"])
def test_a_bug_of_the_other_end_ends_the_attempt_and_nothing_else(
    moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        rig = Rig(concurrency=1)
        handlers = rig.registry.services()[0].handlers
        handlers["broken"] = HandlerInfo("greeter", "broken", HandlerKind.PLAIN, retry_policy=POLICY)
        if moment == "begin":

            def explode(duplex: FakeDuplex) -> None:
                raise ZeroDivisionError("the other end has a bug")

            rig.on_begin = explode
        rig.start(7, handler="broken" if moment == "open" else "few")
        if moment == "notify":
            rig.invoker.notify(0, 7, e.Signal("explode", e.VOID))
        (command,) = rig.commands()
        assert isinstance(command, c.Fail) and command.policy == POLICY
        assert command.failure.code == 500 and "ZeroDivisionError" in command.failure.message
        assert rig.invoker.live == 0
        assert all(duplex.closed for duplex in rig.duplexes)

    asyncio.run(body())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.exc_info is not None


def test_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        rig = Rig()
        messages: list[FromHandler] = [
            StepFailed(AttemptFailure("a"), {1: 1}),
            Error(AttemptFailure("b")),
            Error(AttemptFailure("c"), behavior="pause"),
        ]
        for number, message in enumerate(messages):
            rig.start(number)
            rig.duplex(number).say(message)
        assert rig.invoker.live == 1

    asyncio.run(body())
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "greeter/greet: a step failed and is tried again: a"),
        (logging.WARNING, "greeter/greet: attempt 1 failed: b"),
        (logging.ERROR, "greeter/greet: attempt 1 failed: c"),
    ]


# ---- room ------------------------------------------------------------------------------------------------------------


@in_loop
async def test_who_finds_no_room_waits_without_its_journal() -> None:
    rig = Rig(limit=2)
    for number in range(5):
        rig.start(number)
    assert (rig.invoker.live, rig.invoker.waiting) == (2, 3)
    rig.invoker.notify(0, 3, e.Signal("go", e.VOID))
    rig.duplex(0).say(Error(AttemptFailure("x")))
    assert rig.loads() == [2]
    assert (rig.invoker.live, rig.invoker.waiting) == (2, 2)
    rig.start(2, e.Run(1, "as it is now"))
    assert rig.duplex(2).start.entries == (INPUT, e.Run(1, "as it is now"))
    rig.invoker.abort(0, 3)
    rig.invoker.abort(0, 2)
    assert rig.loads() == [4] and rig.invoker.waiting == 0


@in_loop
async def test_a_journal_is_for_the_attempt_that_asked_for_it() -> None:
    rig = Rig()
    rig.start(1, loaded=False, attempt=2)
    assert rig.loads() == [1] and rig.duplexes == []
    assert not rig.invoker.loaded(0, rig.action(1, attempt=2, loaded=False))
    assert not rig.invoker.loaded(0, rig.action(1, attempt=1))
    assert not rig.invoker.loaded(1, rig.action(1, attempt=2))
    assert rig.invoker.loaded(0, rig.action(1, attempt=2))
    assert not rig.invoker.loaded(0, rig.action(1, attempt=2))
    assert rig.log == ["begin 1"]


@in_loop
async def test_the_next_attempt_of_who_loads_does_not_wait_for_that_load() -> None:
    rig = Rig()
    rig.start(1, loaded=False, attempt=2)
    rig.start(1, attempt=3)
    assert rig.duplex(1).start.attempt == 3 and rig.invoker.live == 1


@in_loop
async def test_the_one_that_is_idle_longest_makes_room() -> None:
    rig = Rig(limit=3)
    for number in (1, 2, 3):
        rig.start(number)
    rig.idle(2, 1)
    rig.start(4)
    assert rig.log[3:] == ["close 2"] and rig.loads() == [4]
    rig.start(5)
    assert rig.log[4:] == ["close 1"] and rig.loads() == [5]
    rig.start(6)
    assert rig.log[5:] == [] and rig.invoker.waiting == 1
    rig.idle(3)  # others wait: it need not be idle for long
    assert rig.log[5:] == ["close 3"] and rig.loads() == [6]


@in_loop
async def test_who_does_something_again_is_not_idle() -> None:
    rig = Rig(limit=2)
    for number in (1, 2):
        rig.start(number)
    rig.idle(1, 2)
    rig.invoker.notify(0, 1, e.Signal("go", e.VOID))
    rig.idle(1)
    rig.start(3)
    assert rig.log[2:] == ["close 2"]


@in_loop
async def test_each_that_waits_has_another_one_asked() -> None:
    """Over a network it takes a while to suspend."""
    rig = Rig(limit=2)
    for number in (1, 2):
        rig.start(number)
        rig.duplex(number).suspends = False
    rig.idle(1, 2)
    for number in (3, 4, 5):
        rig.start(number)
    assert rig.log[2:] == ["close 1", "close 2"]
    rig.duplex(1).say(Suspension(Waiting((1,)), 0))
    assert rig.loads() == [3]


@in_loop
async def test_who_is_idle_long_enough_suspends() -> None:
    rig = Rig()
    rig.start(1)
    idle: list[bool] = []
    rig.invoker.on_idle = lambda: idle.append(rig.invoker.busy)
    rig.idle(1)
    assert idle == [False]
    rig.clock.move_to(AT + 59_999)
    assert rig.clock.run_due() == 0
    rig.idle(1)  # it says so again: from now on
    rig.clock.move_to(AT + 60_000)
    assert rig.clock.run_due() == 0
    rig.clock.move_to(AT + 119_999)
    rig.clock.run_due()
    assert rig.commands() == [c.Suspend(AT + 119_999, 1, 1, Waiting((1,)), 0)]
    assert rig.invoker.live == 0 and rig.clock.next_ms() is None


@in_loop
async def test_a_notification_stops_the_clock_of_the_idle() -> None:
    rig = Rig()
    rig.start(1)
    rig.idle(1)
    assert not rig.invoker.busy
    rig.invoker.notify(0, 1, e.Signal("go", e.VOID))
    assert rig.invoker.busy and rig.clock.next_ms() is None


@in_loop
async def test_without_patience_who_is_idle_suspends_at_once() -> None:
    rig = Rig(inactivity_timeout_ms=0)
    rig.start(1, handler="few")
    rig.idle(1)
    assert rig.log == ["begin 1", "close 1"] and rig.invoker.live == 0


# ---- concurrency -----------------------------------------------------------------------------------------------------


@in_loop
async def test_a_handler_may_want_few_of_itself() -> None:
    rig = Rig(concurrency=2)
    for number in range(1, 6):
        rig.start(number, handler="few")
    rig.start(9)
    assert rig.log == ["begin 1", "begin 2", "begin 9"]
    assert (rig.invoker.live, rig.invoker.waiting) == (3, 3)
    rig.invoker.abort(0, 4)
    rig.duplex(9).say(Error(AttemptFailure("x")))
    assert rig.loads() == []
    rig.duplex(2).say(Error(AttemptFailure("x")))
    assert rig.loads() == [3]
    rig.invoker.abort(0, 3)
    rig.invoker.abort(0, 1)
    assert rig.loads() == [5]
    rig.start(5, handler="few")
    rig.start(6, handler="few")
    assert rig.log[-1] == "begin 6" and rig.invoker.waiting == 0


@in_loop
async def test_one_of_its_own_makes_room_for_a_handler_that_wants_few() -> None:
    rig = Rig(concurrency=1)
    rig.start(1)
    rig.start(2, handler="few")
    rig.idle(1, 2)
    rig.start(3, handler="few")
    assert rig.log[2:] == ["close 2"] and rig.loads() == [3]
    rig.start(3, handler="few")
    rig.start(4, handler="few")
    rig.idle(3)
    assert rig.log[-1] == "close 3" and rig.loads() == [4]


@in_loop
async def test_the_limits_hold_together() -> None:
    rig = Rig(limit=2, concurrency=1)
    rig.start(1, handler="few")
    rig.start(2)
    for number in (3, 4):
        rig.start(number, handler="few")
    rig.start(5)
    assert (rig.invoker.live, rig.invoker.waiting) == (2, 3)
    rig.duplex(2).say(Error(AttemptFailure("x")))
    assert rig.loads() == [5]  # 3 and 4 have to wait for their own
    assert (rig.invoker.live, rig.invoker.waiting) == (2, 2)
    rig.duplex(1).say(Error(AttemptFailure("x")))
    assert rig.loads() == [3]


# ---- the end ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_draining_hangs_up_on_who_has_nothing_under_way() -> None:
    rig = Rig(limit=4, concurrency=1)
    for number in (1, 2, 3):
        rig.start(number, handler="few" if number == 3 else "greet")
    rig.start(4, loaded=False)
    rig.start(5)
    rig.start(6, handler="few")
    rig.duplex(2).busy = True
    assert not rig.invoker.drain()
    assert rig.log == ["begin 1", "begin 2", "begin 3", "abort 1", "abort 3"]
    assert (rig.invoker.live, rig.invoker.waiting) == (1, 0)
    rig.start(7)
    assert rig.invoker.live == 1
    rig.duplex(2).busy = False
    assert rig.invoker.drain()
    assert rig.invoker.live == 0


@in_loop
async def test_everything_can_be_hung_up_on() -> None:
    rig = Rig(limit=2)
    for number in (1, 2, 3):
        rig.start(number)
    rig.invoker.abort_all()
    assert rig.log[2:] == ["abort 1", "abort 2"] and rig.invoker.live == 0
    assert rig.loads() == []
