"""An agent with the plain `anthropic` client: `python -m examples.ai.anthropic_agent`.

With ANTHROPIC_API_KEY and MODEL in the environment it asks a real model.
"""

import asyncio
from typing import Any

from anthropic import AsyncAnthropic

from examples.ai.loopback import provider
from perdure import App, Context, Engine, Service
from perdure.ai.anthropic import durable

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
TOOLS: Any = [{"name": "weather", "description": "The weather in a place.", "input_schema": PLACE}]


async def weather(place: str) -> str:
    return f"It rains in {place}."


def app(client: AsyncAnthropic, model: str) -> App:
    service = Service("Weather")

    @service.handler()
    async def ask(ctx: Context, question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            answer = await client.messages.create(model=model, max_tokens=1000, messages=messages, tools=TOOLS)
            messages.append({"role": "assistant", "content": [block.to_dict() for block in answer.content]})
            if answer.stop_reason != "tool_use":
                return "".join(block.text for block in answer.content if block.type == "text")
            results = await asyncio.gather(*(use(ctx, block) for block in answer.content if block.type == "tool_use"))
            messages.append({"role": "user", "content": results})

    return App(service)


async def use(ctx: Context, block: Any) -> Any:
    report = await ctx.run(f"tool weather {block.id}", weather, **block.input)
    return {"type": "tool_result", "tool_use_id": block.id, "content": report}


async def main() -> None:
    with provider("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL") as model:
        async with (
            AsyncAnthropic() as client,
            Engine(app(durable(client), model)) as engine,
        ):  # the line: durable(client)
            print(await engine.call("Weather/ask", "How is the weather in Paris and in Rome?"))


if __name__ == "__main__":
    asyncio.run(main())
