"""What is counted: plain numbers, added to on the event loop's thread and read by whoever collects them.

A step is counted for a fraction of a microsecond, so there is no lock and no label look-up here: each partition,
handler and step has an object of its own, which its user holds. `web.metrics` makes Prometheus's text of them.

Names of steps are the handlers' to choose, and may be without number: `fetch 17`. What differs in its digits counts as
one (`fetch #`), a handler has at most `STEPS_PER_HANDLER` names and all together `STEPS`; the rest is `other`.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from perdure.model.entries import Result, Value
from perdure.model.invocation import Invocation
from perdure.model.usage import Usage
from perdure.telemetry.genai import usage_in

__all__ = [
    "BATCH_BOUNDS",
    "DURATION_BOUNDS",
    "MODELS",
    "OTHER",
    "TIME_BOUNDS",
    "HandlerMetrics",
    "Histogram",
    "Metrics",
    "ModelMetrics",
    "PartitionMetrics",
]

DURATION_BOUNDS: Final = (
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 7_200_000,
    86_400_000,
)  # fmt: skip
"""Of steps and invocations, ms: from a millisecond to a day."""
TIME_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Of what the engine does itself, seconds."""
BATCH_BOUNDS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 4_096)

OTHER: Final = "other"
STEPS_PER_HANDLER: Final = 32
STEPS: Final = 512
HANDLERS: Final = 1_000
MODELS: Final = 100
_REMEMBERED: Final = 256  # names of steps of one handler, as they were given, whose histogram is found at once
_NAME_LIMIT: Final = 80
_DIGITS: Final = re.compile(r"\b[0-9a-fA-F-]*\d[0-9a-fA-F-]{7,}\b|\d+")  # the first: UUIDs and other ids in hexadecimal


class Histogram:
    """How often values were in which range: `counts[i]` those up to `bounds[i]`, its last element those above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = DURATION_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class HandlerMetrics:
    """Of one handler. Durations are in ms."""

    __slots__ = (
        "_budget",
        "_found",
        "aborted",
        "completed",
        "failed",
        "failures",
        "handler",
        "service",
        "started",
        "step_failures",
        "steps",
        "successes",
        "suspended",
    )

    def __init__(self, service: str, handler: str, budget: list[int] | None = None) -> None:
        self.service = service
        self.handler = handler
        self.successes = Histogram()
        """From when an invocation was accepted until it was completed with a value."""
        self.failures = Histogram()
        """The same, of those that ended with a failure."""
        self.started = 0
        """Attempts; the next four are how they ended."""
        self.completed = 0
        self.suspended = 0
        self.failed = 0
        self.aborted = 0
        self.step_failures = 0
        """Tries of steps that failed and are followed by another one in the same attempt."""
        self.steps: dict[str, Histogram] = {}
        """By name, as it is counted: from a step's beginning until its result is on its way to the journal."""
        self._found: dict[str, Histogram] = {}
        self._budget = [STEPS] if budget is None else budget

    def step(self, name: str, duration: float) -> None:
        """A step has a result."""
        histogram = self._found.get(name) or self._find(name)
        histogram.counts[bisect_left(DURATION_BOUNDS, duration)] += 1
        histogram.total += duration

    def _find(self, name: str) -> Histogram:
        known = _DIGITS.sub("#", name)[:_NAME_LIMIT]
        histogram = self.steps.get(known)
        if histogram is None:
            if len(self.steps) >= STEPS_PER_HANDLER or self._budget[0] <= 0:
                histogram = self.steps.setdefault(OTHER, Histogram())
            else:
                self._budget[0] -= 1
                histogram = self.steps[known] = Histogram()
        if len(self._found) < _REMEMBERED:
            self._found[name] = histogram
        return histogram


class ModelMetrics:
    """Of one model: the calls that have answered here since the process began."""

    __slots__ = ("calls", "cost", "tokens", "unpriced")

    def __init__(self) -> None:
        self.calls = 0
        self.cost = 0.0
        """US dollars, of the calls whose cost is known."""
        self.unpriced = 0
        """Calls whose cost is not known."""
        self.tokens = dict.fromkeys(("input", "cached", "cache_write", "output", "reasoning"), 0)
        """By kind; the second and the third are parts of the first, the last is of the one before."""

    def add(self, usage: Usage) -> None:
        """One more call."""
        self.calls += 1
        if usage.cost is None:
            self.unpriced += 1
        else:
            self.cost += usage.cost
        tokens = self.tokens
        tokens["input"] += usage.input_tokens
        tokens["cached"] += usage.cached_tokens
        tokens["cache_write"] += usage.cache_write_tokens
        tokens["output"] += usage.output_tokens
        tokens["reasoning"] += usage.reasoning_tokens


class PartitionMetrics:
    """Of one partition's loop."""

    __slots__ = ("batches", "commits")

    def __init__(self) -> None:
        self.batches = Histogram(BATCH_BOUNDS)
        """Commands that were stored together."""
        self.commits = Histogram(TIME_BOUNDS)
        """From when a batch was handed to the store until it was on disk and the loop knew, seconds."""


class Metrics:
    """Of a node."""

    def __init__(self) -> None:
        self.handlers: dict[str, dict[str, HandlerMetrics]] = {}
        self._count = 0
        self._steps = [STEPS]
        self.loop_lag = Histogram(TIME_BOUNDS)
        """How much later than asked for the event loop did something, seconds."""
        self.responses: dict[int, int] = {}
        """Of the ingress, by status."""
        self.open_requests: Callable[[], int] = lambda: 0
        """Of the ingress: how many are being answered, those that wait for a result among them."""
        self.spans: dict[str, int] = {}
        """Made, by kind; none unless tracing is on."""
        self.models: dict[str, ModelMetrics] = {}
        """By the name that the provider gave; at most `MODELS`, what is more is `OTHER`."""
        self.statuses: dict[str, int] | None = None
        """How many invocations of each status there were when the process began; None while that is not known."""

    def handler(self, service: str, name: str) -> HandlerMetrics:
        """The numbers of a handler; beyond `HANDLERS` of them they share one object."""
        handlers = self.handlers.get(service)
        found = None if handlers is None else handlers.get(name)
        if found is None:
            if self._count >= HANDLERS:
                service = name = OTHER
                found = self.handlers.get(OTHER, {}).get(OTHER)
            if found is None:
                self._count += 1
                found = HandlerMetrics(service, name, self._steps)
                self.handlers.setdefault(service, {})[name] = found
        return found

    def all_handlers(self) -> list[HandlerMetrics]:
        return [each for handlers in self.handlers.values() for each in handlers.values()]

    def model_call(self, result: Result) -> None:
        """A step that asked a model has a result."""
        usage = usage_in(result)
        if usage is None:
            return
        name = usage.model[:_NAME_LIMIT] or OTHER
        found = self.models.get(name)
        if found is None:
            name = name if len(self.models) < MODELS else OTHER
            found = self.models.setdefault(name, ModelMetrics())
        found.add(usage)

    def completed(self, invocations: Iterable[Invocation]) -> None:
        """These have ended, and that is on disk."""
        handlers = self.handlers
        for invocation in invocations:
            target = invocation.target
            status: Any = invocation.status
            try:
                numbers = handlers[target.service][target.handler]
            except KeyError:
                numbers = self.handler(target.service, target.handler)
            histogram = numbers.successes if type(status.result) is Value else numbers.failures
            duration = status.at - invocation.created_at
            histogram.counts[bisect_left(DURATION_BOUNDS, duration)] += 1
            histogram.total += duration
