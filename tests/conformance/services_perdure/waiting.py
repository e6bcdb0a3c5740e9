"""Timers, Waiting, Cancellable and Versioned: what suspends."""

import asyncio
from typing import Any

from perdure import Awakeable, Context, Service, TerminalError
from tests.conformance.services_perdure.basic import QUICKLY, SHORT
from tests.conformance.services_perdure.keyed import BRIEF
from tests.conformance.services_perdure.witness import PREFIX, VERSION, note

timers = Service(PREFIX + "Timers", inactivity_timeout=BRIEF, retry_policy=QUICKLY)


@timers.handler()
async def sleep(ctx: Context, command: dict[str, Any]) -> str:
    if "before" in command:
        await ctx.run("before", note, command["before"])
    await asyncio.sleep(command["ms"] / 1000)
    if "after" in command:
        await ctx.run("after", note, command["after"])
    return "slept"


@timers.handler(name="many")
async def many_sleeps(ctx: Context, milliseconds: list[float]) -> int:
    await asyncio.gather(*(asyncio.sleep(ms / 1000) for ms in milliseconds))
    return len(milliseconds)


waiting = Service(PREFIX + "Waiting", inactivity_timeout=BRIEF, retry_policy=QUICKLY)


async def published(ctx: Context, witness: str, count: int) -> list[Awakeable[Any]]:
    """That many awakeables, whose ids a step has noted."""
    made = [ctx.awakeable() for _ in range(count)]
    for each in made:
        await ctx.run("publish", note, witness, each.id)
    return made


async def value(awakeable: Awakeable[Any]) -> Any:
    return await awakeable


@waiting.handler()
async def awakeable(ctx: Context, command: dict[str, Any]) -> Any:
    (answer,) = await published(ctx, command["witness"], 1)
    return await answer


@waiting.handler()
async def timeout(ctx: Context, command: dict[str, Any]) -> dict[str, Any]:
    (answer,) = await published(ctx, command["witness"], 1)
    try:
        async with asyncio.timeout(command["ms"] / 1000):
            return {"value": await answer}
    except TimeoutError:
        return {"timeout": True}


@waiting.handler()
async def race(ctx: Context, command: dict[str, Any]) -> list[Any]:
    a, b = [asyncio.create_task(value(each)) for each in await published(ctx, command["witness"], 2)]
    done, _ = await asyncio.wait([a, b], return_when=asyncio.FIRST_COMPLETED)
    return ["a", a.result()] if a in done else ["b", b.result()]


@waiting.handler(name="all")
async def everything(ctx: Context, command: dict[str, Any]) -> list[Any]:
    a, b = await published(ctx, command["witness"], 2)
    pause, call = ctx.sleep(command["ms"] / 1000), ctx.call(sleep, {"ms": command["ms"]})
    first, second, _, result = await asyncio.gather(value(a), value(b), pause, call)
    return [first, second, result]


@waiting.handler(name="any")
async def any_of_them(ctx: Context, command: dict[str, Any]) -> Any:
    problem: TerminalError | None = None
    for each in asyncio.as_completed([value(each) for each in await published(ctx, command["witness"], 2)]):
        try:
            return await each
        except TerminalError as error:
            problem = error
    assert problem is not None
    raise problem


@waiting.handler()
async def as_completed(ctx: Context, command: dict[str, Any]) -> list[Any]:
    waited = [value(each) for each in await published(ctx, command["witness"], 3)]
    return [await each for each in asyncio.as_completed(waited)]


@waiting.handler()
async def signals(ctx: Context, command: dict[str, Any]) -> list[Any]:
    return [await ctx.signal(command["name"]) for _ in range(command["count"])]


cancellable = Service(PREFIX + "Cancellable", inactivity_timeout=BRIEF, retry_policy=QUICKLY)


@cancellable.handler()
async def wait(ctx: Context, command: dict[str, Any]) -> Any:
    (answer,) = await published(ctx, command["witness"], 1)
    return await answer


@cancellable.handler()
async def compensated(ctx: Context, command: dict[str, Any]) -> Any:
    (answer,) = await published(ctx, command["witness"], 1)
    try:
        return await answer
    except (TerminalError, asyncio.CancelledError):
        await ctx.run("undo", note, command["undone"])
        raise


@cancellable.handler()
async def caught(ctx: Context, command: dict[str, Any]) -> dict[str, Any]:
    (answer,) = await published(ctx, command["witness"], 1)
    try:
        return {"value": await answer}
    except TerminalError as error:
        code = error.code
    except asyncio.CancelledError:
        code = 409
    await ctx.sleep(SHORT)
    return {"code": code}


@cancellable.handler()
async def parent(ctx: Context, command: dict[str, Any]) -> Any:
    return await ctx.call(compensated, command)


versioned = Service(PREFIX + "Versioned", inactivity_timeout=BRIEF, retry_policy=QUICKLY)


@versioned.handler()
async def version(ctx: Context) -> str:
    return VERSION


@versioned.handler()
async def span(ctx: Context, command: dict[str, Any]) -> list[str]:
    """Version v2 has a step more, so that its code cannot go on with a journal of v1."""

    def step() -> str:
        return VERSION

    if VERSION == "v2":
        await ctx.run("extra", step)
    first = await ctx.run("first", step)
    (answer,) = await published(ctx, command["witness"], 1)
    await answer
    return [first, await ctx.run("last", step)]


if VERSION == "v2":

    @versioned.handler()
    async def only_in_v2(ctx: Context) -> str:
        return "new"
