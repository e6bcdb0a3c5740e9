"""The MCP example, as its users run it: one command, without a key."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_agent_with_tools_of_a_server_is_a_tool_itself() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PERDURE_"))}
    command = [sys.executable, "-m", "examples.mcp.demo"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tools = "tools: Agent_ask, perdure_start, perdure_status, perdure_result, perdure_cancel"
    answer = "It rains in Paris. It rains in Rome."
    assert ran.stdout.splitlines() == [tools, answer, tools, answer, "(the provider was asked 4 times)"]
