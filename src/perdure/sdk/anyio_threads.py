"""anyio's worker threads, on a handler's loop: none.

`anyio.to_thread.run_sync` waits for a thread that reports to the loop when it is done, and libraries call it where
nobody sees. As with `asyncio.to_thread` a handler runs the function at once instead, on its own thread; what blocks
belongs into a step.
"""

import asyncio
import contextvars
import functools
from typing import Any

__all__ = ["adapt"]

adapted = False


def adapt(handler_loop: type) -> None:
    """Have anyio's asyncio backend ask on which loop it is. On any but a handler's nothing changes."""
    global adapted
    adapted = True
    try:
        from anyio._backends import _asyncio

        backend: Any = _asyncio.AsyncIOBackend
        original = backend.run_sync_in_worker_thread
    except (ImportError, AttributeError):  # another anyio: its threads are found when they come back
        return

    @functools.wraps(original.__func__)
    async def run_sync(cls: Any, func: Any, args: Any, *more: Any, **options: Any) -> Any:
        if not isinstance(asyncio.get_running_loop(), handler_loop):
            return await original.__func__(cls, func, args, *more, **options)
        await cls.checkpoint()
        return contextvars.copy_context().run(func, *args)

    backend.run_sync_in_worker_thread = classmethod(run_sync)
