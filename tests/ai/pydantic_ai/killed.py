"""What the killed server runs: an agent with parallel tools, one of which asks for a retry, and structured output."""

from dataclasses import dataclass

from pydantic_ai import Agent, ModelRetry
from pydantic_ai.models.openai import OpenAIChatModel

from perdure import App, Context, RetryPolicy, Service
from perdure.ai.pydantic_ai import PerdureDurability
from perdure.testing.openai_server import ChatRequest, Reply, ToolCall
from tests.ai.killing import arm, effect

arm()
service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))


@dataclass
class Answer:
    number: int


def policy(request: ChatRequest) -> Reply:
    """Two squares at once, one of them refused, then the answer."""
    results = [str(message["content"]) for message in request.messages if message["role"] == "tool"]
    if request.turn == 0:
        return Reply(tool_calls=(ToolCall("square", {"number": 2}), ToolCall("square", {"number": -3})))
    refused = sum("must not be negative" in result for result in results)
    number = refused + sum(int(result) for result in results if result.isdigit())
    return Reply(tool_calls=(ToolCall("final_result", {"number": number}),))


async def square(number: int) -> int:
    effect(f"square {number}")
    if number < 0:
        raise ModelRetry("must not be negative")
    return number * number


agent = Agent(OpenAIChatModel("loopback"), tools=[square], output_type=Answer, capabilities=[PerdureDurability()])


@service.handler()
async def ask(ctx: Context, question: str) -> int:
    return (await agent.run(question)).output.number


app = App(service)
