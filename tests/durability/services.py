"""What the killed server runs: steps, counters and calls whose outcome can be told exactly."""

import asyncio
import os
from datetime import timedelta

from perdure import App, Context, ObjectContext, RetryPolicy, Service, VirtualObject, current_step

LEDGER = os.environ.get("PERDURE_TEST_LEDGER", os.devnull)

load = Service(
    "Load",
    retry_policy=RetryPolicy(initial_interval=0.01, max_interval=0.1, max_attempts=None),
    inactivity_timeout=0.05,
)
counter = VirtualObject("Counter", inactivity_timeout=0.05)


def _record(kind: str) -> None:
    """One line per execution of a step; a single small append is atomic."""
    with open(LEDGER, "a") as ledger:
        ledger.write(f"{kind} {current_step().token}\n")


async def square(n: int) -> int:
    _record("begin")
    await asyncio.sleep(0.001)
    _record("end")
    return n * n


def cube(n: int) -> int:
    """A plain function: runs in a thread."""
    _record("begin")
    _record("end")
    return n**3


@counter.handler()
async def add(ctx: ObjectContext, n: int) -> int:
    total = await ctx.get("total", int, default=0) + n
    ctx.set("total", total)
    return total


@counter.shared()
async def total(ctx: ObjectContext) -> int:
    return await ctx.get("total", int, default=0)


@load.handler(journal_retention=timedelta(hours=1))
async def mix(ctx: Context, n: int) -> int:
    """Steps in a row and side by side, a sleep, a call, a send. The result depends on `n` alone."""
    squares = await asyncio.gather(*(ctx.run(f"square {i}", square, n + i) for i in range(3)))
    key = f"called-{n % 4}"
    await ctx.call(add, 1, key=key)
    await asyncio.sleep(0.02)
    cubed = await ctx.run("cube", cube, n)
    await ctx.send(add, 1, key=f"sent-{n % 4}")
    last = await ctx.run("last", square, n)
    return sum(squares) + cubed + last


def expected(n: int) -> int:
    return sum((n + i) ** 2 for i in range(3)) + n**3 + n * n


# ---- a person decides


desk = Service("Desk", inactivity_timeout=0.05)


def _undo(what: str) -> None:
    _record(f"undo-{what}")


@desk.handler()
async def refund(ctx: Context, amount: int) -> str:
    """Reserves, asks, and gives back what it reserved if the answer is no."""
    async with ctx.saga() as saga:
        for what in ("stock", "money"):
            saga.compensate(_undo, what)
            await ctx.run(what, _record, what)
        decision = await ctx.approval("Refund?", int, context={"amount": amount}, timeout=timedelta(days=9))
        return f"{decision.value} by {decision.by}"


app = App(load, counter, desk)
