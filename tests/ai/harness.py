"""Rung 1 and 2: a handler on an engine that drops and replays it at every await."""

import asyncio
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from perdure import App, RetryPolicy, Service
from perdure.testing import TestEngine

__all__ = ["FAST", "run"]

FAST = RetryPolicy(initial_interval=0.01, max_attempts=5)


def run(
    handler: Callable[..., Any],
    arg: Any = None,
    *,
    steps: list[str] | None = None,
    prepare: Callable[[TestEngine], None] = lambda engine: None,
    **options: Any,
) -> Any:
    """The result of a handler, an async or a plain function, replayed at every await.

    `steps` is given the name of every step's run, in order; `prepare` may plan crashes and failures; `options` are of
    `TestEngine`: `crash=True` has the process die after every commit.
    """
    handle = wraps(handler)(partial(handler))  # a function can be a handler of one service only

    async def main() -> Any:
        service = Service("S", retry_policy=FAST)
        service.handler()(handle)
        async with TestEngine(App(service), replay=True, **options) as engine:
            prepare(engine)
            try:
                return await engine.call(f"S/{handler.__name__}", arg, type=Any)
            finally:
                if steps is not None:
                    steps.extend(step.name for step in engine.steps)

    return asyncio.run(main())
