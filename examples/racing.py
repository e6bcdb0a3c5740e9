"""Two models race: the first answer counts, and the other request is cancelled: python -m examples.racing

Plain asyncio. The journal says who came first, so a replay has the same winner. With keys of both OpenAI and Anthropic
they are real ones.
"""

import asyncio

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from examples.provider import CLAUDE, GPT, provider, until
from perdure import App, Context, Engine, Service
from perdure.ai import anthropic, openai
from perdure.testing.model_server import ChatRequest, Fault, Reply

gpt: AsyncOpenAI  # durable clients: see main()
claude: AsyncAnthropic
quick = Service("Quick")


@quick.handler()
async def answer(ctx: Context, question: str) -> str:
    racers = [asyncio.create_task(ask_gpt(question)), asyncio.create_task(ask_claude(question))]
    done, late = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for racer in late:
        racer.cancel()  # closes its connection, so that the provider stops writing
    return done.pop().result()


async def ask_gpt(question: str) -> str:
    response = await gpt.responses.create(model=GPT, input=question)
    return f"{response.output_text} (OpenAI)"


async def ask_claude(question: str) -> str:
    message = await claude.messages.create(
        model=CLAUDE, max_tokens=500, messages=[{"role": "user", "content": question}]
    )
    return "".join(block.text for block in message.content if block.type == "text") + " (Anthropic)"


app = App(quick)


# -- the models without a key, and the command -----------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    return Reply(f"You asked: {request.text('user')}")


async def main() -> None:
    global gpt, claude
    slow = Fault(containing=GPT, delay=3)
    with provider(policy, "OPENAI", "ANTHROPIC", faults=[slow]) as server:
        async with openai.durable(AsyncOpenAI()) as gpt, anthropic.durable(AsyncAnthropic()) as claude:
            async with Engine(app) as engine:
                print(await engine.call(answer, "Who is quicker?"))
            if server is not None:
                await until(lambda: all(seen.outcome != "in progress" for seen in server.requests))
                print(", ".join(sorted(f"{seen.model}: {seen.outcome}" for seen in server.requests)))


if __name__ == "__main__":
    asyncio.run(main())
