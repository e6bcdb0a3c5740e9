"""Write, judge, write again, until the judge is content: python -m examples.evaluator

The loop is a plain `for`. Where it stands is in the journal: a crash in the third round costs nothing of the first two.
"""

import asyncio
from dataclasses import dataclass

from pydantic_ai import Agent

from examples.provider import GPT, provider
from perdure import App, Context, Engine, Service, TerminalError
from perdure.ai.pydantic_ai import PerdureDurability
from perdure.testing.model_server import ChatRequest, Reply, ToolCall

MODEL = f"openai-chat:{GPT}"
ROUNDS = 4


@dataclass
class Verdict:
    """What the judge thinks of a slogan."""

    good: bool
    advice: str


author = Agent(
    MODEL,
    name="author",
    instructions="Write a slogan. Say nothing else.",
    capabilities=[PerdureDurability()],
    defer_model_check=True,
)
judge = Agent(
    MODEL,
    name="judge",
    instructions="Judge the slogan. It is good if it has five words at most and rhymes with nothing.",
    output_type=Verdict,
    capabilities=[PerdureDurability()],
    defer_model_check=True,
)
slogans = Service("Slogans")


@dataclass
class Slogan:
    text: str
    drafts: int


@slogans.handler()
async def slogan(ctx: Context, product: str) -> Slogan:
    wish = f"for {product}"
    for draft in range(1, ROUNDS + 1):
        text = (await author.run(wish)).output
        verdict = (await judge.run(text)).output
        if verdict.good:
            return Slogan(text, draft)
        wish = f"for {product}. You wrote: {text} The judge said: {verdict.advice}"
    raise TerminalError(f"no good slogan for {product} in {ROUNDS} drafts", code=422)


app = App(slogans)


# -- the model without a key, and the command ------------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    said = request.text("user")
    if not request.tool_names:  # the author: one word less than last time
        last = said.partition("You wrote: ")[2].partition(" The judge")[0]
        words = last.rstrip(".").split() or ["It", "goes", "on", "and", "on", "and", "on"]
        return Reply(" ".join(words[:-1]) + ".")
    good = len(said.split()) <= 5
    return Reply(tool_calls=(ToolCall(request.tool_names[0], {"good": good, "advice": "Too long."}),))


async def main() -> None:
    with provider(policy):
        async with Engine(app) as engine:
            made = await engine.call(slogan, "a durable engine")
    print(f"after {made.drafts} drafts: {made.text}")


if __name__ == "__main__":
    asyncio.run(main())
