"""Tools of an MCP server in a process of its own: what it lists and what it does are steps."""

import pathlib
import sys
from typing import Any

import pytest
from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.test import TestModel

from perdure import Context
from perdure.ai.pydantic_ai import PerdureDurability
from tests.ai.harness import run

SERVER = pathlib.Path(__file__).with_name("mcp_server.py")


@pytest.mark.pattern("MCP tools")
def test_mcp_tools_are_steps(tmp_path: pathlib.Path) -> None:
    ledger = tmp_path / "ledger"
    transport = StdioTransport(sys.executable, [str(SERVER), str(ledger)], keep_alive=False)
    toolset: MCPToolset[None] = MCPToolset(transport, id="weather")
    agent = Agent(TestModel(), toolsets=[toolset], capabilities=[PerdureDurability()])

    async def handler(ctx: Context) -> Any:
        return (await agent.run("go")).output

    steps: list[str] = []
    assert run(handler, steps=steps) == '{"forecast":"rain in a"}'
    assert [" ".join(step.split()[:2]) for step in steps if not step.startswith("instructions")] == [
        "list tools",
        "model test",
        "tool forecast",
        "model test",
    ]
    assert ledger.read_text() == "a\n"
