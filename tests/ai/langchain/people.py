"""People who answer what a handler asks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from perdure import App, Service
from perdure.ai.langgraph import memory
from perdure.testing import TestEngine
from tests.ai.harness import FAST

__all__ = ["run_with_people"]


def run_with_people(
    handler: Callable[..., Any], answer: Callable[[Any, list[Any]], Awaitable[None]], **options: Any
) -> Any:
    """The handler's result; `answer(approvals, open)` says what people do once it waits for them."""
    service = Service("Desk", retry_policy=FAST)
    service.handler(name="handler")(handler)

    async def main() -> Any:
        async with TestEngine(App(service, *memory), replay=True, skip=False, **options) as engine:
            sent = await engine.send("Desk/handler")
            await engine.settle()
            await answer(engine.approvals(), list(await engine.approvals().list()))
            await engine.advance(3700)
            return await sent.attach()

    return asyncio.run(main())
