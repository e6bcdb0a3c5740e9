"""Times, durations, tables and journal entries, as commands print them."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure.cli.asking import one_line
from perdure.cli.journal import entry_in_words, unanswered
from perdure.cli.tables import columns_of, in_words, moment, parse_time, shown_bytes


def test_times() -> None:
    assert parse_time("2026-01-02T03:04:05.678000000Z") == datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    assert parse_time("2026-01-02T03:04:05.6Z").microsecond == 600_000
    assert parse_time("2026-01-02T03:04:05Z") == datetime(2026, 1, 2, 3, 4, 5, 0, UTC)
    assert moment(1_000) == "1970-01-01 00:00:01Z" and moment(None) == ""
    assert [in_words(each) for each in (-1, 0.9, 61, 3600, 90_061)] == ["0s", "0s", "1m 1s", "1h", "1d 1h"]


def test_texts_cannot_move_the_cursor() -> None:
    assert one_line("a\n\tb\x1b[2J\u202e") == "a b [2J"
    assert shown_bytes(b"\xff\xfe") == "2 bytes" and shown_bytes(b"x" * 61) == "x" * 57 + "..."


def test_columns_of_rows_that_leave_out_nulls() -> None:
    assert columns_of([{"a": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}, {"d": 1}, {"c": 1, "e": 1}]) == list("dabce")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "SetState", "key": "k", "value": _base64("1")}, "k = 1"),
        ({"kind": "ClearState", "key": "k"}, "k"),
        ({"kind": "ClearAllState"}, ""),
        ({"kind": "GetEagerState", "key": "k", "result": {"kind": "Void"}}, "k -> nothing"),
        ({"kind": "GetEagerStateKeys", "keys": ["a", "b"]}, "a, b"),
        ({"kind": "Run", "completion_id": 1, "name": "pay\n"}, "[pay]"),
        ({"kind": "Sleep", "wake_up_time": 1_000, "completion_id": 1}, "until 1970-01-01 00:00:01Z"),
        ({"kind": "CompletePromise", "key": "p", "result": {"code": 1, "message": "m"}}, "p failed: m (code 1)"),
        (
            {"kind": "OneWayCall", "service": "S", "handler": "h", "key": "k", "parameter": "", "invoke_time": 1_000},
            "S/k/h at 1970-01-01 00:00:01Z",
        ),
        (
            {"kind": "SendSignal", "target": "inv_1", "signal": "go", "result": {"kind": "Void"}},
            "go of inv_1 -> nothing",
        ),
        ({"kind": "AttachInvocation", "target": {"invocation_id": "inv_1"}}, "inv_1"),
        ({"kind": "AttachInvocation", "target": {"workflow": "W", "key": "k"}}, "W/k"),
        (
            {
                "kind": "GetInvocationOutput",
                "target": {"service": "S", "key": None, "handler": "h", "idempotency_key": "i"},
            },
            "S/h with idempotency key i",
        ),
        ({"kind": "CompleteAwakeable", "awakeable_id": "sign_1", "result": {"content": ""}}, "sign_1 -> nothing"),
        ({"kind": "Signal", "signal": 1, "result": {"kind": "Void"}}, "cancellation -> nothing"),
        ({"kind": "Completion", "completion_id": 9, "result": {"keys": ["a"]}}, "keys a"),
    ],
)
def test_entries(entry: dict[str, Any], words: str) -> None:
    assert entry_in_words(entry, [entry]) == words


def test_a_completion_names_what_it_answers() -> None:
    run: dict[str, Any] = {"index": 3, "kind": "Run", "completion_id": 1, "name": "pay"}
    done = {"index": 4, "kind": "Completion", "completion_id": 1, "result": {"content": _base64("5")}}
    assert entry_in_words(done, [run, done]) == "of 3 Run -> 5"
    assert unanswered([run]) == [run] and unanswered([run, done]) == []
