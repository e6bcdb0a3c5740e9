"""The `openai` client, durable: `client = durable(AsyncOpenAI())`.

In a handler each of its requests is a step: chat completions, responses, embeddings, images, audio, files, each page
of a list. Elsewhere it is the client that was given. Nothing else about it changes.

    client = durable(AsyncOpenAI())

    @agent.handler()
    async def ask(ctx: Context, question: str) -> str:
        answer = await client.responses.create(model="gpt-4.1-mini", input=question)
        return answer.output_text

* Errors worth a retry (429, 5xx, no connection, time-outs, streams that were cut) are retried by perdure's policy,
  after the time that the provider asks for; the client's `max_retries` is for outside of handlers. Others are a
  `TerminalError` with the provider's status and message. See `perdure.ai.provider_errors`.
* Each request carries `Idempotency-Key`, the step's token: the same for every attempt.
* Streams are durable: the step reads the stream to its end, then the handler gets all of it, live and on replay. Who
  reads the handler's stream (`with ctx.stream("answer").default():`) sees text, reasoning and tool calls as they come,
  of answers that are not streamed when they are there; `on_event` sees the provider's events.
* `OpenAI` is for plain `def` handlers, `AsyncOpenAI` for both; a blocking request in an async handler is refused.
* WebSockets (`realtime`, `responses.connect`) are refused in a handler.
"""

from typing import TypeVar

from openai import AsyncOpenAI, OpenAI

from perdure.ai.provider_http import OnEvent, make_durable, refuse_sockets

__all__ = ["durable"]

C = TypeVar("C", AsyncOpenAI, OpenAI)


def durable(client: C, *, on_event: OnEvent | None = None) -> C:
    """A client like this one whose requests are steps in a handler; see the module.

    Takes `AsyncOpenAI`, `OpenAI` and what is derived from them (Azure), returns one of the same class that shares its
    connections: close either. `on_event` is called with each event of a streamed answer (a dict), as it comes, in the
    step: not on replay, and again if the step is tried again; `current_step().attempt` tells. It must not block.

    Raises `TypeError` if it is no such client.
    """
    if not isinstance(client, AsyncOpenAI | OpenAI):
        raise TypeError(f"durable() takes an AsyncOpenAI or OpenAI, not {type(client).__name__}")
    made = make_durable(client, "openai", on_event)
    return made if isinstance(made, AsyncOpenAI) else refuse_sockets(made, "realtime", "live", "responses")
