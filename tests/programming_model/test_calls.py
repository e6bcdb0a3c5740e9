"""Calls between handlers: exactly once, now or later, awaited or not."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    Context,
    NotFound,
    NotReady,
    ObjectContext,
    RetryPolicy,
    Service,
    SharedContext,
    TerminalError,
    VirtualObject,
)
from tests.programming_model.ways import Start, fails


def ledger() -> tuple[VirtualObject, Any, Any]:
    """An object that notes what it is told."""
    thing = VirtualObject("Ledger")

    @thing.handler()
    async def note(ctx: ObjectContext, text: str) -> int:
        lines = [*await ctx.get("lines", list[str], default=[]), text]
        ctx.set("lines", lines)
        return len(lines)

    @thing.shared()
    async def lines(ctx: SharedContext) -> list[str]:
        return await ctx.get("lines", list[str], default=[])

    return thing, note, lines


async def test_calls_by_function_and_by_name_side_by_side_and_in_chains(start: Start) -> None:
    service = Service("Math")

    @service.handler()
    async def double(ctx: Context, n: int) -> int:
        await ctx.sleep(n)
        return await ctx.run("double", lambda: 2 * n)

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        by_function: int = await ctx.call(double, 1)
        by_name = await ctx.call("Math/double", by_function)
        typed = await ctx.call("Math/double", by_name, type=float)
        beside = await asyncio.gather(*(ctx.call(double, n) for n in range(5)))
        return [by_function, by_name, typed, *beside]

    async with start(service) as engine:
        assert await engine.call(work) == [2, 4, 8.0, 0, 2, 4, 6, 8]
        engine.once(double=8)


async def test_a_call_that_cannot_be_made_says_so(start: Start) -> None:
    service = Service("Wrong", retry_policy=RetryPolicy(0.1, max_attempts=2, on_exhausted="fail"))
    thing, note, _ = ledger()

    @service.handler()
    async def work(ctx: Context, how: str) -> None:
        if how == "keyless":
            await ctx.call(note, "x")
        elif how == "keyed":
            await ctx.call(work, "x", key="k")
        elif how == "unknown":
            await ctx.call("Nobody/home", 1)

    async with start(service, thing) as engine:
        with fails(400, "needs key="):
            await engine.call(work, "keyless")
        with fails(400, "has no keys"):
            await engine.call(work, "keyed")
        with fails(500, "'Nobody' not found"):
            await engine.call(work, "unknown")


async def test_sends_happen_once_and_in_order_per_object(start: Start) -> None:
    service = Service("Sender")
    thing, note, lines = ledger()

    @service.handler()
    async def work(ctx: Context, n: int) -> list[str]:
        handles = [await ctx.send(note, f"line {i}", key="k") for i in range(n)]
        assert len({handle.id for handle in handles}) == n
        await ctx.run("between", lambda: None)
        return [str(await handle.attach()) for handle in handles]

    async with start(service, thing) as engine:
        assert await engine.call(work, 5) == ["1", "2", "3", "4", "5"]
        assert await engine.call(lines, key="k") == [f"line {i}" for i in range(5)]
        engine.once("between")


async def test_delayed_sends_from_handlers_and_clients(start: Start) -> None:
    service = Service("Later")
    thing, note, lines = ledger()

    @service.handler()
    async def work(ctx: Context) -> None:
        await ctx.send(note, "in a day", key="k", delay=timedelta(days=1))
        await ctx.send(note, "in an hour", key="k", delay=3600)
        await ctx.send(note, "now", key="k", delay=0)

    async with start(service, thing, skip=False) as engine:
        await engine.call(work)
        handle = await engine.send(note, "in two hours", key="k", delay=timedelta(hours=2))
        await engine.settle()
        assert await engine.call(lines, key="k") == ["now"]
        assert (await handle.describe()).status == "scheduled"
        with pytest.raises(NotReady):
            await handle.output()
        await engine.advance(3600)
        assert await engine.call(lines, key="k") == ["now", "in an hour"]
        await engine.advance(3600)
        assert await handle.attach() == 3
        await engine.advance(timedelta(hours=22))
        assert await engine.call(lines, key="k") == ["now", "in an hour", "in two hours", "in a day"]


async def test_an_idempotency_key_makes_many_calls_one(start: Start) -> None:
    service = Service("Once", idempotency_retention=timedelta(hours=1))

    @service.handler()
    async def charge(ctx: Context, amount: int) -> str:
        await ctx.run("charge", lambda: None)
        await ctx.sleep(10)
        return f"charged {amount}"

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        first = ctx.call(charge, 1, idempotency_key="from a handler")
        second = ctx.call(charge, 2, idempotency_key="from a handler")
        results = await asyncio.gather(first, second)
        sent = await ctx.send(charge, 3, idempotency_key="from a handler")
        return [*results, await sent.attach()]

    async with start(service, skip=False) as engine:
        calls = [asyncio.ensure_future(engine.call(charge, n, idempotency_key="key")) for n in range(3)]
        await engine.settle()
        handle = await engine.send(charge, 7, idempotency_key="key")
        assert not handle.fresh
        await engine.advance(10)
        results = await asyncio.gather(*calls)
        assert len(set(results)) == 1
        assert await handle.attach() == results[0]
        assert await engine.call(charge, 9, idempotency_key="key") == results[0]
        engine.once("charge")
        other = await engine.send(charge, 5, idempotency_key="other")
        await engine.advance(10)
        assert await other.attach() == "charged 5"
        worked = asyncio.ensure_future(engine.call(work))
        await engine.settle()
        await engine.advance(10)
        assert await worked == ["charged 1"] * 3
        engine.once(charge=3)
        await engine.advance(timedelta(hours=2))  # forgotten
        again = await engine.send(charge, 9, idempotency_key="key")
        assert again.fresh
        await engine.advance(10)
        assert await again.attach() == "charged 9"


async def test_keys_of_objects_separate_idempotency_keys(start: Start) -> None:
    thing, note, lines = ledger()
    async with start(thing) as engine:
        for key in ("a", "b", "a", "b"):
            assert await engine.call(note, f"for {key}", key=key, idempotency_key="same") == 1
        assert await engine.call(lines, key="a") == ["for a"]
        assert await engine.call(lines, key="b") == ["for b"]


async def test_attach_and_output_from_handlers(start: Start) -> None:
    service = Service("Attaching")

    @service.handler()
    async def slow(ctx: Context) -> str:
        await ctx.sleep(10)
        return "slow"

    @service.handler()
    async def refuses(ctx: Context) -> str:
        raise TerminalError("refused", code=403)

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        seen: list[Any] = []
        handle = await ctx.send(slow)
        try:
            await handle.output()
        except NotReady:
            seen.append("not ready")
        seen.append(await handle.attach())
        seen.append(await handle.output())
        seen.append(await ctx.invocation(handle.id, str).attach())
        refused = await ctx.send(refuses)
        for ask in (refused.attach, refused.output):
            try:
                await ask()
            except TerminalError as error:
                seen.append(error.code)
        unknown = ctx.invocation("inv_1" + "0" * 33)
        for ask in (unknown.attach, unknown.output):
            try:
                await ask()
            except TerminalError as error:
                seen.append(error.code)
        return seen

    async with start(service) as engine:
        assert await engine.call(work) == ["not ready", "slow", "slow", "slow", 403, 403, 404, 404]
        with pytest.raises(NotFound):
            await engine.invocation("inv_1" + "0" * 33).attach()


async def test_attaching_to_something_for_which_many_wait(start: Start) -> None:
    service = Service("Popular")

    @service.handler()
    async def slow(ctx: Context) -> str:
        await ctx.sleep(10)
        return await ctx.run("slow", lambda: "done")

    @service.handler()
    async def fan(ctx: Context, id: str) -> str:
        first, second = await asyncio.gather(ctx.invocation(id, str).attach(), ctx.invocation(id, str).attach())
        return first + second

    async with start(service, skip=False) as engine:
        handle = await engine.send(slow)
        fans = [await engine.send(fan, handle.id) for _ in range(4)]
        waiting = [asyncio.ensure_future(handle.attach()) for _ in range(3)]
        await engine.settle()
        await engine.advance(10)
        assert await asyncio.gather(*waiting) == ["done"] * 3
        assert [await each.attach() for each in fans] == ["donedone"] * 4
        engine.once("slow")


async def test_a_result_is_kept_for_its_retention_and_no_longer(start: Start) -> None:
    service = Service("Retained", journal_retention=timedelta(minutes=10))

    @service.handler()
    async def quick(ctx: Context) -> str:
        return await ctx.run("quick", lambda: "done")

    @service.handler(journal_retention=0)
    async def fleeting(ctx: Context) -> str:
        return await ctx.run("fleeting", lambda: "gone")

    @service.handler()
    async def calls_it(ctx: Context) -> str:
        return await ctx.call(fleeting)

    async with start(service, skip=False) as engine:
        handle = await engine.send(quick)
        assert await handle.attach() == "done"
        assert len((await handle.describe()).journal) > 2
        await engine.advance(timedelta(minutes=9))
        assert await handle.output() == "done"
        await engine.advance(timedelta(minutes=2))
        with pytest.raises(NotFound):
            await handle.output()
        assert await engine.call(fleeting) == "gone"
        assert await engine.call(calls_it) == "gone"
        sent = await engine.send(fleeting)
        await engine.settle()
        with pytest.raises(NotFound):
            await sent.output()
        engine.once("quick", fleeting=3)


async def test_private_handlers_are_called_by_handlers(start: Start) -> None:
    service = Service("Private")

    @service.handler(private=True)
    async def inside(ctx: Context) -> str:
        return "inside"

    @service.handler()
    async def door(ctx: Context) -> str:
        return await ctx.call(inside)

    async with start(service) as engine:
        assert await engine.call(door) == "inside"


async def test_a_client_that_stops_waiting_does_not_stop_the_invocation(start: Start) -> None:
    service = Service("Patient")
    thing, note, lines = ledger()

    @service.handler()
    async def slow(ctx: Context) -> str:
        await ctx.sleep(100)
        await ctx.call(note, "slow was here", key="k")
        return "slow"

    async with start(service, thing) as engine:
        begun = engine.now()
        with pytest.raises(TimeoutError):
            await engine.call(slow, timeout=10)
        assert engine.now() - begun == timedelta(seconds=10)
        await engine.advance(100)
        assert await engine.call(lines, key="k") == ["slow was here"]


async def test_a_long_chain_of_calls_and_a_wide_fan(start: Start) -> None:
    service = Service("Deep")

    @service.handler()
    async def down(ctx: Context, depth: int) -> int:
        if depth == 0:
            return await ctx.run("bottom", lambda: 1)
        return 1 + await ctx.call(down, depth - 1)

    @service.handler()
    async def wide(ctx: Context, n: int) -> int:
        return sum(await asyncio.gather(*(ctx.call(down, i % 3) for i in range(n))))

    async with start(service) as engine:
        assert await engine.call(down, 12) == 13
        assert await engine.call(wide, 12) == 24
        engine.once(bottom=13)
