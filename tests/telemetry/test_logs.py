"""What handlers and steps log: once, however often the handler is replayed, and with the invocation it is about."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import App, Context, RetryPolicy, Service, SyncContext, is_replaying
from perdure.sdk import logs
from perdure.sdk.logs import JsonFormatter, TextFormatter, setup_logging
from perdure.testing import TestEngine

log = logging.getLogger("app")
writer = Service("writer")
printed: list[str] = []


async def double(n: int) -> int:
    log.info("in step %d", n)
    return 2 * n


@writer.handler()
async def story(ctx: Context, n: int) -> int:
    log.info("begins")
    if not is_replaying():
        printed.append("begins")
    total = 0
    for i in range(n):
        total += await ctx.run(f"double {i}", double, i)
        log.info("has %d", i)
        await ctx.sleep(timedelta(minutes=1))
        log.info("slept %d", i)
    log.info("ends")
    return total


@writer.handler()
async def fan_out(ctx: Context, n: int) -> None:
    async def nap(i: int) -> None:
        await ctx.sleep(60 * (i + 1))
        log.info("nap %d is over", i)

    try:
        await asyncio.gather(*[nap(i) for i in range(n)])
    finally:
        log.info("tidied up")


@writer.handler()
def plainly(ctx: SyncContext, n: int) -> None:
    log.info("begins")
    for i in range(n):
        ctx.run(f"double {i}", double, i)
        log.info("has %d", i)
        ctx.sleep(60)
    log.info("ends")


@writer.handler(retry_policy=RetryPolicy(max_attempts=2, initial_interval=1))
async def fails_once(ctx: Context) -> None:
    log.info("before the step")
    await ctx.run("double", double, 1)
    log.info("after it")
    if ctx.attempt == 1:
        raise RuntimeError("no luck")


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    printed.clear()
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


TOLD = ["begins"]
for i in range(3):
    TOLD += [f"in step {i}", f"has {i}", f"slept {i}"]
TOLD += ["ends"]

WAYS: dict[str, dict[str, Any]] = {
    "live": {},
    "replay": {"replay": True},
    "suspend": {"suspend": True},
    "both": {"replay": True, "suspend": True},
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_line_is_logged_once_however_often_the_handler_is_replayed(way: str, kept: Kept) -> None:
    async with TestEngine(App(writer), **WAYS[way]) as engine:
        assert await engine.call(story, 3) == 6
    assert kept.texts == TOLD
    assert printed == ["begins"]


@pytest.mark.parametrize("way", ["replay", "suspend", "both"])
async def test_of_many_that_are_waited_for_each_is_told_of_once(way: str, kept: Kept) -> None:
    async with TestEngine(App(writer), **WAYS[way]) as engine:
        await engine.call(fan_out, 10)
    assert kept.texts == [*[f"nap {i} is over" for i in range(10)], "tidied up"]


@pytest.mark.parametrize("way", ["live", "suspend"])
async def test_plain_handlers_in_threads_too(way: str, kept: Kept) -> None:
    async with TestEngine(App(writer), **WAYS[way]) as engine:
        await engine.call(plainly, 2)
    assert kept.texts == ["begins", "in step 0", "has 0", "in step 1", "has 1", "ends"]


async def test_what_happens_again_is_logged_again(kept: Kept) -> None:
    """A failed attempt is tried again from the journal's end on: before it is repetition, from there on it is not."""
    async with TestEngine(App(writer)) as engine:
        await engine.call(fails_once)
    assert kept.texts == ["before the step", "in step 1", "after it", "after it"]
    assert [record.attempt for record in kept.records] == [1, 1, 1, 2]  # type: ignore[attr-defined]


async def test_a_crash_repeats_nothing_of_before_the_journals_last_command(kept: Kept) -> None:
    async with TestEngine(App(writer)) as engine:
        engine.crash_after("double 1")
        assert await engine.call(story, 2) == 2
    assert kept.texts.count("begins") == kept.texts.count("has 0") == kept.texts.count("slept 0") == 1


async def test_every_record_says_whose_it_is(kept: Kept) -> None:
    async with TestEngine(App(writer)) as engine:
        id = (await engine.send(story, 1)).id
        await engine.invocation(id).attach()
    fields = [{name: record.__dict__.get(name) for name in logs.FIELDS} for record in kept.records]
    own = {"invocation_id": id, "service": "writer", "handler": "story", "attempt": 1, "step": None, "trace_id": None}
    assert fields[0] == own
    assert fields[1] == own | {"step": "double 0"}
    log.info("outside")
    assert not hasattr(kept.records[-1], "invocation_id")


async def test_the_engines_own_records_say_it_too(caplog: pytest.LogCaptureFixture) -> None:
    async with TestEngine(App(writer)) as engine:
        await engine.call(fails_once)
    record = next(record for record in caplog.records if "no luck" in record.getMessage())
    assert (record.name, record.__dict__["service"], record.__dict__["attempt"]) == ("perdure.invocation", "writer", 1)
    assert record.__dict__["invocation_id"].startswith("inv_1")


async def test_repetition_is_shown_to_who_wants_to_see_it(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_shows_replays", True)
    async with TestEngine(App(writer), replay=True) as engine:
        await engine.call(story, 1)
    assert kept.texts.count("begins") > 1


def record(message: str = "it is %s", *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("app", logging.WARNING, __file__, 1, message, args, None)
    made.__dict__.update(fields)
    return made


WHOSE: dict[str, object] = {"invocation_id": "inv_1", "service": "s", "handler": "h", "attempt": 2}


def test_lines_for_people() -> None:
    formatter = TextFormatter()
    assert formatter.format(record("it is %s", "cold")).endswith(" WARNING app: it is cold")
    line = formatter.format(record("it is %s", "cold", **WHOSE, step="look"))
    assert line.endswith(" WARNING app: it is cold [inv_1 s/h attempt 2 step 'look']")


def test_lines_of_json() -> None:
    line = json.loads(JsonFormatter().format(record("it is %s", "cold", **WHOSE, room=object, size=3)))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "app",
        "message": "it is cold",
        **WHOSE,
        "room": str(object),
        "size": 3,
    }


def test_json_of_an_exception_and_of_what_is_no_unicode() -> None:
    try:
        raise ValueError("bad \udcff")
    except ValueError as error:
        made = record("\udcff")
        made.exc_info = (ValueError, error, error.__traceback__)
    line = json.loads(JsonFormatter().format(made))
    assert "ValueError" in line["exception"] and "udcff" in line["message"]


@pytest.mark.parametrize("format", ["text", "json"])
def test_setting_it_up(format: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, stderr = logging.getLogger(), io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    perdure.setup_logging(format, "info")
    perdure.setup_logging(format, "debug")  # it is set up already
    log.info("hello")
    log.debug("too much")
    root.setLevel("WARNING")  # forgets which levels were enabled
    (line,) = stderr.getvalue().splitlines()
    assert json.loads(line)["message"] == "hello" if format == "json" else line.endswith("INFO app: hello")


def test_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="'text' or 'json', not 'xml'"):
        setup_logging("xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no log level 'loud'"):
        setup_logging("text", "loud")
