"""What else the framework can do, replayed at every await."""

import asyncio
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    HostedMCPTool,
    InputGuardrailTripwireTriggered,
    OutputGuardrailTripwireTriggered,
    RunHooks,
    Runner,
    StopAtTools,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrailData,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
    tool_input_guardrail,
)
from agents.testing import ScriptedModel, assistant_message, function_call
from openai.types.responses.response_output_item import McpApprovalRequest
from pydantic import BaseModel

from perdure import App, Context, Service, TerminalError, current_context
from perdure.ai.openai_agents import Approvals, DurableRunner, in_handler
from perdure.testing import TestEngine
from tests.ai.harness import FAST, run


class Weather(BaseModel):
    city: str
    degrees: int


def call(tool: str, arguments: dict[str, Any], call_id: str) -> Any:
    return function_call(tool, arguments, call_id=call_id)


@pytest.mark.pattern("guardrails")
@pytest.mark.parametrize("where", ["input", "input first", "output"])
def test_a_tripwire_is_raised_and_can_be_caught(where: str) -> None:
    judge = Agent[Any](name="Judge", model=ScriptedModel([[assistant_message("bad")], [assistant_message("bad")]]))

    async def verdict(context: Any, agent: Any, value: Any) -> GuardrailFunctionOutput:
        said = (await Runner.run(judge, str(value))).final_output
        return GuardrailFunctionOutput(said, said == "bad")

    def agent() -> Agent[Any]:
        model = ScriptedModel([[assistant_message("hello")]])
        if where == "output":
            return Agent(name="A", model=model, output_guardrails=[output_guardrail(verdict)])
        guardrail = input_guardrail(verdict, run_in_parallel=where == "input")  # type: ignore[call-overload]
        return Agent(name="A", model=model, input_guardrails=[guardrail])

    caught, uncaught = agent(), agent()

    async def catches(ctx: Context) -> Any:
        try:
            await DurableRunner.run(caught, "x")
        except InputGuardrailTripwireTriggered as tripped:
            return tripped.guardrail_result.output.output_info
        except OutputGuardrailTripwireTriggered as tripped:
            return tripped.guardrail_result.output.output_info

    async def fails(ctx: Context) -> Any:
        await DurableRunner.run(uncaught, "x")

    assert run(catches) == "bad"
    with pytest.raises(TerminalError, match="TripwireTriggered"):
        run(fails)


@pytest.mark.pattern("guardrails")
@pytest.mark.pattern("token streaming")
def test_a_tools_guardrail_answers_in_its_place() -> None:
    used: list[str] = []

    @tool_input_guardrail
    def not_abroad(data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        if "Oslo" in data.context.tool_arguments:
            return ToolGuardrailFunctionOutput.reject_content("not abroad")
        return ToolGuardrailFunctionOutput.allow()

    @function_tool(tool_input_guardrails=[not_abroad])
    def book(city: str) -> str:
        """Books."""
        used.append(city)
        return f"booked {city}"

    calls = [call("book", {"city": "Rome"}, "r"), call("book", {"city": "Oslo"}, "o")]
    agent = Agent[Any](name="A", model=ScriptedModel([calls, [assistant_message("ok")]]), tools=[book])

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            result = await DurableRunner.run(agent, "x")
        return [item.output for item in result.new_items if item.type == "tool_call_output_item"]

    chunks: list[Any] = []
    assert run(handler, shown=chunks) == ["booked Rome", "not abroad"]
    assert used == ["Rome"]
    results = {
        part["id"]: part["output"] for part in chunks if isinstance(part, dict) and part["type"] == "tool-result"
    }
    assert results == {"r": "booked Rome", "o": "not abroad"}


@pytest.mark.pattern("structured output")
@pytest.mark.pattern("control flow")
def test_output_types_hooks_and_tools_that_end_the_run_in_streams() -> None:
    seen: list[str] = []

    class Hooks(RunHooks[Any]):
        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            seen.append(tool.name)

    @function_tool
    def measure(city: str) -> Weather:
        """Measures."""
        return Weather(city=city, degrees=20)

    model = ScriptedModel([[call("measure", {"city": "Rome"}, "m")]])
    ends = Agent[Any](
        name="Ends", model=model, tools=[measure], tool_use_behavior=StopAtTools(stop_at_tool_names=["measure"])
    )
    typed = Agent[Any](
        name="Typed", model=ScriptedModel([[assistant_message('{"city": "Oslo", "degrees": 3}')]]), output_type=Weather
    )

    async def handler(ctx: Context) -> Any:
        outputs = []
        for agent in (ends, typed):
            result = DurableRunner.run_streamed(agent, "x", hooks=Hooks())
            async for _ in result.stream_events():
                pass
            outputs.append(result.final_output)
        return [outputs[0], outputs[1].city]

    assert run(handler) == ["city='Rome' degrees=20", "Oslo"]
    assert set(seen) == {"measure"}


@pytest.mark.pattern("multi-agent")
def test_a_handoff_with_input_and_a_filter_in_streams() -> None:
    told: list[str] = []
    two = Agent[Any](name="Two", model=ScriptedModel([[assistant_message("took over")]]))

    async def on_handoff(context: Any, input: Weather) -> None:
        told.append(input.city)

    over = handoff(two, on_handoff=on_handoff, input_type=Weather, input_filter=lambda data: data)
    calls = [call("transfer_to_two", {"city": "Rome", "degrees": 3}, "h")]
    one = Agent[Any](name="One", model=ScriptedModel([calls]), handoffs=[over])

    async def handler(ctx: Context) -> Any:
        result = DurableRunner.run_streamed(one, "x")
        names = [event.new_agent.name async for event in result.stream_events() if hasattr(event, "new_agent")]
        return [result.final_output, result.last_agent.name, names[-1]]

    assert run(handler) == ["took over", "Two", "Two"]
    assert set(told) == {"Rome"}


@pytest.mark.pattern("remote agent")
def test_an_agent_behind_another_handler_is_a_tool() -> None:
    expert = Agent[Any](name="Expert", model=ScriptedModel([[assistant_message("42")]]))
    experts, desk = Service("Experts", retry_policy=FAST), Service("Desk", retry_policy=FAST)

    @experts.handler()
    async def answer(ctx: Context, question: str) -> str:
        return str((await DurableRunner.run(expert, question)).final_output)

    @function_tool
    @in_handler
    async def ask_expert(question: str) -> str:
        """Asks an expert."""
        return await current_context().call(answer, question)

    model = ScriptedModel([[call("ask_expert", {"question": "?"}, "e")], [assistant_message("it is 42")]])
    agent = Agent[Any](name="Desk", model=model, tools=[ask_expert])

    @desk.handler()
    async def ask(ctx: Context, question: str) -> list[Any]:
        with ctx.stream("answer").default():
            result = await DurableRunner.run(agent, question)
        return [result.final_output, *(item.output for item in result.new_items if hasattr(item, "output"))]

    async def main() -> Any:
        async with TestEngine(App(experts, desk), replay=True) as engine:
            sent = await engine.send(ask, "?")
            return [await sent.attach(), *(await engine.stream(sent.id, "answer").values())[1:]]

    result = {"type": "tool-result", "id": "e", "output": "42"}
    assert asyncio.run(main()) == [["it is 42", "42"], result, "it is 42"]
    assert len(expert.model.calls) == 1  # type: ignore[union-attr]


@pytest.mark.pattern("human approval")
@pytest.mark.pattern("MCP tools")
def test_people_decide_about_a_tool_that_the_provider_would_call() -> None:
    wanted = McpApprovalRequest(
        id="r", arguments='{"what": "a"}', name="measure", server_label="lab", type="mcp_approval_request"
    )
    model = ScriptedModel([[wanted], [assistant_message("ok")]])
    lab: Any = {"type": "mcp", "server_label": "lab", "server_url": "https://lab.example", "require_approval": "always"}
    agent = Agent[Any](name="A", model=model, tools=[HostedMCPTool(tool_config=lab)])
    asked: list[Any] = []

    async def handler(ctx: Context) -> Any:
        approvals = Approvals(timeout=60, notify=lambda request: asked.append(request.context))
        return (await DurableRunner.run(agent, "x", approvals=approvals)).final_output

    assert run(handler) == "ok"
    assert asked[0] == {"tool": "measure", "arguments": {"what": "a"}, "agent": "A"}
    answer: Any = model.calls[1].input[-1]
    assert (answer["type"], answer["approve"]) == ("mcp_approval_response", False)
