"""`GET /metrics` on the admin port: everything that is counted, for Prometheus. See docs/telemetry.md for the names.

The event loop only copies the numbers; text is made of them in a thread, for there may be ten thousand lines.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.model.keys import Role
from perdure.telemetry.metrics import HandlerMetrics, Histogram, ModelMetrics
from perdure.web.http import Request, Response, Router
from perdure.web.operations import Operation

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

    from perdure.runtime.node import Node
    from perdure.sql.pool import Queries

__all__ = ["MetricsRoute", "Snapshot", "invocations_by_status", "render", "snapshot"]

_MS = 1000.0


class _Range(NamedTuple):
    """A histogram at one moment."""

    bounds: Sequence[float]
    counts: list[int]
    total: float

    @classmethod
    def of(cls, histogram: Histogram) -> "_Range":
        return cls(histogram.bounds, histogram.counts.copy(), histogram.total)


class _Handler(NamedTuple):
    labels: tuple[str, str]
    successes: _Range
    failures: _Range
    attempts: dict[str, int]
    """By how they ended."""
    step_failures: int
    steps: dict[str, _Range]

    @classmethod
    def of(cls, numbers: HandlerMetrics) -> "_Handler":
        ends = {
            "completed": numbers.completed,
            "suspended": numbers.suspended,
            "failed": numbers.failed,
            "aborted": numbers.aborted,
        }
        steps = {name: _Range.of(histogram) for name, histogram in numbers.steps.items()}
        labels = (numbers.service, numbers.handler)
        successes, failures = _Range.of(numbers.successes), _Range.of(numbers.failures)
        return cls(labels, successes, failures, ends, numbers.step_failures, steps)


class _Model(NamedTuple):
    calls: int
    tokens: dict[str, int]
    cost: float
    unpriced: int

    @classmethod
    def of(cls, numbers: ModelMetrics) -> "_Model":
        return cls(numbers.calls, numbers.tokens.copy(), numbers.cost, numbers.unpriced)


class _Partition(NamedTuple):
    label: str
    queued: int
    batches: _Range
    commits: _Range
    syncs: _Range | None
    sizes: dict[str, int]


class Snapshot(NamedTuple):
    """All numbers at one moment."""

    version: str
    ready: bool
    statuses: dict[str, int] | None
    running: dict[tuple[str, str], int]
    running_elsewhere: int
    waiting: int
    handlers: list[_Handler]
    partitions: list[_Partition]
    loop_lag: _Range
    open_requests: int
    responses: dict[int, int]
    connections: int
    queries_running: int
    queries_waiting: int
    spans: dict[str, int]
    models: dict[str, _Model]


def snapshot(node: "Node", version: str, queries: "Queries | None" = None) -> Snapshot:
    """Copy the numbers; on the event loop's thread."""
    metrics, invoker = node.metrics, node.invoker
    partitions: list[_Partition] = []
    for each in node.partitions:
        measured = each.measured
        syncs = None if measured is None else _Range.of(measured.syncs)
        sizes = {} if measured is None else measured.sizes()
        batches, commits = _Range.of(each.metrics.batches), _Range.of(each.metrics.commits)
        partitions.append(_Partition(str(each.index), each.queued, batches, commits, syncs, sizes))
    return Snapshot(
        version,
        node.ready,
        invocations_by_status(node),
        invoker.live_by_handler(),
        invoker.live_elsewhere,
        invoker.waiting,
        [_Handler.of(numbers) for numbers in metrics.all_handlers()],
        partitions,
        _Range.of(metrics.loop_lag),
        metrics.open_requests(),
        dict(metrics.responses),
        0 if node.remote is None else node.remote.connections,
        0 if queries is None else queries.running,
        0 if queries is None else queries.waiting,
        dict(metrics.spans),
        {name: _Model.of(each) for name, each in metrics.models.items()},
    )


def invocations_by_status(node: "Node") -> dict[str, int] | None:
    """How many invocations there are of each status, in the words of `perdure invocations`; None: not known yet."""
    before = node.metrics.statuses
    if before is None:
        return None
    found = dict.fromkeys(("scheduled", "inboxed", "invoked", "suspended", "paused"), 0)
    for status in found:
        found[status] = before.get(status, 0)
    for partition in node.partitions:
        for kind, change in partition.statuses.items():
            name = kind.__name__.lower()
            if name in found:
                found[name] += change
    invoked = found.pop("invoked")
    running, ready = node.invoker.live, node.invoker.waiting
    return {**found, "running": running, "ready": ready, "backing-off": max(0, invoked - running - ready)}


def render(numbers: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text, and its content type: OpenMetrics if `accept` asks for it, else that of Prometheus. In any thread."""
    from prometheus_client.exposition import choose_encoder

    encoder, content_type = choose_encoder(accept)
    return encoder(_Families(numbers)), content_type


class _Families:
    """As much of a registry as an encoder asks for."""

    def __init__(self, numbers: Snapshot) -> None:
        self._numbers = numbers

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client import GCCollector, ProcessCollector

        numbers = self._numbers
        yield from _invocations(numbers)
        yield from _handlers(numbers.handlers)
        yield from _models(numbers.models)
        yield from _partitions(numbers.partitions)
        yield from _edges(numbers)
        yield from ProcessCollector(registry=None).collect()
        yield from GCCollector(registry=_NoRegistry()).collect()  # type: ignore[arg-type]


class _NoRegistry:
    """For a collector that is asked once."""

    def register(self, collector: Any) -> None:
        pass


def _histogram(family: "HistogramMetricFamily", labels: Sequence[str], values: _Range, unit: float = 1.0) -> None:
    buckets: list[tuple[str, float]] = []
    count = 0
    for bound, more in zip((*values.bounds, None), values.counts, strict=True):
        count += more
        buckets.append(("+Inf" if bound is None else f"{bound / unit:g}", count))
    family.add_metric(labels, buckets, values.total / unit)


def _invocations(numbers: Snapshot) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily("perdure_build_info", "1; the version is its label.", labels=["version"])
    family.add_metric([numbers.version], 1)
    yield family
    yield GaugeMetricFamily("perdure_ready", "1 while work is taken.", value=int(numbers.ready))
    if numbers.statuses is not None:
        about = "Invocations that are not completed, by status."
        family = GaugeMetricFamily("perdure_invocations", about, labels=["status"])
        for status, count in numbers.statuses.items():
            family.add_metric([status], count)
        yield family
    about = "Attempts that run now, those that wait in memory among them."
    family = GaugeMetricFamily("perdure_attempts_running", about, labels=["service", "handler"])
    for labels, count in numbers.running.items():
        family.add_metric(labels, count)
    yield family
    about = "Attempts that wait for a place to run."
    yield GaugeMetricFamily("perdure_attempts_waiting", about, value=numbers.waiting)


def _handlers(handlers: list[_Handler]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    labels = ["service", "handler"]
    durations = HistogramMetricFamily(
        "perdure_invocation_duration_seconds",
        "From an invocation's being accepted until it was completed.",
        labels=[*labels, "result"],
    )
    attempts = CounterMetricFamily("perdure_attempts", "Attempts that have ended.", labels=[*labels, "outcome"])
    failures = CounterMetricFamily(
        "perdure_step_failures",
        "Tries of steps that failed and are followed by another one in the same attempt.",
        labels=labels,
    )
    steps = HistogramMetricFamily(
        "perdure_step_duration_seconds",
        "From a step's beginning until it has a result, tries that failed included.",
        labels=[*labels, "step"],
    )
    for each in handlers:
        for result, values in (("success", each.successes), ("failure", each.failures)):
            if any(values.counts):
                _histogram(durations, [*each.labels, result], values, _MS)
        for outcome, count in each.attempts.items():
            attempts.add_metric([*each.labels, outcome], count)
        failures.add_metric(each.labels, each.step_failures)
        for name, values in each.steps.items():
            _histogram(steps, [*each.labels, name], values, _MS)
    yield from (durations, attempts, failures, steps)


def _models(models: dict[str, _Model]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily

    calls = CounterMetricFamily("perdure_model_calls", "Model calls that have answered.", labels=["model"])
    tokens = CounterMetricFamily(
        "perdure_model_tokens",
        "Tokens of these; cached and cache_write are parts of input, reasoning is part of output.",
        labels=["model", "kind"],
    )
    about = "What these cost, as far as it is known, in US dollars."
    cost = CounterMetricFamily("perdure_model_cost_usd", about, labels=["model"])
    unpriced = CounterMetricFamily("perdure_model_unpriced", "Those whose cost is not known.", labels=["model"])
    for name, each in models.items():
        calls.add_metric([name], each.calls)
        cost.add_metric([name], each.cost)
        unpriced.add_metric([name], each.unpriced)
        for kind, count in each.tokens.items():
            tokens.add_metric([name, kind], count)
    yield from (calls, tokens, cost, unpriced)


def _partitions(partitions: list[_Partition]) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

    labels = ["partition"]
    queued = GaugeMetricFamily("perdure_commands_queued", "Commands that wait for a batch.", labels=labels)
    about = "Commands that were stored together; its count is that of commits, its sum that of commands."
    batches = HistogramMetricFamily("perdure_batch_commands", about, labels=labels)
    about = "From a batch's being handed to the store until the engine knew that it is on disk."
    commits = HistogramMetricFamily("perdure_commit_duration_seconds", about, labels=labels)
    about = "What the disk took of that: COMMIT, which is one fsync."
    syncs = HistogramMetricFamily("perdure_fsync_duration_seconds", about, labels=labels)
    about = "Bytes on disk: of the database (db) and of the log before it (wal)."
    sizes = GaugeMetricFamily("perdure_storage_bytes", about, labels=[*labels, "file"])
    for each in partitions:
        queued.add_metric([each.label], each.queued)
        _histogram(batches, [each.label], each.batches)
        _histogram(commits, [each.label], each.commits)
        if each.syncs is not None:
            _histogram(syncs, [each.label], each.syncs)
        for name, size in each.sizes.items():
            sizes.add_metric([each.label, name], size)
    yield from (queued, batches, commits, syncs, sizes)


def _edges(numbers: Snapshot) -> "Iterable[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    about = "How late the event loop was, asked four times a second."
    lag = HistogramMetricFamily("perdure_event_loop_lag_seconds", about, labels=[])
    _histogram(lag, [], numbers.loop_lag)
    responses = CounterMetricFamily(
        "perdure_ingress_responses", "Answers of the ingress, by status.", labels=["status"]
    )
    for status, count in sorted(numbers.responses.items()):
        responses.add_metric([str(status)], count)
    spans = CounterMetricFamily("perdure_spans", "Spans made, by kind; none unless tracing is on.", labels=["kind"])
    for kind, count in numbers.spans.items():
        spans.add_metric([kind], count)
    gauges = {
        "perdure_ingress_requests_open": ("Requests that the ingress is answering.", numbers.open_requests),
        "perdure_remote_attempts": ("Attempts that run on deployments: open streams.", numbers.running_elsewhere),
        "perdure_remote_connections": ("Open HTTP/2 connections to deployments.", numbers.connections),
        "perdure_queries_running": ("SQL queries that are being answered.", numbers.queries_running),
        "perdure_queries_waiting": ("SQL queries that wait for their turn.", numbers.queries_waiting),
    }
    yield from (lag, responses, spans)
    for name, (about, value) in gauges.items():
        yield GaugeMetricFamily(name, about, value=value)


class MetricsRoute:
    """The route of the admin port that Prometheus scrapes."""

    def __init__(self, node: "Node", version: str, queries: "Queries | None") -> None:
        self._node = node
        self._version = version
        self._queries = queries

    def add_to(self, router: Router) -> None:
        """Make the route known."""
        operation = Operation("metrics", "What is counted, for Prometheus", {200: str}, answer_type="text/plain")
        router.add("GET", "/metrics", self._show, role=Role.READ, operation=operation)

    async def _show(self, request: Request) -> Response:
        numbers = snapshot(self._node, self._version, self._queries)
        accept = request.fields.get(b"accept", b"").decode("latin-1")
        text, content_type = await asyncio.to_thread(render, numbers, accept)
        return Response(200, [(b"content-type", content_type.encode())], text)
