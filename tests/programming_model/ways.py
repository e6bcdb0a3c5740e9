"""The five ways in which every scenario is run, and what is checked of each run besides what its test says."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import pytest

from perdure import App, TerminalError
from perdure.sdk.service import AnyService
from perdure.storage.memory import MemoryStorage
from perdure.testing import TestEngine
from perdure.testing.invariants import check

__all__ = ["MORE_WAYS", "WAYS", "Engine", "Start", "fails", "until"]

WAYS: Final[dict[str, dict[str, Any]]] = {
    "live": {},
    "replay": {"replay": True},  # every handler is dropped and replayed before each thing it is told
    "suspend": {"suspend": True},  # every handler is suspended whenever it waits for more than a step
    "crash": {"crash": True},  # the process dies after every commit; each life gets one commit further
    "partitions": {"partitions": 4},
}
MORE_WAYS: Final[dict[str, dict[str, Any]]] = {
    "all but crash": {"replay": True, "suspend": True, "partitions": 3},
    "crash and suspend": {"crash": True, "suspend": True},
    "crash and replay": {"crash": True, "replay": True},
    "crash of partitions": {"crash": True, "partitions": 4},
    "sqlite": {"store": "sqlite", "partitions": 2},
    "crash of sqlite": {"store": "sqlite", "crash": True},
    **{f"luck {seed}": {"luck": seed} for seed in range(20)},
}


class Engine(TestEngine):
    """A `TestEngine` that looks, when it is left, for what must not be in any run."""

    def __init__(self, *services: AnyService, luck: int | None = None, **options: Any) -> None:
        self._luck = random.Random(luck)
        self._lucky = luck is None
        if luck is not None:
            options = {"partitions": self._luck.choice((1, 1, 3)), "suspend": self._luck.random() < 0.3, **options}
        super().__init__(App(*services), **options)

    async def start(self) -> None:
        await super().start()
        if not self._lucky:
            for store in self._stores:
                store._deliver = self._some_time_later  # type: ignore[attr-defined]

    def _some_time_later(self, store: Callable[[], None]) -> None:
        """A commit takes its time, and now and then the process dies before or after it."""
        life, chance = self._living(), self._luck
        loop = life.node._loop
        left = chance.choice((0, 0, 1, 2, 5, 20))
        dies = chance.choice(("before", "after")) if chance.random() < 0.1 else ""

        def turn() -> None:
            nonlocal left
            left -= 1
            if life.dying or self._stopped:
                return
            if left > 0:
                loop.call_soon(turn)
            elif dies == "before":
                self._die_soon(life)
            else:
                store()
                if dies == "after":
                    self._die_soon(life)

        turn()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        if error is None:
            assert [run for run in self.steps if run.again] == [], "a step ran again though its result was recorded"
            for store in self._stores:
                assert not isinstance(store, MemoryStorage) or check(store.snapshot()) == []
            assert self.crashes > 0 or not self._crash_always or self.commits < 2

    def once(self, *names: str, **counts: int) -> None:
        """Each of these steps has run: once, or in `counts` invocations. A crash may have cut a run off."""
        for name, count in {**dict.fromkeys(names, 1), **counts}.items():
            runs = [run for run in self.steps if run.name == name]
            tokens = Counter(run.token for run in runs)
            assert len(tokens) == count, f"step {name!r} of {len(tokens)} invocations ran, not of {count}"
            if not self._crash_always and self._lucky:
                assert len(runs) == count, f"step {name!r} ran {len(runs)} times, not {count}"

    def tries(self, name: str) -> list[int]:
        """The attempts that a step had, by their number; one that a crash cut off is made again."""
        attempts = [run.attempt for run in self.steps if run.name == name]
        return sorted(set(attempts)) if self._crash_always or not self._lucky else attempts


class Start:
    """Makes an engine that runs in one way."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.options = {**WAYS, **MORE_WAYS}[way]
        self.crashes = self.options.get("crash", False) or "luck" in self.options
        self.suspends = self.options.get("suspend", False)

    def __call__(self, *services: AnyService, **options: Any) -> Engine:
        return Engine(*services, **{**self.options, **options})


def fails(code: int, match: str | None = None) -> Any:
    """Within: a `TerminalError` of this code."""
    return pytest.raises(TerminalError, match=match, check=lambda error: error.code == code)


async def until(condition: Any) -> None:
    """Wait, in real time, for something that a handler or a step does."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")
