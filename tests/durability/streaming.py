"""What the killed server runs: many words, in steps side by side and one after the other."""

import asyncio
import os

from perdure import App, Context, RetryPolicy, Service

talk = Service("Talk", retry_policy=RetryPolicy(initial_interval=0.01, max_interval=0.1, max_attempts=None))
WORDS = 25


@talk.handler()
async def say(ctx: Context, rounds: int) -> list[str]:
    """The words that its stream ought to hold, in the order of the steps that wrote them."""
    stream = ctx.stream("answer")
    said: list[str] = []

    async def words(label: str) -> list[str]:
        attempt = os.urandom(3).hex()  # what a second try writes is not what the first wrote
        written = [f"{label}.{number}.{attempt}" for number in range(WORDS)]
        for word in written:
            stream.write(word)
            await asyncio.sleep(0.002)
        return written

    for round in range(rounds):
        stream.write(f"round {round}")
        said.append(f"round {round}")
        for written in await asyncio.gather(*(ctx.run(f"{round}.{i}", words, f"{round}.{i}") for i in range(2))):
            said += written
    return said


app = App(talk)
