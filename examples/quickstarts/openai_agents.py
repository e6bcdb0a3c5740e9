"""The OpenAI Agents SDK on perdure: python -m examples.quickstarts.openai_agents

Without OPENAI_API_KEY a model on loopback answers. Serve it: perdure serve examples.quickstarts.openai_agents:app
"""

import asyncio

from agents import Agent, function_tool

from examples.quickstarts.provider import MODEL, provider
from perdure import App, Context, Engine, Service
from perdure.ai.openai_agents import DurableRunner


@function_tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


agent = Agent[None](name="Guide", instructions="Help travellers.", model=MODEL, tools=[weather])
travel = Service("Travel")


@travel.handler()
async def ask(ctx: Context, question: str) -> str:
    result = await DurableRunner.run(agent, question)
    return str(result.final_output)


app = App(travel)


async def main() -> None:
    with provider():
        async with Engine(app, path=None) as engine:
            print(await engine.call(ask, "Where is it sunny?"))


if __name__ == "__main__":
    asyncio.run(main())
