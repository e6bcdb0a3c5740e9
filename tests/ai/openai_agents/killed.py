"""What the killed server runs: an agent that hands over to one that uses a tool twice at once."""

import json
import os
from typing import Any

from agents import Agent, function_tool, set_default_openai_api

from perdure import App, Context, RetryPolicy, Service
from perdure.ai.openai_agents import DurableRunner
from perdure.testing.openai_server import ChatRequest, Reply, ToolCall
from tests.ai.killing import arm, effect

arm()
set_default_openai_api("responses" if os.environ.get("PERDURE_TEST_API") == "responses" else "chat_completions")
service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))


def policy(request: ChatRequest) -> Reply:
    """A hand-over, two squares at once, then their sum."""
    if "transfer_to_worker" in request.tool_names:
        return Reply(tool_calls=(ToolCall("transfer_to_worker", {}),))
    results = [json.loads(m["content"]) for m in request.messages if m["role"] == "tool" and m["content"][0].isdigit()]
    if not results:
        return Reply(tool_calls=(ToolCall("square", {"number": 2}), ToolCall("square", {"number": 3})))
    return Reply(f"It is {sum(results)}")


@function_tool
async def square(number: int) -> int:
    """The square of a number."""
    effect(f"square {number}")
    return number * number


worker = Agent[Any](name="Worker", instructions="Work.", model="loopback", tools=[square])
triage = Agent[Any](name="Triage", instructions="Hand over.", model="loopback", handoffs=[worker])
worker.handoffs = [Agent[Any](name="Boss", model="loopback", handoffs=[triage])]


@service.handler()
async def ask(ctx: Context, question: str) -> str:
    with ctx.stream("answer").default():
        result = await DurableRunner.run(triage, question)
    assert result.last_agent is worker
    return str(result.final_output)


@service.handler()
async def stream(ctx: Context, question: str) -> str:
    with ctx.stream("answer").default():
        result = DurableRunner.run_streamed(triage, question)
    text = ""
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert text == result.final_output
    return text


app = App(service)
