"""Partitions without a runtime: a command goes in, its actions come out, and the rows can be looked at.

A `World` plays the part of the runtime as far as a test of the core needs one: it stamps time and attempt
numbers, and commits after every command. What it is asked to do (start an attempt, deliver a message) it only
notes down: the test says what happens next.
"""

from typing import Any, TypeVar, cast

from perdure.core.partition import apply
from perdure.core.tables import INVOCATION, INVOCATION_ID, Table
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import AckDelivery, Action, Notify, Outcome, Reply, Send, StartAttempt
from perdure.model.ids import format_invocation_id, invocation_id, partition_of
from perdure.model.invocation import AttemptFailure, Invocation, Invoked, Retention, Status, Target, Waiter, Waiting
from perdure.model.services import HandlerKind, RetryPolicy
from perdure.storage.base import Batch
from perdure.storage.memory import MemoryStorage, Snapshot
from perdure.storage.overlay import Overlay

__all__ = ["AT", "KEPT", "TOKEN", "World", "text", "value"]

AT = 1_000_000  # when a world begins, ms since the epoch
TOKEN = 7  # of whoever asks
KEPT = Retention(60_000, 60_000)
KINDS = {"greeter": HandlerKind.PLAIN, "counter": HandlerKind.EXCLUSIVE, "flow": HandlerKind.WORKFLOW}

A = TypeVar("A", bound=Action)
V = TypeVar("V")


def value(text: str) -> e.Value:
    return e.Value(text.encode())


def text(id: bytes) -> str:
    """The printable form of an invocation's id."""
    return format_invocation_id(id)


def target_of(path: str) -> Target:
    """`greeter/greet`, `counter/key/add`, `flow/key/main`; a handler named `get` is shared."""
    service, *key, handler = path.split("/")
    kind = HandlerKind.SHARED if handler == "get" else KINDS[service]
    return Target(service, handler, kind, key[0] if key else None)


class World:
    def __init__(self, partitions: int = 1) -> None:
        self.at = AT
        self.storages = [MemoryStorage() for _ in range(partitions)]
        self.tables = [Overlay(storage, index, partitions) for index, storage in enumerate(self.storages)]
        self.actions: list[Action] = []  # of the last command
        self.batch = Batch()  # what the last command changed
        self.log: list[tuple[int, Action]] = []  # of all commands, with their partition
        self._ids = 0

    # Commands

    def apply(self, command: c.PartitionCommand, partition: int = 0) -> list[Action]:
        """Make a command happen, and commit."""
        tables = self.tables[partition]
        self.actions = apply(tables, command)
        self.batch = tables.take()
        self.storages[partition].commit(self.batch, lambda error: None)
        tables.settled()
        self.log += [(partition, action) for action in self.actions]
        return self.actions

    def fresh_id(self, partition: int = 0) -> bytes:
        """The id of no invocation yet, owned by `partition`."""
        self._ids += 1
        share = (1 << 64) // len(self.tables)
        return invocation_id((share * partition + 1).to_bytes(8, "big"), self._ids.to_bytes(16, "big"))

    def invoke(
        self,
        path: str = "greeter/greet",
        id: bytes | None = None,
        *,
        partition: int = 0,
        retention: Retention = KEPT,
        execute_at: int | None = None,
        idempotency_key: str | None = None,
        waiter: Waiter | None = None,
        token: int | None = None,
        wait: bool = False,
    ) -> bytes:
        """Invoke a handler; the answer is the invocation's id."""
        id = self.fresh_id(partition) if id is None else id
        self.apply(self.invocation_of(path, id, retention, execute_at, idempotency_key, waiter, token, wait), partition)
        return id

    def invocation_of(
        self,
        path: str,
        id: bytes,
        retention: Retention = KEPT,
        execute_at: int | None = None,
        idempotency_key: str | None = None,
        waiter: Waiter | None = None,
        token: int | None = None,
        wait: bool = False,
    ) -> c.Invoke:
        return c.Invoke(
            self.at,
            id,
            target_of(path),
            e.Input(b"in"),
            retention,
            execute_at,
            idempotency_key,
            None,
            waiter,
            token,
            wait,
        )

    def append(self, id: bytes, *entries: e.Command) -> None:
        """The running attempt issues commands."""
        for entry in entries:
            it = self[id]
            self.apply(c.Append(self.at, it.number, it.attempts, entry), self.owner(id))

    def call(self, id: bytes, path: str, ids: tuple[int, int], callee: bytes, **options: Any) -> None:
        """The running attempt calls `path`, with these completion ids for the callee's id and for its result."""
        it, target = self[id], target_of(path)
        entry = e.Call(target.service, target.handler, b"in", *ids, target.key or "")
        waiter = Waiter(id, ids[1], e.CALL_COMPLETION)
        invoke = self.invocation_of(path, callee, waiter=waiter, **options)
        self.apply(c.AppendCall(self.at, it.number, it.attempts, entry, invoke), self.owner(id))

    def propose(self, id: bytes, completion_id: int, result: e.Value | e.Failure | None = None) -> None:
        it = self[id]
        result = value("done") if result is None else result
        self.apply(c.Propose(self.at, it.number, it.attempts, completion_id, result), self.owner(id))

    def suspend(self, id: bytes, *completions: int, seen: int | None = None, **waiting: Any) -> None:
        it = self[id]
        what = Waiting(completions, **waiting)
        self.apply(c.Suspend(self.at, it.number, it.attempts, what, seen), self.owner(id))

    def end(self, id: bytes, result: e.Value | e.Failure | None = None) -> None:
        it = self[id]
        self.apply(c.End(self.at, it.number, it.attempts, result or value("out")), self.owner(id))

    def fail(
        self,
        id: bytes,
        policy: RetryPolicy | None = None,
        *,
        chance: float = 0.0,
        delay_ms: int | None = None,
        behavior: str = "retry",
        step_attempts: dict[int, int] | None = None,
    ) -> None:
        it, failure = self[id], AttemptFailure("boom", 500, self.at)
        self.apply(
            c.Fail(
                self.at,
                it.number,
                it.attempts,
                failure,
                policy or RetryPolicy(),
                chance,
                delay_ms,
                behavior,
                step_attempts or {},
            ),
            self.owner(id),
        )

    def ask(self, command: type[Any], id: bytes, **fields: Any) -> Outcome:
        """Give an order or ask a question; the answer to it, which has to come at once."""
        self.order(command, id, **fields)
        return self.reply()

    def order(self, command: type[Any], id: bytes, **fields: Any) -> list[Action]:
        return self.apply(command(self.at, id, token=TOKEN, **fields), self.owner(id))

    def tick(self, after_ms: int = 0) -> list[Action]:
        """Let time pass, and have every partition look at its timers."""
        self.at += after_ms
        self.actions = [action for index in range(len(self.tables)) for action in self.apply(c.Tick(self.at), index)]
        return self.actions

    def recover(self, partition: int = 0) -> list[Action]:
        """Start the partition over, from what is stored."""
        self.tables[partition] = Overlay(self.storages[partition], partition, len(self.tables))
        return self.apply(c.Recover(self.at), partition)

    def deliver(self, source: int, send: Send) -> list[Action]:
        """Carry a message to its partition."""
        return self.apply(c.Deliver(self.at, source, send.position, send.message), send.destination)

    def settle(self) -> None:
        """Carry messages and acknowledgements, of everything done so far, until there are none."""
        while self.log:
            partition, action = self.log.pop(0)
            if isinstance(action, Send):
                self.deliver(partition, action)
            elif isinstance(action, AckDelivery):
                self.apply(c.Delivered(self.at, partition, action.position), action.source)

    # What is there

    def owner(self, id: bytes) -> int:
        return partition_of(id, len(self.tables))

    def find(self, id: bytes) -> Invocation | None:
        tables = self.tables[self.owner(id)]
        number = tables.get(INVOCATION_ID, (id[8:] + id[:8],))
        return None if number is None else tables.get(INVOCATION, (number,))

    def __getitem__(self, id: bytes) -> Invocation:
        found = self.find(id)
        assert found is not None, "no such invocation"
        return found

    def status(self, id: bytes) -> Status | None:
        found = self.find(id)
        return None if found is None else found.status

    def kind(self, id: bytes) -> str:
        """Where an invocation stands, in a word."""
        status = self.status(id)
        if status is None:
            return "unknown"
        return "BackingOff" if isinstance(status, Invoked) and status.retry_at is not None else type(status).__name__

    def journal(self, id: bytes) -> list[e.Entry]:
        return [entry for _, entry in self.tables[self.owner(id)].journal(self[id].number)]

    def rows(self, table: Table[V], partition: int = 0) -> dict[tuple[Any, ...], V]:
        return cast("dict[tuple[Any, ...], V]", self.snapshot(partition)[table.name])

    def snapshot(self, partition: int = 0) -> Snapshot:
        return self.storages[partition].snapshot()

    def changed(self) -> bool:
        """Whether the last command changed anything."""
        return bool(self.batch)

    # What was asked for by the last command

    def only(self, kind: type[A]) -> A:
        (action,) = self.all(kind)
        return action

    def all(self, kind: type[A]) -> list[A]:
        return [action for action in self.actions if isinstance(action, kind)]

    def reply(self) -> Outcome:
        return self.only(Reply).outcome

    def started(self) -> list[bytes]:
        """The invocations that the last command started."""
        return [action.invocation.id for action in self.all(StartAttempt)]

    def notified(self) -> list[e.Notification]:
        return [action.notification for action in self.all(Notify)]
