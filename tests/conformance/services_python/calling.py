# mypy: ignore-errors
"""Caller: everything that one handler can do to others."""

import json
from datetime import timedelta

import restate
from basic import QUICKLY, echo, one
from keyed import BRIEF, relay
from waiting import sleep
from witness import PREFIX

caller = restate.Service(PREFIX + "Caller", inactivity_timeout=BRIEF, invocation_retry_policy=QUICKLY)


def target(command: dict) -> dict:
    return {
        "service": command["service"],
        "handler": command["handler"],
        "arg": json.dumps(command["value"]).encode(),
        "key": command.get("key"),
        "idempotency_key": command.get("idempotency_key"),
        "headers": command.get("headers"),
    }


@caller.handler()
async def call(ctx: restate.Context, command: dict) -> object:
    return json.loads(await ctx.generic_call(**target(command)))


@caller.handler()
async def call_with_id(ctx: restate.Context, command: dict) -> list[object]:
    future = ctx.generic_call(**target(command))
    return [await future.invocation_id(), json.loads(await future)]


@caller.handler()
async def catch(ctx: restate.Context, command: dict) -> dict:
    try:
        return {"result": json.loads(await ctx.generic_call(**target(command)))}
    except restate.TerminalError as error:
        return {"code": error.status_code, "message": error.message, "metadata": error.metadata or {}}


@caller.handler()
async def send(ctx: restate.Context, command: dict) -> str:
    delay = timedelta(milliseconds=command["delay_ms"]) if "delay_ms" in command else None
    return await ctx.generic_send(**target(command), send_delay=delay).invocation_id()


@caller.handler()
async def chain(ctx: restate.Context, command: dict) -> int:
    return await ctx.object_call(relay, key=command["key"], arg=command["amount"])


@caller.handler()
async def fan_out(ctx: restate.Context, count: int) -> int:
    calls = [ctx.service_call(echo, arg=i) for i in range(count)]
    await restate.gather(*calls)
    return sum([await future for future in calls])


@caller.handler()
async def twice(ctx: restate.Context, command: dict) -> list[object]:
    argument = {"witness": command["witness"], "value": command["value"]}
    return [
        await ctx.service_call(one, arg=argument, idempotency_key=command["idempotency_key"]),
        await ctx.service_call(one, arg=argument, idempotency_key=command["idempotency_key"]),
    ]


@caller.handler()
async def impatient(ctx: restate.Context, command: dict) -> dict:
    future = ctx.service_call(sleep, arg={"ms": command["callee_ms"]})
    match await restate.select(done=future, timeout=ctx.sleep(timedelta(milliseconds=command["ms"]))):
        case ["done", result]:
            return {"result": result}
    identity = await future.invocation_id()
    ctx.cancel_invocation(identity)
    return {"timeout": identity}


@caller.handler()
async def attach(ctx: restate.Context, command: dict) -> object:
    return await ctx.attach_invocation(command["id"])


@caller.handler()
async def cancel(ctx: restate.Context, command: dict) -> str:
    ctx.cancel_invocation(command["id"])
    return "asked"


@caller.handler()
async def resolve_awakeable(ctx: restate.Context, command: dict) -> str:
    ctx.resolve_awakeable(command["id"], command["value"])
    return "resolved"


@caller.handler()
async def reject_awakeable(ctx: restate.Context, command: dict) -> str:
    ctx.reject_awakeable(command["id"], command["message"])
    return "rejected"


@caller.handler()
async def signal(ctx: restate.Context, command: dict) -> str:
    ctx.resolve_signal(command["id"], command["name"], command["value"])
    return "sent"


@caller.handler()
async def reject_signal(ctx: restate.Context, command: dict) -> str:
    ctx.reject_signal(command["id"], command["name"], command["message"])
    return "sent"
