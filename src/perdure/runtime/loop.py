"""One partition's loop: drain -> apply* -> commit -> perform*.

Commands are queued by `submit`. A batch is closed one turn of the event loop after its first command, so that
a quick step's command and its result share a commit. All its commands are applied, their changes are handed to
the store as one commit, and only when that is on disk are their actions performed. While a batch is being
written the next is collected; it is handed over before the actions of the last are performed, so that disk and
handlers work at the same time.

If the store cannot commit, or applying a command hits a bug, the loop stops for good and says so: nothing that
was not stored was ever promised.
"""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable

from perdure.core import partition
from perdure.errors import StorageError
from perdure.model.actions import Action
from perdure.model.commands import PartitionCommand
from perdure.model.invocation import Invocation, Status
from perdure.storage.base import Measured, Storage
from perdure.storage.overlay import Overlay
from perdure.telemetry.metrics import PartitionMetrics

__all__ = ["PartitionLoop"]

_log = logging.getLogger("perdure.partition")

BATCH_LIMIT = 4096  # commands applied in one go: bounds how long the event loop and the next commit wait


class PartitionLoop:
    """Owns one partition's tables. Everything here runs on the event loop's thread."""

    def __init__(
        self,
        index: int,
        partitions: int,
        storage: Storage,
        perform: Callable[[int, Action], None],
        failed: Callable[[BaseException], None],
        completed: Callable[[list[Invocation]], None] = lambda invocations: None,
    ) -> None:
        self.index = index
        self._storage = storage
        self._tables = Overlay(storage, index, partitions)
        self._perform = perform
        self._on_failure = failed
        self._completed = completed
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.Context()  # not that of the handler whose command happens to be the first
        self._queue: list[PartitionCommand] = []
        self._actions: list[Action] = []
        self._busy = False
        self._scheduled = False
        self._quiet: asyncio.Event = asyncio.Event()
        self._quiet.set()
        self.failure: BaseException | None = None
        self.commits = 0
        self.metrics = PartitionMetrics()
        self._committing_since = 0.0

    @property
    def statuses(self) -> dict[type[Status], int]:
        """By how much the number of invocations of each status has changed since this loop was made."""
        return self._tables.statuses

    @property
    def measured(self) -> Measured | None:
        """What the store knows of its own costs; None if it has none worth knowing."""
        return self._storage if isinstance(self._storage, Measured) else None

    @property
    def queued(self) -> int:
        """Commands that wait for a batch."""
        return len(self._queue)

    def submit(self, command: PartitionCommand) -> None:
        """Have a command happen. Nothing of it is promised before an action says so."""
        if self.failure is not None:
            return  # nobody will ever apply it
        self._queue.append(command)
        if not self._scheduled and not self._busy:
            self._scheduled = True
            self._quiet.clear()
            self._loop.call_soon(self._next_turn, context=self._context)

    def _next_turn(self) -> None:
        self._loop.call_soon(self._close_batch, context=self._context)

    def _close_batch(self) -> None:
        self._scheduled = False
        if self.failure is not None:
            return
        queue = self._queue
        if len(queue) <= BATCH_LIMIT:
            commands, self._queue = queue, []
        else:
            commands, self._queue = queue[:BATCH_LIMIT], queue[BATCH_LIMIT:]
        actions: list[Action] = []
        tables, apply = self._tables, partition.apply
        try:
            for command in commands:
                actions += apply(tables, command)
            batch = tables.take()
        except Exception as error:
            self._fail(error)
            return
        self._busy = True
        self._actions = actions
        self.commits += 1
        self.metrics.batches.observe(len(commands))
        self._committing_since = self._loop.time()
        self._storage.commit(batch, self._written)

    def _written(self, error: BaseException | None) -> None:
        """Called by the store, from any thread."""
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and with it everyone who could be told
            self._loop.call_soon_threadsafe(self._committed, error)

    def _committed(self, error: BaseException | None) -> None:
        self._busy = False
        if self.failure is not None:
            return
        if error is not None:
            self._fail(StorageError(f"partition {self.index} cannot commit: {error}"))
            return
        self.metrics.commits.observe(self._loop.time() - self._committing_since)
        completed = self._tables.settled()
        actions, self._actions = self._actions, []
        if self._queue:
            self._close_batch()
        perform, index = self._perform, self.index
        try:
            if completed:
                self._completed(completed)
            for action in actions:
                perform(index, action)
        except Exception as bug:  # the tables say that it is done: whoever depends on it would wait for ever
            self._fail(bug)
            return
        if not self._busy and not self._scheduled:
            if self._queue:
                self._scheduled = True
                self._loop.call_soon(self._close_batch, context=self._context)
            else:
                self._quiet.set()

    def _fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self._busy = False
        self._queue.clear()
        self._quiet.set()
        _log.critical("partition %d stopped: %s", self.index, error, exc_info=error)
        self._on_failure(error)

    async def quiet(self) -> None:
        """Wait until nothing is queued and nothing is being written."""
        while self.failure is None and (self._busy or self._scheduled or self._queue):
            self._quiet.clear()
            await self._quiet.wait()

    def close(self) -> None:
        """Let go of the store."""
        self.failure = self.failure or StorageError(f"partition {self.index} is closed")
        self._queue.clear()
        self._quiet.set()
        self._storage.close()
