"""Rung 1: the framework's own test model, on an engine that replays at every await."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    MaxTurnsExceeded,
    Model,
    ModelProvider,
    ModelResponse,
    RunConfig,
    RunContextWrapper,
    Runner,
    SQLiteSession,
    ToolOutputText,
    Usage,
    function_tool,
    handoff,
    input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic import BaseModel

from perdure import Context, RetryableError, TerminalError, current_context, current_step
from perdure.ai.openai_agents import DurableRunner, in_handler
from perdure.testing import InvocationPaused
from tests.ai.harness import run


class Weather(BaseModel):
    city: str
    degrees: int


def call(tool: str, arguments: dict[str, Any], call_id: str = "c") -> Any:
    return function_call(tool, arguments, call_id=call_id)


def scripted(*steps: Any) -> ScriptedModel:
    return ScriptedModel(steps)


@pytest.mark.pattern("parallel tools")
def test_a_model_instance_and_its_tools_are_steps() -> None:
    together = threading.Barrier(2)
    done: list[str] = []

    @function_tool
    def weather(city: str) -> Weather:
        """The weather."""
        together.wait(10)
        done.append(current_step().token)
        return Weather(city=city, degrees=20)

    model = scripted(
        [
            call("weather", {"city": "Rome"}, call_id="a"),
            call("weather", {"city": "Oslo"}, call_id="b"),
        ],
        [assistant_message("warm")],
    )
    agent = Agent(name="A", model=model, tools=[weather])
    steps: list[str] = []

    async def handler(ctx: Context, prompt: str) -> Any:
        result = await DurableRunner.run(agent, prompt)
        outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
        assert all(isinstance(output, Weather) for output in outputs)
        assert result.last_agent is agent
        return [result.final_output, [output.city for output in outputs], result.context_wrapper.usage.requests]

    assert run(handler, "how?", steps=steps) == ["warm", ["Rome", "Oslo"], 2]
    assert sorted(steps[1:3]) == ["tool weather a", "tool weather b"]
    assert [steps[0], steps[3]] == ["model ScriptedModel", "model ScriptedModel"]
    assert len(set(done)) == 2
    assert len(model.calls) == 2
    assert model.calls[0].model_settings.extra_headers is not None
    assert "Idempotency-Key" in model.calls[0].model_settings.extra_headers


def test_every_way_to_a_model() -> None:
    class Provider(ModelProvider):
        def get_model(self, model_name: str | None) -> Model:
            return scripted([assistant_message(str(model_name))])

    async def handler(ctx: Context) -> Any:
        instance = scripted([assistant_message("instance")])
        answers = [
            await DurableRunner.run(Agent(name="A"), "x", run_config=RunConfig(model_provider=Provider())),
            await DurableRunner.run(Agent(name="A", model="n"), "x", run_config=RunConfig(model_provider=Provider())),
            await DurableRunner.run(Agent(name="A"), "x", run_config=RunConfig(model=instance)),
            await DurableRunner.run(
                Agent(name="A", model="n"), "x", run_config={"model": "m", "model_provider": Provider()}
            ),
            await Runner.run(Agent(name="A", model=scripted([assistant_message("plain Runner")])), "x"),
        ]
        return [answer.final_output for answer in answers]

    steps: list[str] = []
    assert run(handler, steps=steps) == ["None", "n", "instance", "m", "plain Runner"]
    assert len(steps) == 5


@pytest.mark.pattern("multi-agent")
def test_handoffs_in_a_circle() -> None:
    one: Agent[Any] = Agent(name="One", model=scripted([call("transfer_to_two", {}, "h1")], [assistant_message("end")]))
    two: Agent[Any] = Agent(name="Two", model=scripted([call("transfer_to_one", {}, "h2")]))
    one.handoffs = [two]
    two.handoffs = [handoff(one)]

    async def handler(ctx: Context) -> Any:
        result = await DurableRunner.run(one, "x")
        assert result.last_agent is one
        return [result.final_output, [item.agent.name for item in result.new_items]]

    steps: list[str] = []
    assert run(handler, steps=steps) == ["end", ["One", "One", "Two", "Two", "One"]]
    assert steps == ["model ScriptedModel"] * 3


@pytest.mark.pattern("agent as tool")
def test_agents_as_tools_and_agents_in_guardrails() -> None:
    expert = Agent(name="Expert", model=scripted([assistant_message("42")]))
    checker = Agent(name="Checker", model=scripted([assistant_message("fine")]))

    @input_guardrail
    async def check(context: Any, agent: Any, input: Any) -> GuardrailFunctionOutput:
        result = await Runner.run(checker, input)
        return GuardrailFunctionOutput(result.final_output, result.final_output != "fine")

    model = scripted([call("ask", {"input": "?"})], [assistant_message("it is 42")])
    agent = Agent(name="A", model=model, tools=[expert.as_tool("ask", "asks")], input_guardrails=[check])
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        result = await DurableRunner.run(agent, "x")
        return [result.final_output, result.input_guardrail_results[0].output.output_info]

    assert run(handler, steps=steps) == ["it is 42", "fine"]
    assert steps == ["model ScriptedModel"] * 4


@pytest.mark.pattern("structured output")
def test_structured_output_and_a_tool_in_the_handler() -> None:
    @function_tool
    @in_handler
    async def ask(question: str) -> str:
        """Asks."""
        await asyncio.sleep(3600)
        answer: str = await current_context().run("look", lambda: f"{question}!")
        return answer

    model = scripted([call("ask", {"question": "q"})], [assistant_message('{"city": "Rome", "degrees": 3}')])
    agent = Agent(name="A", model=model, tools=[ask], output_type=Weather)
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        result = await DurableRunner.run(agent, "x")
        return [result.final_output_as(Weather).degrees, str(result.new_items[1].to_input_item()["output"])]  # type: ignore[typeddict-item]

    assert run(handler, steps=steps) == [3, "q!"]
    assert steps == ["model ScriptedModel", "look", "model ScriptedModel"]


@pytest.mark.pattern("agent with tools")
def test_what_tools_return_and_raise() -> None:
    tries: list[int] = []

    @function_tool
    def fails() -> str:
        """Fails, and the model is told."""
        raise ValueError("no luck")

    @function_tool
    def again() -> str:
        """Is tried again."""
        tries.append(1)
        if len(tries) < 3:
            raise RetryableError("busy")
        return "at last"

    @function_tool
    def rich() -> list[ToolOutputText]:
        """Returns the framework's own."""
        return [ToolOutputText(text="rich")]

    @function_tool
    def odd() -> Any:
        """Returns what is only good for str()."""
        return threading.Lock

    calls = [call(name, {}, call_id=name) for name in ("fails", "again", "rich", "odd")]
    agent = Agent(name="A", model=scripted(calls, [assistant_message("ok")]), tools=[fails, again, rich, odd])

    async def handler(ctx: Context) -> Any:
        result = await DurableRunner.run(agent, "x")
        items = [item for item in result.new_items if item.type == "tool_call_output_item"]
        return [str(item.raw_item["output"]) for item in items]  # type: ignore[index]

    failed, *others = run(handler)
    assert "error occurred" in failed
    assert others == ["at last", "[{'type': 'input_text', 'text': 'rich'}]", str(threading.Lock)]


def test_a_terminal_error_of_a_tool_ends_the_run() -> None:
    @function_tool
    def ends() -> str:
        """Ends."""
        raise TerminalError("over", 418)

    agent = Agent(name="A", model=scripted([call("ends", {})]), tools=[ends])

    async def handler(ctx: Context) -> Any:
        return (await DurableRunner.run(agent, "x")).final_output

    with pytest.raises(TerminalError, match="over") as caught:
        run(handler)
    assert caught.value.code == 418


@pytest.mark.pattern("guardrails")
def test_what_the_framework_raises_can_be_caught_and_is_final() -> None:
    @function_tool
    def again() -> str:
        """Again."""
        return "again"

    def agent() -> Agent[Any]:
        return Agent(name="A", model=scripted(*[[call("again", {}, call_id=str(n))] for n in range(3)]), tools=[again])

    caught, uncaught = agent(), agent()

    async def catches(ctx: Context) -> str:
        try:
            await DurableRunner.run(caught, "x", max_turns=2)
        except MaxTurnsExceeded:
            return "caught"
        return "nothing"

    async def fails(ctx: Context) -> None:
        await DurableRunner.run(uncaught, "x", max_turns=2)

    assert run(catches) == "caught"
    with pytest.raises(TerminalError, match="MaxTurnsExceeded"):
        run(fails)


def test_streamed_events_replay() -> None:
    @function_tool
    def tool() -> str:
        """A tool."""
        return "t"

    agent = Agent(name="A", model=scripted([call("tool", {})], [assistant_message("streamed")]), tools=[tool])
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        result = DurableRunner.run_streamed(agent, "x")
        kinds = [
            event.data.type if event.type == "raw_response_event" else event.type
            async for event in result.stream_events()
        ]
        return [result.final_output, kinds]

    answer, kinds = run(handler, steps=steps)
    assert answer == "streamed"
    assert {"response.completed", "run_item_stream_event", "agent_updated_stream_event"} <= set(kinds)
    assert steps == [
        "model ScriptedModel",
        "tool tool call_tool" if len(steps) < 2 else steps[1],
        "model ScriptedModel",
    ]


def test_a_model_around_the_journal_is_refused() -> None:
    class Hand(ScriptedModel):
        pass

    async def answer(*args: Any, **kwargs: Any) -> ModelResponse:
        return ModelResponse([assistant_message("sly")], Usage(requests=1), None)

    model = Hand([])
    model.get_response = answer  # type: ignore[method-assign]

    async def handler(ctx: Context) -> Any:
        return (await DurableRunner.run(Agent(name="A", model=model), "x")).final_output

    with pytest.raises(InvocationPaused, match="around the journal"):
        run(handler)


def test_outside_of_handlers_it_is_the_runner() -> None:
    agent = Agent(
        name="A", model=scripted([assistant_message("one")], [assistant_message("two")], [assistant_message("3")])
    )

    async def main() -> list[Any]:
        streamed = DurableRunner.run_streamed(agent, "x")
        async for _ in streamed.stream_events():
            pass
        return [streamed.final_output, (await DurableRunner.run(agent, "x")).final_output]

    assert asyncio.run(main()) == ["one", "two"]
    with event_loop():
        assert DurableRunner.run_sync(agent, "x").final_output == "3"


def test_a_plain_handler_runs_it_in_its_thread() -> None:
    @function_tool
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    agent = Agent(name="A", model=scripted([call("add", {"a": 1, "b": 2})], [assistant_message("3")]), tools=[add])
    steps: list[str] = []

    def handler(ctx: Any) -> Any:
        with event_loop():
            return DurableRunner.run_sync(agent, "x").final_output

    assert run(handler, steps=steps) == "3"
    assert len(steps) == 3


def test_another_session_is_used_in_steps() -> None:
    session = SQLiteSession("s")
    agent = Agent(name="A", model=scripted([assistant_message("one")], [assistant_message("two")]))
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        await DurableRunner.run(agent, "x", session=session)
        result = await DurableRunner.run(agent, "y", session=session)
        return len(result.to_input_list())

    assert run(handler, steps=steps) == 4
    assert "tool session.add_items" in steps
    assert len(asyncio.run(session.get_items())) == 4
    session.close()


@contextlib.contextmanager
def event_loop() -> Iterator[None]:
    """The framework's run_sync makes a loop for its thread and leaves it open; here it is closed."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@dataclass
class Memo:
    notes: list[str]


def test_the_run_context_reaches_tools() -> None:
    @function_tool
    def read(context: RunContextWrapper[Memo]) -> str:
        """Reads."""
        return context.context.notes[0]

    agent = Agent[Memo](name="A", model=scripted([call("read", {})], [assistant_message("ok")]), tools=[read])

    async def handler(ctx: Context) -> Any:
        result = await DurableRunner.run(agent, "x", context=Memo(["note"]))
        return str(result.new_items[1].to_input_item()["output"])  # type: ignore[typeddict-item]

    assert run(handler) == "note"


def test_a_local_machine_is_refused() -> None:
    from agents import LocalShellTool

    async def handler(ctx: Context) -> Any:
        agent = Agent(name="A", model=scripted([assistant_message("x")]), tools=[LocalShellTool(lambda request: "")])
        return (await DurableRunner.run(agent, "x")).final_output

    with pytest.raises(InvocationPaused, match="LocalShellTool"):
        run(handler)
