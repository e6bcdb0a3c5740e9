"""Interrupt and regenerate: who says more while the answer is being made gets an answer to all of it.

`python -m examples.interrupt`. The conversation is a virtual object, which takes messages while an answer is made
elsewhere. A new message cancels that answer, wherever it is, and begins another; exactly one answer is kept.
"""

import asyncio
from dataclasses import dataclass

from anthropic import AsyncAnthropic

from examples.provider import CLAUDE, provider, until
from perdure import App, Context, Engine, ObjectContext, Service, SharedContext, TerminalError, VirtualObject
from perdure.ai.anthropic import durable
from perdure.testing.model_server import ChatRequest, Fault, Reply
from perdure.testing.openai_server import text_of

client: AsyncAnthropic  # a durable one: see main()
conversation = VirtualObject("Conversation")
answers = Service("Answers")


@dataclass
class Message:
    role: str
    content: str


@dataclass
class Task:
    conversation: str
    messages: list[Message]


@dataclass
class Answer:
    by: str
    text: str


@conversation.handler()
async def say(ctx: ObjectContext, text: str) -> str:
    """Take a message, and have it answered with all that came before. Returns the id of the answer's invocation."""
    messages = [*await ctx.get("messages", list[Message], default=[]), Message("user", text)]
    ctx.set("messages", messages)
    if (current := await ctx.get("answering", str)) is not None:
        await ctx.invocation(current).cancel()
    begun = await ctx.send(answer, Task(ctx.key, messages))
    ctx.set("answering", begun.id)
    return begun.id


@conversation.handler()
async def keep(ctx: ObjectContext, answer: Answer) -> None:
    """Keep an answer, unless another is being made by now."""
    if await ctx.get("answering", str) == answer.by:
        messages = await ctx.get("messages", list[Message], default=[])
        ctx.set("messages", [*messages, Message("assistant", answer.text)])
        await ctx.clear("answering")


@conversation.shared()
async def history(ctx: SharedContext) -> list[Message]:
    return await ctx.get("messages", list[Message], default=[])


@answers.handler()
async def answer(ctx: Context, task: Task) -> str:
    messages = [{"role": message.role, "content": message.content} for message in task.messages]
    reply = await client.messages.create(model=CLAUDE, max_tokens=1000, messages=messages)  # type: ignore[arg-type]
    text = "".join(block.text for block in reply.content if block.type == "text")
    await ctx.call(keep, Answer(ctx.invocation_id, text), key=task.conversation)
    return text


app = App(conversation, answers)


# -- the model without a key, and the command ------------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    wishes = [text_of(message) for message in request.messages if message["role"] == "user"]
    return Reply(f"A poem, {' and '.join(wishes)}.")


async def main() -> None:
    global client
    with provider(policy, "ANTHROPIC", faults=[Fault(delay=60)]) as server:
        async with durable(AsyncAnthropic()) as client, Engine(app) as engine:
            first = await engine.call(say, "about the sea", key="ada")
            await (asyncio.sleep(1) if server is None else until(lambda: server.count() > 0))  # the model is at work
            second = await engine.call(say, "in four lines", key="ada")
            try:
                await engine.invocation(first).attach()
            except TerminalError as error:
                print(f"the first answer: {error}")
            print(f"the second one: {await engine.invocation(second).attach()}")
            for message in await engine.call(history, key="ada"):
                print(f"  {message.role}: {message.content}")


if __name__ == "__main__":
    asyncio.run(main())
