"""Rung 1 and 2: a handler on an engine that drops and replays it at every await."""

import asyncio
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

from perdure import App, RetryPolicy, Service
from perdure.testing import TestEngine

__all__ = ["FAST", "closed_by_run", "run"]

FAST = RetryPolicy(initial_interval=0.01, max_attempts=5)
_OPEN: list[Any] = []

C = TypeVar("C")


def closed_by_run(client: C) -> C:
    """An async client, to be closed on the loop that it was used on: at the end of the next `run`."""
    _OPEN.append(client)
    return client


def run(
    handler: Callable[..., Any],
    arg: Any = None,
    *,
    steps: list[str] | None = None,
    shown: list[Any] | None = None,
    prepare: Callable[[TestEngine], None] = lambda engine: None,
    **options: Any,
) -> Any:
    """The result of a handler, an async or a plain function, replayed at every await.

    `steps` is given the name of every step's run, in order; `shown` the chunks of the stream "answer" that are valid at
    the end, of a handler that succeeds; `prepare` may plan crashes and failures; `options` are of
    `TestEngine`: `crash=True` has the process die after every commit.
    """
    handler_of_s = wraps(handler)(partial(handler))  # a function can be a handler of one service only

    async def main() -> Any:
        service = Service("S", retry_policy=FAST)
        service.handler()(handler_of_s)
        async with TestEngine(App(service), replay=True, **options) as engine:
            prepare(engine)
            try:
                sent = await engine.send(f"S/{handler.__name__}", arg)
                result = await sent.attach()
                if shown is not None:
                    shown.extend(await engine.stream(sent.id, "answer").values())
                return result
            finally:
                if steps is not None:
                    steps.extend(step.name for step in engine.steps)
                while _OPEN:
                    await _OPEN.pop().close()

    return asyncio.run(main())
