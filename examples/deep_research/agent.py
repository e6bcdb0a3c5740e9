"""Read this first: a researcher of some two hundred steps, in forty lines.

It makes a list of questions, and answers each by searching, reading and noting, five questions at a time. All that
costs is a step; what is between the steps is plain asyncio.

    python -m examples.deep_research                        kills it three times
    perdure serve examples.deep_research.agent:app          does research for whoever asks
"""

import asyncio
import os

from openai import AsyncOpenAI

from examples.provider import GPT
from examples.research_agent import tools
from perdure import App, Context, RetryPolicy, Service, current_step
from perdure.ai.openai import durable

QUESTIONS = 24
AT_ONCE = 5
CHAPTER = 4  # answers in a chapter

client = durable(AsyncOpenAI())
deep = Service("DeepResearch", retry_policy=RetryPolicy(initial_interval=0.1, max_attempts=None))


@deep.handler()
async def research(ctx: Context, topic: str) -> str:
    """A report on a topic."""
    questions = (await ask(f"List {QUESTIONS} questions on {topic}, one a line, nothing else.")).splitlines()
    free = asyncio.Semaphore(AT_ONCE)

    async def in_turn(question: str) -> str:
        async with free:
            return await answer(ctx, question)

    answers = await asyncio.gather(*map(in_turn, questions))
    parts = ["\n".join(answers[first : first + CHAPTER]) for first in range(0, len(answers), CHAPTER)]
    chapters = await asyncio.gather(*(ask(f"Make a chapter of this:\n{part}") for part in parts))
    return await ask("Make a report of these chapters:\n" + "\n".join(chapters))


async def answer(ctx: Context, question: str) -> str:
    """An answer to one question, from three passages that are found, read and noted."""
    hits = (await ctx.run(f"search {question}", search, question))[:3]
    passages = await asyncio.gather(*(ctx.run(f"read {hit.document}#{hit.section}", read, hit) for hit in hits))
    notes = await asyncio.gather(*(ask(f"What does this say on {question}\n{passage}") for passage in passages))
    return await ask(f"Answer from the notes: {question}\n" + "\n".join(notes))


async def ask(prompt: str) -> str:
    response = await client.responses.create(model=GPT, input=prompt)
    return response.output_text


def search(query: str) -> list[tools.Hit]:
    leave_a_trace()
    return tools.search(query)


def read(hit: tools.Hit) -> str:
    leave_a_trace()
    return tools.read(hit.document, hit.section).text


def leave_a_trace() -> None:
    """For the demo, which counts how often each step ran: a line with the step's token."""
    with open(os.environ.get("DEEP_RESEARCH_TRACES", os.devnull), "a") as traces:
        traces.write(f"{current_step().token}\n")


app = App(deep)
