"""ADK with a fake model, on an engine that replays at every await."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("google.adk", reason="google-adk wants an older opentelemetry than the rest: its own environment")

from google.adk.agents import LlmAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from perdure import Context, RetryableError, TerminalError, current_context, current_step
from perdure.ai.google_adk import durable, in_handler
from perdure.testing import InvocationPaused
from tests.ai.harness import run


def call(name: str, **args: Any) -> Any:
    return types.Part(function_call=types.FunctionCall(name=name, args=args))


class Fake(BaseLlm):
    """Says what it is given, one list of parts after the other."""

    model: str = "fake"
    script: list[Any] = []  # noqa: RUF012  # a field of a pydantic model
    asked: list[Any] = []  # noqa: RUF012

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncIterator[LlmResponse]:
        self.asked.append(current_step_name())
        parts = self.script.pop(0)
        usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=7, candidates_token_count=3)
        yield LlmResponse(content=types.Content(role="model", parts=parts), usage_metadata=usage)


def current_step_name() -> str:
    try:
        return current_step().name
    except LookupError:
        return ""


def fake(*script: Any) -> Fake:
    texts = [[types.Part(text=each)] if isinstance(each, str) else each for each in script]
    return Fake(script=texts, asked=[])


async def answer(root: Any, question: str = "x", plugins: Any = ()) -> list[Any]:
    runner = (
        InMemoryRunner(root, app_name="app", plugins=list(plugins)) if plugins else InMemoryRunner(root, app_name="app")
    )
    session = await runner.session_service.create_session(app_name="app", user_id="u")
    message = types.Content(role="user", parts=[types.Part(text=question)])
    seen: list[Any] = []
    async for event in runner.run_async(user_id="u", session_id=session.id, new_message=message):
        seen.append(
            [
                event.id,
                event.author,
                "".join(part.text or "" for part in event.content.parts or []) if event.content else "",
            ]
        )
    final = await runner.session_service.get_session(app_name="app", user_id="u", session_id=session.id)
    assert final is not None
    return [seen, dict(final.state)]


def texts(seen: list[Any]) -> list[str]:
    return [text for _, _, text in seen if text]


def test_models_and_parallel_tools_are_steps() -> None:
    together = threading.Barrier(2)

    async def weather(city: str, tool_context: ToolContext) -> dict[str, Any]:
        """The weather."""
        await asyncio.to_thread(together.wait, 10)
        tool_context.state[city] = "sun"
        return {"weather": f"sun in {city}"}

    model = fake([call("weather", city="Rome"), call("weather", city="Oslo")], "sunny")
    root = durable(LlmAgent(name="guide", model=model, tools=[weather]))
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        seen, state = await answer(root)
        await ctx.run(f"see {[id for id, _, _ in seen]}", lambda: None)  # ids replay, or this is another step
        return [texts(seen), state]

    assert run(handler, steps=steps) == [["sunny"], {"Rome": "sun", "Oslo": "sun"}]
    assert steps[0] == "model fake"
    assert [step.startswith("tool weather adk-") for step in steps[1:3]] == [True, True]
    assert len(steps) == 5
    assert model.asked == ["model fake"] * 2


def test_every_kind_of_agent() -> None:
    def leaf(name: str) -> LlmAgent:
        return LlmAgent(name=name, model=fake(name))

    def stop(tool_context: ToolContext) -> dict[str, Any]:
        """Stops."""
        tool_context.actions.escalate = tool_context.actions.skip_summarization = True
        return {}

    looped = LlmAgent(name="looped", model=fake("again", [call("stop")], "never"), tools=[stop])
    expert = LlmAgent(name="expert", model=fake("42"))
    boss = LlmAgent(name="boss", model=fake([call("expert", request="q")], "it is 42"), tools=[AgentTool(expert)])
    root = durable(
        SequentialAgent(
            name="root",
            sub_agents=[
                leaf("one"),
                ParallelAgent(name="side_by_side", sub_agents=[leaf("left"), leaf("right")]),
                LoopAgent(name="loop", sub_agents=[looped], max_iterations=5),
                boss,
            ],
        )
    )
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        return texts((await answer(root))[0])

    seen = run(handler, steps=steps)
    assert [seen[0], *sorted(seen[1:3]), *seen[3:]] == ["one", "left", "right", "again", "it is 42"]
    assert steps.count("model fake") == 8


def test_transfers_and_plugins() -> None:
    class Counting(BasePlugin):
        def __init__(self) -> None:
            super().__init__(name="counting")
            self.models = 0
            self.tools = 0

        async def before_model_callback(self, **kwargs: Any) -> None:
            self.models += 1

        async def after_tool_callback(self, **kwargs: Any) -> None:
            self.tools += 1

    def look() -> str:
        """Looks."""
        return "seen"

    other = LlmAgent(name="other", model=fake([call("look")], "from the other"), tools=[look])
    root = durable(
        LlmAgent(name="root", model=fake([call("transfer_to_agent", agent_name="other")]), sub_agents=[other])
    )

    async def handler(ctx: Context) -> Any:
        plugin = Counting()
        seen, _ = await answer(root, plugins=[plugin])
        return [texts(seen), plugin.models, plugin.tools]

    assert run(handler) == [["from the other"], 3, 2]


def test_a_tool_in_the_handler_and_one_that_is_tried_again() -> None:
    tries: list[int] = []

    @in_handler
    async def wait() -> dict[str, Any]:
        """Waits."""
        await asyncio.sleep(3600)
        return {"waited": await current_context().run("inside", lambda: "long")}

    async def again() -> dict[str, Any]:
        """Is tried again."""
        tries.append(1)
        if len(tries) < 3:
            raise RetryableError("busy")
        return {"done": True}

    root = durable(LlmAgent(name="a", model=fake([call("wait"), call("again")], "ok"), tools=[wait, again]))
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        return texts((await answer(root))[0])

    assert run(handler, steps=steps) == ["ok"]
    assert "inside" in steps
    assert len(tries) == 3


def test_a_terminal_error_ends_the_run() -> None:
    async def ends() -> dict[str, Any]:
        """Ends."""
        raise TerminalError("over", 418)

    root = durable(LlmAgent(name="a", model=fake([call("ends")]), tools=[ends]))

    async def handler(ctx: Context) -> Any:
        return await answer(root)

    with pytest.raises(TerminalError, match="over"):
        run(handler)


def test_outside_of_handlers_nothing_changes() -> None:
    root = durable(LlmAgent(name="a", model=fake("hello")))
    assert texts(asyncio.run(answer(root))[0]) == ["hello"]
    with pytest.raises(TypeError, match="google-adk"):
        durable("agent")


def test_sessions_that_outlive_the_handler_are_refused() -> None:
    runner = InMemoryRunner(durable(LlmAgent(name="a", model=fake("x"))), app_name="app")

    async def handler(ctx: Context) -> None:
        await runner.session_service.create_session(app_name="app", user_id="u")

    with pytest.raises(InvocationPaused, match="InMemorySessionService"):
        run(handler)
