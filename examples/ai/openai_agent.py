"""An agent with the plain `openai` client: `python -m examples.ai.openai_agent`.

With OPENAI_API_KEY and MODEL in the environment it asks a real model.
"""

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI

from examples.ai.loopback import provider
from perdure import App, Context, Engine, Service
from perdure.ai.openai import durable

service = Service("Weather")
PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]


async def weather(place: str) -> str:
    return f"It rains in {place}."


@service.handler()
async def ask(ctx: Context, question: list[str]) -> str:
    """`question` is the model's name and what to ask it."""
    model, text = question
    async with AsyncOpenAI() as plain:
        client = durable(plain)  # the line: from here on each request is a step
        messages: list[Any] = [{"role": "user", "content": text}]
        while True:
            answer = await client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            messages += await asyncio.gather(*(use(ctx, call) for call in message.tool_calls))


async def use(ctx: Context, call: Any) -> Any:
    report = await ctx.run(f"tool weather {call.id}", weather, **json.loads(call.function.arguments))
    return {"role": "tool", "tool_call_id": call.id, "content": report}


async def main() -> None:
    with provider("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1") as model:
        async with Engine(App(service)) as engine:
            print(await engine.call(ask, [model, "How is the weather in Paris and in Rome?"]))


if __name__ == "__main__":
    asyncio.run(main())
