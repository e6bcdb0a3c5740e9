"""What the tests of the operator's commands serve: invocations that stay where somebody has to look after them."""

import asyncio
from datetime import timedelta

from perdure import App, Context, ObjectContext, RetryPolicy, Service, TerminalError, VirtualObject, WorkflowContext
from perdure import Workflow as Flow

ops = Service("Ops", inactivity_timeout=0.2)


@ops.handler()
async def echo(ctx: Context, value: int = 7) -> int:
    return value + 1


@ops.handler()
async def headers(ctx: Context) -> dict[str, str]:
    return dict(ctx.headers)


@ops.handler()
async def fail(ctx: Context, code: int) -> None:
    raise TerminalError("card declined", code)


@ops.handler(retry_policy=RetryPolicy(initial_interval=0.001, max_attempts=2))
async def broken(ctx: Context) -> None:
    raise RuntimeError("boom")


@ops.handler(retry_policy=RetryPolicy(initial_interval=600))
async def flaky(ctx: Context) -> None:
    raise RuntimeError("not yet")


@ops.handler()
async def nap(ctx: Context, seconds: float) -> str:
    await ctx.sleep(timedelta(seconds=seconds))
    return "rested"


@ops.handler()
async def approve(ctx: Context) -> str:
    return await ctx.awakeable(str)


@ops.handler()
async def listen(ctx: Context) -> int:
    return await ctx.signal("go", int)


async def _working(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "worked"


@ops.handler()
async def work(ctx: Context, seconds: float) -> str:
    return await ctx.run("weld", _working, seconds)


@ops.handler()
async def raw(ctx: Context, body: bytes) -> bytes:
    return body[::-1]


@ops.handler()
async def race(ctx: Context) -> str:
    first, second = asyncio.ensure_future(ctx.call(nap, 300.0)), asyncio.ensure_future(ctx.call(nap, 400.0))
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    return done.pop().result()


@ops.handler()
async def boss(ctx: Context, seconds: float) -> str:
    return await ctx.call(nap, seconds)


desk = Service("Desk")


@desk.handler(name="approve")
async def approve_at_desk(ctx: Context) -> str:
    return await ctx.awakeable(str)


room = VirtualObject("Room", inactivity_timeout=0.2)


@room.handler()
async def occupy(ctx: ObjectContext, seconds: float) -> None:
    await ctx.sleep(timedelta(seconds=seconds))


@room.handler()
async def name(ctx: ObjectContext, text: str) -> None:
    ctx.set("name", text)


hire = Flow("Hire", inactivity_timeout=0.2)


@hire.main()
async def run(ctx: WorkflowContext) -> str:
    return await ctx.promise("signed", str).value()


app = App(ops, desk, room, hire)
