"""MCP servers."""

import pathlib
import sys
from typing import Any

import pytest
from agents import Agent
from agents.mcp import MCPServerStdio
from agents.testing import ScriptedModel, assistant_message, function_call

from perdure import Context
from perdure.ai.openai_agents import DurableRunner
from tests.ai.harness import run


def call(tool: str, arguments: dict[str, Any], call_id: str) -> Any:
    return function_call(tool, arguments, call_id=call_id)


@pytest.mark.pattern("MCP tools")
def test_an_mcp_server_opened_in_the_handler(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = tmp_path / "measured"
    model = ScriptedModel(
        [
            [call("measure", {"what": "a"}, "a"), call("measure", {"what": "b"}, "b")],
            [assistant_message("measured")],
        ]
    )
    steps: list[str] = []
    program = str(pathlib.Path(__file__).parent / "mcp_server.py")
    parameters: Any = {"command": sys.executable, "args": [program], "env": {"PERDURE_TEST_MEASURED": str(measured)}}

    async def handler(ctx: Context) -> Any:
        async with MCPServerStdio(parameters, name="lab", client_session_timeout_seconds=30) as server:
            agent = Agent[Any](name="A", model=model, mcp_servers=[server])
            result = await DurableRunner.run(agent, "x")
            outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
            return [result.final_output, outputs]

    answer, outputs = run(handler, steps=steps)
    assert answer == "measured"
    assert [output["text"] for output in outputs] == ["a: 7", "b: 7"]
    assert sorted(measured.read_text().split()) == ["a", "b"]
    assert [step for step in steps if not step.startswith("model")] == [
        "tool lab.list_tools",
        "tool measure a",
        "tool measure b",
        "tool lab.list_tools",
    ]
