"""Commands of all kinds in any order, over two partitions that crash at any moment: what is always true stays true.

The rules play the runtime and the handlers: they report what live attempts could report, carry messages when they
like and as often as they like, and perform no action before its batch is stored. At the end everything is brought
to rest: if nothing was lost on the way, nothing is left.
"""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.core.partition import apply
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import (
    AbortAttempt,
    AckDelivery,
    Action,
    Finished,
    Notify,
    Reply,
    Send,
    SetTimer,
    StartAttempt,
)
from perdure.model.ids import (
    awakeable_id,
    idempotent_uuid,
    invocation_id,
    partition_key_of,
    partition_of,
)
from perdure.model.invocation import (
    AttemptFailure,
    Completed,
    Invocation,
    Invoked,
    Paused,
    Retention,
    Suspended,
    Waiter,
    Waiting,
)
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.storage.base import Batch
from perdure.storage.memory import MemoryStorage, Snapshot
from perdure.storage.overlay import Overlay
from tests.core.invariants import check
from tests.core.world import AT, target_of, text, value

PARTITIONS = 2
KEYS = ("a", "c")  # of different partitions
PATHS = ("greeter/greet", *(f"{path}" for key in KEYS for path in (f"counter/{key}/add", f"flow/{key}/main")))
SHARED = tuple(f"{service}/{key}/get" for service in ("counter", "flow") for key in KEYS)
RETENTIONS = (Retention(), Retention(5_000, 2_000), Retention(20_000, 20_000), Retention(20_000, 0))
ORDERS = ("cancel", "kill", "pause", "resume", "purge", "restart", "attach", "signal", "describe")
POLICY = RetryPolicy(initial_interval=1.0, max_attempts=3)


class Live:
    """An attempt that runs: what it was given, and what it has asked."""

    def __init__(self, start: StartAttempt) -> None:
        assert start.journal is not None
        self.invocation = start.invocation
        entries = start.journal.entries
        self.given: list[e.Notification] = [x for x in entries if isinstance(x, e.Completion | e.Signal)]
        self.asked: dict[int, e.Command] = {}  # the commands that another entry answers
        self.proposed: set[int] = set()
        self.next_id = 1
        for entry in entries:
            if not isinstance(entry, e.Completion | e.Signal):
                self.ask(entry)

    def ask(self, entry: e.Command) -> None:
        for field in ("invocation_id_completion_id", "completion_id"):
            number = getattr(entry, field, None)
            if number is not None:
                self.asked[number] = entry
                self.next_id = max(self.next_id, number + 1)

    def open(self) -> list[int]:
        answered = {entry.completion_id for entry in self.given if isinstance(entry, e.Completion)}
        return [number for number in self.asked if number not in answered]

    def unfinished_steps(self) -> list[int]:
        return [n for n in self.open() if isinstance(self.asked[n], e.Run) and n not in self.proposed]


class Partition:
    def __init__(self, index: int) -> None:
        self.index = index
        self.storage = MemoryStorage()
        self.begin()

    def begin(self) -> None:
        """A process begins: it has the store, and nothing else."""
        self.tables = Overlay(self.storage, self.index, PARTITIONS)
        self.actions: list[Action] = []
        self.writing: tuple[Batch, list[Action]] | None = None
        self.live: dict[int, Live] = {}
        self.to_load: dict[int, int] = {}
        self.armed: int | None = None
        self.dirty = False
        self.holding = False  # whether a batch is left open after a command

    def apply(self, command: c.PartitionCommand) -> list[Action]:
        self.dirty = True
        actions = apply(self.tables, command)
        self.actions += actions
        return actions

    def take(self) -> None:
        assert self.writing is None
        self.writing = self.tables.take(), self.actions
        self.actions = []
        self.dirty = False

    def store(self) -> None:
        assert self.writing is not None
        self.storage.commit(self.writing[0], lambda error: None)

    @property
    def at_rest(self) -> bool:
        """Whether all that was applied is stored and performed."""
        return self.writing is None and not self.dirty


indexes = st.integers(0, PARTITIONS - 1)
choices = st.integers(0, 1 << 16)  # picks one of whatever there is
words = st.sampled_from(["a", "b"])


class AnyOrder(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.at = AT
        self.partitions = [Partition(index) for index in range(PARTITIONS)]
        self.ids: list[bytes] = []  # of every invocation there ever was
        self.fresh: list[tuple[int, Send]] = []  # messages that were not carried yet
        self.wire: list[tuple[int, Send]] = []  # all that are not acknowledged: they are carried again
        self.acks: list[tuple[int, AckDelivery]] = []
        self.replies: dict[int, int] = {}
        self.tokens = 0
        self.count = 0
        self.slow = False
        for path in PATHS:
            self.invoke_it(path, 0b0010100)

    # Ids and owners

    def id_for(self, path: str, idempotent: bool, partition: int) -> bytes:
        target = target_of(path)
        owner = partition_key_of(target.key) if target.key else bytes([partition * 128]) + bytes(7)
        if target.kind is HandlerKind.WORKFLOW or idempotent:
            uuid = idempotent_uuid(path, None, "", "")  # names make the id: when it is forgotten it comes back
        else:
            self.count += 1
            uuid = self.count.to_bytes(16, "big")
        id = invocation_id(owner, uuid)
        if id not in self.ids:
            self.ids.append(id)
        return id

    def invocation_of(self, path: str, shape: int, waiter: Waiter | None = None, token: int | None = None) -> c.Invoke:
        target = target_of(path)
        idempotent = bool(shape & 1) and target.kind is not HandlerKind.WORKFLOW
        id = self.id_for(path, idempotent, shape >> 1 & 1)
        execute_at = self.at + 3_000 if shape >> 2 & 3 == 0 and waiter is None else None
        key = "once" if idempotent else None
        retention = RETENTIONS[shape >> 4 & 3]
        return c.Invoke(
            self.at, id, target, e.Input(b"in"), retention, execute_at, key, None, waiter, token, bool(shape >> 6 & 1)
        )

    def owner(self, id: bytes) -> Partition:
        return self.partitions[partition_of(id, PARTITIONS)]

    def known(self, choice: int) -> bytes:
        """The id of some invocation there was, or of none."""
        ids = [*self.ids, self.id_for("greeter/greet", False, 0)]
        return ids[choice % len(ids)]

    def token(self) -> int:
        self.tokens += 1
        return self.tokens

    def say(self, partition: Partition, command: c.PartitionCommand) -> list[Action]:
        """Have a command happen; it is committed at once, unless the partition holds its batch open."""
        actions = partition.apply(command)
        if not partition.holding:
            self.commit(partition.index)
        while not self.slow and (self.fresh or self.acks):
            if self.fresh:
                self.deliver(*self.fresh.pop(0))
            else:
                self.acknowledge(*self.acks.pop(0))
        return actions

    # From outside

    @rule(path=st.sampled_from(PATHS + SHARED), shape=choices)
    def invoke(self, path: str, shape: int) -> None:
        self.invoke_it(path, shape)

    def invoke_it(self, path: str, shape: int) -> None:
        command = self.invocation_of(path, shape, token=self.token())
        self.say(self.owner(command.id), command)

    @rule(choice=choices, what=st.sampled_from(ORDERS), number=st.integers(1, 8))
    def order(self, choice: int, what: str, number: int) -> None:
        id, token = self.known(choice), self.token()
        command: c.PartitionCommand
        if what == "restart":
            self.count += 1
            new_id = invocation_id(id[:8], self.count.to_bytes(16, "big"))
            self.ids.append(new_id)
            command = c.Restart(self.at, id, new_id, number, token)
        elif what == "signal":
            command = c.SendSignalTo(self.at, id, e.Signal(("go", 17)[number & 1], value("v")), token)
        elif what == "attach":
            command = c.Attach(self.at, id, bool(number & 1), token)
        elif what == "purge":
            command = c.Purge(self.at, id, bool(number & 1), token)
        else:
            order: type[Any] = {
                "cancel": c.Cancel,
                "kill": c.Kill,
                "pause": c.Pause,
                "resume": c.Resume,
                "describe": c.Describe,
            }[what]
            command = order(self.at, id, token=token)
        self.say(self.owner(id), command)

    @rule(key=st.sampled_from(KEYS), name=words, clear=st.booleans(), replace=st.booleans())
    def change_state(self, key: str, name: str, clear: bool, replace: bool) -> None:
        changes: dict[str, bytes | None] = {name: None if clear else b"outside"}
        owner = self.owner(partition_key_of(key) + bytes(16))
        self.say(owner, c.ChangeState(self.at, "counter", key, changes, replace, self.token()))

    # Handlers

    def some_live(self, choice: int) -> tuple[Partition, Live] | None:
        every = [(partition, live) for partition in self.partitions for live in partition.live.values()]
        return every[choice % len(every)] if every else None

    def anybody_lives(self) -> bool:
        return any(partition.live for partition in self.partitions)

    @precondition(anybody_lives)
    @rule(choice=choices, kind=st.integers(0, 15), other=choices, name=words)
    def append(self, choice: int, kind: int, other: int, name: str) -> None:
        found = self.some_live(choice)
        assert found is not None
        partition, live = found
        it = live.invocation
        entries = self.possible(live, it, other, name)
        entry = entries[kind % len(entries)]
        live.ask(entry)
        self.say(partition, c.Append(self.at, it.number, it.attempts, entry))

    def possible(self, live: Live, it: Invocation, other: int, name: str) -> list[e.Command]:
        fresh, known = live.next_id, self.known(other)
        entries: list[e.Command] = [
            e.Run(fresh, name),
            e.Sleep(self.at + 1000 * (other % 8), fresh),
            e.SendSignal(text(known), (1, 17, "go")[other % 3], value("v")),
            e.CompleteAwakeable(awakeable_id(known, 17), value("v")),
            e.AttachInvocation(e.InvocationTarget(text(known)), fresh),
            e.GetInvocationOutput(e.InvocationTarget(text(known)), fresh),
            e.Output(value("out")),
        ]
        if it.target.kind is not HandlerKind.PLAIN:
            entries += [e.GetLazyState(name, fresh), e.GetLazyStateKeys(fresh)]
        if it.target.kind in (HandlerKind.EXCLUSIVE, HandlerKind.WORKFLOW):
            entries += [e.SetState(name, b"inside"), e.ClearState(name), e.ClearAllState()]
        return entries

    @precondition(anybody_lives)
    @rule(choice=choices, kind=st.sampled_from([e.GetPromise, e.GetPromise, e.PeekPromise, None]), name=words)
    def promise(self, choice: int, kind: type[e.GetPromise | e.PeekPromise] | None, name: str) -> None:
        flows = [
            (p, live) for p in self.partitions for live in p.live.values() if live.invocation.target.service == "flow"
        ]
        if flows:
            partition, live = flows[choice % len(flows)]
            it, fresh = live.invocation, live.next_id
            entry = e.CompletePromise(name, value("p"), fresh) if kind is None else kind(name, fresh)
            live.ask(entry)
            self.say(partition, c.Append(self.at, it.number, it.attempts, entry))

    @precondition(anybody_lives)
    @rule(choice=choices, path=st.sampled_from(PATHS + SHARED), shape=choices, one_way=st.booleans())
    def call(self, choice: int, path: str, shape: int, one_way: bool) -> None:
        found = self.some_live(choice)
        assert found is not None
        partition, live = found
        it, target, fresh = live.invocation, target_of(path), live.next_id
        waiter = None if one_way else Waiter(it.id, fresh + 1, e.CALL_COMPLETION)
        entry: e.Call | e.OneWayCall
        if one_way:
            entry = e.OneWayCall(target.service, target.handler, b"in", fresh)
        else:
            entry = e.Call(target.service, target.handler, b"in", fresh, fresh + 1)
        live.ask(entry)
        self.say(
            partition, c.AppendCall(self.at, it.number, it.attempts, entry, self.invocation_of(path, shape, waiter))
        )

    @precondition(anybody_lives)
    @rule(choice=choices, fails=st.booleans())
    def step(self, choice: int, fails: bool) -> None:
        """A step begins, or one that has begun gets a result."""
        found = self.some_live(choice)
        assert found is not None
        partition, live = found
        number, attempt = live.invocation.number, live.invocation.attempts
        steps = live.unfinished_steps()
        if not steps:
            entry = e.Run(live.next_id, "step")
            live.ask(entry)
            self.say(partition, c.Append(self.at, number, attempt, entry))
            return
        live.proposed.add(steps[0])
        result = e.Failure(500, "no") if fails else value("done")
        self.say(partition, c.Propose(self.at, number, attempt, steps[0], result))

    @precondition(anybody_lives)
    @rule(choice=choices, counted=st.booleans())
    def suspend(self, choice: int, counted: bool) -> None:
        """It has consumed all that it was given, and waits for the answers it has not."""
        found = self.some_live(choice)
        assert found is not None
        partition, live = found
        if live.unfinished_steps():
            return  # a step that is to be run yet keeps it awake
        waiting = Waiting(tuple(live.open()), (1,) if live.open() else (1, 18))
        del partition.live[live.invocation.number]
        seen = len(live.given) if counted else None
        self.say(partition, c.Suspend(self.at, live.invocation.number, live.invocation.attempts, waiting, seen))

    @precondition(anybody_lives)
    @rule(choice=choices)
    def end(self, choice: int) -> None:
        found = self.some_live(choice)
        assert found is not None
        partition, live = found
        del partition.live[live.invocation.number]
        self.say(partition, c.End(self.at, live.invocation.number, live.invocation.attempts, value("out")))

    @precondition(anybody_lives)
    @rule(
        choice=choices,
        behavior=st.sampled_from(["retry", "retry", "pause", "fail"]),
        delay_ms=st.sampled_from([None, None, 0, 2000]),
    )
    def fail(self, choice: int, behavior: str, delay_ms: int | None) -> None:
        found = self.some_live(choice)
        assert found is not None
        partition, live = found
        it = live.invocation
        del partition.live[it.number]
        failure = AttemptFailure("boom", at=self.at)
        self.say(partition, c.Fail(self.at, it.number, it.attempts, failure, POLICY, 0.5, delay_ms, behavior, {1: 1}))

    @precondition(anybody_lives)
    @rule(choice=choices)
    def mutter(self, choice: int) -> None:
        """A step fails and is tried again; and an attempt before this one says something, too late."""
        found = self.some_live(choice)
        assert found is not None
        partition, live = found
        number, attempt = live.invocation.number, live.invocation.attempts
        self.say(partition, c.Note(self.at, number, attempt, AttemptFailure("a step failed"), {1: 1}))
        for late in (
            c.Append(self.at, number, attempt - 1, e.Run(99, "late")),
            c.End(self.at, number, attempt - 1, value("late")),
            c.Suspend(self.at, number, attempt - 1, Waiting(signals=(17,)), 0),
        ):
            assert self.say(partition, late) == []

    # The runtime

    @rule(index=indexes, take=st.booleans())
    def hold(self, index: int, take: bool) -> None:
        """Leave batches open; or have one being written, with the next open beside it."""
        partition = self.partitions[index]
        partition.holding = True
        if take and partition.writing is None:
            partition.take()

    @rule(index=indexes)
    def commit(self, index: int) -> None:
        partition = self.partitions[index]
        partition.holding = False
        while partition.writing is not None or partition.dirty:
            if partition.writing is None:
                partition.take()
            self.written(partition)

    def written(self, partition: Partition) -> None:
        assert partition.writing is not None
        actions = partition.writing[1]
        partition.store()
        partition.tables.settled()
        partition.writing = None
        for action in actions:
            self.perform(partition, action)

    def perform(self, partition: Partition, action: Action) -> None:
        if isinstance(action, StartAttempt):
            number = action.invocation.number
            partition.live.pop(number, None)
            if action.journal is None:
                partition.to_load[number] = action.invocation.attempts
            else:
                partition.live[number] = Live(action)
        elif isinstance(action, Notify):
            if action.number in partition.live:
                partition.live[action.number].given.append(action.notification)
        elif isinstance(action, AbortAttempt):
            partition.live.pop(action.number, None)
            partition.to_load.pop(action.number, None)
        elif isinstance(action, SetTimer):
            partition.armed = action.at if partition.armed is None else min(partition.armed, action.at)
        elif isinstance(action, Send):
            self.fresh.append((partition.index, action))
            self.wire.append((partition.index, action))
        elif isinstance(action, AckDelivery):
            self.acks.append((partition.index, action))
        elif isinstance(action, Reply):
            self.replies[action.token] = self.replies.get(action.token, 0) + 1
        else:
            assert isinstance(action, Finished)

    @rule(index=indexes)
    def load(self, index: int) -> None:
        partition = self.partitions[index]
        waiting, partition.to_load = partition.to_load, {}
        for number, attempt in waiting.items():
            self.say(partition, c.Load(self.at, number, attempt))

    @rule(after=st.sampled_from([0, 500, 1000, 5000]), index=indexes)
    def tick(self, after: int, index: int) -> None:
        self.at += after
        self.partitions[index].armed = None
        self.say(self.partitions[index], c.Tick(self.at))

    @rule(choice=choices)
    def carry(self, choice: int) -> None:
        """Carry a message and an acknowledgement, in any order, and maybe again later."""
        self.slow = True
        if self.wire:
            self.deliver(*self.wire[choice % len(self.wire)])
        if self.acks:
            self.acknowledge(*self.acks.pop(choice % len(self.acks)))

    @rule(slow=st.booleans())
    def network(self, slow: bool) -> None:
        """Messages are on their way for a while, or arrive at once."""
        self.slow = slow

    def deliver(self, source: int, send: Send) -> None:
        self.say(self.partitions[send.destination], c.Deliver(self.at, source, send.position, send.message))

    def acknowledge(self, receiver: int, ack: AckDelivery) -> None:
        self.wire = [
            (source, send)
            for source, send in self.wire
            if (source, send.destination) != (ack.source, receiver) or send.position > ack.position
        ]
        self.say(self.partitions[ack.source], c.Delivered(self.at, receiver, ack.position))

    @rule(index=indexes, luck=st.integers(0, 15))
    def crash(self, index: int, luck: int) -> None:
        """What is applied and not stored is gone; of what was being written, all is there or nothing."""
        partition = self.partitions[index]
        if luck > 9:
            return
        if partition.writing is not None and luck & 1:
            partition.store()
        if luck & 2:
            self.wire = [(source, send) for source, send in self.wire if source != index]
            self.fresh = [(source, send) for source, send in self.fresh if source != index]
        partition.begin()
        self.say(partition, c.Recover(self.at))

    # What is always true

    def stored(self) -> list[Snapshot]:
        return [partition.storage.snapshot() for partition in self.partitions]

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert not check(self.stored())

    @invariant()
    def a_timer_is_set_for_the_first_that_is_due(self) -> None:
        for partition in self.partitions:
            timers = partition.storage.snapshot()["timer"]
            if timers and partition.at_rest:
                assert partition.armed is not None and partition.armed <= min(timers)[0]

    @invariant()
    def who_is_to_run_runs_and_nobody_else(self) -> None:
        for partition in self.partitions:
            if partition.at_rest:
                rows = partition.storage.snapshot()["invocation"].values()
                to_run = {
                    it.number: it.attempts for it in rows if isinstance(it.status, Invoked) and not it.status.retry_at
                }
                runs = {number: live.invocation.attempts for number, live in partition.live.items()}
                assert {**partition.to_load, **runs} == to_run

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert all(count == 1 for count in self.replies.values())

    # The end

    def teardown(self) -> None:
        for _ in range(300):
            if self.one_round():
                break
        else:
            raise AssertionError("it does not come to rest")
        self.at += 1_000_000
        for partition in self.partitions:
            while partition.storage.snapshot()["timer"]:
                self.say(partition, c.Tick(self.at))
        for rows in self.stored():
            left = {name for name, table in rows.items() if table}
            assert left <= {"meta", "state", "promise"}, left

    def one_round(self) -> bool:
        """Carry everything, let every handler return, wake whoever rests; whether there was nothing to do."""
        self.slow = True
        for index in range(PARTITIONS):
            self.commit(index)
            self.load(index)
        self.at += 1000
        busy = False
        for partition in self.partitions:
            rows = partition.storage.snapshot()
            for live in list(partition.live.values()):
                it = live.invocation
                del partition.live[it.number]
                self.say(partition, c.End(self.at, it.number, it.attempts, value("out")))
            for it in rows["invocation"].values():
                if isinstance(it.status, Paused):
                    self.say(partition, c.Resume(self.at, it.id))
                elif isinstance(it.status, Suspended):
                    self.say(partition, c.SendSignalTo(self.at, it.id, e.Signal(1, e.VOID)))
                busy |= not isinstance(it.status, Completed)
            busy |= bool(rows["outbox"] or self.acks)
            self.say(partition, c.Tick(self.at))
        self.fresh.clear()
        for source, send in sorted(self.wire, key=lambda sent: (sent[0], sent[1].destination, sent[1].position)):
            self.deliver(source, send)
        while self.acks:
            self.acknowledge(*self.acks.pop())
        return not busy


AnyOrder.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_order = AnyOrder.TestCase
