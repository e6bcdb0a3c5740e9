"""The travel desk: an agent that asks another one, who lives in another process, as if it were a tool.

The call is durable: it is made once, whoever dies meanwhile, and its result is in this agent's journal.
"""

from pydantic_ai import Agent

from examples.provider import GPT
from perdure import App, Context, Service, current_context
from perdure.ai import in_handler
from perdure.ai.pydantic_ai import PerdureDurability

agent = Agent(
    f"openai-chat:{GPT}",
    instructions="You plan trips. Ask the forecaster for the weather.",
    capabilities=[PerdureDurability()],
    defer_model_check=True,
)


@agent.tool_plain
@in_handler  # it is a call, and so no step
async def ask_forecaster(question: str) -> str:
    """Ask the forecaster, an expert in weather."""
    return str(await current_context().call("Forecaster/ask", question))


desk = Service("Desk")


@desk.handler()
async def plan(ctx: Context, wish: str) -> str:
    return (await agent.run(wish)).output


@desk.handler(private=True)
async def preferences(ctx: Context, customer: str) -> str:
    """What a customer likes, for other agents."""
    return f"{customer} likes it warm"


app = App(desk)
