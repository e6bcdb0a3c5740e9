"""Agents that hand over to each other: python -m examples.multi_agent

The front desk decides who is to answer, with the handoffs of the OpenAI Agents SDK; both experts can hand back.
All that they do is steps of one invocation.
"""

import asyncio
from dataclasses import dataclass

from agents import Agent, function_tool, handoff

from examples.provider import GPT, provider
from perdure import App, Context, Engine, Service
from perdure.ai.openai_agents import DurableRunner
from perdure.testing.model_server import ChatRequest, Reply, ToolCall


@function_tool
async def invoice(number: str) -> str:
    """Look an invoice up."""
    return f"Invoice {number}: 40 euros, paid twice."


@function_tool
async def device_status(name: str) -> str:
    """Ask a device how it is."""
    return f"The {name} is offline."


billing = Agent[None](name="Billing", model=GPT, instructions="You answer questions on invoices.", tools=[invoice])
support = Agent[None](name="Support", model=GPT, instructions="You repair devices.", tools=[device_status])
desk = Agent[None](name="Desk", model=GPT, instructions="Hand over to whoever can answer.")
desk.handoffs = [handoff(billing), handoff(support)]
billing.handoffs = support.handoffs = [handoff(desk)]  # a cycle

service = Service("Desk")


@dataclass
class Said:
    by: str
    text: str


@service.handler()
async def ask(ctx: Context, question: str) -> Said:
    result = await DurableRunner.run(desk, question)
    return Said(result.last_agent.name, str(result.final_output))


app = App(service)


# -- the model without a key, and the command ------------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    """Hands over by what is asked; then uses the expert's tool, and says what it said."""
    asked, said = request.text("user"), request.text("tool")
    expert, tool, argument = (
        ("billing", "invoice", {"number": "17"})
        if "invoice" in asked
        else ("support", "device_status", {"name": "lamp"})
    )
    if tool not in request.tool_names:
        return Reply(tool_calls=(ToolCall(f"transfer_to_{expert}"),))
    if "assistant" in said or not said:  # the handoff's own result
        return Reply(tool_calls=(ToolCall(tool, argument),))
    return Reply(said)


async def main() -> None:
    with provider(policy):
        async with Engine(app) as engine:
            for question in ("Why did I pay invoice 17 twice?", "My lamp does not light."):
                said = await engine.call(ask, question)
                print(f"{said.by}: {said.text}")


if __name__ == "__main__":
    asyncio.run(main())
