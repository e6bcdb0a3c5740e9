"""MCP servers, durable: `weather = durable("http://localhost:8000/mcp")`.

In a handler the list of a server's tools and every call of one are steps. Elsewhere it is a plain client.

    weather = durable("http://localhost:8000/mcp")                      # or StdioServerParameters(...), mcp.Client(...)

    @agent.handler()
    async def ask(ctx: Context, question: str) -> str:
        answer = await client.chat.completions.create(..., tools=await weather.tools_for_openai())
        ...
        result = await weather.call_tool(call.function.name, json.loads(call.function.arguments), call_id=call.id)

* Nothing connects before a step needs it: a replay that finds all its results in the journal opens no connection.
  Connections are shared by all invocations of the process and closed when nobody has used them for a while.
* Each call carries the step's token in its `_meta`, as `perdure/idempotency-key`: the same for every attempt.
* A result with `is_error` is a value, for the model to see. No connection, a cut one and a time-out are tried again by
  perdure's policy; what the server says in the protocol's own errors is a `TerminalError`.
* What the server asks of the user (elicitation) is an approval of perdure: days of waiting cost nothing.

docs/mcp.md has the rest.
"""

from perdure.ai.mcp.client import IDEMPOTENCY_KEY, DurableServer, durable
from perdure.ai.mcp.formats import anthropic_tools, openai_response_tools, openai_tools, text_of

__all__ = [
    "IDEMPOTENCY_KEY",
    "DurableServer",
    "anthropic_tools",
    "durable",
    "openai_response_tools",
    "openai_tools",
    "text_of",
]
