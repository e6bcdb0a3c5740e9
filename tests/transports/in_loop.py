"""Tests that are coroutines."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

TIMEOUT_S = 30.0


def in_loop(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own; what goes wrong in a callback of the loop fails it, too."""

    @wraps(body)
    def test(*args: Any, **kwargs: Any) -> None:
        problems: list[dict[str, Any]] = []

        async def run() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
            await asyncio.wait_for(body(*args, **kwargs), TIMEOUT_S)

        asyncio.run(run())
        assert problems == []

    return test


async def until(true: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110  # of a test there is no event for everything
            await asyncio.sleep(0.002)
