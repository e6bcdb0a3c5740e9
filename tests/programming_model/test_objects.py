"""Virtual objects: one at a time per key, and state that is changed with the journal that says so."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import Context, Invalid, ObjectContext, Service, SharedContext, TerminalError, VirtualObject
from perdure.core.lifecycle import EAGER_STATE_LIMIT
from tests.programming_model.ways import Start, fails


class Note(BaseModel):
    text: str
    at: datetime


@dataclass
class Money:
    amount: int
    currency: str


def counter() -> tuple[VirtualObject, Any, Any]:
    service = VirtualObject("Counter")

    @service.handler()
    async def add(ctx: ObjectContext, n: int) -> int:
        total = await ctx.get("total", int, default=0)
        total += await ctx.run("think", lambda: n)
        ctx.set("total", total)
        return total

    @service.shared()
    async def total(ctx: SharedContext) -> int:
        return await ctx.get("total", int, default=0)

    return service, add, total


async def test_state_is_kept_per_key_between_invocations(start: Start) -> None:
    service, add, total = counter()
    async with start(service) as engine:
        assert [await engine.call(add, n, key="a") for n in (1, 2, 3)] == [1, 3, 6]
        assert await engine.call(add, 10, key="b") == 10
        assert await engine.call(total, key="a") == 6
        assert await engine.call(total, key="b") == 10
        assert await engine.call(total, key="c") == 0
        engine.once(think=4)


async def test_exclusive_invocations_of_a_key_run_one_at_a_time_in_order(start: Start) -> None:
    service = VirtualObject("Line")
    inside: list[int] = []

    async def enter(n: int) -> None:
        inside.append(n)
        assert len(inside) == 1 or inside == [n] * len(inside)
        await asyncio.sleep(0)

    @service.handler()
    async def visit(ctx: ObjectContext, n: int) -> list[int]:
        await ctx.run("enter", enter, n)
        await ctx.sleep(5)
        order = [*await ctx.get("order", list[int], default=[]), n]
        ctx.set("order", order)
        await ctx.sleep(5)
        await ctx.run("leave", inside.clear)
        return order

    async with start(service) as engine:
        handles = [await engine.send(visit, n, key="k") for n in range(6)]
        results = [await handle.attach() for handle in handles]
        assert results == [list(range(n + 1)) for n in range(6)]
        engine.once(enter=6, leave=6)


async def test_different_keys_run_side_by_side(start: Start) -> None:
    service = VirtualObject("Apart")

    @service.handler()
    async def nap(ctx: ObjectContext) -> str:
        await ctx.sleep(100)
        return ctx.key

    async with start(service) as engine:
        begun = engine.now()
        handles = [await engine.send(nap, key=f"key {n}") for n in range(5)]
        assert [await handle.attach() for handle in handles] == [f"key {n}" for n in range(5)]
        assert engine.now() - begun == timedelta(seconds=100)


async def test_shared_handlers_run_beside_an_exclusive_one(start: Start) -> None:
    service = VirtualObject("Shared")

    @service.handler()
    async def hold(ctx: ObjectContext) -> str:
        ctx.set("state", "held")
        await ctx.sleep(100)
        ctx.set("state", "released")
        return "done"

    @service.shared()
    async def look(ctx: SharedContext) -> str | None:
        return await ctx.get("state", str)

    async with start(service, skip=False) as engine:
        holder = await engine.send(hold, key="k")
        await engine.settle()
        assert await asyncio.gather(*(engine.call(look, key="k") for _ in range(3))) == ["held"] * 3
        await engine.advance(100)
        assert await holder.attach() == "done"
        assert await engine.call(look, key="k") == "released"


async def test_all_that_can_be_done_with_state(start: Start) -> None:
    service = VirtualObject("State")

    @service.handler()
    async def fill(ctx: ObjectContext) -> list[str]:
        ctx.set("number", 7)
        ctx.set("text", "seven")
        ctx.set("none", None)
        ctx.set("list", [1, {"a": 2}])
        ctx.set("note", Note(text="hello", at=datetime(2030, 1, 1, tzinfo=UTC)))
        ctx.set("money", Money(3, "EUR"))
        ctx.set("raw", b"\x00\x01")
        return await ctx.keys()

    @service.handler()
    async def read(ctx: ObjectContext) -> None:
        assert await ctx.get("number", int) == 7
        assert await ctx.get("number") == 7
        assert await ctx.get("text", str) == "seven"
        assert await ctx.get("none", int | None, default=5) is None
        assert await ctx.get("absent") is None
        assert await ctx.get("absent", int, default=5) == 5
        assert await ctx.get("list") == [1, {"a": 2}]
        assert await ctx.get("note", Note) == Note(text="hello", at=datetime(2030, 1, 1, tzinfo=UTC))
        assert await ctx.get("money", Money) == Money(3, "EUR")
        assert await ctx.get("raw", bytes) == b"\x00\x01"

    @service.handler()
    async def forget(ctx: ObjectContext) -> list[list[str]]:
        await ctx.clear("number")
        await ctx.clear("never there")
        assert await ctx.get("number") is None
        seen = [await ctx.keys()]
        await ctx.sleep(1)
        ctx.clear_all()
        assert await ctx.get("text") is None
        seen.append(await ctx.keys())
        ctx.set("late", 1)
        await ctx.sleep(1)
        assert await ctx.get("late") == 1
        seen.append(await ctx.keys())
        return seen

    async with start(service) as engine:
        names = ["list", "money", "none", "note", "number", "raw", "text"]
        assert await engine.call(fill, key="k") == names
        await engine.call(read, key="k")
        assert await engine.call(forget, key="k") == [[name for name in names if name != "number"], [], ["late"]]
        assert await engine.state(service, "k").keys() == ["late"]


async def test_state_too_big_to_send_along_is_read_when_asked_for(start: Start) -> None:
    service = VirtualObject("Big")
    chunk = "x" * (EAGER_STATE_LIMIT // 4)

    @service.handler()
    async def grow(ctx: ObjectContext, n: int) -> list[str]:
        for each in range(n):
            ctx.set(f"chunk {each}", chunk)
        return await ctx.keys()

    @service.handler()
    async def work(ctx: ObjectContext) -> list[Any]:
        seen: list[Any] = [len(await ctx.get("chunk 3", str, default="")), await ctx.get("absent")]
        ctx.set("small", 1)
        await ctx.sleep(1)
        seen += [await ctx.get("small"), await ctx.keys()]
        await ctx.clear("chunk 0")
        seen += [await ctx.get("chunk 0"), len(await ctx.keys())]
        ctx.clear_all()
        seen += [await ctx.get("chunk 1"), await ctx.keys()]
        ctx.set("last", 2)
        await ctx.sleep(1)
        return [*seen, await ctx.get("last"), await ctx.keys()]

    async with start(service) as engine:
        names = [f"chunk {n}" for n in range(6)]
        assert await engine.call(grow, 6, key="k") == names
        assert await engine.call(work, key="k") == [
            len(chunk), None, 1, [*names, "small"], None, 6, None, [], 2, ["last"],
        ]  # fmt: skip


async def test_shared_handlers_may_not_change_state(start: Start) -> None:
    service = VirtualObject("ReadOnly")

    @service.shared()
    async def write(ctx: Any, how: str) -> None:
        if how == "set":
            ctx.set("a", 1)
        elif how == "clear":
            await ctx.clear("a")
        else:
            ctx.clear_all()

    async with start(service) as engine:
        for how in ("set", "clear", "clear_all"):
            with fails(500, "a shared handler may read state, not change it"):
                await engine.call(write, how, key="k")


async def test_services_have_no_state_and_objects_no_promises(start: Start) -> None:
    service = Service("Stateless")
    thing = VirtualObject("Promiseless")

    @service.handler()
    async def read(ctx: Any) -> str:
        return "state" if hasattr(ctx, "get") or hasattr(ctx, "key") else "none"

    @thing.handler()
    async def promise(ctx: ObjectContext) -> None:
        ctx.promise("p")

    async with start(service, thing) as engine:
        assert await engine.call(read) == "none"
        with fails(500, "promises belong to workflows"):
            await engine.call(promise, key="k")
        with pytest.raises(Invalid, match="needs key="):
            await engine.call(promise)


async def test_an_object_calls_itself_and_others_by_key(start: Start) -> None:
    thing = VirtualObject("Tree")
    service = Service("Forest")

    @thing.handler()
    async def sum_up(ctx: ObjectContext, depth: int) -> int:
        if depth == 0:
            return 1
        left = ctx.call(sum_up, depth - 1, key=ctx.key + "l")
        right = ctx.call(sum_up, depth - 1, key=ctx.key + "r")
        return sum(await asyncio.gather(left, right))

    @service.handler()
    async def lock_twice(ctx: Context) -> list[int]:
        return await asyncio.gather(*(ctx.call(sum_up, 0, key="same") for _ in range(4)))

    async with start(thing, service) as engine:
        assert await engine.call(sum_up, 3, key="root") == 8
        assert await engine.call(lock_twice) == [1, 1, 1, 1]


async def test_state_of_a_failed_invocation_stays_as_it_was_left(start: Start) -> None:
    service = VirtualObject("Halfway")

    @service.handler()
    async def half(ctx: ObjectContext) -> None:
        ctx.set("first", 1)
        await ctx.run("between", lambda: None)
        raise TerminalError("no second half")

    @service.shared()
    async def look(ctx: SharedContext) -> list[str]:
        return await ctx.keys()

    async with start(service) as engine:
        with fails(500, "no second half"):
            await engine.call(half, key="k")
        assert await engine.call(look, key="k") == ["first"]


async def test_a_retried_attempt_sees_the_state_it_has_written(start: Start) -> None:
    service = VirtualObject("Retried")
    left = [2]

    @service.handler()
    async def once_each(ctx: ObjectContext) -> int:
        n = await ctx.get("n", int, default=0)
        ctx.set("n", n + 1)
        await ctx.run("step", lambda: None)
        again = await ctx.get("n", int, default=0)
        if left[0]:
            left[0] -= 1
            raise ValueError("again")
        ctx.set("n", again + 1)
        return await ctx.get("n", int, default=0)

    async with start(service) as engine:
        assert await engine.call(once_each, key="k") == 2
        assert await engine.call(once_each, key="k") == 4


async def test_state_is_edited_from_outside_in_turn(start: Start) -> None:
    service, add, total = counter()

    @service.handler()
    async def hold(ctx: ObjectContext) -> int:
        before = await ctx.get("total", int, default=0)
        await ctx.sleep(10)
        after = await ctx.get("total", int, default=0)
        return after - before

    async with start(service, skip=False) as engine:
        state = engine.state(service, "k")
        await state.set("total", 5)
        assert await state.get("total", int) == 5
        holder = await engine.send(hold, key="k")
        await engine.settle()
        await state.set("total", 100)  # waits for its turn
        await state.clear("nothing")
        later = await engine.send(add, 1, key="k")
        await engine.settle()
        assert await state.get("total", int) == 5
        await engine.advance(10)
        assert await holder.attach() == 0
        assert await later.attach() == 101
        await state.clear_all()
        assert await engine.call(total, key="k") == 0
