"""Durations as they stand in a query."""

import pytest

from perdure.errors import Invalid
from perdure.web.durations import parse_duration_ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("PT60S", 60_000),
        ("PT1H30M", 5_400_000),
        ("P1DT12H", 129_600_000),
        ("P2W", 1_209_600_000),
        ("PT0.5S", 500),
        ("pt1,5s", 1500),
        ("10s", 10_000),
        ("60 sec", 60_000),
        ("1h 30m", 5_400_000),
        ("1h30m", 5_400_000),
        ("60000ms", 60_000),
        ("1 hour, 2 minutes", 3_720_000),
        ("1.5h", 5_400_000),
        ("2 Days", 172_800_000),
        ("1us", 1),
        ("1500µs", 2),
        ("0s", 0),
        (" 5s ", 5000),
    ],
)
def test_read(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1", "10", "s", "10 parsecs", "-5s", "PT-5S", "1h x", "P1Y", "P1M", "2 months", "1000000d"]
)
def test_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_duration_ms(text)
