"""Machine and Attempt back to back, over the core's tables: no network, no event loop, no store that writes.

A scenario is a generator: it issues commands through its `Hand` and yields whatever it has to wait for. It is run
undisturbed; then hung up on after its first message, its second, and so on, and resumed from the journal so far;
then suspended whenever it waits. Each time everything has to come out the same.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import pytest

from perdure.core.partition import apply
from perdure.core.tables import INVOCATION, INVOCATION_ID
from perdure.errors import AttemptGone
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import AbortAttempt, Action, Notify, ReplayedJournal, Reply, StartAttempt
from perdure.model.ids import awakeable_id, format_invocation_id, random_seed
from perdure.model.invocation import AttemptFailure, Completed, Invocation, Invoked, Retention, Target, Waiter, Waiting
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.protocol.attempt import Attempt
from perdure.protocol.control import End, Error, FromHandler, ProposeRun, Start, Suspension
from perdure.protocol.machine import Machine
from perdure.storage.memory import MemoryStorage
from perdure.storage.overlay import Overlay

AT = 1_700_000_000_000
ID = bytes(23) + b"\x01"
HELPER = bytes(23) + b"\x02"
KEPT = Retention(1 << 40, 1 << 40)
TARGET = Target("flow", "main", HandlerKind.WORKFLOW, "k")
HELPER_TARGET = Target("greeter", "greet", HandlerKind.PLAIN)

Wait: TypeAlias = "int | str | tuple[int, ...]"  # a completion, a named signal, a signal as (number,), any of several
Scenario: TypeAlias = Callable[["Hand"], Generator[Any, Any, bytes]]


class Cut(Exception):
    """The connection is lost."""


class Hand:
    """What a scenario can do: a small driver over a `Machine`."""

    def __init__(self, machine: Machine, start: Start) -> None:
        self.machine = machine
        self.start = start
        self.steps: dict[int, Callable[[], bytes]] = {}  # asked for and not yet run
        self.ran: list[str] = []

    def step(self, name: str, function: Callable[[], bytes]) -> int:
        machine = self.machine
        completion_id = machine.completion_id()
        machine.issue(e.Run(completion_id, name))
        if completion_id not in machine.settled:
            self.steps[completion_id] = function
        return completion_id

    def sleep(self, ms: int) -> int:
        completion_id = self.machine.completion_id()
        self.machine.issue(e.Sleep(self.machine.time + ms, completion_id))
        return completion_id

    def ask(self, kind: Callable[..., e.Command], *args: Any) -> int:
        """A command of which the last field but the name is the completion id."""
        completion_id = self.machine.completion_id()
        self.machine.issue(kind(*args, completion_id))
        return completion_id

    def call(self, parameter: bytes) -> tuple[int, int]:
        known, result = self.machine.completion_id(), self.machine.completion_id()
        self.machine.issue(e.Call("greeter", "greet", parameter, known, result))
        return known, result

    def awakeable(self) -> tuple[tuple[int], str]:
        number = self.machine.signal_id()
        return (number,), awakeable_id(self.start.id, number)

    def state(self, key: str) -> "Generator[Any, Any, Any]":
        found = self.machine.get_state(key)
        return (yield found) if isinstance(found, int) else found

    def keys(self) -> "Generator[Any, Any, tuple[str, ...]]":
        found = self.machine.get_state_keys()
        if isinstance(found, int):
            found = (yield found).keys
        return found


class Pair:
    """A partition, and one handler of it at a time. `world` is what happens outside once nothing else can."""

    def __init__(
        self,
        scenario: Scenario,
        world: "list[Callable[[Pair], None]]",
        *,
        cut_at: set[int] = frozenset(),  # type: ignore[assignment]
        suspends: bool = False,
        eager: bool = True,
    ) -> None:
        self.scenario = scenario
        self.world = list(world)
        self.cut_at = cut_at
        self.suspends = suspends
        self.eager = eager
        self.at = AT
        self.tables = Overlay(MemoryStorage())
        self.messages = 0
        self.attempts = 0
        self.failures: list[AttemptFailure] = []
        self.steps_run: list[str] = []
        self.next: StartAttempt | None = None
        self.notifications: list[e.Notification] = []
        self.invoke(ID, TARGET)
        self.run()

    # The engine

    def invoke(self, id: bytes, target: Target) -> None:
        self.apply(c.Invoke(self.at, id, target, e.Input(b"in"), KEPT))

    def apply(self, command: c.PartitionCommand) -> None:
        for action in apply(self.tables, command):
            self.perform(action)

    def perform(self, action: Action) -> None:
        if isinstance(action, StartAttempt) and action.invocation.id == ID:
            self.next = action
        elif isinstance(action, Notify) and action.number == 1:
            self.notifications.append(action.notification)
        else:
            assert not isinstance(action, AbortAttempt | Reply)

    def address(self, entry: e.Call | e.OneWayCall, at: int) -> c.Invoke:
        callee = bytes(22) + b"\x09" + bytes([entry.invocation_id_completion_id])
        waiter = Waiter(ID, entry.completion_id, e.CALL_COMPLETION) if isinstance(entry, e.Call) else None
        return c.Invoke(at, callee, HELPER_TARGET, e.Input(entry.parameter), KEPT, caller=ID, waiter=waiter)

    @property
    def row(self) -> Invocation:
        row = self.tables.get(INVOCATION, (1,))
        assert row is not None
        return row

    def find(self, id: bytes) -> Invocation:
        number = self.tables.get(INVOCATION_ID, (id[8:] + id[:8],))
        assert number is not None
        row = self.tables.get(INVOCATION, (number,))
        assert row is not None
        return row

    @property
    def journal(self) -> list[e.Entry]:
        return [entry for _, entry in self.tables.journal(1)]

    @property
    def commands(self) -> list[e.Entry]:
        return [entry for entry in self.journal if not isinstance(entry, e.Completion | e.Signal)]

    # What happens outside

    def answer_call(self, result: e.Value | e.Failure) -> None:
        """The callee of the only call that is open returns."""
        (callee,) = [
            row for number in range(2, 9) if (row := self.tables.get(INVOCATION, (number,))) is not None and row.waiters
        ]
        self.apply(c.End(self.at, callee.number, callee.attempts, result))

    def signal(self, signal: int | str, result: e.Value | e.Failure | e.Void) -> None:
        self.apply(c.SendSignalTo(self.at, ID, e.Signal(signal, result)))

    def pass_time(self, ms: int) -> None:
        self.at += ms
        self.apply(c.Tick(self.at))

    # The handler

    def run(self) -> None:
        while not isinstance(self.row.status, Completed):
            if self.next is not None:
                start, self.next = self.next, None
                self.attempt(start.invocation, start.journal)
            else:
                assert self.world, f"it waits for what never comes: {self.row.status}"
                self.world.pop(0)(self)
            assert self.attempts < 200

    def attempt(self, invocation: Invocation, journal: ReplayedJournal | None) -> None:
        self.attempts += 1
        assert journal is not None and isinstance(invocation.status, Invoked)
        self.notifications = []
        engine = Attempt(invocation.number, invocation.attempts, TARGET, RetryPolicy(), self.address)
        for entry in journal.entries:
            if isinstance(entry, e.Output):
                engine.output = entry.result
        start = Start(
            ID,
            TARGET,
            journal.entries,
            journal.state if self.eager else None,
            random_seed(ID),
            invocation.attempts,
            invocation.status.failures,
            invocation.started_at or 0,
            {},
            RetryPolicy(),
        )

        def send(message: FromHandler) -> None:
            if self.messages in self.cut_at:
                self.messages += 1
                raise Cut
            self.messages += 1
            command = engine.receive(message, self.at, 0.0)
            if isinstance(command, c.Fail):
                self.failures.append(command.failure)
            if command is not None:
                self.apply(command)

        machine = Machine(start, send)
        try:
            self.drive(Hand(machine, start), machine, send)
        except Cut:
            machine.closed = True
            self.apply(c.Recover(self.at))
            assert self.next is not None
            self.apply(c.Load(self.at, 1, self.next.invocation.attempts))

    def drive(self, hand: Hand, machine: Machine, send: Callable[[FromHandler], None]) -> None:
        code = self.scenario(hand)
        arrived: dict[Any, list[e.Result]] = {}
        try:
            wanted = next(code)
            while True:
                found = self.wait(hand, machine, send, arrived, wanted)
                if found is None:
                    return
                wanted = code.send(found)
        except StopIteration as done:
            machine.issue(e.Output(e.Value(done.value)))
            send(End())
        except AttemptGone:
            assert machine.failure is not None
            failure = AttemptFailure(str(machine.failure), machine.failure.code, self.at)
            send(Error(failure, behavior="fail"))

    def wait(
        self,
        hand: Hand,
        machine: Machine,
        send: Callable[[FromHandler], None],
        arrived: dict[Any, list[e.Result]],
        wanted: Any,
    ) -> Any:
        """What the code waits for, when it comes; None if the attempt is over."""
        several = isinstance(wanted, list)
        names = wanted if several else [wanted]
        while True:
            for name in names:
                if arrived.get(name):
                    result = arrived[name].pop(0)
                    return (name, result) if several else result
            while self.notifications:
                machine.feed(self.notifications.pop(0))
            notification = machine.take()
            if notification is not None:
                arrived.setdefault(_name(notification), []).append(notification.result)
            elif machine.replaying:
                machine.stalled()
                raise AttemptGone
            elif hand.steps:
                completion_id, function = hand.steps.popitem()
                self.steps_run.append(str(completion_id))
                send(ProposeRun(completion_id, e.Value(function())))
            elif self.suspends:
                send(Suspension(_waiting(names), machine.seen))
                return None
            elif not self.notifications:
                assert self.world, f"it waits for what never comes: {wanted}"
                self.world.pop(0)(self)
                if self.next is not None:
                    return None


def _name(notification: e.Notification) -> Any:
    if isinstance(notification, e.Completion):
        return notification.completion_id
    return (notification.signal,) if isinstance(notification.signal, int) else notification.signal


def _waiting(names: list[Any]) -> Waiting:
    return Waiting(
        tuple(name for name in names if isinstance(name, int)),
        tuple(name[0] for name in names if isinstance(name, tuple)),
        tuple(name for name in names if isinstance(name, str)),
    )


# ---- the scenarios ---------------------------------------------------------------------------------------------------


def nothing(hand: Hand) -> Generator[Any, Any, bytes]:
    return b"out"
    yield


def steps(hand: Hand) -> Generator[Any, Any, bytes]:
    first = yield hand.step("a", lambda: b"1")
    ids = [hand.step(name, name.encode) for name in "bcd"]
    found = first.content
    for completion_id in ids:
        found += (yield completion_id).content
    return found  # type: ignore[no-any-return]


def sleeping(hand: Hand) -> Generator[Any, Any, bytes]:
    began = hand.machine.time
    yield hand.sleep(1000)
    first = hand.machine.time - began
    yield hand.sleep(500)
    return f"{first} {hand.machine.time - began}".encode()


def calling(hand: Hand) -> Generator[Any, Any, bytes]:
    known, result = hand.call(b"p")
    id = yield known
    answer = yield result
    hand.machine.issue(e.SendSignal(id.invocation_id, "thanks", e.VOID))
    _, failing = hand.call(b"q")
    failure = yield failing
    hand.machine.issue(e.OneWayCall("greeter", "greet", b"r", hand.machine.completion_id()))
    return answer.content + failure.message.encode()  # type: ignore[no-any-return]


def awaiting(hand: Hand) -> Generator[Any, Any, bytes]:
    signal, id = hand.awakeable()
    assert id == awakeable_id(ID, signal[0])
    second, _ = hand.awakeable()
    told = yield hand.step("tell", id.encode)
    first = yield signal
    word = yield "go"
    again = yield "go"
    last = yield second
    return b" ".join([told.content[:6], first.content, word.content, again.content, last.message.encode()])


def state(hand: Hand) -> Generator[Any, Any, bytes]:
    seen: list[str] = []
    for key in ("a", "b"):
        found = yield from hand.state(key)
        seen.append("-" if isinstance(found, e.Void) else found.content.decode())
        hand.machine.set_state(key, key.encode() * 2)
        found = yield from hand.state(key)
        seen.append(found.content.decode())
    seen += yield from hand.keys()
    hand.machine.clear_state("a")
    yield hand.step("between", lambda: b"")
    seen += yield from hand.keys()
    hand.machine.clear_all_state()
    seen += yield from hand.keys()
    hand.machine.set_state("c", b"3")
    seen += yield from hand.keys()
    return " ".join(seen).encode()


def promises(hand: Hand) -> Generator[Any, Any, bytes]:
    peeked = yield hand.ask(e.PeekPromise, "p")
    waiting = hand.ask(e.GetPromise, "p")
    completed = yield hand.ask(e.CompletePromise, "p", e.Value(b"v"))
    got = yield waiting
    refused = yield hand.ask(e.CompletePromise, "p", e.Value(b"w"))
    assert isinstance(peeked, e.Void) and isinstance(completed, e.Void)
    return got.content + str(refused.code).encode()  # type: ignore[no-any-return]


def outputs(hand: Hand) -> Generator[Any, Any, bytes]:
    known, result = hand.call(b"p")
    target = e.InvocationTarget((yield known).invocation_id)
    early = yield hand.ask(e.GetInvocationOutput, target)
    attached = yield hand.ask(e.AttachInvocation, target)
    late = yield hand.ask(e.GetInvocationOutput, target)
    direct = yield result
    nobody = yield hand.ask(e.AttachInvocation, e.InvocationTarget(format_invocation_id(b"n" * 24)))
    assert isinstance(early, e.Void)
    return b" ".join([attached.content, late.content, direct.content, nobody.message.encode()])


def race(hand: Hand) -> Generator[Any, Any, bytes]:
    """Whoever is first in the journal wins, on every replay."""
    won = []
    for _ in range(3):
        name, _ = yield [hand.sleep(1000), "go"]
        won.append(str(name))
        yield hand.step("after", lambda: b"")
    return ",".join(won).encode()


def second(value: str) -> Callable[[Pair], None]:
    return lambda pair: pair.answer_call(e.Value(value.encode()))


SCENARIOS: dict[str, tuple[Scenario, list[Callable[[Pair], None]], bytes]] = {
    "nothing": (nothing, [], b"out"),
    "steps": (steps, [], b"1bcd"),
    "sleeping": (sleeping, [lambda p: p.pass_time(1000), lambda p: p.pass_time(500)], b"1000 1500"),
    "calling": (calling, [second("v"), lambda p: p.answer_call(e.Failure(400, "no"))], b"vno"),
    "awaiting": (
        awaiting,
        [
            lambda p: p.signal("go", e.Value(b"one")),
            lambda p: p.signal(17, e.Value(b"awake")),
            lambda p: p.signal("go", e.Value(b"two")),
            lambda p: p.signal(18, e.Failure(400, "no")),
        ],
        b"sign_1 awake one two no",
    ),
    "state": (state, [], b"- aa - bb a b b c"),
    "promises": (promises, [], b"v409"),
    "outputs": (outputs, [second("v")], b"v v v not found"),
    "race": (
        race,
        [lambda p: p.signal("go", e.VOID), lambda p: p.pass_time(1000), lambda p: p.signal("go", e.VOID)],
        b"go,3,go",
    ),
}


def outcome(pair: Pair) -> tuple[e.Value | e.Failure, list[e.Entry], dict[tuple[Any, ...], bytes]]:
    """The result, what the code did, and the state it left."""
    from perdure.core.tables import STATE

    status = pair.row.status
    assert isinstance(status, Completed)
    clocks = [
        e.Sleep(0, entry.completion_id, entry.name) if isinstance(entry, e.Sleep) else entry for entry in pair.commands
    ]
    return status.result, clocks, dict(pair.tables.scan(STATE, ("flow", "k")))


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("eager", [True, False])
def test_undisturbed(name: str, eager: bool) -> None:
    scenario, world, result = SCENARIOS[name]
    pair = Pair(scenario, world, eager=eager)
    assert outcome(pair)[0] == e.Value(result)
    assert pair.attempts == 1 and not pair.failures and not pair.world


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("eager", [True, False])
def test_cut_after_every_message(name: str, eager: bool) -> None:
    scenario, world, _ = SCENARIOS[name]
    whole = Pair(scenario, world, eager=eager)
    for at in range(whole.messages):
        pair = Pair(scenario, world, eager=eager, cut_at={at})
        assert outcome(pair) == outcome(whole), f"cut at message {at}"
        assert pair.attempts == 2 and not pair.failures
        assert len(pair.steps_run) <= len(whole.steps_run) + 1  # the step whose result was cut off, and no other


@pytest.mark.parametrize("name", SCENARIOS)
def test_cut_again_and_again(name: str) -> None:
    """Every attempt says one message more than the last."""
    scenario, world, _ = SCENARIOS[name]
    whole = Pair(scenario, world)
    pair = Pair(scenario, world, cut_at=set(range(1, 400, 2)))
    assert outcome(pair) == outcome(whole)
    assert pair.attempts > whole.messages // 2


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("cut_at", [frozenset(), frozenset({2}), frozenset(range(2, 200, 3))])
@pytest.mark.parametrize("eager", [True, False])
def test_suspended_whenever_it_waits(name: str, cut_at: frozenset[int], eager: bool) -> None:
    scenario, world, _ = SCENARIOS[name]
    whole = Pair(scenario, world, eager=eager)
    pair = Pair(scenario, world, cut_at=set(cut_at), suspends=True, eager=eager)
    assert outcome(pair) == outcome(whole)
    assert not pair.failures


@pytest.mark.parametrize("name", SCENARIOS)
def test_state_that_comes_along_one_time_and_not_the_next(name: str) -> None:
    scenario, world, result = SCENARIOS[name]

    class Fickle(Pair):
        def attempt(self, invocation: Invocation, journal: ReplayedJournal | None) -> None:
            self.eager = not self.eager
            super().attempt(invocation, journal)

    for at in range(Pair(scenario, world).messages):
        for eager in (True, False):
            pair = Fickle(scenario, world, eager=eager, cut_at={at, at + 3})
            assert outcome(pair)[0] == e.Value(result) and not pair.failures


def test_what_happens_outside_may_happen_early() -> None:
    """Everything comes before anybody waits for it."""
    _, world, result = SCENARIOS["awaiting"]

    def all_at_once(pair: Pair) -> None:
        for happens in world:
            happens(pair)

    def begin(hand: Hand) -> Generator[Any, Any, bytes]:
        yield hand.sleep(10)
        return (yield from awaiting(hand))

    pair = Pair(begin, [all_at_once, lambda p: p.pass_time(10)])
    assert outcome(pair)[0] == e.Value(result)
    suspended = Pair(begin, [all_at_once, lambda p: p.pass_time(10)], suspends=True)
    assert outcome(suspended) == outcome(pair)


def test_code_that_was_changed_is_told_where() -> None:
    """Between two attempts somebody renames the second step."""
    names = iter([("a", "b"), ("a", "c")])

    def changed(hand: Hand) -> Generator[Any, Any, bytes]:
        for name in next(names):
            yield hand.step(name, lambda: b"")
        yield hand.sleep(10)
        return b""

    pair = Pair(changed, [lambda p: p.pass_time(10)], suspends=True)
    (failure,) = pair.failures
    assert failure.code == 570
    assert "command 2: the journal holds Run('b'), the code asks for Run('c')" in failure.message
    assert "name: journal 'b', code 'c'" in failure.message


def test_code_that_no_longer_does_what_it_did_is_told_what_is_missing() -> None:
    rounds = iter([2, 1])

    def shorter(hand: Hand) -> Generator[Any, Any, bytes]:
        for _ in range(next(rounds)):
            hand.step("s", lambda: b"")
        yield "never"
        return b""

    pair = Pair(shorter, [lambda p: p.signal("other", e.VOID), lambda p: p.apply(c.Resume(p.at, ID))], suspends=True)
    (failure,) = pair.failures
    assert "command 2: the journal holds Run('s'), the code asks for nothing: it waits" in failure.message


def test_ids_are_the_same_on_every_replay() -> None:
    taken: list[list[Any]] = []

    def ids(hand: Hand) -> Generator[Any, Any, bytes]:
        mine: list[Any] = [hand.step("s", lambda: b""), hand.awakeable(), hand.sleep(10), hand.call(b""), hand.start.id]
        taken.append([*mine, hand.awakeable(), hand.machine.completion_id(), hand.start.random_seed])
        yield mine[2]
        yield (17,)
        return b""

    Pair(ids, [lambda p: p.pass_time(10), lambda p: p.signal(17, e.VOID)], suspends=True)
    assert len(taken) == 3 and taken[0] == taken[1] == taken[2]
