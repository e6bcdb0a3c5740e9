"""What type checkers infer of the API that handlers use. Checked by mypy, never run."""

import asyncio
from datetime import datetime
from typing import Any, assert_type

from perdure import (
    App,
    Awakeable,
    Client,
    Context,
    Decision,
    Engine,
    ObjectContext,
    Saga,
    Service,
    SharedContext,
    Stream,
    SyncWorkflowContext,
    VirtualObject,
    Workflow,
    WorkflowContext,
    current_context,
    current_step,
)

service = Service("S")
counter = VirtualObject("C")
signup = Workflow("W")


class Refund:
    amount: int


async def fetch(url: str) -> bytes:
    return url.encode()


def parse(data: bytes) -> dict[str, int]:
    return {"length": len(data)}


@counter.handler()
async def add(ctx: ObjectContext, n: int) -> int:
    total = await ctx.get("total", int, default=0)
    assert_type(total, int)
    assert_type(await ctx.get("total", int), int | None)
    assert_type(await ctx.get("anything"), Any)
    ctx.set("total", total + n)
    return total


@counter.shared()
async def total(ctx: SharedContext) -> int:
    ctx.set("total", 0)  # type: ignore[attr-defined]  # a shared handler has no setters
    return await ctx.get("total", int, default=0)


@signup.main()
async def main(ctx: WorkflowContext, email: str) -> str:
    return await ctx.promise("clicked", str).value()


@service.handler()
async def handler(ctx: Context, url: str) -> str:
    data = await ctx.run("fetch", fetch, url)
    assert_type(data, bytes)
    assert_type(await ctx.run("parse", parse, data), dict[str, int])
    both = await asyncio.gather(ctx.run("a", fetch, url), ctx.run("b", parse, data))
    assert_type(both, tuple[bytes, dict[str, int]])
    assert_type(await ctx.call(add, 1, key="k"), int)
    assert_type(await ctx.call("C/add", 1, key="k"), Any)
    answer = ctx.awakeable(int)
    assert_type(answer, Awakeable[int])
    assert_type(await answer, int)
    assert_type(ctx.now(), datetime)
    assert_type(current_context(), Context)
    assert_type(current_step().token, str)
    handle = await ctx.send(add, 1, key="k")
    assert_type(handle.id, str)
    return "done"


app = App(service, counter, signup)


async def outside() -> None:
    async with Engine(app) as engine:
        assert_type(await engine.call(handler, "url"), str)
        assert_type(await engine.call(add, 1, key="k"), int)
    client = Client("http://127.0.0.1:8080")
    assert_type(await client.call(handler, "url"), str)


@service.handler()
async def more(ctx: Context, id: str) -> None:
    assert_type(await ctx.invocation(id, str).attach(), str)
    assert_type(await ctx.signal("go", int), int)
    assert_type(await (await ctx.send(add, 1, key="k")).attach(), int)
    assert_type(await (await ctx.send("C/add", 1, key="k")).attach(), Any)


@service.handler()
async def human(ctx: Context) -> None:
    decision = await ctx.approval("Refund?", Refund, timeout=5)
    assert_type(decision, Decision[Refund])
    assert_type(decision.value.amount, int)
    assert_type(decision.approved, bool)
    assert_type(await ctx.approval("Which?", {"type": "string"}), Decision[Any])
    assert_type(await ctx.approval("Sure?"), Decision[Any])
    async with ctx.saga() as saga:
        assert_type(saga, Saga)


@signup.handler()
def plain(ctx: SyncWorkflowContext, id: str) -> None:
    assert_type(ctx.promise("clicked", str).value(), str)
    assert_type(ctx.invocation(id, str).attach(), str)
    assert_type(ctx.signal("go", int), int)
    assert_type(ctx.awakeable(int).wait(), int)
    assert_type(ctx.get("total", int), int | None)
    assert_type(ctx.run("parse", parse, b""), dict[str, int])
    assert_type(ctx.run("fetch", fetch, ""), bytes)
    assert_type(ctx.call(add, 1, key="k"), int)
    assert_type(ctx.call("C/add", 1, key="k"), Any)
    assert_type(ctx.stream("answer"), Stream)
    assert_type(ctx.approval("Refund?", Refund), Decision[Refund])
