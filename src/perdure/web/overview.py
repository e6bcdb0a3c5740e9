"""`GET /overview`: numbers of the whole server, and how they went over the last hour, in one answer that costs little.

It is made of what is counted anyway (`telemetry`), so a console that asks every few seconds reads no table.
"""

from typing import TYPE_CHECKING

import msgspec

from perdure.model.keys import Role
from perdure.telemetry.history import INTERVAL_MS, KEPT, History, quantile
from perdure.telemetry.metrics import HandlerMetrics
from perdure.web.http import Request, Response, Router, format_time_ms, json_response
from perdure.web.metrics import invocations_by_status
from perdure.web.operations import Operation

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["OverviewRoute"]


class Attempts(msgspec.Struct):
    """Attempts: those that run, those of them that run on deployments, and those that wait for room."""

    running: int
    elsewhere: int
    waiting: int


class HandlerNumbers(msgspec.Struct):
    """Of one handler, since the process began; `ended` are its invocations by interval. Durations are in ms."""

    service: str
    handler: str
    running: int
    succeeded: int
    failed: int
    step_failures: int
    attempts_failed: int
    p50: float | None
    p95: float | None
    ended: list[int]


class HistoryNumbers(msgspec.Struct):
    """One number for each interval, the oldest first; `times` are when they ended. Times and durations are in ms."""

    times: list[int]
    interval_ms: int
    attempts: list[int]
    succeeded: list[int]
    failed: list[int]
    step_failures: list[int]
    p50: list[float | None]
    p95: list[float | None]
    p99: list[float | None]
    running: list[int]
    waiting: list[int]
    loop_lag: list[float | None]


class Overview(msgspec.Struct):
    """`statuses` are invocations that are not completed, as `sys_invocation` calls them, if they are counted yet."""

    version: str
    started_at: str
    now: str
    ready: bool
    statuses: dict[str, int] | None
    attempts: Attempts
    queued: int
    storage: dict[str, int]
    handlers: list[HandlerNumbers]
    history: HistoryNumbers


class OverviewRoute:
    """The route of the admin port that the console's first page asks."""

    def __init__(self, node: "Node", version: str, history: History) -> None:
        self._node = node
        self._version = version
        self._history = history

    def add_to(self, router: Router) -> None:
        """Make the route known."""
        operation = Operation("metrics", "Numbers of the server, now and over the last hour", {200: Overview})
        router.add("GET", "/overview", self._show, role=Role.READ, operation=operation)

    async def _show(self, request: Request) -> Response:
        node, invoker = self._node, self._node.invoker
        statuses = invocations_by_status(node)
        if statuses is not None:
            statuses["pending"] = statuses.pop("inboxed")
        running = invoker.live_by_handler()
        overview = Overview(
            self._version,
            format_time_ms(node.started_at),
            format_time_ms(node.clock.now_ms()),
            node.ready,
            statuses,
            Attempts(invoker.live, invoker.live_elsewhere, invoker.waiting),
            sum(each.queued for each in node.partitions),
            self._storage(),
            [self._handler(each, running) for each in node.metrics.all_handlers()],
            self._series(),
        )
        return json_response(200, overview)

    def _storage(self) -> dict[str, int]:
        """Bytes on disk, of all partitions, by kind of file."""
        sizes: dict[str, int] = {}
        for each in self._node.partitions:
            for name, size in ({} if each.measured is None else each.measured.sizes()).items():
                sizes[name] = sizes.get(name, 0) + size
        return sizes

    def _handler(self, numbers: HandlerMetrics, running: dict[tuple[str, str], int]) -> HandlerNumbers:
        key = (numbers.service, numbers.handler)
        good, bad = numbers.successes.counts, numbers.failures.counts
        durations = [one + other for one, other in zip(good, bad, strict=True)]
        ended = list(self._history.ended().get(key, ()))
        return HandlerNumbers(
            *key,
            running=running.get(key, 0),
            succeeded=sum(good),
            failed=sum(bad),
            step_failures=numbers.step_failures,
            attempts_failed=numbers.failed,
            p50=quantile(durations, 0.5),
            p95=quantile(durations, 0.95),
            ended=[0] * (min(len(self._history.intervals), KEPT) - len(ended)) + ended,
        )

    def _series(self) -> HistoryNumbers:
        all = list(self._history.intervals)
        return HistoryNumbers(
            times=[each.at for each in all],
            interval_ms=INTERVAL_MS,
            attempts=[each.attempts for each in all],
            succeeded=[each.succeeded for each in all],
            failed=[each.failed for each in all],
            step_failures=[each.step_failures for each in all],
            p50=[each.p50 for each in all],
            p95=[each.p95 for each in all],
            p99=[each.p99 for each in all],
            running=[each.running for each in all],
            waiting=[each.waiting for each in all],
            loop_lag=[each.lag for each in all],
        )
