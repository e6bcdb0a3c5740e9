"""One life of an engine under test: a node and its stores, from a start to a crash."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from perdure.assembly import LocalNode
from perdure.core.tables import INVOCATION, INVOCATION_ID, JOURNAL, TIMER, Key, Table, TimerKind
from perdure.errors import StorageError
from perdure.model import actions as a
from perdure.model import entries as e
from perdure.model.ids import parse_invocation_id
from perdure.model.invocation import Completed, Invocation, Paused, Suspended
from perdure.runtime.clock import VirtualClock
from perdure.sdk.driver import HandlerRun
from perdure.storage.base import Batch, Storage
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import _LAYOUTS

__all__ = ["Done", "EncodedMemory", "Life", "Store"]

V = TypeVar("V")
Done = Callable[[BaseException | None], None]


class EncodedMemory(MemoryStorage):
    """Keeps what a row is once it was written to SQLite's columns and read back; refuses what SQLite would refuse."""

    def commit(self, batch: Batch, done: Done) -> None:
        try:
            encoded = _encoded(batch)
        except Exception as error:
            self.close()
            done(StorageError(f"the batch can't be written: {error!r}"))
            return
        super().commit(encoded, done)


def _encoded(batch: Batch) -> Batch:
    encoded = Batch()
    for table, groups in batch.groups.items():
        layout = _LAYOUTS[table]
        width = len(layout.read)
        for name, group in groups.items():
            copy = encoded.group(table, name)
            copy.dropped = group.dropped
            for key, value in group.rows.items():
                if value is None:
                    copy.rows[key] = None
                else:
                    key, copy.rows[key] = layout.decode(_bound(layout.encode(key, value))[:width])
    return encoded


def _bound(columns: tuple[Any, ...]) -> tuple[Any, ...]:
    """The columns, if SQLite could bind them: text is UTF-8, integers have 64 bits."""
    for column in columns:
        if isinstance(column, str):
            column.encode()
        elif isinstance(column, int):
            column.to_bytes(8, "big", signed=True)
    return columns


class Store:
    """A partition's store for one life: asks about each commit before (`loses`) and after it (`committed`).

    `loses` says that the process dies before the batch is on disk, `committed` whether the partition gets to know.
    """

    def __init__(
        self,
        inner: Storage,
        loses: Callable[["Store", Batch], bool],
        committed: Callable[["Store", Batch], bool],
    ) -> None:
        self._inner = inner
        self._loses = loses
        self._tell = committed
        self._loop = asyncio.get_running_loop()
        self._dead = False
        self.commits = 0
        self.stored = False  # the batch last taken is on disk, whether the partition knows or not

    def get(self, table: Table[V], key: Key) -> V | None:
        return self._inner.get(table, key)

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        return self._inner.scan(table, group, limit=limit)

    def last(self, table: Table[V], group: Key) -> Key | None:
        return self._inner.last(table, group)

    def commit(self, batch: Batch, done: Done) -> None:
        if self._dead:
            return
        self.commits += 1
        self.stored = False
        if self._loses(self, batch):
            return
        if isinstance(self._inner, MemoryStorage):
            self._inner.commit(batch, lambda error: self._written(batch, done, error))
        else:
            self._inner.commit(batch, lambda error: self._from_thread(batch, done, error))

    def _from_thread(self, batch: Batch, done: Done, error: BaseException | None) -> None:
        self.stored = error is None
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and the test with it
            self._loop.call_soon_threadsafe(self._written, batch, done, error)

    def _written(self, batch: Batch, done: Done, error: BaseException | None) -> None:
        self.stored = error is None
        if not self._dead and (error is not None or self._tell(self, batch)):
            done(error)

    def close(self) -> None:
        """Take no more batches; what was given is on disk when this returns."""
        self._dead = True
        if not isinstance(self._inner, MemoryStorage):
            self._inner.close()


class Life:
    """A node in virtual time; `die` ends it. `node` is set when it is assembled."""

    node: LocalNode

    def __init__(self, clock: VirtualClock, stores: list[Store]) -> None:
        self.clock = clock
        self.stores = stores
        self.dying = False

    @property
    def quiet(self) -> bool:
        """Whether nothing can happen before time passes or something comes from outside."""
        node = self.node
        if self.dying or not node.ready or not all(partition._quiet.is_set() for partition in node.partitions):
            return False
        runs = [live.duplex for live in node.invoker._live.values()]
        return all(isinstance(run, HandlerRun) and run._idle for run in runs)

    def die(self, reason: Exception) -> list[a.Finished]:
        """Drop everything that is not committed; who waits gets `reason`. What was stored is still told.

        Were it asked again, it would happen twice. But results are found again, so those are handed back.
        """
        node = self.node
        finished: list[a.Finished] = []
        for partition, store in zip(node.partitions, self.stores, strict=True):
            store.close()
            partition._perform = _nothing
            for action in partition._actions if partition._busy and store.stored else ():
                if isinstance(action, a.Reply):
                    node.reply(action.token, action.outcome)
                elif isinstance(action, a.Finished):
                    finished.append(action)
        with contextlib.suppress(RuntimeError):  # what cannot be cancelled for want of an event loop need not be
            node.close()
        node._give_up(reason)
        return finished

    # What is committed

    def number(self, id: bytes) -> tuple[Store, int] | None:
        """Where an invocation is stored."""
        for store in self.stores:
            number = store.get(INVOCATION_ID, (id[8:] + id[:8],))
            if number is not None:
                return store, number
        return None

    def row(self, id: bytes) -> Invocation | None:
        place = self.number(id)
        return None if place is None else place[0].get(INVOCATION, (place[1],))

    def paused_behind(self, id: bytes, seen: set[bytes] | None = None) -> Invocation | None:
        """The paused invocation that this one waits for, through however many calls; or itself."""
        seen = set() if seen is None else seen
        place, invocation = self.number(id), self.row(id)
        if place is None or invocation is None or id in seen:
            return None
        seen.add(id)
        if isinstance(invocation.status, Paused):
            return invocation
        entries = [entry for _, (_, entry) in place[0].scan(JOURNAL, (place[1],))]
        known = {entry.completion_id: entry.result for entry in entries if isinstance(entry, e.Completion)}
        for entry in entries:
            if isinstance(entry, e.Call) and entry.completion_id not in known:
                callee = known.get(entry.invocation_id_completion_id)
                if isinstance(callee, e.InvocationIdResult):
                    found = self.paused_behind(parse_invocation_id(callee.invocation_id), seen)
                    if found is not None:
                        return found
        return None

    # What is due

    def next_due(self) -> int | None:
        """When the next thing is due that somebody waits for: the end of a retention is not."""
        node = self.node
        ticks: list[Any] = [known[1] for known in node._timers if known is not None]
        due = [
            at
            for at, _, timer in self.clock._heap
            if not timer.gone and timer not in ticks and getattr(timer.callback, "__self__", None) is not node.courier
        ]
        for index, store in enumerate(self.stores):
            for key, _ in store.scan(TIMER, ()):
                if due and key[0] >= min(due):
                    break
                if self._matters(index, store, key):
                    due.append(key[0])
                    break
        return min(due, default=None)

    def _matters(self, partition: int, store: Store, key: Key) -> bool:
        _, number, kind, identity = key
        invocation = store.get(INVOCATION, (number,))
        if invocation is None or isinstance(invocation.status, Completed | Paused):
            return False
        if kind != TimerKind.SLEEP:
            return kind in (TimerKind.BEGIN, TimerKind.RETRY)
        if isinstance(invocation.status, Suspended):
            return identity in invocation.status.waiting.completions
        live = self.node.invoker._live.get((partition, number))
        if live is None or not isinstance(live.duplex, HandlerRun):
            return True
        timer = live.duplex._sleeping.get(identity)
        return timer is not None and not timer.gone


def _nothing(partition: int, action: a.Action) -> None:
    """What a dead partition does about an action."""
