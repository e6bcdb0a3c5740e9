"""An agent whose tools are those of an MCP server: what it lists and each call of it is a step."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from mcp import StdioServerParameters
from openai import AsyncOpenAI

from perdure import App, Context, Service
from perdure.ai import mcp, openai

agent = Service("Agent")
forecasts = mcp.durable(
    StdioServerParameters(command=sys.executable, args=[str(Path(__file__).with_name("forecasts.py"))])
)
client = openai.durable(AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "none")))


@agent.handler()
async def ask(ctx: Context, question: str) -> str:
    """Answers questions about the weather."""
    tools: Any = await forecasts.tools_for_openai()
    messages: list[Any] = [{"role": "user", "content": question}]
    while True:
        answer = await client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL", "gpt-4.1-mini"), messages=messages, tools=tools
        )
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content or ""
        messages += await asyncio.gather(*(use(call) for call in message.tool_calls))


async def use(call: Any) -> Any:
    arguments = json.loads(call.function.arguments)
    result = await forecasts.call_tool(call.function.name, arguments, call_id=call.id)
    return {"role": "tool", "tool_call_id": call.id, "content": mcp.text_of(result)}


app = App(agent)
