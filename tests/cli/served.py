"""What the tests of servers and clients serve."""

import asyncio
from dataclasses import dataclass

from perdure import (
    App,
    Context,
    ObjectContext,
    RetryPolicy,
    Service,
    SharedContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
)


@dataclass
class Person:
    name: str
    times: int = 1


greeter = Service("Greeter")


@greeter.handler()
async def greet(ctx: Context, who: Person) -> list[str]:
    return [f"hello {who.name}"] * who.times


@greeter.handler()
async def noop(ctx: Context) -> None:
    return None


@greeter.handler()
def plain(ctx: Context, n: int = 7) -> int:
    return n + 1


@greeter.handler()
async def raw(ctx: Context, body: bytes) -> bytes:
    return body[::-1]


@greeter.handler()
async def fail(ctx: Context, code: int) -> None:
    raise TerminalError("no", code, {"why": "so"})


@greeter.handler(retry_policy=RetryPolicy(initial_interval=0.001, max_attempts=2))
async def broken(ctx: Context) -> None:
    raise RuntimeError("boom")


@greeter.handler()
async def slow(ctx: Context, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@greeter.handler()
async def ask(ctx: Context, key: str) -> str:
    awakeable = ctx.awakeable(str)
    await ctx.call(keep, awakeable.id, key=key)
    return await awakeable


@greeter.handler()
async def listen(ctx: Context) -> list[int]:
    return [await ctx.signal("go", int), await ctx.signal("go", int)]


@greeter.handler()
async def headers(ctx: Context) -> dict[str, str]:
    return dict(ctx.headers)


@greeter.handler(private=True)
async def hidden(ctx: Context) -> None:
    return None


counter = VirtualObject("Counter")


@counter.handler()
async def add(ctx: ObjectContext, n: int) -> int:
    total = await ctx.get("total", int, default=0) + n
    ctx.set("total", total)
    return total


@counter.handler()
async def keep(ctx: ObjectContext, text: str) -> None:
    ctx.set("text", text)


@counter.shared()
async def total(ctx: SharedContext) -> int:
    return await ctx.get("total", int, default=0)


signup = Workflow("Signup")


@signup.main()
async def run(ctx: WorkflowContext, email: str) -> str:
    return f"{email} {await ctx.promise('clicked', str).value()}"


@signup.handler()
async def click(ctx: SharedContext, secret: str) -> None:
    await ctx.promise("clicked", str).resolve(secret)


app = App(greeter, counter, signup)
