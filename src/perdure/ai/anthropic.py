"""The `anthropic` client, durable: `client = durable(AsyncAnthropic())`.

In a handler each of its requests is a step: messages, token counts, batches, files, each page of a list. Elsewhere it
is the client that was given. Nothing else about it changes.

    client = durable(AsyncAnthropic())

    @agent.handler()
    async def ask(ctx: Context, question: str) -> str:
        message = await client.messages.create(
            model="claude-sonnet-5-5", max_tokens=1024, messages=[{"role": "user", "content": question}]
        )
        return message.content[0].text

What holds for `perdure.ai.openai` holds here: retries are perdure's, with the provider's `Retry-After`; other errors
are a `TerminalError`; every request carries the step's token as `Idempotency-Key`; the handler gets a stream when it
is complete, who reads the handler's own stream and `on_event` see it as it comes; `Anthropic` is for plain `def`
handlers, `AsyncAnthropic` for both.
"""

from typing import TypeVar

from anthropic import Anthropic, AsyncAnthropic

from perdure.ai.provider_http import OnEvent, make_durable

__all__ = ["durable"]

C = TypeVar("C", AsyncAnthropic, Anthropic)


def durable(client: C, *, on_event: OnEvent | None = None) -> C:
    """A client like this one whose requests are steps in a handler; see the module.

    Takes `AsyncAnthropic`, `Anthropic` and what is derived from them, returns one of the same class that shares its
    connections: close either. `on_event` is called with each event of a streamed answer (a dict), as it comes, in the
    step: not on replay, and again if the step is tried again; `current_step().attempt` tells. It must not block.

    Raises `TypeError` if it is no such client.
    """
    if not isinstance(client, AsyncAnthropic | Anthropic):
        raise TypeError(f"durable() takes an AsyncAnthropic or Anthropic, not {type(client).__name__}")
    return make_durable(client, "anthropic", on_event)
