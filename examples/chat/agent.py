"""Read this first: a chat that remembers, in a virtual object; its answers are streamed word by word.

python -m examples.chat                      a conversation, and a server that is killed in the middle of an answer
python -m examples.chat --page               the page, to chat yourself
perdure serve examples.chat.agent:app        with OPENAI_API_KEY
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from openai import AsyncOpenAI

from examples.provider import GPT
from perdure import App, Context, ObjectContext, SharedContext, VirtualObject
from perdure.ai.base import model_call
from perdure.ai.sessions import Session

client = AsyncOpenAI(max_retries=0)  # perdure tries again
chat = VirtualObject("Chat")


@dataclass
class History:
    messages: list[dict[str, Any]]
    answering: str | None
    """The invocation that makes an answer just now; its stream is called `answer`."""


@chat.handler()
async def say(ctx: ObjectContext, text: str) -> str:
    """Answer a message. Messages to the same chat wait for each other; other chats are not held up."""
    ctx.set("answering", ctx.invocation_id)
    session = memory(ctx)
    await session.add([{"role": "user", "content": text}])
    answer = await speak(ctx, await session.items(tokens=8000))
    await session.add([{"role": "assistant", "content": answer}])
    await ctx.clear("answering")
    return answer


@chat.shared()
async def history(ctx: SharedContext) -> History:
    """What was said, for a page that is opened."""
    messages = await memory(ctx).items()
    answered = not messages or messages[-1]["role"] == "assistant"
    return History(messages, None if answered else await ctx.get("answering", str))


def memory(ctx: SharedContext) -> Session:
    return Session(f"chat-{ctx.key}", ttl=timedelta(days=30))


async def speak(ctx: Context, messages: list[Any]) -> str:
    """The model's answer, a step. Its words reach readers as they come; if it is made again, readers are told so."""
    stream = ctx.stream("answer")

    async def words() -> str:
        text = ""
        async for chunk in await client.chat.completions.create(model=GPT, messages=messages, stream=True):
            word = (chunk.choices[0].delta.content or "") if chunk.choices else ""
            text += word
            if word:
                stream.write(word)
        return text

    return str(await model_call(GPT, words, type=str, provider="openai"))


app = App(chat)
