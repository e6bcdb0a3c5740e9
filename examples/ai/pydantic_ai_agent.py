"""A pydantic-ai agent: `python -m examples.ai.pydantic_ai_agent`.

With OPENAI_API_KEY and MODEL in the environment it asks a real model.
"""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

from examples.ai.loopback import provider
from perdure import App, Context, Engine, Service
from perdure.ai.pydantic_ai import PerdureDurability


async def weather(place: str) -> str:
    """The weather in a place."""
    return f"It rains in {place}."


def app(model: str) -> App:
    agent = Agent(OpenAIChatModel(model), tools=[weather], capabilities=[PerdureDurability()])  # the line
    service = Service("Weather")

    @service.handler()
    async def ask(ctx: Context, question: str) -> str:
        return (await agent.run(question)).output

    return App(service)


async def main() -> None:
    with provider("OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1") as model:
        async with Engine(app(model)) as engine:
            print(await engine.call("Weather/ask", "How is the weather in Paris and in Rome?"))


if __name__ == "__main__":
    asyncio.run(main())
