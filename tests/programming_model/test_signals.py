"""What comes from outside: awakeables and named signals."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from perdure import Context, Invalid, RetryPolicy, Service
from tests.programming_model.ways import Engine, Start, fails


@dataclass
class Approval:
    granted: bool
    by: str = ""


def asking() -> tuple[Service, Any, dict[str, str]]:
    """A handler that tells the id of its awakeable by a step."""
    service = Service("Asking")
    told: dict[str, str] = {}

    @service.handler()
    async def ask(ctx: Context, name: str) -> str:
        approval = ctx.awakeable(Approval)
        await ctx.run("tell", told.__setitem__, name, approval.id)
        answer = await approval
        again = await approval
        assert again == answer
        return f"{answer.granted} by {answer.by}"

    return service, ask, told


async def test_an_awakeable_is_resolved_from_outside(start: Start) -> None:
    service, ask, told = asking()
    async with start(service) as engine:
        handle = await engine.send(ask, "a")
        await engine.settle()
        await engine.resolve_awakeable(told["a"], Approval(True, "ada"))
        assert await handle.attach() == "True by ada"
        engine.once("tell")


async def test_an_awakeable_is_rejected_from_outside(start: Start) -> None:
    service, ask, told = asking()
    async with start(service) as engine:
        handle = await engine.send(ask, "a")
        await engine.settle()
        await engine.reject_awakeable(told["a"], "not on a sunday", code=451)
        with fails(451, "not on a sunday"):
            await handle.attach()


async def test_only_the_first_completion_of_an_awakeable_counts(start: Start) -> None:
    service, ask, told = asking()
    async with start(service, skip=False) as engine:
        handle = await engine.send(ask, "a")
        await engine.settle()
        await engine.resolve_awakeable(told["a"], Approval(True, "first"))
        await engine.resolve_awakeable(told["a"], Approval(False, "second"))
        await engine.reject_awakeable(told["a"], "third")
        assert await handle.attach() == "True by first"
        await engine.resolve_awakeable(told["a"], Approval(False, "too late"))
        with pytest.raises(Invalid, match="awakeable"):
            await engine.resolve_awakeable("sign_1nonsense", 1)


async def test_awakeables_resolved_before_they_are_awaited_and_twice(start: Start) -> None:
    service = Service("Early")
    told: list[str] = []

    @service.handler()
    async def work(ctx: Context) -> list[Any]:
        first, second, third = ctx.awakeable(int), ctx.awakeable(int), ctx.awakeable(str)
        await ctx.run("tell", told.extend, [first.id, second.id, third.id])
        await ctx.sleep(10)
        await ctx.run("work", lambda: None)
        late = await asyncio.gather(second, first)
        return [*late, await first, await third]

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await engine.resolve_awakeable(told[0], 1)
        await engine.resolve_awakeable(told[1], 2)
        await engine.resolve_awakeable(told[1], 22)
        await engine.settle()
        await engine.advance(10)
        await engine.resolve_awakeable(told[2], "three")
        assert await handle.attach() == [2, 1, 1, "three"]
        engine.once("tell", "work")


async def test_awakeables_are_completed_by_other_handlers(start: Start) -> None:
    service = Service("Pair", retry_policy=RetryPolicy(0.1, max_attempts=2, on_exhausted="fail"))

    @service.handler()
    async def helper(ctx: Context, job: list[str]) -> None:
        await ctx.run("help", lambda: None)
        if job[0] == "resolve":
            await ctx.resolve_awakeable(job[1], {"answer": 42})
        elif job[0] == "nothing":
            await ctx.resolve_awakeable(job[1])
        else:
            await ctx.reject_awakeable(job[1], "no", code=410)

    @service.handler()
    async def work(ctx: Context, how: str) -> Any:
        awakeable = ctx.awakeable()
        await ctx.send(helper, [how, awakeable.id])
        return await awakeable

    @service.handler()
    async def wrong(ctx: Context) -> None:
        await ctx.resolve_awakeable("sign_1xyz", 1)

    async with start(service) as engine:
        assert await engine.call(work, "resolve") == {"answer": 42}
        assert await engine.call(work, "nothing") is None
        with fails(410, "no"):
            await engine.call(work, "reject")
        with fails(400, "awakeable id"):
            await engine.call(wrong)
        engine.once(help=3)


async def test_an_awakeable_that_loses_a_race_is_still_there(start: Start) -> None:
    service = Service("Slowpoke")
    told: list[str] = []

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        seen = []
        awakeable = ctx.awakeable(str)
        await ctx.run("tell", told.append, awakeable.id)
        try:
            async with asyncio.timeout(10):
                seen.append(await awakeable)
        except TimeoutError:
            seen.append("reminded")
        try:
            seen.append(await asyncio.wait_for(awakeable, 10))
        except TimeoutError:
            seen.append("reminded again")
        return [*seen, await awakeable]

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await engine.advance(25)
        await engine.resolve_awakeable(told[0], "at last")
        assert await handle.attach() == ["reminded", "reminded again", "at last"]
        engine.once("tell")


async def test_named_signals_arrive_in_order_awaited_or_not(start: Start) -> None:
    service = Service("Mailbox")

    @service.handler()
    async def listen(ctx: Context) -> list[Any]:
        seen: list[Any] = [await ctx.signal("mail", str)]
        await ctx.sleep(10)
        seen += [await ctx.signal("mail", str), await ctx.signal("mail", str)]
        seen.append(await ctx.signal("other", int))
        both = await asyncio.gather(ctx.signal("mail", str), ctx.signal("mail", str))
        return [*seen, *both]

    async with start(service, skip=False) as engine:
        handle = await engine.send(listen)
        await engine.settle()
        for text in ("one", "two"):
            await handle.signal("mail", text)
        await handle.signal("other", 7)
        await engine.settle()
        await handle.signal("mail", "three")
        await engine.advance(10)
        await engine.settle()
        await handle.signal("mail", "four")
        await handle.signal("mail", "five")
        assert await handle.attach() == ["one", "two", "three", 7, "four", "five"]


async def test_signals_between_handlers_and_one_that_nobody_awaits(start: Start) -> None:
    service = Service("Talk")

    @service.handler()
    async def left(ctx: Context) -> list[str]:
        other = await ctx.send(right, ctx.invocation_id)
        heard = [await ctx.signal("hello", str)]
        await other.signal("ignored", "nobody hears this")
        await other.signal("hello", "hello, right")
        heard.append(await other.attach())
        return heard

    @service.handler()
    async def right(ctx: Context, id: str) -> str:
        await ctx.invocation(id).signal("hello", "hello, left")
        return await ctx.signal("hello", str)

    async with start(service) as engine:
        assert await engine.call(left) == ["hello, left", "hello, right"]


async def test_a_signal_is_not_lost_to_a_waiter_that_gave_up(start: Start) -> None:
    service = Service("GaveUp")

    @service.handler()
    async def listen(ctx: Context) -> list[str]:
        seen = []
        try:
            async with asyncio.timeout(5):
                seen.append(await ctx.signal("word", str))
        except TimeoutError:
            seen.append("silence")
        seen.append(await ctx.signal("word", str))
        return seen

    async with start(service, skip=False) as engine:
        handle = await engine.send(listen)
        await engine.settle()
        await engine.advance(6)
        await handle.signal("word", "spoken")
        assert await handle.attach() == ["silence", "spoken"]


async def _resolve_while(engine: Engine, told: dict[str, str], how: str) -> None:
    if how == "suspended":
        await engine.advance(120)  # beyond the inactivity timeout
    await engine.resolve_awakeable(told["a"], Approval(True, how))


@pytest.mark.parametrize("how", ["idle", "suspended", "paused"])
async def test_it_does_not_matter_where_the_handler_is_when_the_answer_comes(start: Start, how: str) -> None:
    service, ask, told = asking()
    async with start(service, skip=False) as engine:
        handle = await engine.send(ask, "a")
        await engine.settle()
        if how == "paused":
            await handle.pause()
        await _resolve_while(engine, told, how)
        if how == "paused":
            await engine.settle()
            assert (await handle.describe()).status == "paused"
            await handle.resume()
        assert await handle.attach() == f"True by {how}"


async def test_an_answer_while_a_step_of_the_handler_fails_and_backs_off(start: Start) -> None:
    service = Service("Busy", retry_policy=RetryPolicy(100, factor=1, max_attempts=10))
    told: list[str] = []
    left = [3]

    def flaky() -> str:
        if left[0]:
            left[0] -= 1
            raise ValueError("not yet")
        return "flaky"

    @service.handler()
    async def work(ctx: Context) -> list[str]:
        awakeable = ctx.awakeable(str)
        await ctx.run("tell", told.append, awakeable.id)

        async def follow_up() -> str:
            answer = await awakeable
            return answer + await ctx.run("follow up", lambda: "!")

        return [*await asyncio.gather(ctx.run("flaky", flaky), follow_up())]

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await engine.resolve_awakeable(told[0], "answer")
        await engine.settle()
        engine.skip = True
        assert await handle.attach() == ["flaky", "answer!"]
        engine.once("tell", "follow up")


async def test_a_terminal_error_as_the_value_of_nothing(start: Start) -> None:
    service, ask, told = asking()
    async with start(service) as engine:
        handle = await engine.send(ask, "a")
        await engine.settle()
        await engine.resolve_awakeable(told["a"], "no approval at all")
        with pytest.raises(Exception, match="cannot deserialize"):
            await handle.attach()
