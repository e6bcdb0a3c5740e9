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

from examples.provider import provider
from perdure.testing.model_server import ChatRequest, Fault, Reply, ToolCall

BAD_DAY = (Fault(status=429, retry_after=0.1), Fault(status=500))
ROOT = Path(__file__).parents[2]
SAME_CALL: Any = {"perdure/idempotency-key": "the weather of today"}


def policy(request: ChatRequest) -> Reply:
    """The model where there is no key: asks for the weather in both places at once, then says what was found."""
    reports = [str(message["content"]).strip('"') for message in request.messages if message["role"] == "tool"]
    if reports:
        return Reply(" ".join(reports))
    return Reply(tool_calls=(ToolCall("weather", {"place": "Paris"}), ToolCall("weather", {"place": "Rome"})))


async def ask(data: str) -> CallToolResult:
    """What a client does, from its start to its end. Outside of this repository: `perdure mcp MODULE:APP`."""
    command = ["-m", "perdure", "mcp", "examples.mcp.agent:app", "--data-dir", data]
    server = StdioServerParameters(command=sys.executable, args=command, cwd=ROOT, env=dict(os.environ))
    async with Client(server) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        question = {"input": "How is the weather in Paris and in Rome?"}
        return await client.call_tool("Agent_ask", question, meta=SAME_CALL)


async def main() -> None:
    with tempfile.TemporaryDirectory() as data, provider(policy, faults=BAD_DAY) as server:
        for _ in range(2):
            answer = await ask(data)
            (block,) = answer.content
            assert isinstance(block, TextContent) and not answer.is_error
            print(block.text)
    if server is not None:
        print(f"(the provider was asked {server.count()} times)")


if __name__ == "__main__":
    asyncio.run(main())
