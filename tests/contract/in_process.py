"""An engine in a thread, and its two ports as ASGI applications that may be asked from any event loop."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest

from perdure import App, Context, ObjectContext, Service, VirtualObject, Workflow, WorkflowContext
from perdure.runtime import deployments
from perdure.web.admin import Admin
from perdure.web.ingress import Ingress
from tests.runtime.elsewhere import World, answer, manifest, running, service
from tests.web.fakes import App as Application

greeter = Service("Greeter")
counter = VirtualObject("Counter")
signup = Workflow("Signup")


@greeter.handler()
async def greet(ctx: Context, name: str) -> str:
    return f"Hello {name}"


@greeter.handler()
async def total(ctx: Context, numbers: list[int]) -> int:
    return sum(numbers)


@greeter.handler()
async def nothing(ctx: Context) -> None:
    return None


@counter.handler()
async def add(ctx: ObjectContext, amount: int) -> int:
    before: int = await ctx.get("total", default=0)
    ctx.set("total", before + amount)
    return before + amount


@signup.main()
async def run(ctx: WorkflowContext, email: str) -> str:
    return email


class Ports(NamedTuple):
    admin: Application
    ingress: Application


@contextmanager
def ports() -> Iterator[Ports]:
    """With services of this process, and a deployment elsewhere that only says what it serves."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    world = World()
    world.answers["http://one:9080"] = [answer(msgspec.json.encode(manifest(service("Elsewhere"))))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployments, "RETRY_SECONDS", 0.0)
        context = running(world, None, App(greeter, counter, signup))
        node = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(30)
        try:
            admin = Admin(node, version="1.2.3")
            yield Ports(bridged(admin, loop), bridged(Ingress(node), loop))
        finally:
            try:
                asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(30)
            finally:
                loop.call_soon_threadsafe(loop.stop)
                thread.join(30)
                loop.close()


def bridged(app: Application, loop: asyncio.AbstractEventLoop) -> Application:
    """The application runs in `loop`, wherever it is asked; requests and responses are handed over whole."""

    async def ask(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        sent: list[dict[str, Any]] = []

        async def received() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: dict[str, Any]) -> None:
            sent.append(message)

        async def whole() -> None:
            await app(scope, received, collect)

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(whole(), loop))
        for message in sent:
            await send(message)

    return ask
