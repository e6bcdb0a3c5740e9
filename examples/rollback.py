"""Rollback: what an agent's tools did is undone if the whole can't be done: python -m examples.rollback

Each tool registers how to undo itself before it acts. If the run fails for good, or is cancelled, the saga undoes in
reverse order, each compensation as a step. A crash undoes nothing: the agent goes on.
"""

import asyncio

from pydantic_ai import Agent, RunContext

from examples.provider import GPT, provider
from perdure import App, Context, Engine, Saga, Service, TerminalError, current_context
from perdure.ai import in_handler
from perdure.ai.pydantic_ai import PerdureDurability
from perdure.testing.model_server import ChatRequest, Reply, ToolCall

agent = Agent(
    f"openai-chat:{GPT}",
    deps_type=Saga,
    instructions="Book a flight and a hotel, then pay for both, one after the other.",
    capabilities=[PerdureDurability()],
    defer_model_check=True,
)


@agent.tool
@in_handler  # it runs in the handler, so that it can use the saga; what it does is a step
async def book(run: RunContext[Saga], what: str, city: str) -> str:
    """Book a flight to a city, or a hotel there."""
    run.deps.compensate(cancel_booking, what, city)
    return await current_context().run(f"book {what}", make_booking, what, city)


@agent.tool_plain
async def pay(euros: int) -> str:
    """Pay for everything that is booked."""
    if euros > LIMIT:
        raise TerminalError(f"the card does not have {euros} euros", code=402)
    return "paid"


LIMIT = 500
booked: set[str] = set()  # the world outside


def make_booking(what: str, city: str) -> str:
    booked.add(f"{what} {city}")
    print(f"booked a {what}, {city}")
    return f"{what} {city}"


def cancel_booking(what: str, city: str) -> None:
    booked.discard(f"{what} {city}")  # bears that there is nothing to undo
    print(f"cancelled the {what}, {city}")


trips = Service("Trips")


@trips.handler()
async def travel(ctx: Context, wish: str) -> str:
    async with ctx.saga() as saga:
        return (await agent.run(wish, deps=saga)).output


app = App(trips)


# -- the model without a key, and the command ------------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    """Books, books, pays; a trip to Rome is cheap."""
    city = request.text("user").split()[-1]
    price = 300 if city == "Rome" else 900
    calls = (
        ToolCall("book", {"what": "flight", "city": city}),
        ToolCall("book", {"what": "hotel", "city": city}),
        ToolCall("pay", {"euros": price}),
    )
    return Reply(tool_calls=(calls[request.turn],)) if request.turn < 3 else Reply(f"All is booked and paid: {city}.")


async def main() -> None:
    with provider(policy):
        async with Engine(app) as engine:
            for city in ("Rome", "Tokyo"):
                try:
                    print(await engine.call(travel, f"A weekend in {city}"))
                except TerminalError as error:
                    print(f"failed: {error}")
    print(f"what is booked in the end: {', '.join(sorted(booked)) or 'nothing'}")


if __name__ == "__main__":
    asyncio.run(main())
