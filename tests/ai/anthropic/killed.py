"""What the killed server runs: an agent of two model requests and two tools, with the plain client."""

import asyncio
from typing import Any

from anthropic import AsyncAnthropic

from perdure import App, Context, RetryPolicy, Service
from perdure.ai.anthropic import durable
from perdure.ai.base import tool_call
from perdure.testing.openai_server import ChatRequest, Reply, ToolCall
from tests.ai.killing import arm, effect

arm()
service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))
client = durable(AsyncAnthropic(api_key="loopback"))
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOLS: Any = [{"name": "square", "input_schema": NUMBER}]


def policy(request: ChatRequest) -> Reply:
    """Two squares at once, then their sum."""
    if request.turn == 0:
        return Reply(tool_calls=(ToolCall("square", {"number": 2}), ToolCall("square", {"number": 3})))
    return Reply(f"It is {sum(int(message['content']) for message in request.messages if message['role'] == 'tool')}")


async def square(number: int) -> int:
    effect(f"square {number}")
    return number * number


@service.handler()
async def ask(ctx: Context, question: str) -> str:
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        async with client.messages.stream(model="loopback", max_tokens=99, messages=messages, tools=TOOLS) as stream:
            answer = await stream.get_final_message()
        messages.append({"role": "assistant", "content": [block.to_dict() for block in answer.content]})
        if answer.stop_reason != "tool_use":
            return "".join(block.text for block in answer.content if block.type == "text")
        results = await asyncio.gather(*(use(block) for block in answer.content if block.type == "tool_use"))
        messages.append({"role": "user", "content": results})


async def use(block: Any) -> Any:
    result = await tool_call("square", lambda: square(**block.input), function=square, call_id=block.id)
    return {"type": "tool_result", "tool_use_id": block.id, "content": str(result)}


app = App(service)
