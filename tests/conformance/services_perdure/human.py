"""Approvals, a saga and a session, with the built-in objects deployed beside them. `PORT` says where."""

import asyncio
import os

from hypercorn.asyncio import serve
from hypercorn.config import Config

from perdure import App, Context, Service
from perdure.ai.sessions import Session
from perdure.builtin.approvals import approval_services
from perdure.builtin.sessions import session_service

desk = Service("Desk", inactivity_timeout=0.5)
undone: list[str] = []


@desk.handler()
async def refund(ctx: Context) -> list[int]:
    async with ctx.saga() as saga:
        saga.compensate(undone.append, "refund")
        decision = await ctx.approval("Refund?", int, timeout=3600)
        await Session("s").add([decision.value])
        return await Session("s").items()


@desk.handler()
async def quick(ctx: Context) -> str:
    try:
        await ctx.approval("Quick?", timeout=1)
    except TimeoutError:
        return "late"
    return "in time"


@desk.handler()
async def undos(ctx: Context) -> list[str]:
    return undone


def main() -> None:
    app = App(desk, *approval_services(private=False), session_service(private=False), protocol="bidi")
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['PORT']}"]
    asyncio.run(serve(app, config))  # type: ignore[arg-type]  # its word for an application is narrower than ASGI's


if __name__ == "__main__":
    main()
