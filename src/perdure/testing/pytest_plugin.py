"""The pytest fixture `perdure_engine`: makes `TestEngine`s and stops those that the test left running.

With pytest-asyncio, anyio or any other plugin that runs coroutines, in the test itself::

    async def test_order(perdure_engine):
        engine = await perdure_engine(app, replay=True)
        assert await engine.call(order, "book") == "sent"

Without one, within a coroutine that the test runs::

    def test_order(perdure_engine):
        async def scenario():
            async with perdure_engine(app, replay=True) as engine:
                assert await engine.call(order, "book") == "sent"

        asyncio.run(scenario())
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perdure.testing.harness import TestEngine

__all__ = ["perdure_engine"]


@pytest.fixture
def perdure_engine() -> "Iterator[Callable[..., TestEngine]]":
    """Makes engines for this test: `await perdure_engine(app, ...)`, or `async with`; options as of `TestEngine`."""
    from perdure.testing.harness import TestEngine  # not before a test asks for it: every run of pytest loads this

    made: list[TestEngine] = []

    def make(*args: Any, **options: Any) -> TestEngine:
        made.append(TestEngine(*args, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
