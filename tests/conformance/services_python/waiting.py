# mypy: ignore-errors
"""Timers, Waiting, Cancellable and Versioned: what suspends."""

from datetime import timedelta

import restate
from basic import QUICKLY
from keyed import BRIEF
from witness import PREFIX, VERSION, note

timers = restate.Service(PREFIX + "Timers", inactivity_timeout=BRIEF, invocation_retry_policy=QUICKLY)


@timers.handler()
async def sleep(ctx: restate.Context, command: dict) -> str:
    if "before" in command:
        await ctx.run_typed("before", lambda: note(command["before"]))
    await ctx.sleep(timedelta(milliseconds=command["ms"]))
    if "after" in command:
        await ctx.run_typed("after", lambda: note(command["after"]))
    return "slept"


@timers.handler()
async def many(ctx: restate.Context, milliseconds: list) -> int:
    sleeps = [ctx.sleep(timedelta(milliseconds=ms)) for ms in milliseconds]
    await restate.gather(*sleeps)
    return len(sleeps)


waiting = restate.Service(PREFIX + "Waiting", inactivity_timeout=BRIEF, invocation_retry_policy=QUICKLY)


async def published(ctx: restate.Context, witness: str, count: int) -> list:
    """That many awakeables, whose ids a step has noted."""
    made = [ctx.awakeable() for _ in range(count)]
    for identity, _ in made:
        await ctx.run_typed("publish", note, restate.RunOptions(), witness, identity)
    return [future for _, future in made]


@waiting.handler()
async def awakeable(ctx: restate.Context, command: dict) -> object:
    (answer,) = await published(ctx, command["witness"], 1)
    return await answer


@waiting.handler()
async def timeout(ctx: restate.Context, command: dict) -> dict:
    (answer,) = await published(ctx, command["witness"], 1)
    match await restate.select(answer=answer, timeout=ctx.sleep(timedelta(milliseconds=command["ms"]))):
        case ["answer", value]:
            return {"value": value}
    return {"timeout": True}


@waiting.handler()
async def race(ctx: restate.Context, command: dict) -> list[object]:
    a, b = await published(ctx, command["witness"], 2)
    return await restate.select(a=a, b=b)


@waiting.handler(name="all")
async def everything(ctx: restate.Context, command: dict) -> list[object]:
    a, b = await published(ctx, command["witness"], 2)
    nap = ctx.sleep(timedelta(milliseconds=command["ms"]))
    call = ctx.service_call(sleep, arg={"ms": command["ms"]})
    await restate.gather(a, b, nap, call)
    return [await a, await b, await call]


@waiting.handler()
async def as_completed(ctx: restate.Context, command: dict) -> list[object]:
    futures = await published(ctx, command["witness"], 3)
    return [await future async for future in restate.as_completed(*futures)]


@waiting.handler()
async def signals(ctx: restate.Context, command: dict) -> list[object]:
    return [await ctx.signal(command["name"]) for _ in range(command["count"])]


cancellable = restate.Service(PREFIX + "Cancellable", inactivity_timeout=BRIEF, invocation_retry_policy=QUICKLY)


@cancellable.handler()
async def wait(ctx: restate.Context, command: dict) -> object:
    (answer,) = await published(ctx, command["witness"], 1)
    return await answer


@cancellable.handler()
async def compensated(ctx: restate.Context, command: dict) -> object:
    (answer,) = await published(ctx, command["witness"], 1)
    try:
        return await answer
    except restate.TerminalError:
        await ctx.run_typed("undo", lambda: note(command["undone"]))
        raise


@cancellable.handler()
async def caught(ctx: restate.Context, command: dict) -> dict:
    (answer,) = await published(ctx, command["witness"], 1)
    try:
        return {"value": await answer}
    except restate.TerminalError as error:
        await ctx.sleep(timedelta(milliseconds=20))
        return {"code": error.status_code}


@cancellable.handler()
async def parent(ctx: restate.Context, command: dict) -> object:
    return await ctx.service_call(compensated, arg=command)


versioned = restate.Service(PREFIX + "Versioned", inactivity_timeout=BRIEF, invocation_retry_policy=QUICKLY)


@versioned.handler()
async def version(ctx: restate.Context) -> str:
    return VERSION


@versioned.handler()
async def span(ctx: restate.Context, command: dict) -> list[str]:
    """Version v2 has a step more, so that its code cannot go on with a journal of v1."""
    if VERSION == "v2":
        await ctx.run_typed("extra", lambda: VERSION)
    first = await ctx.run_typed("first", lambda: VERSION)
    (answer,) = await published(ctx, command["witness"], 1)
    await answer
    last = await ctx.run_typed("last", lambda: VERSION)
    return [first, last]


if VERSION == "v2":

    @versioned.handler()
    async def only_in_v2(ctx: restate.Context) -> str:
        return "new"
