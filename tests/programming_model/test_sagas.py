"""`ctx.saga`: what was done is undone, in reverse, when it is certain that the whole can't be done; else nothing is."""

import asyncio
from typing import Any

import pytest

from perdure import (
    Context,
    ObjectContext,
    RetryPolicy,
    SagaError,
    Service,
    SyncContext,
    TerminalError,
    VirtualObject,
)
from tests.programming_model.ways import Start, fails

FAST = RetryPolicy(initial_interval=0.001, max_attempts=None)


class World:
    """What steps have done to it, by what they say of it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[str, int] = {}
        self.hopeless: set[str] = set()

    async def do(self, what: str) -> str:
        if self.failing.get(what, 0):
            self.failing[what] -= 1
            raise ConnectionError(what)
        if what in self.hopeless:
            raise TerminalError(f"{what} can't be", 422)
        self.done.append(what)
        return what

    def undo(self, what: str) -> None:
        if self.failing.get(f"-{what}", 0):
            self.failing[f"-{what}"] -= 1
            raise ConnectionError(what)
        if f"-{what}" in self.hopeless:
            raise TerminalError(f"{what} can't be undone", 423)
        self.done.append(f"-{what}")

    @property
    def order(self) -> list[str]:
        """What was done, each thing once: a crash between a step's effect and its record has it done again."""
        return list(dict.fromkeys(self.done))


def trip(world: World, parallel: bool = False) -> Service:
    service = Service("Trip", retry_policy=FAST)

    @service.handler()
    async def book(ctx: Context) -> str:
        async with ctx.saga(parallel=parallel) as saga:
            for what in ("flight", "hotel", "car"):
                saga.compensate(world.undo, what, name=f"cancel {what}")
                await ctx.run(f"book {what}", world.do, what)
            await ctx.sleep(60)
        return "booked"

    return service


async def test_nothing_is_undone_when_all_is_done(start: Start) -> None:
    world = World()
    async with start(trip(world)) as engine:
        assert await engine.call("Trip/book") == "booked"
    assert world.order == ["flight", "hotel", "car"]


async def test_a_failure_for_good_undoes_all_in_reverse(start: Start) -> None:
    world = World()
    world.hopeless.add("car")
    async with start(trip(world)) as engine:
        with fails(422, "car can't be"):
            await engine.call("Trip/book")
        engine.once("cancel flight", "cancel hotel", "cancel car")
    assert world.order == ["flight", "hotel", "-car", "-hotel", "-flight"]


async def test_what_is_tried_again_undoes_nothing(start: Start) -> None:
    world = World()
    world.failing = {"hotel": 2}
    service = Service("Shaky", retry_policy=FAST)
    broken = [2]

    @service.handler()
    async def book(ctx: Context) -> str:
        async with ctx.saga() as saga:
            saga.compensate(world.undo, "hotel")
            await ctx.run("book hotel", world.do, "hotel")
            if broken[0]:
                broken[0] -= 1
                raise RuntimeError("a bug that is mended")
        return "booked"

    async with start(service) as engine:
        assert await engine.call(book) == "booked"
    assert world.order == ["hotel"]


async def test_a_compensation_is_tried_until_it_is_done(start: Start) -> None:
    world = World()
    world.hopeless, world.failing = {"car"}, {"-hotel": 3}
    async with start(trip(world)) as engine:
        with fails(422):
            await engine.call("Trip/book")
    assert world.order == ["flight", "hotel", "-car", "-hotel", "-flight"]


async def test_a_cancellation_undoes_and_then_goes_on(start: Start) -> None:
    world = World()
    async with start(trip(world), skip=False) as engine:
        handle = await engine.send("Trip/book")
        await engine.settle()
        await handle.cancel()
        with fails(409, "cancelled"):
            await handle.attach()
    assert world.order == ["flight", "hotel", "car", "-car", "-hotel", "-flight"]


async def test_more_cancellations_disturb_no_compensation(start: Start) -> None:
    world = World()
    service, stock = Service("Slow"), VirtualObject("Stock")

    @stock.handler()
    async def release(ctx: ObjectContext, count: int) -> str:
        await ctx.sleep(30)
        ctx.set("free", count)
        return "released"

    @service.handler()
    async def order(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate(world.undo, "last")
            saga.compensate_call(release, 5, key="shelf")
            saga.compensate_call("Stock/release", 7, key="drawer")
            await ctx.run("reserve", world.do, "reserve")
            await ctx.sleep(1000)

    async with start(service, stock, skip=False) as engine:
        handle = await engine.send(order)
        await engine.settle()
        await handle.cancel()
        for _ in range(3):
            await engine.advance(10)
            await handle.cancel()
        await engine.advance(60)
        with fails(409, "cancelled"):
            await handle.attach()
        assert await engine.state(stock, "shelf").get("free") == 5
        assert await engine.state(stock, "drawer").get("free") == 7
    assert world.order == ["reserve", "-last"]


async def test_what_can_not_be_undone_is_told_and_the_rest_is_undone(start: Start) -> None:
    world, seen = World(), list[SagaError]()
    world.hopeless = {"second", "-first", "-second"}
    service = Service("Partial")

    @service.handler()
    async def work(ctx: Context) -> None:
        try:
            async with ctx.saga() as saga:
                for what in ("zeroth", "first", "second"):
                    saga.compensate(world.undo, what)
                    await ctx.run(what, world.do, what)
        except SagaError as error:
            seen.append(error)
            raise

    async with start(service) as engine:
        with fails(422, "second can't be; and 2 of 3 compensations failed: .*second can't be undone.*first can't be"):
            await engine.call(work)
    assert world.order == ["zeroth", "first", "-zeroth"]
    assert [each.code for each in seen[-1].failures.values()] == [423, 423]
    assert isinstance(seen[-1].__cause__, TerminalError)


async def test_side_by_side(start: Start) -> None:
    world = World()
    world.hopeless = {"car", "-hotel"}
    async with start(trip(world, parallel=True)) as engine:
        with fails(422, "1 of 3 compensations failed"):
            await engine.call("Trip/book")
    assert sorted(world.order) == ["-car", "-flight", "flight", "hotel"]


async def test_a_timeout_and_a_group_of_failures(start: Start) -> None:
    """What ends the block for good need not come as a plain `TerminalError`."""
    world = World()
    world.hopeless.add("broken")
    service = Service("Groups")

    @service.handler()
    async def late(ctx: Context) -> str:
        try:
            async with asyncio.timeout(5), ctx.saga() as saga:
                saga.compensate(world.undo, "late")
                await ctx.sleep(60)
        except TimeoutError:
            return "late"
        return "in time"

    @service.handler()
    async def group(ctx: Context) -> None:
        async with ctx.saga() as saga:
            saga.compensate(world.undo, "group")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ctx.run("broken", world.do, "broken"))
                tasks.create_task(ctx.sleep(60))

    async with start(service) as engine:
        assert await engine.call(late) == "late"
        with fails(422):
            await engine.call(group)
    assert world.order == ["-late", "-group"]


async def test_sagas_in_sagas(start: Start) -> None:
    world = World()
    service = Service("Nested")

    @service.handler()
    async def work(ctx: Context) -> str:
        async with ctx.saga() as outer:
            outer.compensate(world.undo, "outer")
            try:
                async with ctx.saga() as inner:
                    inner.compensate(world.undo, "inner")
                    raise TerminalError("only the inner one")
            except TerminalError:
                return "caught"

    async with start(service) as engine:
        assert await engine.call(work) == "caught"
    assert world.order == ["-inner"]


@pytest.mark.parametrize("end", ["fails", "cancelled"])
async def test_plain_handlers(start: Start, end: str) -> None:
    world = World()
    service = Service("Plain")

    @service.handler()
    def book(ctx: SyncContext) -> Any:
        with ctx.saga() as saga:
            saga.compensate(world.undo, "a")
            ctx.run("a", world.do, "a")
            saga.compensate(world.undo, "b")
            ctx.sleep(60)
            raise TerminalError("no", 418)

    async with start(service, skip=end == "fails") as engine:
        handle = await engine.send(book)
        await engine.settle()
        if end == "cancelled":
            await handle.cancel()
        with fails(418 if end == "fails" else 409):
            await handle.attach()
    assert world.order == ["a", "-b", "-a"]


@pytest.mark.parametrize("commit", range(4, 14))
async def test_a_crash_amid_the_compensations_loses_none(commit: int) -> None:
    world = World()
    world.hopeless.add("car")
    async with Start("live")(trip(world)) as engine:
        engine.crash_at_commit(commit)
        with fails(422):
            await engine.call("Trip/book")
    assert world.order == ["flight", "hotel", "-car", "-hotel", "-flight"]
