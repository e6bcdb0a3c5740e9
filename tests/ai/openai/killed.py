"""What the killed server runs: an agent of three model requests and three tools, with the plain client."""

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI

from perdure import App, Context, RetryPolicy, Service
from perdure.ai.base import tool_call
from perdure.ai.openai import durable
from perdure.testing.openai_server import ChatRequest, Reply, ToolCall
from tests.ai.killing import arm, effect

arm()
service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))
client = durable(AsyncOpenAI(api_key="loopback"))
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOL: Any = {"type": "function", "function": {"name": "square", "parameters": NUMBER}}


def policy(request: ChatRequest) -> Reply:
    """Two squares at once, then the square of their sum, then the answer."""
    results = [json.loads(m["content"]) for m in request.messages if m["role"] == "tool"]
    if request.turn == 0:
        return Reply(tool_calls=(ToolCall("square", {"number": 2}), ToolCall("square", {"number": 3})))
    if request.turn == 1:
        return Reply(tool_calls=(ToolCall("square", {"number": sum(results)}),))
    return Reply(f"It is {results[-1]}")


async def square(number: int) -> int:
    effect(f"square {number}")
    return number * number


@service.handler()
async def ask(ctx: Context, question: str) -> str:
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        answer = await client.chat.completions.create(model="loopback", messages=messages, tools=[TOOL])
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content or ""
        messages += await asyncio.gather(*(use(call) for call in message.tool_calls))


async def use(call: Any) -> Any:
    arguments = json.loads(call.function.arguments)
    result = await tool_call("square", lambda: square(**arguments), function=square, call_id=call.id)
    return {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)}


app = App(service)
