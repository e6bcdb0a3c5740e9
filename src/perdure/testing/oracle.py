"""What the tables should be: a slow, obvious account of every write, and checkers that claim one property each.

The ledger sees each command's writes as the core makes them, and believes them when the disk has them. From these
it keeps its own copy of every partition's tables, and hands each write, with what was there before, to the
checkers. None of them asks the engine anything: each keeps what it needs to know, in the plainest way there is.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

from perdure.core.tables import TABLES, Key, StateChange, Table, Tables
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.entries import Entry
from perdure.model.ids import CANCEL_SIGNAL, format_invocation_id, parse_invocation_id
from perdure.model.invocation import (
    Completed,
    Inboxed,
    Invocation,
    Invoked,
    Paused,
    Scheduled,
    Suspended,
    Target,
)
from perdure.model.services import HandlerKind
from perdure.model.state import state_version
from perdure.testing.invariants import check, journal_of

__all__ = ["Known", "Ledger", "WatchedTables", "Write"]

V = TypeVar("V")
Complain = Callable[[str], None]
_DROP = object()


class Known:
    """What is known of an invocation that was accepted; outlives its rows."""

    __slots__ = (
        "caller",
        "earlier",
        "id",
        "number",
        "partition",
        "result",
        "status",
        "target",
        "text",
        "uid",
    )

    def __init__(self, partition: int, invocation: Invocation, uid: str) -> None:
        self.id = invocation.id
        self.text = format_invocation_id(invocation.id)
        self.partition = partition
        self.number = invocation.number
        self.target: Target = invocation.target
        self.caller = invocation.caller
        self.uid = uid
        self.status: type[Any] = type(invocation.status)
        self.result: e.Value | e.Failure | None = None
        self.earlier: list[e.Value | e.Failure | None] = []
        """The results of invocations of the same id that were withdrawn before they began, and so forgotten."""

    def __repr__(self) -> str:
        return f"{self.uid} ({self.target}, number {self.number} of partition {self.partition})"


class Write:
    """One row written: by which command, and what was there before. A value of None is a deletion."""

    __slots__ = ("before", "command", "key", "partition", "value")

    def __init__(self, partition: int, command: Any, key: Key, before: Any, value: Any) -> None:
        self.partition = partition
        self.command = command
        self.key = key
        self.before = before
        self.value = value


class WatchedTables:
    """The core's tables, with a list of everything that is written."""

    def __init__(self, tables: Tables, log: list[tuple[Table[Any], Key, Any]]) -> None:
        self.index = tables.index
        self.partitions = tables.partitions
        self.statuses = tables.statuses
        self._tables = tables
        self._log = log

    @property
    def completed(self) -> list[Invocation]:
        return self._tables.completed

    def get(self, table: Table[V], key: Key) -> V | None:
        return self._tables.get(table, key)

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        return self._tables.scan(table, group, limit=limit)

    def journal(self, number: int) -> list[tuple[int, Entry]]:
        return self._tables.journal(number)

    def put(self, table: Table[V], key: Key, value: V) -> None:
        self._log.append((table, key, value))
        self._tables.put(table, key, value)

    def delete(self, table: Table[V], key: Key) -> None:
        self._log.append((table, key, None))
        self._tables.delete(table, key)

    def drop(self, table: Table[V], group: Key) -> None:
        self._log.append((table, group, _DROP))
        self._tables.drop(table, group)

    def append(self, number: int, at: int, entry: Entry) -> int:
        index = self._tables.append(number, at, entry)
        self._log.append((_BY_NAME["journal"], (number, index), (at, entry)))
        return index

    def count(self, name: str) -> int:
        value = self._tables.count(name)
        self._log.append((_BY_NAME["meta"], (name,), value))
        return value


_BY_NAME: dict[str, Table[Any]] = {table.name: table for table in TABLES}


class Ledger:
    """Every write that the disk has, in order, and the tables that follow from them.

    `tables[p]` holds partition p's rows by table. `known` holds every invocation that was ever accepted, by id;
    `recorded` the result of every step, by its token; `signals` every signal's, by invocation and name or number;
    `promises` every promise's, by workflow id and name; `shown` how many chunks are stored of what a step wrote, by its
    result; `streams` all that was ever stored of a stream, by partition, number and name: position and text.
    """

    def __init__(self, partitions: int, complain: Complain) -> None:
        self.tables: list[dict[str, dict[Key, Any]]] = [{table.name: {} for table in TABLES} for _ in range(partitions)]
        self.known: dict[bytes, Known] = {}
        self.by_number: dict[tuple[int, int], Known] = {}
        self.recorded: dict[str, e.Value | e.Failure] = {}
        self.signals: dict[tuple[bytes, int | str], list[e.Value | e.Failure | e.Void]] = {}
        self.promises: dict[tuple[str, str], e.Value | e.Failure] = {}
        self.shown: dict[str, int] = {}
        self.streams: dict[tuple[int, int, str], dict[int, str]] = {}
        self.complain = complain
        self._applied: list[list[tuple[c.PartitionCommand, list[tuple[Table[Any], Key, Any]]]]] = [
            [] for _ in range(partitions)
        ]
        self._writing: list[list[tuple[c.PartitionCommand, list[tuple[Table[Any], Key, Any]]]]] = [
            [] for _ in range(partitions)
        ]
        self.checkers: tuple[Checker, ...] = tuple(make(self) for make in CHECKERS)
        self._listeners: dict[str, list[Callable[[Write], None]]] = {}
        for checker in self.checkers:
            for name, listener in checker.listens().items():
                self._listeners.setdefault(name, []).append(listener)

    # What the simulator tells

    def watch(self, tables: Tables, command: c.PartitionCommand) -> WatchedTables:
        """Tables for the core to apply one command to."""
        log: list[tuple[Table[Any], Key, Any]] = []
        self._applied[tables.index].append((command, log))
        return WatchedTables(tables, log)

    def handed_over(self, partition: int) -> None:
        """What was applied since the last time is one batch, and the store has it."""
        self._writing[partition] = self._applied[partition]
        self._applied[partition] = []

    def stored(self, partition: int) -> None:
        """The batch is on the disk."""
        touched: dict[int, None] = {}
        for command, log in self._writing[partition]:
            for table, key, value in log:
                self._write(partition, command, table, key, value, touched)
        self._writing[partition] = []
        for checker in self.checkers:
            checker.stored()
        for wrong in check(self.tables[partition], touched):
            self.complain(f"tables of partition {partition}: {wrong}")

    def crashed(self) -> None:
        """What is not on the disk never happened."""
        for log in (*self._applied, *self._writing):
            log.clear()

    def _write(
        self,
        partition: int,
        command: c.PartitionCommand,
        table: Table[Any],
        key: Key,
        value: Any,
        touched: dict[int, None],
    ) -> None:
        name = table.name
        rows = self.tables[partition][name]
        if name in _TOUCHES:
            touched[key[_TOUCHES[name]]] = None
        if value is _DROP:
            gone = [known for known in rows if known[: table.group] == key]
            for known in gone:
                self._tell(name, Write(partition, command, known, rows.pop(known), None))
            return
        before = rows.get(key)
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
        self._tell(name, Write(partition, command, key, before, value))

    def _tell(self, name: str, write: Write) -> None:
        for listener in self._listeners.get(name, ()):
            listener(write)

    # What anyone may ask

    def live(self) -> list[Known]:
        """The invocations that were accepted and are not completed, oldest first."""
        return [known for known in self.known.values() if known.status is not Completed]

    def undelivered(self) -> int:
        """How many messages between partitions have been sent and not taken."""
        under_way = 0
        for source, tables in enumerate(self.tables):
            for destination, others in enumerate(self.tables):
                under_way += tables["meta"].get((f"sent:{destination}",), 0)
                under_way -= others["meta"].get((f"received:{source}",), 0)
        return under_way

    def row(self, known: Known) -> Invocation | None:
        return self.tables[known.partition]["invocation"].get((known.number,))

    def story(self, known: Known) -> str:
        """Where an invocation stands, for whoever reads a complaint."""
        row = self.row(known)
        entries = journal_of(self.tables[known.partition], known.number)
        lines = "\n".join(f"      {index}: {entry}"[:160] for index, entry in enumerate(entries))
        return f"{known}: {None if row is None else row.status}\n{lines}"

    def end(self) -> None:
        """The run is over: have every checker say what only the end shows."""
        for checker in self.checkers:
            checker.end()


_TOUCHES = {"invocation": 0, "journal": 0, "timer": 1}


class Checker:
    """One property. `listens` names the tables it wants to hear of; `stored` is called after the writes of each batch,
    `end` once, at the end."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.complain = ledger.complain

    def listens(self) -> dict[str, Callable[[Write], None]]:
        raise NotImplementedError

    def stored(self) -> None:
        pass

    def end(self) -> None:
        pass

    def who(self, write: Write) -> Known | None:
        return self.ledger.by_number.get((write.partition, write.key[0]))


def input_uid(entry: Entry) -> str:
    """Every input of the simulator's workload begins with the name of what it is."""
    assert isinstance(entry, e.Input)
    return _uid(entry.value)


def _uid(body: bytes) -> str:
    return str(json.loads(body)["uid"])


class Lifecycle(Checker):
    """An accepted invocation moves only as it may, completes once, and is forgotten only after that."""

    NEXT: ClassVar[dict[type[Any], tuple[type[Any], ...]]] = {  # written from the manual, not from the core
        Scheduled: (Inboxed, Invoked, Completed),
        Inboxed: (Invoked, Completed),
        Invoked: (Suspended, Paused, Completed),
        Suspended: (Invoked, Paused, Completed),
        Paused: (Invoked, Completed),
        Completed: (),
    }

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"invocation": self._invocation, "invocation_id": self._id}

    def _id(self, write: Write) -> None:
        if write.before is not None and write.value is not None:
            self.complain(f"one id, two invocations: {write.before} and {write.value} of {write.partition}")

    def _invocation(self, write: Write) -> None:
        before: Invocation | None = write.before
        after: Invocation | None = write.value
        if before is None:
            assert after is not None
            self._accepted(write, after)
            return
        known = self.ledger.known[before.id]
        if after is None:
            if type(before.status) is not Completed:
                self.complain(f"lost: {known} was deleted while it was {before.status}")
            return
        was, now = type(before.status), type(after.status)
        if now not in self.NEXT[was] and (now is not was or now is Completed):
            self.complain(f"{known} went from {was.__name__} to {now.__name__}")
        if after.attempts < before.attempts:
            self.complain(f"{known}: the fence went back from attempt {before.attempts} to {after.attempts}")
        known.status = now
        if isinstance(after.status, Completed):
            known.result = after.status.result

    def _accepted(self, write: Write, row: Invocation) -> None:
        journal = self.ledger.tables[write.partition]["journal"]
        known = Known(write.partition, row, input_uid(journal[row.number, 0][1]))
        if (old := self.ledger.known.get(row.id)) is not None:
            known.earlier = [*old.earlier, old.result]
        self.ledger.known[row.id] = known
        self.ledger.by_number[write.partition, row.number] = known
        if row.restarted_from is not None:
            for entry in journal_of(self.ledger.tables[write.partition], row.number):
                if isinstance(entry, e.Signal):
                    self.ledger.signals.setdefault((row.id, entry.signal), []).append(entry.result)


class StepsRecordedOnce(Checker):
    """The result of a step is recorded once."""

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"journal": self._journal}

    def _journal(self, write: Write) -> None:
        if write.value is None:
            return
        entry = write.value[1]
        if write.before is not None:
            self.complain(
                f"the journal of {self.who(write)} was changed at {write.key[1]}: {write.before[1]} -> {entry}"
            )
        known = self.who(write)
        if isinstance(entry, e.Signal) and known is not None:
            self.ledger.signals.setdefault((known.id, entry.signal), []).append(entry.result)
        if isinstance(entry, e.Completion) and entry.type == e.RUN_COMPLETION:
            if known is None or isinstance(write.command, c.Restart):
                return
            token = f"{known.text}-{entry.completion_id}"
            assert isinstance(entry.result, e.Value | e.Failure)
            if token in self.ledger.recorded:
                self.complain(f"{known} recorded the result of step {entry.completion_id} twice")
            self.ledger.recorded[token] = entry.result


class TimersOnTime(Checker):
    """No timer fires before its time, and none fires twice."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._due: dict[tuple[int, int, int], int] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"journal": self._journal, "invocation": self._invocation}

    def _journal(self, write: Write) -> None:
        if write.value is None:
            return
        entry = write.value[1]
        if isinstance(entry, e.Sleep):
            self._due[write.partition, write.key[0], entry.completion_id] = entry.wake_up_time
        elif isinstance(entry, e.Completion) and entry.type == e.SLEEP_COMPLETION:
            due = self._due.pop((write.partition, write.key[0], entry.completion_id), None)
            if due is None:
                self.complain(f"{self.who(write)}: sleep {entry.completion_id} ended twice, or never began")
            elif write.command.at < due and not isinstance(write.command, c.Restart):
                self.complain(f"{self.who(write)}: a sleep ended {due - write.command.at} ms early")

    def _invocation(self, write: Write) -> None:
        if write.before is None or write.value is None:
            return
        before, after, at = write.before.status, write.value.status, getattr(write.command, "at", 0)
        if isinstance(before, Scheduled) and isinstance(after, Invoked | Inboxed) and at < before.at:
            self.complain(f"{self.who(write)} began {before.at - at} ms early")
        if not isinstance(write.command, c.Tick) or not isinstance(before, Invoked) or before.retry_at is None:
            return
        if isinstance(after, Invoked) and after.retry_at is None and at < before.retry_at:
            self.complain(f"{self.who(write)} was tried again {before.retry_at - at} ms early")


class FirstComeFirstServed(Checker):
    """The exclusive invocations of an object begin in the order in which they came."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._came: dict[tuple[str, str | None], list[int]] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"invocation": self._invocation}

    def _invocation(self, write: Write) -> None:
        row = write.value
        if row is None or row.target.kind is not HandlerKind.EXCLUSIVE:
            return
        was = None if write.before is None else type(write.before.status)
        now = type(row.status)
        queue = self._came.setdefault((row.target.service, row.target.key), [])
        if was in (None, Scheduled) and now in (Inboxed, Invoked):
            queue.append(row.number)
        if was in (None, Scheduled, Inboxed) and now is Invoked:
            if queue[0] != row.number:
                self.complain(f"{self.who(write)} began before {queue[0]}, which came earlier")
            queue.remove(row.number)
        elif was is Inboxed and now is Completed:
            queue.remove(row.number)


class OneHolder(Checker):
    """An object has one exclusive invocation that has begun and has not ended."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._holder: dict[tuple[str, str | None], int] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"invocation": self._invocation}

    def _invocation(self, write: Write) -> None:
        row = write.value
        if row is None or row.target.kind is not HandlerKind.EXCLUSIVE:
            return
        owner = (row.target.service, row.target.key)
        if isinstance(row.status, Completed):
            if self._holder.get(owner) == row.number:
                del self._holder[owner]
        elif isinstance(row.status, Invoked | Suspended | Paused):
            holder = self._holder.setdefault(owner, row.number)
            if holder != row.number:
                self.complain(f"{row.number} and {holder} hold {owner} at the same time")


class WokenWhenAwaited(Checker):
    """What a suspended invocation waits for wakes it at once; so does a cancellation."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._to_wake: dict[tuple[int, int], e.Entry] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"journal": self._journal, "invocation": self._invocation}

    def _journal(self, write: Write) -> None:
        row = self.ledger.tables[write.partition]["invocation"].get(write.key[:1])
        if write.value is None or row is None or not isinstance(row.status, Suspended):
            return
        entry, waiting = write.value[1], row.status.waiting
        if isinstance(entry, e.Completion):
            awaited = entry.completion_id in waiting.completions
        else:
            awaited = entry.signal in waiting.names or entry.signal in waiting.signals or entry.signal == CANCEL_SIGNAL
        if awaited:
            self._to_wake[write.partition, row.number] = entry

    def _invocation(self, write: Write) -> None:
        if write.value is None or not isinstance(write.value.status, Suspended):
            self._to_wake.pop((write.partition, write.key[0]), None)

    def stored(self) -> None:
        for key, entry in self._to_wake.items():
            self.complain(f"{self.ledger.by_number[key]} is suspended, waits for {entry}, has it, and was not woken")
        self._to_wake.clear()


class CalledOnce(Checker):
    """Each call and each send in a journal is one invocation: none is lost, none is made twice or from nothing."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._asked: dict[tuple[bytes, str], int] = {}
        self._made: dict[tuple[bytes | None, str], int] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"journal": self._journal, "invocation": self._invocation}

    def _journal(self, write: Write) -> None:
        if write.value is None or isinstance(write.command, c.Restart):
            return
        entry = write.value[1]
        if isinstance(entry, e.Call | e.OneWayCall):
            known = self.who(write)
            assert known is not None
            pair = (known.id, _uid(entry.parameter))
            self._asked[pair] = self._asked.get(pair, 0) + 1
            if self._asked[pair] > 1 and not pair[1].endswith("*"):
                self.complain(f"{known} issued the call {pair[1]} twice")

    def _invocation(self, write: Write) -> None:
        if write.before is not None or write.value.restarted_from is not None:
            return
        known = self.ledger.known[write.value.id]
        made = (known.caller, known.uid)
        self._made[made] = self._made.get(made, 0) + 1
        if self._made[made] > 1 and not known.uid.endswith("*"):
            self.complain(f"{known} was made {self._made[made]} times")
        if known.caller is not None and (known.caller, known.uid) not in self._asked:
            self.complain(f"{known} was made, and its caller's journal does not know of it")

    def end(self) -> None:
        merged = {
            known.uid
            for known in self.ledger.known.values()
            if known.uid.endswith("*") or known.target.service == "Flow"  # one for whoever asks
        }
        for caller, uid in self._asked:
            if (caller, uid) not in self._made and uid not in merged:
                self.complain(f"{self.ledger.known[caller]} called {uid}, and that was never made")


class CallersToldTheTruth(Checker):
    """What a journal holds as the answer to a call is the callee's result, and the callee's is stored first."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._callee: dict[tuple[bytes, int], bytes] = {}
        self._attached: dict[tuple[int, int, int], bytes] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"invocation": self._invocation, "journal": self._journal}

    def _invocation(self, write: Write) -> None:
        if write.value is not None:
            for waiter in write.value.waiters:
                self._callee[waiter.invocation, waiter.completion_id] = write.value.id

    def _journal(self, write: Write) -> None:
        if write.value is None or isinstance(write.command, c.Restart):
            return
        entry = write.value[1]
        if isinstance(entry, e.AttachInvocation) and isinstance(entry.target, e.InvocationTarget):
            target = parse_invocation_id(entry.target.invocation_id)
            self._attached[write.partition, write.key[0], entry.completion_id] = target
        if not isinstance(entry, e.Completion) or not isinstance(entry.result, e.Value):
            return
        known = self.who(write)
        assert known is not None
        callee: bytes | None = None
        if entry.type == e.CALL_COMPLETION:
            callee = self._callee.get((known.id, entry.completion_id))
        elif entry.type == e.ATTACH_COMPLETION:
            callee = self._attached.get((write.partition, write.key[0], entry.completion_id))
        if callee is None:
            return
        result = self.ledger.known[callee].result if callee in self.ledger.known else None
        if result != entry.result:
            self.complain(f"{known} was told {entry.result} of {self.ledger.known.get(callee)}, which has {result}")


class Counters(Checker):
    """A counter goes 1, 2, 3, ...: each completed increment counts, and counts once."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._added: dict[tuple[int, int], list[bytes]] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"state": self._state, "journal": self._journal, "invocation": self._invocation}

    def _state(self, write: Write) -> None:
        if write.key[2] == "n" and write.value is not None:
            before = 0 if write.before is None else int(write.before)
            if int(write.value) != before + 1:
                self.complain(f"the counter of {write.key[:2]} went from {before} to {int(write.value)}")

    def _journal(self, write: Write) -> None:
        if write.value is not None and isinstance(write.value[1], e.SetState) and write.value[1].key == "n":
            self._added.setdefault((write.partition, write.key[0]), []).append(write.value[1].value)

    def _invocation(self, write: Write) -> None:
        row = write.value
        if row is None or row.target.service != "Counter" or row.target.handler != "add":
            return
        added = self._added.get((write.partition, row.number), [])
        result = row.status.result if isinstance(row.status, Completed) else None
        if isinstance(result, e.Value) and added != [result.content]:
            self.complain(f"{self.who(write)} answers {result.content!r} and wrote {added}")


class StateFollowsJournals(Checker):
    """An object's state is what its journals, in the order of the lock, made of it; and that is what is read."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._state: dict[Key, dict[str, bytes]] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"journal": self._journal, "inbox": self._inbox, "state": self._changed, "invocation": self._forgotten}

    def _of(self, owner: Key) -> dict[str, bytes]:
        return self._state.setdefault(owner, {})

    def _journal(self, write: Write) -> None:
        known = self.who(write)
        if write.value is None or known is None or isinstance(write.command, c.Restart):
            return
        entry = write.value[1]
        state = self._of((known.target.service, known.target.key))
        if isinstance(entry, e.SetState):
            state[entry.key] = entry.value
        elif isinstance(entry, e.ClearState):
            state.pop(entry.key, None)
        elif isinstance(entry, e.ClearAllState):
            state.clear()
        elif known.target.kind in (HandlerKind.EXCLUSIVE, HandlerKind.WORKFLOW):  # a shared one reads an older state
            if isinstance(entry, e.GetEagerState):
                value = state.get(entry.key)
                if entry.result != (e.VOID if value is None else e.Value(value)):
                    self.complain(f"{known} read {entry.result} of {entry.key}, which is {value!r}")
            elif isinstance(entry, e.GetEagerStateKeys) and list(entry.keys) != sorted(state):
                self.complain(f"{known} read the keys {entry.keys}, and they are {sorted(state)}")

    def _inbox(self, write: Write) -> None:
        if write.value is None and isinstance(write.before, StateChange):
            self._change(write.key[:2], write.before)

    def _changed(self, write: Write) -> None:
        if isinstance(write.command, c.ChangeState):  # nobody held the object, so it was changed at once
            self._change(
                write.key[:2], StateChange(write.command.changes, write.command.replace, write.command.version)
            )

    def _change(self, owner: Key, change: StateChange) -> None:
        state = self._of(owner)
        if change.version is not None and state_version(state) != change.version:
            return
        if change.replace:
            state.clear()
        for name, value in change.changes.items():
            if value is None:
                state.pop(name, None)
            else:
                state[name] = value

    def _forgotten(self, write: Write) -> None:
        if write.value is None and write.before.target.kind is HandlerKind.WORKFLOW:
            self._state.pop((write.before.target.service, write.before.target.key), None)

    def end(self) -> None:
        for tables in self.ledger.tables:
            found: dict[Key, dict[str, bytes]] = {}
            for key, value in tables["state"].items():
                found.setdefault(key[:2], {})[key[2]] = value
            for owner, state in found.items():
                if self._state.get(owner, {}) != state:
                    self.complain(f"the state of {owner} is {state}, and should be {self._state.get(owner)}")


class StreamsFollowSteps(Checker):
    """What a step wrote to a stream is stored with its result, whole and once; what the handler wrote, once."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._fresh: dict[str, None] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"stream_part": self._part}

    def _part(self, write: Write) -> None:
        if write.value is None:
            return
        stream = self.ledger.streams.setdefault((write.partition, write.key[0], write.value.name), {})
        last = max(stream, default=-1)
        for start, chunks in write.value.runs:
            for position, chunk in enumerate(chunks, start):
                text = json.loads(chunk)
                if position in stream:
                    self.complain(f"position {position} of {write.value.name} of {self.who(write)} was written again")
                if "#" in text:
                    outcome, _, index = text.rpartition(":")
                    if self.ledger.shown.get(outcome, 0) != int(index):
                        self.complain(f"chunk {text} was stored after {self.ledger.shown.get(outcome, 0)} of its kind")
                    self.ledger.shown[outcome] = int(index) + 1
                    self._fresh[outcome] = None
                elif text in stream.values() or position < last:
                    self.complain(f"{self.who(write)} wrote {text} a second time, or where others had written since")
                stream[position] = text

    def stored(self) -> None:
        for outcome in self._fresh:
            recorded = self.ledger.recorded.get(outcome.partition("#")[0])
            if recorded != e.Value(json.dumps(outcome).encode()):
                self.complain(f"what {outcome} wrote is stored; the result in the journal is {recorded}")
        self._fresh = {}


class Promises(Checker):
    """A promise is completed once."""

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"promise": self._promise}

    def _promise(self, write: Write) -> None:
        if write.value is not None and write.value.result is not None:
            self.ledger.promises[write.key[1], write.key[2]] = write.value.result
        if write.before is not None and write.value is not None and write.before.result is not None:
            self.complain(f"promise {write.key} was completed with {write.before.result} and then {write.value.result}")


class DeliveredOnce(Checker):
    """Messages between two partitions arrive in order, without a gap, once, and only after the sender stored them."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._sent: dict[tuple[int, int], list[c.Message]] = {}

    def listens(self) -> dict[str, Callable[[Write], None]]:
        return {"outbox": self._outbox, "meta": self._meta}

    def _outbox(self, write: Write) -> None:
        if write.value is not None:
            sent = self._sent.setdefault((write.partition, write.key[0]), [])
            sent.append(write.value)
            if len(sent) != write.key[1]:
                self.complain(
                    f"message {len(sent)} from {write.partition} to {write.key[0]} is numbered {write.key[1]}"
                )

    def _meta(self, write: Write) -> None:
        name, _, source = write.key[0].partition(":")
        if name != "received":
            return
        if write.value != (write.before or 0) + 1:
            self.complain(f"{write.partition} took message {write.value} of {source} after {write.before}")
        sent = self._sent.get((int(source), write.partition), [])
        if len(sent) < write.value:
            self.complain(f"{write.partition} took message {write.value} of {source}, which had not stored it")
        elif write.command.message != sent[write.value - 1]:
            self.complain(f"{write.partition} took message {write.value} of {source}, and it was another one")


CHECKERS: tuple[type[Checker], ...] = (
    Lifecycle,  # first: it makes the invocations known to the others
    StepsRecordedOnce,
    TimersOnTime,
    FirstComeFirstServed,
    OneHolder,
    WokenWhenAwaited,
    CalledOnce,
    CallersToldTheTruth,
    Counters,
    StateFollowsJournals,
    Promises,
    StreamsFollowSteps,
    DeliveredOnce,
)
