"""The plain `anthropic` client on perdure: python -m examples.quickstarts.anthropic

Without ANTHROPIC_API_KEY a model on loopback answers.
"""

import asyncio
from typing import Any

from anthropic import AsyncAnthropic

from examples.quickstarts.provider import CLAUDE, provider
from perdure import App, Context, Engine, Service
from perdure.ai.anthropic import durable

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"name": "weather", "description": "The weather in a city.", "input_schema": CITY}]


async def weather(city: str) -> str:
    return f"It is sunny in {city}."


def app(client: AsyncAnthropic) -> App:
    travel = Service("Travel")

    @travel.handler()
    async def ask(ctx: Context, question: str) -> str:
        messages: list[Any] = [{"role": "user", "content": question}]
        while True:
            answer = await client.messages.create(model=CLAUDE, max_tokens=1000, messages=messages, tools=TOOLS)
            messages.append({"role": "assistant", "content": [block.to_dict() for block in answer.content]})
            if answer.stop_reason != "tool_use":
                return "".join(block.text for block in answer.content if block.type == "text")
            results = await asyncio.gather(*(use(ctx, block) for block in answer.content if block.type == "tool_use"))
            messages.append({"role": "user", "content": results})

    return App(travel)


async def use(ctx: Context, block: Any) -> Any:
    report = await ctx.run(f"tool weather {block.id}", weather, **block.input)
    return {"type": "tool_result", "tool_use_id": block.id, "content": report}


async def main() -> None:
    with provider("ANTHROPIC"):
        async with durable(AsyncAnthropic()) as client, Engine(app(client)) as engine:  # the line: durable(...)
            print(await engine.call("Travel/ask", "Where is it sunny?"))


if __name__ == "__main__":
    asyncio.run(main())
