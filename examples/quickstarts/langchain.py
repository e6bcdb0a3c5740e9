"""LangChain on perdure: python -m examples.quickstarts.langchain

Without OPENAI_API_KEY a model on loopback answers.
"""

import asyncio

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from examples.quickstarts.provider import MODEL, provider
from perdure import App, Context, Engine, Service
from perdure.ai.langchain import DurableMiddleware


@tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


travel = Service("Travel")


@travel.handler()
async def ask(ctx: Context, question: str) -> str:
    agent = create_agent(ChatOpenAI(model=MODEL), [weather], middleware=[DurableMiddleware()])
    state = await agent.ainvoke({"messages": [{"role": "user", "content": question}]})
    return str(state["messages"][-1].text)


app = App(travel)


async def main() -> None:
    with provider():
        async with Engine(app, path=None) as engine:
            print(await engine.call(ask, "Where is it sunny?"))


if __name__ == "__main__":
    asyncio.run(main())
