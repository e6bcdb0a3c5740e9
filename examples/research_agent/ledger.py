"""The witness: a file that the engine does not know about, with a line before and after every execution of a step.

How to tell a broken promise from a kept one. The engine promises that a step whose result is recorded never runs again,
and that a step which was cut between its effect and its record does. Both leave the same trace in the witness's own
lines: the step began twice, and the first time it may even have finished. Only the engine knows whether it had
recorded the result, and the engine is the accused. But the program tells, because of its order: a step that depends on
the result of another cannot begin before that result is recorded. So if the file holds, in this order,

    start  tool 4.1 read        the first execution
    start  model 5              which needs the result of tool 4.1: so it was recorded
    start  tool 4.1 read        the second execution

then a recorded step ran again, and the promise is broken. Without the middle line it was cut before its record, which
is allowed, and named in the table of the demo.

The order is in the names. `model 5` needs every `tool 4.x`, each `tool 5.x` needs `model 5`, and the tools of one turn
run in parallel and do not need each other. `place` turns a name into a pair that compares in this order.
"""

import contextlib
import functools
import inspect
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast

from perdure import TerminalError, current_step

VARIABLE = "RESEARCH_LEDGER"
"""The environment variable that names the file. Without it nothing is written."""

F = TypeVar("F", bound=Callable[..., Any])


class Happening(StrEnum):
    """What a line says."""

    START = "start"
    FINISH = "finish"
    FAILED = "failed"


@dataclass(frozen=True)
class Line:
    """One line of the ledger."""

    event: Happening
    step: str
    token: str
    attempt: int
    pid: int
    at: float


class Verdict(StrEnum):
    """What became of one step, judged by the lines that bear its name."""

    ONCE = "ran once"
    CUT_INSIDE = "cut while it ran"
    CUT_BEFORE_RECORD = "cut between its effect and its record"
    TRIED_AGAIN = "failed and was tried again"
    UNFINISHED = "never finished"
    RAN_AFTER_RECORD = "RAN AGAIN AFTER ITS RESULT WAS RECORDED"
    TOKEN_CHANGED = "RAN AGAIN WITH ANOTHER TOKEN"


@dataclass(frozen=True)
class History:
    """All executions of one step."""

    step: str
    tokens: tuple[str, ...]
    starts: int
    finishes: int
    verdict: Verdict

    @property
    def broken(self) -> bool:
        """Whether a promise of the engine is broken."""
        return self.verdict in (Verdict.RAN_AFTER_RECORD, Verdict.TOKEN_CHANGED)


# -- writing, inside the process that gets killed --------------------------------------------------


def witnessed(function: F) -> F:
    """The function of a step, with a line in the ledger before and after it."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            with _on_the_record():
                return await function(*args, **kwargs)

        return cast(F, waiting)

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with _on_the_record():
            return function(*args, **kwargs)

    return cast(F, plain)


@contextlib.contextmanager
def _on_the_record() -> Iterator[None]:
    _write(Happening.START)
    try:
        yield
    except TerminalError:
        _write(Happening.FINISH)  # a result like any other: it is recorded, and the step never runs again
        raise
    except BaseException:
        _write(Happening.FAILED)
        raise
    _write(Happening.FINISH)


def _write(event: Happening) -> None:
    if path := os.environ.get(VARIABLE):
        step = current_step()
        line = Line(event, step.name, step.token, step.attempt, os.getpid(), time.time())
        # One write to a file opened for appending: a kill leaves a whole line or none, and parallel steps do not mix.
        with open(path, "ab", buffering=0) as ledger:
            ledger.write(json.dumps(asdict(line)).encode() + b"\n")


# -- reading, in the driver ------------------------------------------------------------------------


class Reader:
    """Follows the ledger while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._offset = 0

    def poll(self) -> list[Line]:
        """Take in what was written since the last time, and return it."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as ledger:
            ledger.seek(self._offset)
            data = ledger.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        new = [_parse(line) for line in complete.splitlines()]
        self.lines += new
        return new

    @property
    def steps_begun(self) -> int:
        """How many different steps have begun."""
        return len({line.token for line in self.lines})


def running(lines: list[Line]) -> list[Line]:
    """The last line of every step which has begun in these lines and has not ended."""
    last = {line.token: line for line in lines}
    return [line for line in last.values() if line.event is Happening.START]


def _parse(raw: bytes) -> Line:
    fields = json.loads(raw)
    return Line(**{**fields, "event": Happening(fields["event"])})


def place(step: str) -> tuple[int, int]:
    """Where a step stands in the order of the program: steps of a smaller place are recorded before this one begins."""
    found = re.match(r"(model|tool) (\d+)", step)
    if found is None:
        raise ValueError(f"the name of step {step!r} does not tell its place")
    return int(found[2]), int(found[1] == "tool")


def judge(lines: list[Line]) -> list[History]:
    """The history of every step, in the order in which they first began."""
    steps = dict.fromkeys(line.step for line in lines)
    return [_history(step, lines) for step in steps]


def _history(step: str, lines: list[Line]) -> History:
    own = [(position, line) for position, line in enumerate(lines) if line.step == step]
    tokens = tuple(dict.fromkeys(line.token for _, line in own))
    starts = [position for position, line in own if line.event is Happening.START]
    events = [line.event for _, line in own]
    if any(_needed_before(step, lines[:again]) for again in starts[1:]):
        verdict = Verdict.RAN_AFTER_RECORD
    elif len(tokens) > 1:
        verdict = Verdict.TOKEN_CHANGED
    elif events[-1] is not Happening.FINISH:
        verdict = Verdict.UNFINISHED
    elif len(starts) == 1:
        verdict = Verdict.ONCE
    else:
        # What stood last before the step began anew; if it was cut more than once, the gravest case gives the name.
        before = {events[index - 1] for index in range(1, len(events)) if events[index] is Happening.START}
        verdict = Verdict.TRIED_AGAIN
        if Happening.START in before:
            verdict = Verdict.CUT_INSIDE
        if Happening.FINISH in before:
            verdict = Verdict.CUT_BEFORE_RECORD
    return History(step, tokens, len(starts), events.count(Happening.FINISH), verdict)


def _needed_before(step: str, earlier: list[Line]) -> bool:
    """Whether a step that depends on this one had already begun."""
    return any(place(line.step) > place(step) for line in earlier)
