"""A storyteller whose words are read as they are made, and who does not mind being killed.

    python -m examples.streaming.demo                       kills it twice, and shows what a reader sees
    perdure serve examples.streaming.storyteller:app        tells stories to whoever asks

    curl -N -d '"a lighthouse"' -H 'content-type: application/json' \\
        'http://127.0.0.1:8080/restate/stream/Storyteller/tell?stream=story'
"""

import asyncio
from collections.abc import AsyncIterator

from perdure import App, Context, RetryPolicy, Service

WORD_SECONDS = 0.02
CHAPTERS = ("The light", "The storm", "The boat")

storyteller = Service("Storyteller", retry_policy=RetryPolicy(initial_interval=0.05, max_attempts=None))
app = App(storyteller)


async def model(prompt: str) -> AsyncIterator[str]:
    """Stands in for a language model: the words of its answer, one at a time."""
    words = f"{prompt}: it was dark, and the sea was loud, and nobody slept until it was over.".split()
    for word in words:
        await asyncio.sleep(WORD_SECONDS)
        yield f"{word} "


@storyteller.handler()
async def tell(ctx: Context, about: str) -> str:
    """Tells a story of three chapters. Each is a step: once it is told it is not told again."""
    stream = ctx.stream("story")
    stream.write(f"# A story about {about}\n\n")

    async def chapter(title: str) -> str:
        text = ""
        async for word in model(f"{title} of {about}"):
            text += word
            stream.write(word)
        stream.write("\n\n")
        return text

    chapters = [await ctx.run(title, chapter, title) for title in CHAPTERS]
    return f"# A story about {about}\n\n" + "".join(f"{text}\n\n" for text in chapters)
