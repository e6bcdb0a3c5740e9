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
from perdure.ai.openai_agents import DurableRunner, DurableSession, PerdureSession, decide
from perdure.testing import TestEngine
from tests.ai.harness import FAST, run


def call(tool: str, arguments: dict[str, Any], call_id: str) -> Any:
    return function_call(tool, arguments, call_id=call_id)


@pytest.mark.pattern("session memory")
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

    async def run(self, **options: Any) -> Any:
        result = await DurableRunner.run(self.agent, "x")
        state = await decide(result, **options)
        await current_context().run("put away", state.to_string)
        result = await DurableRunner.run(self.agent, state)
        outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
        return [result.final_output, *outputs]


@pytest.mark.pattern("human approval")
def test_without_an_answer_in_time_it_is_a_no() -> None:
    sender = Sender()

    async def handler(ctx: Context) -> Any:
        return await sender.run(timeout=3600)

    answer, *outputs = run(handler)
    assert answer == "done"
    assert outputs == ["Nobody answered in time."] * 3
    assert sender.sent == []


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.pattern("human approval")
def test_people_answer(crash: bool) -> None:
    sender = Sender()
    service = Service("S", retry_policy=FAST)

    @service.handler()
    async def handler(ctx: Context) -> Any:
        return await sender.run(always=True, to=["boss"], title=lambda item: f"May it {item.tool_name}?")

    async def main() -> Any:
        async with TestEngine(App(service), replay=True, crash=crash, skip=False) as engine:
            sent = await engine.send(handler)
            await engine.settle()
            asked = {each.context["arguments"]["to"]: each for each in await engine.approvals().list(to="boss")}
            assert asked["bob"].title == "May it send?"
            assert asked["bob"].context == {"tool": "send", "arguments": {"to": "bob"}, "agent": "A"}
            await engine.approvals().approve(asked["ann"].id, "once")
            await engine.approvals().reject(asked["bob"].id, comment="not him")
            await engine.approvals().approve(asked["eve"].id, "always")
            return await sent.attach()

    assert asyncio.run(main()) == ["done", "sent to ann", "not him", "sent to eve"]
    assert set(sender.sent) == {"ann", "eve"}


def test_decide_is_for_handlers() -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="from a handler"):
            await decide(await DurableRunner.run(Sender().agent, "x"))

    asyncio.run(main())


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.pattern("session memory")
def test_a_session_is_shared_by_handlers_and_has_a_window(crash: bool) -> None:
    model = ScriptedModel([[assistant_message(f"answer {number}")] for number in range(3)])
    agent = Agent[Any](name="A", model=model)

    async def handler(ctx: Context) -> Any:
        session = PerdureSession("chat", limit=2, keep_first=1, ttl=3600)
        for number in range(3):
            await DurableRunner.run(agent, f"question {number}", session=session)
        seen = [item["content"] for item in await session.history.items(2, keep_first=1)]
        last: Any = await session.pop_item()
        other = await session.history.branch("other", at=1)
        await session.clear_session()
        return [len(seen), seen[0], last["content"][0]["text"], await session.get_items(), len(await other.items())]

    assert run(handler, crash=crash) == [3, "question 0", "answer 2", [], 1]
    asked = [call.input for call in model.calls]
    assert [len(input) for input in asked] == [1, 3, 4]  # the question, behind the first and the newest two
