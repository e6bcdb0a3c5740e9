"""Connections to MCP servers: opened when a step wants one, shared by all, closed when nobody does.

A connection lives on the event loop that its users run on, in a task of its own: what a client enters, the same task
has to leave. It carries many requests at once, so a server has one at a time; a broken one is left, and closed when the
last request on it has ended.
"""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncIterator, Callable
from weakref import WeakKeyDictionary

from mcp import Client

from perdure.ai.mcp.failures import HttpTrouble, is_of_the_connection, session_is_gone
from perdure.errors import RetryableError

__all__ = ["OPEN_LIMIT", "Connection", "Pool"]

_log = logging.getLogger("perdure.mcp")

OPEN_LIMIT = 64  # connections of one event loop, to whatever servers


class Connection:
    """One client while it is connected."""

    def __init__(self, make: Callable[[HttpTrouble], Client], patience: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.trouble = HttpTrouble()
        self.users = 0
        self.retired = False
        self._unused_since = 0.0
        self._watched = False  # whether a timer looks at it: there is one at a time, however many use it
        self._leave = asyncio.Event()
        self._ready: asyncio.Future[Client] = self._loop.create_future()
        # The context is empty: what the step that comes first has in its own is not meant for those that follow.
        self._task = self._loop.create_task(
            self._hold(make, patience), name="MCP connection", context=contextvars.Context()
        )

    async def _hold(self, make: Callable[[HttpTrouble], Client], patience: float) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(patience):
                    client = await stack.enter_async_context(make(self.trouble))
                self._ready.set_result(client)
                await self._leave.wait()
        except BaseException as error:
            if not self._ready.done():
                lost = error if isinstance(error, Exception) else ConnectionError("the connection was given up")
                self._ready.set_exception(lost)
                self._ready.exception()  # whoever waited may have left
            elif isinstance(error, Exception):
                _log.debug("an MCP connection broke: %r", error)
            else:
                raise
        finally:
            self.retired = True

    @property
    def usable(self) -> bool:
        return not self.retired and not self._task.done()

    @property
    def open(self) -> bool:
        return not self._task.done()

    async def client(self) -> Client:
        """The connected client. Raises what went wrong when it connected."""
        return await asyncio.shield(self._ready)

    def retire(self) -> None:
        """Nobody else is to have it; it closes when the last user has left."""
        self.retired = True
        if not self.users:
            self._leave.set()
            if not self._ready.done():
                self._task.cancel()

    def close_after(self, idle: float) -> None:
        """Close when nobody has used it for so many seconds from now."""
        self._unused_since = self._loop.time()
        if not self._watched:
            self._watched = True
            self._loop.call_later(idle, self._look, idle, context=contextvars.Context())

    def _look(self, idle: float) -> None:
        self._watched = False
        left = self._unused_since + idle - self._loop.time()
        if self.users or self.retired:
            return  # who leaves last has it closed
        if left > 0:
            self._watched = True
            self._loop.call_later(left, self._look, idle, context=contextvars.Context())
        else:
            self.retire()

    async def closed(self) -> None:
        self.retire()
        self._leave.set()
        await asyncio.wait([self._task])


_OPEN: "WeakKeyDictionary[asyncio.AbstractEventLoop, list[Connection]]" = WeakKeyDictionary()


class Pool:
    """A server's connection on each event loop. `idle` and `patience` (to connect) are seconds."""

    def __init__(self, make: Callable[[HttpTrouble], Client], idle: float, patience: float, calls: int) -> None:
        self._make = make
        self._idle = idle
        self._patience = patience
        self._calls = calls
        self._there: WeakKeyDictionary[asyncio.AbstractEventLoop, Connection] = WeakKeyDictionary()
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection to use within the block; an error of the connection retires it."""
        loop = asyncio.get_running_loop()
        slots = self._slots.get(loop)
        if slots is None:
            slots = self._slots[loop] = asyncio.Semaphore(self._calls)
        async with slots:
            connection = self._there.get(loop)
            if connection is None or not connection.usable:
                connection = self._there[loop] = self._opened(loop)
            connection.users += 1
            try:
                yield connection
            except Exception as error:
                if is_of_the_connection(error) or session_is_gone(error):
                    connection.retired = True
                raise
            finally:
                connection.users -= 1
                if connection.retired:
                    connection.retire()
                elif not connection.users:
                    connection.close_after(self._idle)

    def _opened(self, loop: asyncio.AbstractEventLoop) -> Connection:
        others = [each for each in _OPEN.get(loop, ()) if each.open]
        if len(others) >= OPEN_LIMIT:
            unused = next((each for each in others if not each.users), None)
            if unused is None:
                raise RetryableError(f"{OPEN_LIMIT} connections to MCP servers are in use at once", 1.0, 503)
            unused.retire()
        connection = Connection(self._make, self._patience)
        _OPEN[loop] = [*others, connection]
        return connection

    async def close(self) -> None:
        """Closes the connection of this event loop, whoever uses it."""
        connection = self._there.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.closed()
