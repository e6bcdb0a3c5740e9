"""Handlers over the wire against a small engine: whatever is lost or half-closed, the outcome is the same."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure import (
    App,
    Context,
    ObjectContext,
    RetryableError,
    RetryPolicy,
    Service,
    SyncContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
)
from perdure.model import entries as e
from perdure.model.invocation import Target
from perdure.model.services import HandlerKind
from perdure.protocol import control, versions
from perdure.protocol.exchange import EngineEnd
from tests.sdk.endpoint_engine import Exchange, SmallEngine

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.001, factor=1.0)

flow = Service("Flow", retry_policy=QUICK)
box = VirtualObject("Box", retry_policy=QUICK)
wf = Workflow("Wf", retry_policy=QUICK)
ran: list[str] = []


def did(name: str) -> str:
    ran.append(name)
    return name


async def slowly(name: str) -> str:
    await asyncio.sleep(0.001)
    return did(name)


@flow.handler()
async def nothing(ctx: Context, value: str) -> str:
    return value


@flow.handler()
async def steps(ctx: Context) -> str:
    first = await ctx.run("a", did, "a")
    rest = await asyncio.gather(*(ctx.run(name, slowly, name) for name in "bcd"))
    return first + "".join(rest) + await ctx.run("e", slowly, "e")


@flow.handler()
async def timers(ctx: Context) -> str:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(1)
    await ctx.sleep(2, "nap")
    assert loop.time() - began >= 2.99
    try:
        async with asyncio.timeout(5):
            await ctx.awakeable()
    except TimeoutError:
        return "late"
    return "early"


@flow.handler()
async def clock(ctx: Context) -> list[Any]:
    first, again = ctx.now(), ctx.now()
    await ctx.run("a", did, "a")
    second = ctx.now()
    await asyncio.sleep(1)
    third = ctx.now()
    assert first == again <= second and (third - second).total_seconds() >= 0.99
    return [abs((first - datetime.now(UTC)).total_seconds()) < 60, str(ctx.uuid()), ctx.random.random()]


@flow.handler()
async def calls(ctx: Context) -> str:
    handle = await ctx.send("Flow/nothing", "one way")
    first, second = await asyncio.gather(ctx.call(nothing, "x"), ctx.call("Flow/nothing", "y"))
    await handle.signal("done", 1)
    return f"{first}{second}{handle.id[:5]}"


@flow.handler()
async def waits(ctx: Context) -> list[Any]:
    made = ctx.awakeable(str)
    await ctx.run("tell", slowly, made.id)
    word = await ctx.signal("word", str)
    first = await made
    try:
        await ctx.signal("word")
    except TerminalError as error:
        return [word, first, error.message]
    raise AssertionError


@flow.handler()
def plain(ctx: SyncContext) -> str:
    now = ctx.now()
    first = ctx.run("a", did, "a")
    ctx.sleep(1)
    return first + ctx.run("b", slowly, "b") + ctx.call(nothing, "c") + str(ctx.now() >= now)


@box.handler()
async def state(ctx: ObjectContext) -> list[Any]:
    seen: list[Any] = [await ctx.get("a", int, 0), await ctx.get("b", int, 0)]
    ctx.set("a", 5)
    seen.append(await ctx.run("between", int, "7", type=int))
    seen.append(await ctx.get("a", int))
    await ctx.clear("a")
    seen.append(await ctx.get("a", int, -1))
    ctx.clear_all()
    ctx.set("c", 1)
    return [*seen, *await ctx.keys(), ctx.key]


@wf.main()
async def main(ctx: WorkflowContext) -> list[Any]:
    promise = ctx.promise("p", str)
    seen = [await promise.peek()]
    await promise.resolve("v")
    return [*seen, await promise.peek()]


app = App(flow, box, wf)
World = list[Callable[[SmallEngine], None]]

SCENARIOS: dict[str, tuple[str, bytes, World, bytes | None]] = {
    "nothing": ("Flow/nothing", b'"v"', [], b'"v"'),
    "steps": ("Flow/steps", b"", [], b'"abcde"'),
    "timers": ("Flow/timers", b"", [lambda it: it.end_sleep()] * 3, b'"late"'),
    "clock": ("Flow/clock", b"", [lambda it: it.end_sleep()], None),
    "calls": ("Flow/calls", b"", [lambda it: it.return_call(b'"1"'), lambda it: it.return_call(b'"2"')], b'"12inv_1"'),
    "waits": (
        "Flow/waits",
        b"",
        [
            lambda it: it.signal("word", e.Value(b'"w"')),
            lambda it: it.signal(17, e.Value(b'"v"')),
            lambda it: it.signal("word", e.Failure(400, "no")),
        ],
        b'["w","v","no"]',
    ),
    "plain": ("Flow/plain", b"", [lambda it: it.end_sleep(), lambda it: it.return_call(b'"c"')], b'"abcTrue"'),
    "state": ("Box/state", b"", [], b'[3,0,7,5,-1,"c","k"]'),
    "workflow": ("Wf/main", b"", [], b'[null,"v"]'),
}


def engine(name: str, version: int = 6, **options: Any) -> SmallEngine:
    handler, body, world, _ = SCENARIOS[name]
    if not handler.startswith("Flow"):
        options |= {"key": "k", "state": {"a": b"3"}}
    return SmallEngine(app, handler, body, version=version, world=world, **options)


def run(it: SmallEngine) -> SmallEngine:
    ran.clear()
    return asyncio.run(asyncio.wait_for(it.run(), 60))


def outcome(name: str, it: SmallEngine) -> e.Value | e.Failure | None:
    wanted = SCENARIOS[name][3]
    assert isinstance(it.result, e.Value), it.result
    if wanted is not None:
        assert it.result.content == wanted
    return it.result


@pytest.mark.parametrize("version", [5, 6, 7])
@pytest.mark.parametrize("name", SCENARIOS)
def test_in_one_attempt(name: str, version: int) -> None:
    it = run(engine(name, version))
    outcome(name, it)
    assert it.attempts == 1
    assert len(ran) == len(set(ran))


@pytest.mark.parametrize("version", [6, 7])
@pytest.mark.parametrize("name", SCENARIOS)
def test_in_request_response_mode(name: str, version: int) -> None:
    it = run(engine(name, version, bidirectional=False))
    outcome(name, it)
    assert len(ran) == len(set(ran))


@pytest.mark.parametrize("name", SCENARIOS)
def test_suspended_whenever_it_waits(name: str) -> None:
    it = run(engine(name, 7, half_close=True))
    outcome(name, it)
    assert len(ran) == len(set(ran))


@pytest.mark.parametrize("name", SCENARIOS)
def test_however_the_request_is_chopped(name: str) -> None:
    outcome(name, run(engine(name, bidirectional=False, piece=1)))


@pytest.mark.parametrize("keep_last", [True, False])
@pytest.mark.parametrize("version", [6, 7])
@pytest.mark.parametrize("name", SCENARIOS)
def test_cut_at_every_message(name: str, version: int, keep_last: bool) -> None:
    """The connection is lost with the n-th message, or right after it; the next attempt goes on with the journal."""
    undisturbed = run(engine(name, version))
    expected = {type(entry).__name__ for entry in undisturbed.journal}
    for at in range(undisturbed.messages):
        it = run(engine(name, version, lose_at=at, keep_last=keep_last))
        outcome(name, it)
        assert {type(entry).__name__ for entry in it.journal} == expected
        assert it.attempts >= 2 or it._ended


def test_chance_and_identity_are_the_same_in_every_attempt() -> None:
    whole, cut = run(engine("clock")), run(engine("clock", bidirectional=False))
    assert whole.result == cut.result


def test_the_wall_clock_is_journaled_once_between_two_notifications() -> None:
    it = run(engine("clock"))
    assert len([entry for entry in it.journal if isinstance(entry, e.Sleep) and entry.name == "now"]) == 3


# Failures

flaky = Service("Flaky", retry_policy=QUICK)
tries: dict[str, int] = {}


def fail_first(name: str, failures: int, error: type[Exception] = ValueError) -> int:
    tries[name] = tries.get(name, 0) + 1
    if tries[name] <= failures:
        raise error("not yet")
    return tries[name]


@flaky.handler()
async def under_its_invocations_policy(ctx: Context) -> int:
    return await ctx.run("f", fail_first, "f", 3)


@flaky.handler()
async def under_its_own_policy(ctx: Context) -> int:
    return await ctx.run("f", fail_first, "f", 3, retry=QUICK)


@flaky.handler()
async def exhausted(ctx: Context) -> str:
    try:
        await ctx.run("f", fail_first, "f", 100, retry=RetryPolicy(initial_interval=0.001, max_attempts=4))
    except TerminalError as error:
        return f"{error.code} {error.message}"
    return "no"


@flaky.handler()
async def after_one_that_was_given_up(ctx: Context) -> str:
    try:
        async with asyncio.timeout(1):
            await ctx.run("hangs", asyncio.sleep, 60)
    except TimeoutError:
        return await exhausted(ctx)
    return "no"


@flaky.handler()
async def asks_for_nonsense(ctx: Context) -> int:
    tries["nonsense"] = tries.get("nonsense", 0) + 1
    if tries["nonsense"] < 3:
        raise RetryableError("later", retry_after=[float("nan"), -1.0][tries["nonsense"] - 1])
    return tries["nonsense"]


@flaky.handler()
async def with_a_neighbour(ctx: Context) -> list[Any]:
    async def long() -> str:
        tries["long"] = tries.get("long", 0) + 1
        await asyncio.sleep(0.05)
        return "long"

    return list(await asyncio.gather(ctx.run("long", long), ctx.run("f", fail_first, "f", 2)))


@flaky.handler()
async def with_patience(ctx: Context) -> int:
    patient = RetryPolicy(initial_interval=0.2, factor=1.0, max_interval=0.2)
    return await ctx.run("f", fail_first, "f", 1, retry=patient)


@flaky.handler()
async def itself(ctx: Context) -> int:
    tries["itself"] = tries.get("itself", 0) + 1
    if tries["itself"] == 1:
        raise RetryableError("later", retry_after=1.5, code=503)
    return tries["itself"]


@flaky.handler()
async def cancelled(ctx: Context) -> None:
    await ctx.call("Flaky/itself")


@flaky.handler()
async def terminal(ctx: Context) -> None:
    raise TerminalError("no", 403, {"why": "so"})


@flaky.handler()
async def unsayable(ctx: Context) -> None:
    await ctx.resolve_awakeable(ctx.awakeable().id, "\ud800")


flaky_app = App(flaky)


def failing(handler: str, **options: Any) -> SmallEngine:
    tries.clear()
    return run(SmallEngine(flaky_app, f"Flaky/{handler}", **options))


def value(it: SmallEngine) -> bytes:
    assert isinstance(it.result, e.Value), it.result
    return it.result.content


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_step_under_its_invocations_policy_is_tried_again_by_the_server(bidirectional: bool) -> None:
    it = failing("under_its_invocations_policy", bidirectional=bidirectional)
    assert value(it) == b"4"
    assert tries == {"f": 4}
    assert len(it.errors) == 3
    for error in it.errors:
        assert (error.failure.message, error.delay_ms) == ("ValueError: not yet", None)
        failure = error.failure
        assert (failure.command_index, failure.command_name, failure.command_type) == (1, "f", e.Run.TYPE)


def test_a_step_under_its_own_policy_is_tried_again_in_the_attempt() -> None:
    it = failing("under_its_own_policy")
    assert (value(it), it.attempts, it.errors) == (b"4", 1, [])


def test_a_step_under_its_own_policy_is_given_back_where_nothing_more_will_come() -> None:
    it = failing("under_its_own_policy", bidirectional=False)
    assert value(it) == b"4"
    assert tries == {"f": 4}
    assert len(it.errors) == 3
    assert all(error.delay_ms is not None and error.failure.command_name == "f" for error in it.errors)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_tries_of_a_step_are_counted_over_attempts(bidirectional: bool) -> None:
    it = failing("exhausted", bidirectional=bidirectional)
    assert value(it) == b'"500 ValueError: not yet"'
    assert tries == {"f": 4}


def test_the_tries_are_those_of_the_step_that_runs_not_of_one_that_was_given_up() -> None:
    it = failing("after_one_that_was_given_up", world=[lambda it: it.end_sleep()])
    assert value(it) == b'"500 ValueError: not yet"'
    assert tries == {"f": 4}


def test_a_delay_that_is_no_number_is_the_policys() -> None:
    it = failing("asks_for_nonsense")
    assert value(it) == b"3"
    assert [error.delay_ms for error in it.errors] == [None, 0]


def test_a_step_that_fails_beside_another_cuts_nothing_short() -> None:
    it = failing("with_a_neighbour")
    assert value(it) == b'["long",3]'
    assert tries == {"long": 1, "f": 3}
    assert it.attempts == 1


def test_a_step_that_backs_off_for_long_is_given_back_with_the_time_that_is_left() -> None:
    it = failing("with_patience", impatient=True)
    assert value(it) == b"2"
    (error,) = it.errors
    assert error.delay_ms is not None and 0 < error.delay_ms <= 270
    assert error.failure.message == "ValueError: not yet"


@pytest.mark.parametrize("version", [5, 6, 7])
def test_a_handler_that_asks_to_be_retried_says_when(version: int) -> None:
    it = failing("itself", version=version)
    assert value(it) == b"2"
    (error,) = it.errors
    assert (error.delay_ms, error.failure.code, error.behavior) == (1500, 503, "retry")


@pytest.mark.parametrize(("version", "metadata"), [(6, (("why", "so"),)), (7, (("why", "so"),))])
def test_a_terminal_error_is_the_output(version: int, metadata: Any) -> None:
    assert failing("terminal", version=version).result == e.Failure(403, "no", metadata)


def test_a_cancelled_handler_cancels_whom_it_calls() -> None:
    it = failing("cancelled", world=[lambda it: it.signal(1, e.VOID)])
    assert it.result == e.Failure(409, "cancelled")
    (sent,) = [entry for entry in it.journal if isinstance(entry, e.SendSignal)]
    assert sent.signal == 1


def test_a_result_that_no_message_can_hold_fails_the_attempt() -> None:
    with pytest.raises(AssertionError, match=r"surrogate|Unicode|utf|encode"):
        failing("unsayable")


# Connections

hanging = Service("Hanging")
stopped: list[str] = []


@hanging.handler()
async def step(ctx: Context) -> None:
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("step")

    try:
        await ctx.run("forever", forever)
    finally:
        stopped.append("handler")


@hanging.handler()
async def writes(ctx: Context) -> None:
    for number in range(100):
        await ctx.send("Hanging/writes", "x" * 1_000_000)
        stopped.append(str(number))


@hanging.handler()
async def swallows(ctx: Context) -> None:
    while True:
        try:
            await ctx.awakeable()
        except BaseException:
            stopped.append("swallowed")
            return


hanging_app = App(hanging)


def test_a_client_that_hangs_up_stops_handler_and_steps() -> None:
    async def main() -> None:
        stopped.clear()
        it = SmallEngine(hanging_app, "Hanging/step")
        attempt = asyncio.create_task(it.attempt(0))
        await asyncio.sleep(0.1)
        assert it._exchange is not None
        it._exchange.disconnect()
        await asyncio.wait([attempt])
        assert attempt.exception() is not None
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert sorted(stopped) == ["handler", "step"]


def test_a_server_that_is_shut_down_stops_the_handler() -> None:
    async def main() -> None:
        stopped.clear()
        it = SmallEngine(hanging_app, "Hanging/step")
        attempt = asyncio.create_task(it.attempt(0))
        await asyncio.sleep(0.1)
        assert it._exchange is not None
        it._exchange.task.cancel()
        await asyncio.wait([attempt])
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert sorted(stopped) == ["handler", "step"]


def test_a_client_that_does_not_read_holds_the_handler_back() -> None:
    """It has written all the answers already, so nothing else holds it."""

    async def main() -> None:
        stopped.clear()
        start = control.Start(
            bytes(24), Target("Hanging", "writes", HandlerKind.PLAIN), (e.Input(),), None, 0, 1, 0, 0, {}, QUICK
        )
        end = EngineEnd(start, 6)
        exchange = Exchange(hanging_app, "POST", "/invoke/Hanging/writes", {"content-type": versions.content_type(6)})
        exchange.stuck.clear()
        exchange.write(end.opening())
        for number in range(1, 101):
            identity = e.InvocationIdResult(f"inv_{number}")
            exchange.write(end.notify(e.Completion(e.CALL_INVOCATION_ID_COMPLETION, number, identity)))
        while len(stopped) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert len(stopped) < 20
        exchange.stuck.set()
        messages: list[control.FromHandler] = []
        while not (messages and isinstance(messages[-1], control.End)):
            messages += end.feed(await exchange.read() or b"", 0)
        exchange.close()
        assert await exchange.read() is None
        assert len(stopped) == 100

    asyncio.run(main())


def test_a_request_that_is_never_ended_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.sdk.conversation.HANG_UP_S", 0.05)

    async def main() -> None:
        it = SmallEngine(app, "Flow/nothing", b'"v"')
        it._half_close = lambda: None  # type: ignore[method-assign]
        assert isinstance(await it.attempt(0), control.End)

    asyncio.run(main())


def test_nothing_is_sent_after_the_last_message() -> None:
    async def main() -> None:
        it = SmallEngine(app, "Flow/nothing", b'"v"')
        await it.run()
        assert it._end.ended

    asyncio.run(main())
