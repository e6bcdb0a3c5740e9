"""The last hour's numbers: differences of what only counts up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.telemetry.history import KEPT, History, quantile
from perdure.telemetry.metrics import DURATION_BOUNDS, Metrics


def test_each_interval_has_what_happened_in_it() -> None:
    metrics, history = Metrics(), History()
    handler = metrics.handler("Agent", "ask")
    handler.successes.observe(3)
    history.take(0, metrics, 0, 0)
    assert not history.intervals, "the first call only begins to count"
    handler.successes.observe(40)
    handler.failures.observe(40)
    handler.step_failures += 2
    history.take(10_000, metrics, 7, 1)
    history.take(20_000, metrics, 0, 0)
    first, second = history.intervals
    assert (first.at, first.succeeded, first.failed, first.step_failures) == (10_000, 1, 1, 2)
    assert (first.running, first.waiting) == (7, 1)
    assert first.p50 is not None and 25 <= first.p50 <= 50
    assert (second.succeeded, second.failed, second.p50) == (0, 0, None)
    assert list(history.ended()["Agent", "ask"]) == [2, 0]


def test_what_is_kept_is_bounded() -> None:
    metrics, history = Metrics(), History()
    metrics.handler("Agent", "ask")
    for each in range(KEPT + 5):
        history.take(each, metrics, 0, 0)
    assert len(history.intervals) == KEPT
    assert len(history.ended()["Agent", "ask"]) == KEPT


@given(st.lists(st.integers(1, 86_400_000), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_within_the_range_of_the_value_that_it_stands_for(values: list[int], share: float) -> None:
    counts = [0] * (len(DURATION_BOUNDS) + 1)
    bounds = (0, *DURATION_BOUNDS)
    for value in values:
        counts[next(index for index, bound in enumerate(DURATION_BOUNDS) if value <= bound)] += 1
    found = quantile(counts, share)
    exact = sorted(values)[min(len(values) - 1, max(0, -int(-share * len(values) // 1) - 1))]
    index = next(index for index, bound in enumerate(DURATION_BOUNDS) if exact <= bound)
    assert found is not None
    assert bounds[index] - 1e-6 <= found <= DURATION_BOUNDS[index] + 1e-6


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_without_values_there_is_none(share: float) -> None:
    assert quantile([0, 0, 0], share, (1, 2)) is None
    assert quantile([0, 0, 3], share, (1, 2)) == 2, "above all bounds: the last one"
