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

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]


async def weather(place: str) -> str:
    return f"It rains in {place}."


def app(client: AsyncOpenAI, model: str) -> App:
    service = Service("Weather")

    @service.handler()
    async def ask(ctx: Context, question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            answer = await client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            messages += await asyncio.gather(*(use(ctx, call) for call in message.tool_calls))

    return App(service)


async def use(ctx: Context, call: Any) -> Any:
    report = await ctx.run(f"tool weather {call.id}", weather, **json.loads(call.function.arguments))
    return {"role": "tool", "tool_call_id": call.id, "content": report}


async def main() -> None:
    with provider("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1") as model:
        async with AsyncOpenAI() as client, Engine(app(durable(client), model)) as engine:  # the line: durable(client)
            print(await engine.call("Weather/ask", "How is the weather in Paris and in Rome?"))


if __name__ == "__main__":
    asyncio.run(main())
