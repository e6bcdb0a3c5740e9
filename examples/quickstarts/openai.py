"""The plain `openai` client on perdure: python -m examples.quickstarts.openai

Without OPENAI_API_KEY a model on loopback answers.
"""

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI

from examples.quickstarts.provider import MODEL, provider
from perdure import App, Context, Engine, Service
from perdure.ai.openai import durable

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


async def weather(city: str) -> str:
    return f"It is sunny in {city}."


def app(client: AsyncOpenAI) -> App:
    travel = Service("Travel")

    @travel.handler()
    async def ask(ctx: Context, question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            messages += await asyncio.gather(*(use(ctx, call) for call in message.tool_calls))

    return App(travel)


async def use(ctx: Context, call: Any) -> Any:
    report = await ctx.run(f"tool weather {call.id}", weather, **json.loads(call.function.arguments))
    return {"role": "tool", "tool_call_id": call.id, "content": report}


async def main() -> None:
    with provider():
        async with durable(AsyncOpenAI()) as client, Engine(app(client)) as engine:  # the line: durable(...)
            print(await engine.call("Travel/ask", "Where is it sunny?"))


if __name__ == "__main__":
    asyncio.run(main())
