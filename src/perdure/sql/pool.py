"""The processes that answer queries, as the server sees them: started when needed, ended when idle or late.

Each answers one query at a time, so a query that takes too long, or whose client has left, is ended with its process.
"""

import asyncio
import contextlib
import importlib.util
import logging
import struct
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Literal

import msgspec

from perdure.errors import RequestError, Unavailable
from perdure.sql.facts import Facts, Query, Refusal

__all__ = ["Queries", "QueryRefused", "TooManyQueries"]

CONCURRENCY: Final = 2
TIME_LIMIT_SECONDS: Final = 60.0
MEMORY_LIMIT: Final = 256 << 20
IDLE_SECONDS: Final = 120.0
QUEUE_LIMIT: Final = 32
INSTALL: Final = "SQL needs Apache DataFusion and PyArrow: pip install 'perdure[sql]'"

_log = logging.getLogger("perdure.sql")
_decode = msgspec.msgpack.Decoder(Refusal).decode
_encode = msgspec.msgpack.Encoder().encode


class QueryRefused(RequestError):
    """A query that could not be answered; says why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TooManyQueries(RequestError):
    """More queries wait than are worth waiting for."""

    status = 429


class _Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self.idle_since = time.monotonic()

    @classmethod
    async def start(cls) -> "_Worker":
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "perdure.sql.worker")
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, query: Query) -> AsyncIterator[bytes]:
        """The pieces of the answer. Raises `QueryRefused`."""
        data = _encode(query)
        self._stdin.write(struct.pack(">I", len(data)) + data)
        await self._stdin.drain()
        while True:
            (length,) = struct.unpack(">I", await self._stdout.readexactly(4))
            frame = await self._stdout.readexactly(length)
            kind, rest = frame[:1], frame[1:]
            if kind == b"d":
                yield rest
            elif kind == b"e":
                refusal = _decode(rest)
                await self._stdout.readexactly(5)  # the frame `z` that follows
                raise QueryRefused(refusal.message, refusal.status)
            else:
                return

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Not later, now."""
        self.kill()
        self._stdin.close()
        await self._process.wait()


class _Asked:
    """One query on its way. When its time is up its process is ended, and its place is free, whoever still reads."""

    def __init__(self, room: asyncio.Semaphore) -> None:
        self._room: asyncio.Semaphore | None = room
        self.worker: _Worker | None = None
        self.whole = False
        self.expired = False

    def expire(self) -> None:
        self.expired = True
        if self.worker is not None:
            self.worker.kill()
        self.leave_room()

    def leave_room(self) -> None:
        if self._room is not None:
            self._room.release()
            self._room = None


class Queries:
    """Answers queries over the partitions whose files `files` names, in order, and keeps until it is left; and over
    what `facts` says at that moment.

    At most `concurrency` at a time; others wait, and are refused when too many do. A query has `time_limit` seconds
    from the moment it was asked, and `memory_limit` bytes for sorting, joining and grouping. A process that had
    nothing to do for `idle_seconds` is ended.
    """

    def __init__(
        self,
        files: Callable[[], AbstractAsyncContextManager[list[str]]],
        facts: Callable[[], Facts],
        *,
        concurrency: int = CONCURRENCY,
        time_limit: float = TIME_LIMIT_SECONDS,
        memory_limit: int = MEMORY_LIMIT,
        idle_seconds: float = IDLE_SECONDS,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._files = files
        self._facts = facts
        self._time_limit = time_limit
        self._memory_limit = memory_limit
        self._idle_seconds = idle_seconds
        self._queue_limit = queue_limit
        self._room = asyncio.Semaphore(concurrency)
        self._waiting = 0
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def running(self) -> int:
        """Queries that are being answered."""
        return len(self._busy)

    @property
    def waiting(self) -> int:
        """Queries that wait for their turn."""
        return self._waiting

    async def answer(self, sql: str, format: Literal["json", "arrow"]) -> AsyncGenerator[bytes, None]:
        """The answer in pieces, in JSON or as an Arrow IPC stream.

        Raises `QueryRefused`, `TooManyQueries` and `Unavailable`: before the first piece, if anything is wrong with
        the query itself.
        """
        if any(importlib.util.find_spec(name) is None for name in ("datafusion", "pyarrow")):
            raise Unavailable(INSTALL)
        if self._closed:
            raise Unavailable("the server is stopping")
        if self._waiting >= self._queue_limit:
            raise TooManyQueries(f"{self._waiting} queries wait already; try again later")
        self._waiting += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._time_limit):
                await self._room.acquire()
        except TimeoutError:
            raise self._late() from None
        finally:
            self._waiting -= 1
        asked = _Asked(self._room)
        remaining = max(began + self._time_limit - time.monotonic(), 0.0)
        timer = asyncio.get_running_loop().call_later(remaining, asked.expire)
        try:
            asked.worker = await self._worker()
            self._busy.add(asked.worker)
            async with self._files() as files:
                async for piece in asked.worker.ask(Query(sql, format, files, self._facts(), self._memory_limit)):
                    yield piece
            asked.whole = True
        except QueryRefused:
            asked.whole = True
            raise
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if asked.expired:
                raise self._late() from None
            message = "the process that ran the query has died; the server's log may say more"
            raise QueryRefused(message, 500) from error
        finally:
            timer.cancel()
            asked.leave_room()
            self._dismiss(asked)

    def _late(self) -> QueryRefused:
        return QueryRefused(f"the query took longer than {self._time_limit:g} s and was ended", 504)

    def _dismiss(self, asked: "_Asked") -> None:
        worker = asked.worker
        if worker is None:
            return
        self._busy.discard(worker)
        if asked.whole and not asked.expired and not self._closed:
            self._rest(worker)
        else:
            self._end(worker)

    async def _worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
        return await _Worker.start()

    def _rest(self, worker: _Worker) -> None:
        worker.idle_since = time.monotonic()
        self._idle.append(worker)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_idle)

    def _end_idle(self) -> None:
        self._sweep = None
        since = time.monotonic() - self._idle_seconds
        for worker in [each for each in self._idle if each.idle_since <= since]:
            self._idle.remove(worker)
            self._end(worker)
        if self._idle:
            wait = self._idle[0].idle_since - since
            self._sweep = asyncio.get_running_loop().call_later(max(wait, 0.1), self._end_idle)

    def _end(self, worker: _Worker) -> None:
        task = asyncio.get_running_loop().create_task(worker.end())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def close(self) -> None:
        """End every process, and with it what it is doing."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        workers = [*self._idle, *self._busy]
        self._idle.clear()
        await asyncio.gather(*(worker.end() for worker in workers), *self._endings)
