"""Prompt chaining: each request builds on the answer to the one before: python -m examples.chain

Kill it between two links and it goes on with the next: an answer that is in the journal is not paid for again.
"""

import asyncio

from openai import AsyncOpenAI

from examples.provider import GPT, provider
from perdure import App, Context, Engine, Service, TerminalError
from perdure.ai.openai import durable
from perdure.testing.model_server import ChatRequest, Reply

client: AsyncOpenAI  # a durable one: see main()
writer = Service("Writer")


@writer.handler()
async def write(ctx: Context, topic: str) -> str:
    """An announcement, by way of an outline and a draft."""
    outline = await ask(f"Outline a text about {topic}: three points, one a line, nothing else.")
    if len(outline.splitlines()) < 3:
        raise TerminalError(f"no outline of {topic}: {outline}")  # not worth two more requests
    draft = await ask(f"Write a sentence about each point:\n{outline}")
    return await ask(f"Make one sentence of this:\n{draft}")


async def ask(prompt: str) -> str:
    """A step, since the client is durable and this runs in a handler."""
    response = await client.responses.create(model=GPT, input=prompt)
    return response.output_text


app = App(writer)


# -- the model without a key, and the command ------------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    task, _, text = request.text("user").partition("\n")
    if task.startswith("Outline"):
        return Reply("what it is\nwhat it costs\nwho needs it")
    if task.startswith("Write"):
        return Reply(" ".join(f"Here is {point}." for point in text.splitlines()))
    return Reply(f"In short: {text.lower().replace('. here is', ',')}")


async def main() -> None:
    global client
    with provider(policy):
        async with durable(AsyncOpenAI()) as client, Engine(app) as engine:
            print(await engine.call(write, "durable execution"))


if __name__ == "__main__":
    asyncio.run(main())
