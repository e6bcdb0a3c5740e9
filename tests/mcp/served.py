"""What the tests of `perdure mcp` serve."""

import asyncio
from dataclasses import dataclass

from perdure import (
    App,
    Context,
    ObjectContext,
    Service,
    SharedContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
)


@dataclass
class Item:
    name: str
    count: int = 1


@dataclass
class Order:
    items: list[Item]
    note: str | None = None


@dataclass
class Receipt:
    total: int
    lines: list[str]


shop = Service("Shop", description="Sells things.")
counter = VirtualObject("Counter")
report = Workflow("Report")


@shop.handler(metadata={"mcp.title": "Order things"})
async def order(ctx: Context, order: Order) -> Receipt:
    """Orders things; each costs 2."""
    return Receipt(sum(item.count * 2 for item in order.items), [item.name for item in order.items])


@shop.handler()
async def shout(ctx: Context, text: str) -> str:
    return text.upper()


@shop.handler()
async def nothing(ctx: Context) -> None: ...


@shop.handler()
async def reverse(ctx: Context, content: bytes) -> bytes:
    return content[::-1]


@shop.handler()
async def refuse(ctx: Context, code: int) -> str:
    raise TerminalError("sold out", code, {"why": "demand"})


@shop.handler()
async def stages(ctx: Context) -> str:
    progress = ctx.stream("progress")
    progress.write({"progress": 1, "total": 3, "message": "one"})
    progress.write("two")
    progress.write(3)
    return await ctx.signal("go", str)


@shop.handler()
async def wait(ctx: Context, name: str) -> str:
    """Waits for the signal `go`."""
    try:
        return f"{name} {await ctx.signal('go', str)}"
    except asyncio.CancelledError:
        await ctx.run("say", lambda: "cancelled")
        raise


@shop.handler(private=True)
async def secret(ctx: Context) -> str:
    return "secret"


@shop.handler(metadata={"mcp.hidden": "true"})
async def hidden(ctx: Context) -> str:
    return "hidden"


@counter.handler()
async def add(ctx: ObjectContext, amount: int) -> int:
    total: int = await ctx.get("total", int, 0) + amount
    ctx.set("total", total)
    return total


@counter.shared(metadata={"mcp.read-only": "true"})
async def get(ctx: SharedContext) -> int:
    return await ctx.get("total", int, 0)


@report.main()
async def run(ctx: WorkflowContext, order: Order) -> str:
    return f"{ctx.key}: {len(order.items)}"


app = App(shop, counter, report)
