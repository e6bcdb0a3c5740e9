"""Tools side by side: what the model asks for at once is done at once: python -m examples.parallel_tools

Each call is a step of its own, with its own place in the journal. A crash while some of them run repeats only those.
"""

import asyncio
from dataclasses import dataclass

from pydantic_ai import Agent

from examples.provider import GPT, provider
from perdure import App, Context, Engine, Service
from perdure.ai.pydantic_ai import PerdureDurability
from perdure.testing.model_server import ChatRequest, Reply, ToolCall


@dataclass
class Load:
    """How many tools are at work, and how many were at most."""

    now: int = 0
    most: int = 0


load = Load()


async def quote(shop: str) -> str:
    """The price of the book in a shop."""
    load.now += 1
    load.most = max(load.most, load.now)
    await asyncio.sleep(0.2)  # shops are slow
    load.now -= 1
    return f"{shop} wants {sum(map(ord, shop)) % 10 + 10} euros."


agent = Agent(
    f"openai-chat:{GPT}",
    instructions="Ask all the shops that are named, at once, what the book costs. Then name the cheapest.",
    tools=[quote],
    capabilities=[PerdureDurability()],
    defer_model_check=True,
)
prices = Service("Prices")


@prices.handler()
async def compare(ctx: Context, shops: list[str]) -> str:
    return (await agent.run("The shops: " + ", ".join(shops))).output


app = App(prices)


# -- the model without a key, and the command ------------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    quotes = [str(message["content"]) for message in request.messages if message["role"] == "tool"]
    if not quotes:
        shops = request.text("user").removeprefix("The shops: ").split(", ")
        return Reply(tool_calls=tuple(ToolCall("quote", {"shop": shop}) for shop in shops))
    return Reply(min(quotes, key=lambda quote: int(quote.split()[-2])))


async def main() -> None:
    load.most = 0
    with provider(policy):
        async with Engine(app) as engine:
            print(await engine.call(compare, ["Ada's", "Bell", "Corner", "Dot & Co", "Elm"]))
    print(f"at most {load.most} tools at once")


if __name__ == "__main__":
    asyncio.run(main())
