# mypy: ignore-errors
"""Counter, Store, LazyStore, Relay and the workflow Approval."""

from datetime import timedelta

import restate
from basic import QUICKLY, echo
from witness import PREFIX, note, opened

BRIEF = timedelta(milliseconds=200)

counter = restate.VirtualObject(PREFIX + "Counter", inactivity_timeout=BRIEF, invocation_retry_policy=QUICKLY)


@counter.handler()
async def add(ctx: restate.ObjectContext, amount: int) -> int:
    total = (await ctx.get("total") or 0) + amount
    ctx.set("total", total)
    return total


@counter.handler(kind="shared")
async def get(ctx: restate.ObjectSharedContext) -> int:
    return await ctx.get("total") or 0


@counter.handler()
async def add_and_fail(ctx: restate.ObjectContext, amount: int) -> None:
    ctx.set("total", (await ctx.get("total") or 0) + amount)
    raise restate.TerminalError("added and failed", 422)


@counter.handler()
async def append(ctx: restate.ObjectContext, item: object) -> list[object]:
    items = [*(await ctx.get("items") or []), item]
    ctx.set("items", items)
    return items


@counter.handler(kind="shared")
async def items(ctx: restate.ObjectSharedContext) -> list[object]:
    return await ctx.get("items") or []


@counter.handler()
async def hold(ctx: restate.ObjectContext, command: dict) -> str:
    async def step() -> str:
        note(command["witness"])
        await opened(command["gate"])
        return "released"

    return await ctx.run_typed("hold", step)


@counter.handler()
async def wait(ctx: restate.ObjectContext, command: dict) -> object:
    identity, answer = ctx.awakeable()
    await ctx.run_typed("publish", lambda: note(command["witness"], identity))
    return await answer


@counter.handler(kind="shared")
async def key(ctx: restate.ObjectSharedContext) -> str:
    return ctx.key()


async def script(ctx: restate.ObjectContext, operations: list) -> list[object]:
    results = []
    for operation, *arguments in operations:
        result = None
        if operation == "set":
            ctx.set(*arguments)
        elif operation == "get":
            result = await ctx.get(*arguments)
        elif operation == "clear":
            ctx.clear(*arguments)
        elif operation == "clear_all":
            ctx.clear_all()
        elif operation == "keys":
            result = sorted(await ctx.state_keys())
        results.append(result)
    return results


async def read(ctx: restate.ObjectSharedContext, names: list) -> list[object]:
    return [await ctx.get(name) for name in names]


async def names(ctx: restate.ObjectSharedContext) -> list[str]:
    return sorted(await ctx.state_keys())


async def fill(ctx: restate.ObjectContext, command: dict) -> int:
    ctx.set(command["name"], "x" * command["size"])
    return command["size"]


def storing(name: str, lazy: bool) -> restate.VirtualObject:
    made = restate.VirtualObject(PREFIX + name, state_preload=False if lazy else None, invocation_retry_policy=QUICKLY)
    made.handler()(script)
    made.handler(kind="shared")(read)
    made.handler(kind="shared")(names)
    made.handler()(fill)
    return made


store = storing("Store", lazy=False)
lazy_store = storing("LazyStore", lazy=True)

relay_object = restate.VirtualObject(PREFIX + "Relay", invocation_retry_policy=QUICKLY)


@relay_object.handler()
async def relay(ctx: restate.ObjectContext, amount: int) -> int:
    heard = await ctx.service_call(echo, arg=amount)
    total = (await ctx.get("total") or 0) + heard
    ctx.set("total", total)
    return total


approval = restate.Workflow(PREFIX + "Approval", inactivity_timeout=BRIEF, invocation_retry_policy=QUICKLY)


@approval.main()
async def run(ctx: restate.WorkflowContext, command: dict) -> object:
    await ctx.run_typed("begin", lambda: note(command["witness"]))
    if not command["wait"]:
        return "at once"
    ctx.set("status", "waiting")
    decision = await ctx.promise("decision").value()
    ctx.set("status", "done")
    return decision


@approval.handler()
async def decide(ctx: restate.WorkflowSharedContext, value: object) -> str:
    await ctx.promise("decision").resolve(value)
    return "decided"


@approval.handler()
async def refuse(ctx: restate.WorkflowSharedContext, message: str) -> str:
    await ctx.promise("decision").reject(message)
    return "refused"


@approval.handler()
async def peek(ctx: restate.WorkflowSharedContext) -> dict:
    return {"value": await ctx.promise("decision").peek()}


@approval.handler()
async def decision(ctx: restate.WorkflowSharedContext) -> object:
    return await ctx.promise("decision").value()


@approval.handler()
async def status(ctx: restate.WorkflowSharedContext) -> dict:
    return {"value": await ctx.get("status")}
