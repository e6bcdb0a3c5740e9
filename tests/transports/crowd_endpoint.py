"""An endpoint in a process of its own, under Hypercorn as it comes: handlers that wait together."""

import asyncio
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

from perdure import App, Context, Service

crowd = Service("Crowd")


@crowd.handler()
async def wait(ctx: Context, number: int) -> int:
    """Alive until it is told to go."""
    doubled = await ctx.run("double", lambda: number * 2)
    await ctx.signal("go")
    return doubled


@crowd.handler()
async def double(ctx: Context, number: int) -> int:
    return await ctx.run("double", lambda: number * 2)


def main(port: int, requests: int) -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.keep_alive_max_requests = requests
    asyncio.run(serve(App(crowd, protocol="bidi"), config))  # type: ignore[arg-type]  # narrower than ASGI


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
