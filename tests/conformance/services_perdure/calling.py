"""Caller: everything that one handler can do to others."""

import asyncio
from typing import Any

from perdure import Context, Service, TerminalError
from tests.conformance.services_perdure.basic import QUICKLY, echo, one
from tests.conformance.services_perdure.keyed import BRIEF, relay
from tests.conformance.services_perdure.waiting import sleep
from tests.conformance.services_perdure.witness import PREFIX

caller = Service(PREFIX + "Caller", inactivity_timeout=BRIEF, retry_policy=QUICKLY)


def name(command: dict[str, Any]) -> str:
    return f"{command['service']}/{command['handler']}"


def options(command: dict[str, Any]) -> dict[str, Any]:
    return {option: command.get(option) for option in ("key", "idempotency_key", "headers")}


@caller.handler()
async def call(ctx: Context, command: dict[str, Any]) -> Any:
    return await ctx.call(name(command), command["value"], **options(command))


@caller.handler()
async def call_with_id(ctx: Context, command: dict[str, Any]) -> list[Any]:
    callee = await ctx.send(name(command), command["value"], **options(command))
    return [callee.id, await callee.attach()]


@caller.handler()
async def catch(ctx: Context, command: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": await ctx.call(name(command), command["value"], **options(command))}
    except TerminalError as error:
        return {"code": error.code, "message": error.message, "metadata": error.metadata}


@caller.handler()
async def send(ctx: Context, command: dict[str, Any]) -> str:
    delay = command["delay_ms"] / 1000 if "delay_ms" in command else None
    return (await ctx.send(name(command), command["value"], delay=delay, **options(command))).id


@caller.handler()
async def chain(ctx: Context, command: dict[str, Any]) -> int:
    return await ctx.call(relay, command["amount"], key=command["key"])


@caller.handler()
async def fan_out(ctx: Context, count: int) -> int:
    return sum(await asyncio.gather(*(ctx.call(echo, i) for i in range(count))))


@caller.handler()
async def twice(ctx: Context, command: dict[str, Any]) -> list[Any]:
    argument = {"witness": command["witness"], "value": command["value"]}
    return [await ctx.call(one, argument, idempotency_key=command["idempotency_key"]) for _ in range(2)]


@caller.handler()
async def impatient(ctx: Context, command: dict[str, Any]) -> dict[str, Any]:
    callee = await ctx.send(sleep, {"ms": command["callee_ms"]})
    try:
        async with asyncio.timeout(command["ms"] / 1000):
            return {"result": await callee.attach()}
    except TimeoutError:
        await callee.cancel()
        return {"timeout": callee.id}


@caller.handler()
async def attach(ctx: Context, command: dict[str, Any]) -> Any:
    return await ctx.invocation(command["id"]).attach()


@caller.handler()
async def cancel(ctx: Context, command: dict[str, Any]) -> str:
    await ctx.invocation(command["id"]).cancel()
    return "asked"


@caller.handler()
async def resolve_awakeable(ctx: Context, command: dict[str, Any]) -> str:
    await ctx.resolve_awakeable(command["id"], command["value"])
    return "resolved"


@caller.handler()
async def reject_awakeable(ctx: Context, command: dict[str, Any]) -> str:
    await ctx.reject_awakeable(command["id"], command["message"])
    return "rejected"


@caller.handler()
async def signal(ctx: Context, command: dict[str, Any]) -> str:
    await ctx.invocation(command["id"]).signal(command["name"], command["value"])
    return "sent"


@caller.handler()
async def reject_signal(ctx: Context, command: dict[str, Any]) -> str:
    await ctx.invocation(command["id"]).reject_signal(command["name"], command["message"])
    return "sent"
