"""perdure's side of every figure: `perdure serve bench.services:app`, and the same handlers in `perdure.Engine`."""

import asyncio
import os
import time
from pathlib import Path

from bench.workload import AWAKEABLES_ENV
from perdure import App, Context, ObjectContext, Service, VirtualObject

DAY_S = 86_400

steps = Service("Steps")
noop = Service("Noop")
counter = VirtualObject("Counter")
sleeper = Service("Sleeper", inactivity_timeout=0)
streams = Service("Streams")


async def one() -> int:
    """A step that does nothing: what is left is the price of a step."""
    return 1


@steps.handler()
async def run(ctx: Context, count: int) -> int:
    """`count` steps, one after the other."""
    total = 0
    for _ in range(count):
        total += await ctx.run("one", one)
    return total


@noop.handler()
async def echo(ctx: Context, value: int) -> int:
    """No step at all."""
    return value


@counter.handler()
async def add(ctx: ObjectContext, amount: int) -> int:
    """One read and one write of the object's state."""
    total = await ctx.get("total", int, default=0) + amount
    ctx.set("total", total)
    return total


@sleeper.handler()
async def nap(ctx: Context, days: int) -> None:
    """Suspended for longer than any benchmark."""
    await asyncio.sleep(days * DAY_S)


def publish(awakeable: str) -> None:
    """Give the id to the benchmark: a line in the file that the environment names (one short write, so lines never
    mix).
    """
    with Path(os.environ[AWAKEABLES_ENV]).open("a") as file:
        file.write(f"{awakeable}\n")


@sleeper.handler()
async def wait(ctx: Context, number: int) -> str:
    """Suspended until the benchmark resolves the awakeable."""
    awakeable = ctx.awakeable(str)
    await ctx.run("publish", publish, f"{number} {awakeable.id}")
    return await awakeable


@streams.handler()
async def talk(ctx: Context, plan: dict[str, float]) -> None:
    """A step that writes `chunks` chunks, each with its number and the time, `every` s, from `first` s on."""
    stream = ctx.stream("answer")

    async def step() -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + plan["first"]
        for number in range(int(plan["chunks"])):
            await asyncio.sleep(due - loop.time())
            due += plan["every"]
            stream.write([number, time.time()])

    await ctx.run("talk", step)


app = App(steps, noop, counter, sleeper, streams)
