"""An MCP server, over standard input and output or over HTTP; each call is a line in the file that it is given.

python -m tests.ai.mcp.server LEDGER [PORT [sse]]
"""

import base64
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel

__all__ = ["PIXEL", "lines", "make_server"]

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Sum(BaseModel):
    total: int
    of: list[int]


class Budget(BaseModel):
    amount: int


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def make_server(ledger: Path) -> MCPServer:
    server = MCPServer("world")

    def note(context: Context, what: str) -> None:
        meta: Any = context.request_context.meta or {}
        with ledger.open("a") as file:
            file.write(f"{what} {meta.get('perdure/idempotency-key', '-')}\n")

    @server.tool()
    def add(numbers: list[int], context: Context) -> Sum:
        """Adds numbers."""
        note(context, "add")
        return Sum(total=sum(numbers), of=numbers)

    @server.tool()
    def picture(context: Context) -> Image:
        """A small picture."""
        note(context, "picture")
        return Image(data=PIXEL, format="png")

    @server.tool()
    def broken(context: Context) -> str:
        """Always fails."""
        note(context, "broken")
        raise ValueError("it is broken")

    @server.tool()
    def die_once(context: Context) -> str:
        """Takes its process along, the first time."""
        first = not any(line.startswith("die_once ") for line in lines(ledger))
        note(context, "die_once")
        if first:
            os._exit(3)
        return "alive"

    @server.tool()
    async def hold(context: Context) -> str:
        """Waits until there is a file named gate beside the ledger."""
        note(context, "hold")
        while not ledger.with_name("gate").exists():  # noqa: ASYNC110 - another process makes it
            await anyio.sleep(0.01)
        return "held"

    @server.tool()
    async def slow(context: Context) -> str:
        """Never ends."""
        note(context, "slow")
        try:
            await anyio.sleep_forever()
        finally:
            note(context, "slow-cancelled")
        return "never"

    @server.tool()
    async def count(to: int, context: Context) -> str:
        """Counts, and says how far it is."""
        note(context, "count")
        for number in range(to):
            await context.report_progress(number + 1, to, f"at {number + 1}")
        return "done"

    def how_much() -> Elicit[Budget]:
        return Elicit("How much may it cost?", Budget)

    @server.tool()
    def order(what: str, budget: Annotated[ElicitationResult[Budget], Resolve(how_much)], context: Context) -> str:
        """Orders something, once it is known what it may cost."""
        if not isinstance(budget, AcceptedElicitation):
            return f"no {what}"
        note(context, "order")
        return f"{what} for {budget.data.amount}"

    @server.tool()
    async def ask_now(context: Context) -> str:
        """Asks over the open connection."""
        note(context, "ask_now")
        return repr(await context.elicit("Now?", Budget))

    @server.tool()
    async def add_tool(context: Context) -> str:
        """Adds a tool to this server."""
        note(context, "add_tool")
        server.add_tool(lambda: "new", name="newcomer", description="Was not there before.")
        return "added"

    @server.resource("memo://{name}", mime_type="text/plain")
    def memo(name: str) -> str:
        """A memo."""
        with ledger.open("a") as file:
            file.write(f"memo {name}\n")
        return f"memo of {name}"

    @server.prompt()
    def greet(name: str) -> str:
        """A greeting."""
        return f"Say hello to {name}."

    return server


if __name__ == "__main__":
    made = make_server(Path(sys.argv[1]))
    if len(sys.argv) == 2:
        made.run()
    elif len(sys.argv) == 3:
        made.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        made.run("sse", host="127.0.0.1", port=int(sys.argv[2]))
