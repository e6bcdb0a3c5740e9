"""The services of `bench.services`, written with the official Restate SDK; hypercorn serves `app` to restate-server."""

import restate  # type: ignore[import-not-found]


async def one() -> int:
    """A step that does nothing: what is left is the price of a step."""
    return 1


async def run(ctx: restate.Context, count: int) -> int:
    """`count` steps, one after the other."""
    total = 0
    for _ in range(count):
        total += await ctx.run_typed("one", one)
    return total


async def echo(ctx: restate.Context, value: int) -> int:
    """No step at all."""
    return value


async def add(ctx: restate.ObjectContext, amount: int) -> int:
    """One read and one write of the object's state."""
    total: int = (await ctx.get("total", type_hint=int) or 0) + amount
    ctx.set("total", total)
    return total


steps = restate.Service("Steps")
steps.handler()(run)
noop = restate.Service("Noop")
noop.handler()(echo)
counter = restate.VirtualObject("Counter")
counter.handler()(add)

app = restate.app([steps, noop, counter])
