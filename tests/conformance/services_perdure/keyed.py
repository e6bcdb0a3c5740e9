"""Counter, Store, LazyStore, Relay and the workflow Approval."""

from typing import Any

from perdure import Context, ObjectContext, SharedContext, TerminalError, VirtualObject, Workflow, WorkflowContext
from tests.conformance.services_perdure.basic import QUICKLY, echo
from tests.conformance.services_perdure.witness import PREFIX, note, opened

__all__ = ["BRIEF", "Context", "approval", "counter", "lazy_store", "relay", "relay_object", "store"]

BRIEF = 0.2

counter = VirtualObject(PREFIX + "Counter", inactivity_timeout=BRIEF, retry_policy=QUICKLY)


@counter.handler()
async def add(ctx: ObjectContext, amount: int) -> int:
    total = await ctx.get("total", int, 0) + amount
    ctx.set("total", total)
    return total


@counter.shared()
async def get(ctx: SharedContext) -> int:
    return await ctx.get("total", int, 0)


@counter.handler()
async def add_and_fail(ctx: ObjectContext, amount: int) -> None:
    ctx.set("total", await ctx.get("total", int, 0) + amount)
    raise TerminalError("added and failed", 422)


@counter.handler()
async def append(ctx: ObjectContext, item: Any) -> list[Any]:
    items = [*await ctx.get("items", default=[]), item]
    ctx.set("items", items)
    return items


@counter.shared()
async def items(ctx: SharedContext) -> list[Any]:
    return list(await ctx.get("items", default=[]))


@counter.handler()
async def hold(ctx: ObjectContext, command: dict[str, Any]) -> str:
    async def step() -> str:
        note(command["witness"])
        await opened(command["gate"])
        return "released"

    return await ctx.run("hold", step)


@counter.handler()
async def wait(ctx: ObjectContext, command: dict[str, Any]) -> Any:
    answer = ctx.awakeable()
    await ctx.run("publish", note, command["witness"], answer.id)
    return await answer


@counter.shared()
async def key(ctx: SharedContext) -> str:
    return ctx.key


def storing(name: str, lazy: bool) -> VirtualObject:
    made = VirtualObject(PREFIX + name, lazy_state=lazy or None, retry_policy=QUICKLY)

    @made.handler()
    async def script(ctx: ObjectContext, operations: list[list[Any]]) -> list[Any]:
        results = []
        for operation, *arguments in operations:
            result: Any = None
            if operation == "set":
                ctx.set(*arguments)
            elif operation == "get":
                result = await ctx.get(*arguments)
            elif operation == "clear":
                await ctx.clear(*arguments)
            elif operation == "clear_all":
                ctx.clear_all()
            elif operation == "keys":
                result = await ctx.keys()
            results.append(result)
        return results

    @made.shared()
    async def read(ctx: SharedContext, names: list[str]) -> list[Any]:
        return [await ctx.get(name) for name in names]

    @made.shared()
    async def names(ctx: SharedContext) -> list[str]:
        return await ctx.keys()

    @made.handler()
    async def fill(ctx: ObjectContext, command: dict[str, Any]) -> int:
        size = int(command["size"])
        ctx.set(command["name"], "x" * size)
        return size

    return made


store = storing("Store", lazy=False)
lazy_store = storing("LazyStore", lazy=True)

relay_object = VirtualObject(PREFIX + "Relay", retry_policy=QUICKLY)


@relay_object.handler()
async def relay(ctx: ObjectContext, amount: int) -> int:
    total = await ctx.get("total", int, 0) + int(await ctx.call(echo, amount))
    ctx.set("total", total)
    return total


approval = Workflow(PREFIX + "Approval", inactivity_timeout=BRIEF, retry_policy=QUICKLY)


@approval.main()
async def run(ctx: WorkflowContext, command: dict[str, Any]) -> Any:
    await ctx.run("begin", note, command["witness"])
    if not command["wait"]:
        return "at once"
    ctx.set("status", "waiting")
    decision = await ctx.promise("decision").value()
    ctx.set("status", "done")
    return decision


@approval.handler()
async def decide(ctx: SharedContext, value: Any) -> str:
    await ctx.promise("decision").resolve(value)
    return "decided"


@approval.handler()
async def refuse(ctx: SharedContext, message: str) -> str:
    await ctx.promise("decision").reject(message)
    return "refused"


@approval.handler()
async def peek(ctx: SharedContext) -> dict[str, Any]:
    return {"value": await ctx.promise("decision").peek()}


@approval.handler()
async def decision(ctx: SharedContext) -> Any:
    return await ctx.promise("decision").value()


@approval.handler()
async def status(ctx: SharedContext) -> dict[str, Any]:
    return {"value": await ctx.get("status")}
