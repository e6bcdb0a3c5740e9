"""A server of perdure, as `perdure mcp` asks it: which handlers there are, start one, wait for it, cancel it."""

import os
import time
from typing import Any

import msgspec

from perdure.errors import Forbidden, NotFound, TerminalError, Unauthorized
from perdure.mcp.tools import HandlerTool, tools_of
from perdure.sdk.client import Client
from perdure.sdk.operations import Attach, Control, HttpReply, HttpRequest, Invoke, Operation, Output, Send, reply_value
from perdure.sdk.reading import StreamReader

__all__ = ["Address", "Gateway", "Gateways"]

_FRESH_SECONDS = 2.0  # that a list of services is good for
_PATIENCE = 40  # times that what is safe is asked again: for about a minute, so a restart of the server is not seen
_GATEWAY_LIMIT = 64  # API keys at a time


class _ListServices(Operation[list[dict[str, Any]]], frozen=True):
    """All services, with their handlers and what these take."""

    def to_http(self) -> HttpRequest:
        return HttpRequest("GET", "/services", admin=True)

    def from_http(self, reply: HttpReply) -> list[dict[str, Any]]:
        return msgspec.json.decode(reply_value(reply), type=dict[str, list[dict[str, Any]]])["services"]


class Address(msgspec.Struct, frozen=True):
    """Where the server is, and of which of its services the handlers are tools; none named: of all."""

    ingress_url: str
    admin_url: str
    ca_file: str | os.PathLike[str] | None = None
    services: frozenset[str] = frozenset()


class Gateway:
    """The server as somebody with the API key `token` may use it."""

    def __init__(self, address: Address, token: str | None) -> None:
        self._only = address.services
        options: dict[str, Any] = {"admin_url": address.admin_url, "token": token, "ca_file": address.ca_file}
        self._patient = Client(address.ingress_url, retries=_PATIENCE, **options)
        self._prompt = Client(address.ingress_url, retries=1, **options)
        self._tools: dict[str, HandlerTool] = {}
        self._known_until = 0.0
        self.users = 0

    async def tools(self) -> dict[str, HandlerTool]:
        """The tools there are now. Raises `Unauthorized`, `Forbidden`, `Unavailable`."""
        if time.monotonic() >= self._known_until:
            services = await self._prompt.execute(_ListServices(), 10.0)
            self._tools = tools_of(services, self._only)
            self._known_until = time.monotonic() + _FRESH_SECONDS
        return self._tools

    async def tool(self, name: str) -> HandlerTool:
        """Raises `NotFound` if there is none of this name."""
        tool = (await self.tools()).get(name)
        if tool is None:
            raise NotFound(f"there is no tool {name!r}")
        return tool

    async def start(self, tool: HandlerTool, arguments: dict[str, Any], idempotency_key: str) -> str:
        """Has the handler called; returns the invocation's id once that is durable. The same key is the same call."""
        key, body = tool.request(arguments)
        # A workflow runs once for its key anyway, and takes no other.
        unique = None if tool.workflow else idempotency_key
        call = Invoke(tool.service, tool.handler, key, body, tool.content_type if body else None, (), unique)
        return (await self._patient.execute(Send(call))).id

    async def wait(self, id: str) -> bytes:
        """The result. Raises the invocation's `TerminalError`."""
        return await self._patient.execute(Attach(id))

    async def output(self, id: str) -> bytes:
        """The result if there is one. Raises `NotReady` if not."""
        return await self._prompt.execute(Output(id))

    async def status(self, id: str) -> dict[str, Any]:
        """How an invocation of one of the tools stands. Raises `NotFound`, also for an invocation of other handlers."""
        facts = await self._prompt.invocation(id).describe()
        tools = (await self.tools()).values()
        tool = next((each for each in tools if (each.service, each.handler) == (facts.service, facts.handler)), None)
        if tool is None:
            raise NotFound(f"invocation {id} not found")
        status: dict[str, Any] = {"invocation": facts.id, "tool": tool.name, "status": facts.status}
        status |= {"created_at": facts.created_at, "attempts": facts.attempts}
        if facts.last_failure is not None and facts.status != "completed":
            status["last_failure"] = facts.last_failure.get("message")
        return status

    async def cancel(self, id: str) -> None:
        """Asks it to stop. Raises `Conflict` if it is completed."""
        await self._prompt.execute(Control(id, "cancel"))

    def progress(self, id: str) -> StreamReader:
        """What its handler writes to the stream "progress"."""
        return self._patient.stream(id, "progress")

    async def close(self) -> None:
        await self._patient.close()
        await self._prompt.close()


class Gateways:
    """One for each API key that was shown. `own` is the process's key, for whoever is at its standard input."""

    def __init__(self, address: Address, own: str | None) -> None:
        self._address = address
        self._own = own
        self._open: dict[str | None, Gateway] = {}

    def own(self) -> Gateway:
        return self.of(self._own)

    def of(self, token: str | None) -> Gateway:
        """The gateway for a key; without one, for somebody who shows none."""
        gateway = self._open.pop(token, None)
        if gateway is None:
            gateway = Gateway(self._address, token)
            unused = [key for key, each in self._open.items() if not each.users]
            for key in unused[: max(0, len(self._open) + 1 - _GATEWAY_LIMIT)]:
                del self._open[key]
        self._open[token] = gateway
        return gateway

    async def admits(self, token: str | None) -> int:
        """200, or with which status the server refuses the key. Raises `Unavailable` if it does not answer."""
        try:
            await self.of(token).tools()
        except (Unauthorized, Forbidden) as error:
            return error.status
        except TerminalError as error:
            return error.code
        return 200

    async def close(self) -> None:
        for gateway in self._open.values():
            await gateway.close()
        self._open.clear()
