"""The five ways in which every scenario is run, and what is checked of each run besides what its test says."""

import asyncio
from collections import Counter
from types import TracebackType
from typing import Any, Final, Protocol

import pytest

from perdure import App, TerminalError
from perdure.sdk.service import AnyService
from perdure.storage.memory import MemoryStorage
from perdure.testing import TestEngine
from perdure.testing.invariants import check

__all__ = ["WAYS", "Engine", "Start", "fails", "until"]

WAYS: Final[dict[str, dict[str, Any]]] = {
    "live": {},
    "replay": {"replay": True},  # every handler is dropped and replayed before each thing it is told
    "suspend": {"suspend": True},  # every handler is suspended whenever it waits for more than a step
    "crash": {"crash": True},  # the process dies after every commit; each life gets one commit further
    "partitions": {"partitions": 4},
}


class Engine(TestEngine):
    """A `TestEngine` that looks, when it is left, for what must not be in any run."""

    def __init__(self, way: str, *services: AnyService, **options: Any) -> None:
        super().__init__(App(*services), **{**WAYS[way], **options})
        self.way = way

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        if error is None:
            assert [run for run in self.steps if run.again] == [], "a step ran again though its result was recorded"
            for store in self._stores:
                assert isinstance(store, MemoryStorage)
                assert check(store.snapshot()) == []
            assert self.crashes > 0 or not self._crash_always or self.commits < 2

    def once(self, *names: str, **counts: int) -> None:
        """Each of these steps has run: once, or in `counts` invocations. A crash may have cut a run off."""
        for name, count in {**dict.fromkeys(names, 1), **counts}.items():
            runs = [run for run in self.steps if run.name == name]
            tokens = Counter(run.token for run in runs)
            assert len(tokens) == count, f"step {name!r} of {len(tokens)} invocations ran, not of {count}"
            if not self._crash_always:
                assert len(runs) == count, f"step {name!r} ran {len(runs)} times, not {count}"


    def tries(self, name: str) -> list[int]:
        """The attempts that a step had, by their number; one that a crash cut off is made again."""
        attempts = [run.attempt for run in self.steps if run.name == name]
        return sorted(set(attempts)) if self._crash_always else attempts


class Start(Protocol):
    """The fixture: makes an engine that runs in this test's way."""

    way: str

    def __call__(self, *services: AnyService, **options: Any) -> Engine: ...


class Starter:
    def __init__(self, way: str) -> None:
        self.way = way

    def __call__(self, *services: AnyService, **options: Any) -> Engine:
        return Engine(self.way, *services, **options)


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
