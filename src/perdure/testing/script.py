"""What a test has planned for the engine: where it crashes, which steps fail; and what became of every step.

Steps go by it because `ScriptedRun` wraps their functions, commits because the harness shows it each batch.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from perdure.core.tables import INVOCATION_ID, JOURNAL
from perdure.model import entries as e
from perdure.model.ids import format_invocation_id
from perdure.model.services import RetryPolicy
from perdure.protocol.control import Said, Start
from perdure.sdk import serving
from perdure.sdk.driver import HandlerRun
from perdure.sdk.serde import Serde
from perdure.sdk.service import HandlerDefinition
from perdure.sdk.steps import Host, _is_async, current_step
from perdure.storage.base import Batch

__all__ = ["Countdown", "Script", "ScriptedTransport", "StepRun"]


class StepRun(NamedTuple):
    """One run of a step's function. `again`: its result had been recorded before, which must never be."""

    invocation: str
    name: str
    attempt: int
    token: str
    again: bool


class Countdown:
    """What is to happen at the n-th occasion."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def reached(self) -> bool:
        self.left -= 1
        return self.left == 0


class StepId(NamedTuple):
    """Which step of which invocation."""

    invocation: bytes
    completion_id: int


class Script:
    """The plan and the record of one engine, over all its crashes."""

    def __init__(self) -> None:
        self.before: dict[str, Countdown] = {}
        self.during: dict[str, Countdown] = {}
        self.after: dict[str, Countdown] = {}
        self.failures: dict[str, deque[BaseException]] = {}
        self.steps: list[StepRun] = []
        self.names: dict[StepId, str] = {}
        self.accepted: set[bytes] = set()  # the invocations that were ever committed
        self._numbers: dict[tuple[int, int], bytes] = {}
        self._recorded: dict[bytes, set[int]] = {}  # of each invocation, the steps that have a result

    def strikes(self, faults: Mapping[str, Countdown], step: str) -> bool:
        """Whether one of these faults is to happen now."""
        fault = faults.get(step)
        return fault is not None and fault.reached()

    def runs(self, step: StepId, name: str) -> None:
        """A step's function is about to be called, unless it is to fail."""
        failures = self.failures.get(name)
        if failures:
            raise failures.popleft()
        info, again = current_step(), step.completion_id in self._recorded.get(step.invocation, ())
        self.steps.append(StepRun(format_invocation_id(step.invocation), name, info.attempt, info.token, again))

    def committed(self, partition: int, batch: Batch) -> bool:
        """Note what is on disk now; whether the process is to die of it."""
        for groups in batch.groups.get(INVOCATION_ID, {}).values():
            for key, number in groups.rows.items():
                id = key[0][16:] + key[0][:16]
                self._recorded.pop(id, None)  # forgotten, or a new one: an idempotency key may come again after a while
                if number is not None:
                    self.accepted.add(id)
                    self._numbers[partition, number] = id
        strikes = False
        for (number,), group in batch.groups.get(JOURNAL, {}).items():
            for row in group.rows.values():
                if row is not None and row[1].TYPE == e.RUN_COMPLETION:
                    step = StepId(self._numbers[partition, number], row[1].completion_id)
                    self._recorded.setdefault(step.invocation, set()).add(step.completion_id)
                    strikes |= self.strikes(self.after, self.names.get(step, ""))
        return strikes


class ScriptedTransport:
    """Opens attempts whose steps go by the script. `die` ends the process that they belong to."""

    def __init__(
        self,
        script: Script,
        handlers: Mapping[tuple[str, str], HandlerDefinition],
        host: Host,
        die: Callable[[], None],
    ) -> None:
        self.script = script
        self.handlers = handlers
        self.host = host
        self.die = die

    def open(self, start: Start, receive: Callable[[Said], None]) -> HandlerRun:
        return _ScriptedRun(self, start, receive)


class _ScriptedRun(HandlerRun):
    __slots__ = ("_transport",)

    def __init__(self, transport: ScriptedTransport, start: Start, send: Callable[[Said], None]) -> None:
        self._transport = transport
        definition = transport.handlers[start.target.service, start.target.handler]
        super().__init__(definition, start, send, transport.host, serving.run_main)

    def step(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: RetryPolicy | None,
        serde: Serde[Any],
    ) -> "tuple[int, asyncio.Future[e.Result]]":
        scripted = _ScriptedStep(self._transport, name, fn)
        function = scripted.run_async if _is_async(fn) else scripted.run_plain
        issued = super().step(name, function, args, kwargs, retry, serde)
        scripted.step = StepId(self.start.id, issued[0])
        self._transport.script.names[scripted.step] = name
        return issued


class _ScriptedStep:
    """A step's function, and what the script has to say of it."""

    step: StepId

    def __init__(self, transport: ScriptedTransport, name: str, fn: Callable[..., Any]) -> None:
        self._transport = transport
        self._name = name
        self._fn = fn

    async def run_async(self, *args: Any, **kwargs: Any) -> Any:
        if self._dies(self._transport.script.before):
            await _never()
        self._transport.script.runs(self.step, self._name)
        return await self._returns(await self._fn(*args, **kwargs))

    def run_plain(self, *args: Any, **kwargs: Any) -> Any:
        if self._dies(self._transport.script.before):
            return _never()
        self._transport.script.runs(self.step, self._name)
        result = self._fn(*args, **kwargs)
        if self._name not in self._transport.script.during:
            return result
        return self._resolves(result) if hasattr(result, "__await__") else self._returns(result)

    async def _resolves(self, result: Any) -> Any:
        return await self._returns(await result)

    async def _returns(self, result: Any) -> Any:
        if self._dies(self._transport.script.during):
            await _never()
        return result

    def _dies(self, faults: Mapping[str, Countdown]) -> bool:
        dies = self._transport.script.strikes(faults, self._name)
        if dies:
            self._transport.die()
        return dies


async def _never() -> None:
    """For code whose process has died; it is cancelled with the rest."""
    await asyncio.get_running_loop().create_future()
