"""pydantic-ai on perdure: python -m examples.quickstarts.pydantic_ai

Without OPENAI_API_KEY a model on loopback answers. Serve it: perdure serve examples.quickstarts.pydantic_ai:app
"""

import asyncio

from pydantic_ai import Agent

from examples.quickstarts.provider import MODEL, provider
from perdure import App, Context, Engine, Service
from perdure.ai.pydantic_ai import PerdureDurability


async def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


agent = Agent(f"openai-chat:{MODEL}", tools=[weather], capabilities=[PerdureDurability()], defer_model_check=True)
travel = Service("Travel")


@travel.handler()
async def ask(ctx: Context, question: str) -> str:
    return (await agent.run(question)).output


app = App(travel)


async def main() -> None:
    with provider():
        async with Engine(app) as engine:
            print(await engine.call(ask, "Where is it sunny?"))


if __name__ == "__main__":
    asyncio.run(main())
