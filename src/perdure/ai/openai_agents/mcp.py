"""MCP servers in a handler: what they list is a step, and what they do is one by the step of the tool.

A server that was connected before, when the process started, is used over that connection. One that is connected in
the handler (`async with MCPServerStdio(...) as server:`) has no connection there, for no handler can keep one: each
step connects, and steps that run at the same time share the connection.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from agents.mcp import MCPServer

from perdure.ai.base import durable_context, tool_call
from perdure.sdk.serde import serde_for

__all__ = ["METHODS"]


class _Connection:
    """A server's connection while steps use it. The task that connects also cleans up, as task groups demand."""

    def __init__(self) -> None:
        self.users = 0
        self.ready: asyncio.Future[None] | None = None
        self.released = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def hold(self, connect: Callable[[], Any], cleanup: Callable[[], Any]) -> None:
        assert self.ready is not None
        try:
            await connect()
            self.ready.set_result(None)
        except BaseException as error:
            self.ready.set_exception(error if isinstance(error, Exception) else ConnectionError(repr(error)))
            return
        finally:
            if self.ready.done() and self.ready.exception() is not None:
                await cleanup()
        await self.released.wait()
        await cleanup()


_LAZY: "WeakKeyDictionary[Any, dict[asyncio.AbstractEventLoop, _Connection]]" = WeakKeyDictionary()


def _connect(original: Callable[..., Any]) -> Callable[..., Any]:
    async def connect(self: MCPServer) -> None:
        if durable_context() is None or getattr(self, "session", None) is not None:
            await original(self)
        else:
            _LAZY.setdefault(self, {})

    return connect


def _cleanup(original: Callable[..., Any]) -> Callable[..., Any]:
    async def cleanup(self: MCPServer) -> None:
        if durable_context() is None or self not in _LAZY:
            await original(self)

    return cleanup


def _listing(result: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method that only reads: a step, if it is called in the handler."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        async def method(self: MCPServer, *args: Any, **kwargs: Any) -> Any:
            async def call() -> Any:
                return await _connected(self, lambda: original(self, *args, **kwargs))

            if durable_context() is None:
                return await call()
            return await tool_call(f"{self.name}.{original.__name__}", call, serde=serde_for(result()))

        return method

    return make


def _calling(original: Callable[..., Any]) -> Callable[..., Any]:
    async def call_tool(self: MCPServer, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            return await _connected(self, lambda: original(self, *args, **kwargs))

        if durable_context() is None:
            return await call()
        return await tool_call(f"{self.name}.{args[0] if args else 'call_tool'}", call, serde=serde_for(_result()))

    return call_tool


async def _connected(server: MCPServer, call: Callable[[], Any]) -> Any:
    connections = _LAZY.get(server)
    if connections is None or durable_context() is not None:
        return await call()
    loop = asyncio.get_running_loop()
    connection = connections.get(loop)
    if connection is None:
        if getattr(server, "session", None) is not None:
            return await call()
        connection = connections[loop] = _Connection()
        connection.ready = loop.create_future()
        connection.task = loop.create_task(connection.hold(server.connect, server.cleanup))
    assert connection.ready is not None
    connection.users += 1
    try:
        await asyncio.shield(connection.ready)
        return await call()
    finally:
        connection.users -= 1
        if not connection.users:
            if connections.get(loop) is connection:
                del connections[loop]
            connection.released.set()
            assert connection.task is not None
            await asyncio.shield(connection.task)


@cache
def _type(name: str) -> Any:
    import mcp.types

    return getattr(mcp.types, name)


def _result() -> Any:
    return _type("CallToolResult")


METHODS: dict[str, Callable[[Any], Any]] = {
    "connect": _connect,
    "cleanup": _cleanup,
    "call_tool": _calling,
    "list_tools": _listing(lambda: list[_type("Tool")]),  # type: ignore[misc]
    "list_prompts": _listing(lambda: _type("ListPromptsResult")),
    "get_prompt": _listing(lambda: _type("GetPromptResult")),
    "list_resources": _listing(lambda: _type("ListResourcesResult")),
    "list_resource_templates": _listing(lambda: _type("ListResourceTemplatesResult")),
    "read_resource": _listing(lambda: _type("ReadResourceResult")),
}
