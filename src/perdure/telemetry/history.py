"""How the numbers went lately: what was counted in each of the last intervals, for the console's overview.

`Metrics` only ever counts up. Here somebody's clock comes by once an interval, and the differences are kept: an hour of
them, at a fixed price in memory, and nothing that a step or a call pays for.
"""

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from perdure.telemetry.metrics import DURATION_BOUNDS, HandlerMetrics, Metrics

__all__ = ["INTERVAL_MS", "KEPT", "History", "Interval", "quantile"]

INTERVAL_MS: Final = 10_000
KEPT: Final = 360  # intervals: an hour

_BUCKETS: Final = len(DURATION_BOUNDS) + 1


class Interval(NamedTuple):
    """What happened in one interval, which ended `at` (ms since the epoch). Durations are in ms."""

    at: int
    attempts: int
    """That ended in it."""
    succeeded: int
    failed: int
    step_failures: int
    p50: float | None
    p95: float | None
    p99: float | None
    running: int
    """At its end; so is `waiting`."""
    waiting: int
    lag: float | None
    """How late the event loop was at the worst, ms; None if it was not asked."""


class _Totals(NamedTuple):
    attempts: int
    succeeded: int
    failed: int
    step_failures: int
    durations: list[int]
    lags: list[int]


def quantile(counts: Sequence[int], share: float, bounds: Sequence[float] = DURATION_BOUNDS) -> float | None:
    """What `share` (0 to 1) of the values are not above, judged by how many are in which range; None without values.

    Within a range values are taken to be spread evenly; those above all bounds to be at the last.
    """
    total = sum(counts)
    if total == 0:
        return None
    wanted, below, lower = share * total, 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below += count
        lower = bound
    return float(bounds[-1])


class History:
    """The last `KEPT` intervals. Call `take` every `INTERVAL_MS`; the first call only begins to count."""

    def __init__(self) -> None:
        self.intervals: deque[Interval] = deque(maxlen=KEPT)
        self._before: _Totals | None = None
        self._ended: dict[tuple[str, str], array[int]] = {}
        self._seen: dict[tuple[str, str], int] = {}

    def take(self, at: int, metrics: Metrics, running: int, waiting: int) -> None:
        """An interval is over. `running` and `waiting` are attempts, at this moment."""
        handlers = metrics.all_handlers()
        now, before = _totals(handlers, metrics.loop_lag.counts), self._before
        self._before = now
        self._count_by_handler(handlers, first=before is None)
        if before is None:
            return
        durations = [late - early for late, early in zip(now.durations, before.durations, strict=True)]
        lags = [late - early for late, early in zip(now.lags, before.lags, strict=True)]
        worst = quantile(lags, 1.0, metrics.loop_lag.bounds)
        self.intervals.append(
            Interval(
                at,
                now.attempts - before.attempts,
                now.succeeded - before.succeeded,
                now.failed - before.failed,
                now.step_failures - before.step_failures,
                quantile(durations, 0.5),
                quantile(durations, 0.95),
                quantile(durations, 0.99),
                running,
                waiting,
                None if worst is None else worst * 1000,
            )
        )

    def ended(self) -> Mapping[tuple[str, str], Sequence[int]]:
        """By service and handler: how many invocations ended in each interval, those of the latest last. A handler that
        was first called later has fewer."""
        return self._ended

    def _count_by_handler(self, handlers: Sequence[HandlerMetrics], *, first: bool) -> None:
        for each in handlers:
            key = (each.service, each.handler)
            total = sum(each.successes.counts) + sum(each.failures.counts)
            counts = self._ended.setdefault(key, array("Q"))
            if not first:
                counts.append(total - self._seen.get(key, 0))
                if len(counts) > KEPT:
                    del counts[0]
            self._seen[key] = total


def _totals(handlers: Sequence[HandlerMetrics], lags: Sequence[int]) -> _Totals:
    durations = [0] * _BUCKETS
    attempts = succeeded = failed = step_failures = 0
    for each in handlers:
        good, bad = each.successes.counts, each.failures.counts
        succeeded += sum(good)
        failed += sum(bad)
        step_failures += each.step_failures
        attempts += each.completed + each.suspended + each.failed + each.aborted
        for index in range(_BUCKETS):
            durations[index] += good[index] + bad[index]
    return _Totals(attempts, succeeded, failed, step_failures, durations, list(lags))
