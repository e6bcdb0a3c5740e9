"""The forecaster: an agent in a process of its own, with another framework, who calls back the desk for what it needs.

`granian --interface asgi --http auto --port 9080 examples.remote_agents.forecaster:app`, and
`perdure deployments register http://127.0.0.1:9080`.
"""

from agents import Agent, function_tool

from examples.provider import GPT
from perdure import App, Context, Service, current_context
from perdure.ai import in_handler
from perdure.ai.openai_agents import DurableRunner


@function_tool
async def measure(city: str) -> str:
    """The temperature in a city."""
    return f"{20 + len(city)} degrees in {city}"


async def ask_desk(customer: str) -> str:
    """What a customer likes."""
    return str(await current_context().call("Desk/preferences", customer))


agent = Agent[None](
    name="Forecaster",
    model=GPT,
    instructions="You know the weather, and say whether the customer will like it.",
    tools=[measure, function_tool(in_handler(ask_desk))],
)
forecaster = Service("Forecaster")


@forecaster.handler()
async def ask(ctx: Context, question: str) -> str:
    result = await DurableRunner.run(agent, question)
    return str(result.final_output)


app = App(forecaster)
