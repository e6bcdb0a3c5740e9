"""What does not replay is found, said field by field, and never run on with; what no journal can hold is refused."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import (
    App,
    Context,
    NonDurableOperation,
    ObjectContext,
    RetryPolicy,
    Service,
    SyncContext,
    VirtualObject,
)
from perdure.testing import InvocationPaused, TestEngine
from tests.programming_model.ways import Engine, Start, until

Code = Callable[[Context], Awaitable[Any]]


async def step(ctx: Context, name: str) -> str:
    return await ctx.run(name, lambda: name)


async def original(ctx: Context) -> list[str]:
    seen = [await step(ctx, "one"), await step(ctx, "two")]
    await ctx.sleep(10)
    return [*seen, await step(ctx, "three")]


async def renamed(ctx: Context) -> list[str]:
    seen = [await step(ctx, "one"), await step(ctx, "zwei")]
    await ctx.sleep(10)
    return [*seen, await step(ctx, "three")]


async def removed(ctx: Context) -> list[str]:
    seen = [await step(ctx, "one")]
    await ctx.sleep(10)
    return [*seen, await step(ctx, "three")]


async def reordered(ctx: Context) -> list[str]:
    seen = [await step(ctx, "two"), await step(ctx, "one")]
    await ctx.sleep(10)
    return [*seen, await step(ctx, "three")]


async def added(ctx: Context) -> list[str]:
    seen = [await step(ctx, "zero"), await step(ctx, "one"), await step(ctx, "two")]
    await ctx.sleep(10)
    return [*seen, await step(ctx, "three")]


async def stops_early(ctx: Context) -> list[str]:
    return [await step(ctx, "one")]


async def waits_elsewhere(ctx: Context) -> list[str]:
    await step(ctx, "one")
    return [str(await ctx.awakeable())]


async def no_longer_waits(ctx: Context) -> list[str]:
    return [await step(ctx, "one"), await step(ctx, "two"), await step(ctx, "three")]


async def swallows(ctx: Context) -> list[str]:
    """Code that catches everything must not run on with a journal that is not its own."""
    seen = []
    for name in ("one", "zwei", "drei", "three"):
        try:
            seen.append(await step(ctx, name))
        except BaseException as error:
            seen.append(type(error).__name__)
    return seen


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            renamed,
            "command 2: the journal holds Run('two'), the code asks for Run('zwei')\n  name: journal 'two', code",
        ),
        (removed, "command 2: the journal holds Run('two'), the code asks for Sleep"),
        (
            reordered,
            "command 1: the journal holds Run('one'), the code asks for Run('two')\n  name: journal 'one', code",
        ),
        (added, "command 1: the journal holds Run('one'), the code asks for Run('zero')\n  name: journal 'one', code"),
        (stops_early, "command 2: the journal holds Run('two'), the code asks for Output"),
        (waits_elsewhere, "command 2: the journal holds Run('two'), the code asks for nothing: it waits"),
        (no_longer_waits, "command 3: the journal holds Sleep, the code asks for Run('three')"),
        (swallows, "command 2: the journal holds Run('two'), the code asks for Run('zwei')"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_changed_code_is_found_and_restored_code_goes_on(start: Start, changed: Code, message: str) -> None:
    service = Service("Changing")
    code: list[Code] = [original]

    @service.handler()
    async def work(ctx: Context) -> Any:
        return await code[0](ctx)

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        code[0] = changed
        engine.crash()
        await engine.settle()
        if start.suspends:  # it has to be woken first
            await engine.advance(10)
        with pytest.raises(InvocationPaused, match=re.escape(f"journal mismatch at {message}")) as paused:
            await handle.attach()
        description = await handle.describe()
        assert description.status == "paused"
        assert paused.value.failure is not None and paused.value.failure.code == 570
        await engine.advance(3600)
        for name in ("zero", "zwei", "drei", "three"):
            assert engine.ran(name) == 0
        code[0] = original
        await handle.resume()
        assert await handle.attach() == ["one", "two", "three"]
        engine.once("one", "two", "three")


async def _mismatch(start: Start, first: Code, second: Code, *parts: str) -> None:
    """Run a handler's first version up to its long sleep and the second from there."""
    service, thing = Service("Service"), VirtualObject("Object")
    code: list[Code] = [first]

    @service.handler()
    async def helper(ctx: Context, n: int) -> int:
        return n

    @thing.handler()
    async def work(ctx: ObjectContext) -> None:
        await code[0](ctx)
        await ctx.sleep(1000)

    async with start(service, thing, skip=False) as engine:
        handle = await engine.send(work, key="k")
        await engine.settle()
        code[0] = second
        await handle.pause()
        await handle.resume()
        with pytest.raises(InvocationPaused) as paused:
            await handle.attach()
        for part in ("journal mismatch at command", *parts):
            assert part in str(paused.value)
        await handle.kill()


async def test_what_differs_is_named_field_by_field(start: Start) -> None:
    async def first(ctx: Any) -> None:
        await ctx.call("Service/helper", 1, headers={"a": "1"})

    async def second(ctx: Any) -> None:
        await ctx.call("Service/helper", 2, headers={"a": "2"})

    await _mismatch(start, first, second, "Call('helper')", "parameter: journal b'1', code b'2'", "headers: journal")


async def test_a_different_value_for_state_is_found(start: Start) -> None:
    async def first(ctx: Any) -> None:
        ctx.set("a", 1)

    async def second(ctx: Any) -> None:
        ctx.set("a", 2)

    await _mismatch(start, first, second, "SetState('a')", "value: journal b'1', code b'2'")


async def test_a_different_read_of_state_is_found(start: Start) -> None:
    async def first(ctx: Any) -> None:
        await ctx.get("a")

    async def second(ctx: Any) -> None:
        await ctx.get("b")

    await _mismatch(start, first, second, "key: journal 'a', code 'b'")


async def test_a_different_signal_is_found(start: Start) -> None:
    async def first(ctx: Any) -> None:
        await ctx.invocation("inv_1" + "0" * 33).signal("left", 1)

    async def second(ctx: Any) -> None:
        await ctx.invocation("inv_1" + "0" * 33).signal("right", 1)

    await _mismatch(start, first, second, "SendSignal", "signal: journal 'left', code 'right'")


async def test_forced_replay_finds_what_is_not_journaled() -> None:
    service = Service("Dice")
    rolls = iter(range(100))

    @service.handler()
    async def work(ctx: Context) -> None:
        await ctx.run(f"roll {next(rolls)}", lambda: None)

    async with TestEngine(App(service), replay=True) as engine:
        with pytest.raises(InvocationPaused, match="name: journal 'roll 0', code 'roll 1'"):
            await engine.call(work)
    async with TestEngine(App(service)) as engine:
        assert await engine.call(work) is None


async def _sockets(how: str) -> None:
    loop = asyncio.get_running_loop()
    if how == "connection":
        await asyncio.open_connection("127.0.0.1", 1)
    elif how == "server":
        await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    elif how == "subprocess":
        await asyncio.create_subprocess_exec("true")
    elif how == "shell":
        await asyncio.create_subprocess_shell("true")
    elif how == "name":
        await loop.getaddrinfo("localhost", 80)
    elif how == "reader":
        loop.add_reader(0, print)
    elif how == "signal":
        loop.add_signal_handler(2, print)
    elif how == "nested loop":
        loop.run_until_complete(asyncio.sleep(0))
    elif how == "stop":
        loop.stop()
    elif how == "close":
        loop.close()
    elif how == "datagram":
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    else:
        with socket.socket() as plain:
            plain.setblocking(False)
            await loop.sock_connect(plain, ("127.0.0.1", 1))


OPERATIONS = {
    "connection": "loop.create_connection",
    "server": "loop.create_server",
    "subprocess": "loop.subprocess_exec",
    "shell": "loop.subprocess_shell",
    "name": "loop.getaddrinfo",
    "reader": "loop.add_reader",
    "signal": "loop.add_signal_handler",
    "nested loop": "loop.run_until_complete",
    "stop": "loop.stop",
    "close": "loop.close",
    "datagram": "loop.create_datagram_endpoint",
    "socket": "loop.sock_connect",
}


@pytest.mark.filterwarnings("ignore:coroutine 'sleep' was never awaited")
async def test_what_no_journal_can_hold_is_refused_and_pauses(start: Start) -> None:
    service = Service("Sockets")
    fixed = [False]

    @service.handler()
    async def work(ctx: Context, how: str) -> str:
        await ctx.run("before", lambda: None)
        if not fixed[0]:
            await _sockets(how)
        return how

    async with start(service) as engine:
        for how, operation in OPERATIONS.items():
            fixed[0] = False
            with pytest.raises(InvocationPaused, match=rf"{re.escape(operation)} is not durable") as paused:
                await engine.call(work, how)
            assert "await ctx.run(name, function)" in str(paused.value)
            fixed[0] = True
            await engine.invocation(paused.value.id).resume()
            assert await engine.invocation(paused.value.id, str).attach() == how
        engine.once(before=len(OPERATIONS))


async def test_it_is_found_within_groups_and_behind_a_librarys_error(start: Start) -> None:
    service = Service("Wrapped")

    class LibraryError(Exception):
        pass

    @service.handler()
    async def grouped(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_sockets("connection"))

    @service.handler()
    async def wrapped(ctx: Context) -> None:
        try:
            await _sockets("connection")
        except NonDurableOperation as error:
            raise LibraryError("connection failed") from error

    @service.handler()
    async def handled(ctx: Context) -> str:
        try:
            await _sockets("connection")
        except NonDurableOperation as error:
            return error.operation
        return ""

    async with start(service) as engine:
        for handler in (grouped, wrapped):
            with pytest.raises(InvocationPaused):
                await engine.call(handler)
        assert await engine.call(handled) == "loop.create_connection"


async def test_another_thread_may_not_wake_a_handler(start: Start) -> None:
    service = Service("Wake")
    problems: list[BaseException] = []

    @service.handler()
    async def work(ctx: Context) -> str:
        loop = asyncio.get_running_loop()

        def poke() -> str:
            try:
                loop.call_soon_threadsafe(print, "poked")
            except NonDurableOperation as error:
                problems.append(error)
            return "poked"

        return await ctx.run("poke", poke)

    @service.handler()
    def plain(ctx: SyncContext) -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return "no loop"
        return "a loop"

    async with start(service) as engine:
        assert await engine.call(work) == "poked"
        assert problems
        assert await engine.call(plain) == "no loop"


async def test_a_mismatch_in_one_invocation_leaves_others_alone(start: Start) -> None:
    service = Service("Alone", retry_policy=RetryPolicy(0.1, max_attempts=3))
    thing = VirtualObject("Owner")
    broken = [False]

    @thing.handler()
    async def work(ctx: ObjectContext, n: int) -> int:
        await ctx.run("broken" if broken[0] and n == 0 else "fine", lambda: None)
        await ctx.sleep(10)
        return n

    async with start(service, thing, skip=False) as engine:
        handles = [await engine.send(work, n, key=f"k{n}") for n in range(3)]
        await engine.settle()
        queued = await engine.send(work, 7, key="k0")
        broken[0] = True
        engine.crash()
        await engine.settle()
        await engine.advance(10)
        assert await handles[1].attach() == 1
        assert await handles[2].attach() == 2
        with pytest.raises(InvocationPaused, match="journal mismatch"):
            await handles[0].attach()
        assert (await queued.describe()).status == "inboxed"
        broken[0] = False
        await handles[0].resume()
        engine.skip = True
        assert await handles[0].attach() == 0
        assert await queued.attach() == 7


async def test_a_handler_that_was_removed_waits_until_it_is_back() -> None:
    before, after = Service("Removed"), Service("Removed")

    @before.handler()
    async def work(ctx: Context) -> str:
        await ctx.sleep(10)
        return "done"

    @after.handler()
    async def other(ctx: Context) -> str:
        return "other"

    async with Engine(before) as engine:
        handle = await engine.send(work)
        await engine.settle()
        engine._apps = [App(after)]
        engine.crash()
        await engine.settle()
        await engine.advance(60)
        description = await handle.describe()
        assert description.last_failure is not None and "no such handler" in description.last_failure["message"]
        engine._apps = [App(before)]
        engine.crash()
        await until(lambda: engine.crashes == 2)
        assert await handle.attach() == "done"
