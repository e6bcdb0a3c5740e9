"""What agents have around them: sessions, MCP servers, humans."""

import asyncio
import pathlib
import sys
from typing import Any

import pytest
from agents import Agent, function_tool
from agents.mcp import MCPServerStdio
from agents.testing import ScriptedModel, assistant_message, function_call

from perdure import App, Context, ObjectContext, Service, VirtualObject, current_context
from perdure.ai.openai_agents import ApprovalRequest, DurableRunner, DurableSession, decide
from perdure.testing import TestEngine
from tests.ai.harness import FAST, run


def call(tool: str, arguments: dict[str, Any], call_id: str) -> Any:
    return function_call(tool, arguments, call_id=call_id)


def test_a_session_in_an_objects_state() -> None:
    model = ScriptedModel([[assistant_message(f"answer {n}")] for n in range(3)])
    agent = Agent[Any](name="A", model=model)
    chat = VirtualObject("Chat", retry_policy=FAST)

    @chat.handler()
    async def say(ctx: ObjectContext, text: str) -> str:
        return str((await DurableRunner.run(agent, text, session=DurableSession(limit=4))).final_output)

    @chat.handler()
    async def history(ctx: ObjectContext) -> list[Any]:
        session = DurableSession()
        last = await session.pop_item()
        items = await session.get_items()
        assert len(await session.get_items(limit=2)) == 2
        await session.clear_session()
        assert await session.get_items() == []
        assert await session.pop_item() is None
        return [len(items), last]

    async def main() -> None:
        async with TestEngine(App(chat), replay=True) as engine:
            for n in range(3):
                assert await engine.call(say, f"question {n}", key="k") == f"answer {n}"
            count, last = await engine.call(history, key="k")
            assert count == 3
            assert last["content"][0]["text"] == "answer 2"

    asyncio.run(main())
    assert [len(call.input) for call in model.calls] == [1, 3, 5]


def test_a_session_wants_an_object() -> None:
    async def handler(ctx: Context) -> None:
        await DurableSession().get_items()

    with pytest.raises(Exception, match="virtual object"):
        run(handler)


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


class Sender:
    """An agent that wants to send to three people, and may not do so by itself."""

    def __init__(self) -> None:
        self.sent: list[str] = []

        @function_tool(needs_approval=True)
        def send(to: str) -> str:
            """Sends."""
            self.sent.append(to)
            return f"sent to {to}"

        names = ["ann", "bob", "eve"]
        model = ScriptedModel([[call("send", {"to": name}, name) for name in names], [assistant_message("done")]])
        self.agent = Agent[Any](name="A", model=model, tools=[send])
        self.asked: dict[str, ApprovalRequest] = {}
        self.all_asked = asyncio.Event()

    async def ask(self, request: ApprovalRequest) -> None:
        self.asked[request.call_id] = request
        if len(self.asked) == 3:
            self.all_asked.set()

    async def run(self, timeout: float | None = None) -> Any:
        result = await DurableRunner.run(self.agent, "x")
        state = await decide(result, self.ask, timeout=timeout)
        await current_context().run("put away", state.to_string)
        result = await DurableRunner.run(self.agent, state)
        outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
        return [result.final_output, *outputs]


def test_without_an_answer_in_time_it_is_a_no() -> None:
    sender = Sender()

    async def handler(ctx: Context) -> Any:
        return await sender.run(timeout=3600)

    answer, *outputs = run(handler)
    assert answer == "done"
    assert outputs == ["Nobody answered within 3600 seconds."] * 3
    assert sender.sent == []


def test_humans_answer_through_awakeables() -> None:
    sender = Sender()
    service = Service("S", retry_policy=FAST)

    @service.handler()
    async def handler(ctx: Context) -> Any:
        return await sender.run()

    async def main() -> Any:
        async with TestEngine(App(service), replay=True) as engine:
            running = asyncio.ensure_future(engine.call(handler))
            await sender.all_asked.wait()
            assert sender.asked["bob"].arguments == '{"to":"bob"}'
            assert (sender.asked["bob"].tool, sender.asked["bob"].agent) == ("send", "A")
            await engine.resolve_awakeable(sender.asked["ann"].id, True)
            await engine.resolve_awakeable(sender.asked["bob"].id, {"approved": False, "message": "not him"})
            await engine.reject_awakeable(sender.asked["eve"].id, "gone")
            return await running

    assert asyncio.run(main()) == ["done", "sent to ann", "not him", "gone"]
    assert sender.sent == ["ann"]
