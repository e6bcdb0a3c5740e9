"""Both sides of MCP: `python -m examples.mcp.demo`.

An MCP client, as a desktop application is one, starts `perdure mcp`, whose tool is an agent, whose tools are in turn
those of an MCP server. Then the client is gone and another one makes the same call: nobody is asked a second time.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent

from examples.ai.loopback import provider

ROOT = Path(__file__).parents[2]
SAME_CALL: Any = {"perdure/idempotency-key": "the weather of today"}


async def ask(data: str) -> CallToolResult:
    """What a client does, from its start to its end. Outside of this repository: `perdure mcp MODULE:APP`."""
    command = ["-m", "perdure", "mcp", "examples.mcp.agent:app", "--data-dir", data]
    server = StdioServerParameters(command=sys.executable, args=command, cwd=ROOT, env=dict(os.environ))
    async with Client(server) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        question = {"input": "How is the weather in Paris and in Rome?"}
        return await client.call_tool("Agent_ask", question, meta=SAME_CALL)


async def main() -> None:
    with tempfile.TemporaryDirectory() as data, provider("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1") as model:
        os.environ["MODEL"] = model
        for _ in range(2):
            answer = await ask(data)
            (block,) = answer.content
            assert isinstance(block, TextContent) and not answer.is_error
            print(block.text)


if __name__ == "__main__":
    asyncio.run(main())
