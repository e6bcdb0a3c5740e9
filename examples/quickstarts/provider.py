"""The model of the quickstarts: a real one if there is a key, else one on loopback that knows one tool."""

import contextlib
import sys
from collections.abc import Iterator

from examples.provider import CLAUDE, GPT
from examples.provider import provider as any_provider
from perdure.testing.model_server import ChatRequest, Fault, Reply, ToolCall

__all__ = ["CLAUDE", "MODEL", "provider"]

MODEL = GPT
BAD_DAY = (Fault(status=429, retry_after=0.05), Fault(status=500))
"""What the provider answers first; perdure tries again."""


def policy(request: ChatRequest) -> Reply:
    """Ask for the weather in Rome and in Oslo, then say what was found."""
    found = [str(message["content"]).strip('"') for message in request.messages if message.get("role") == "tool"]
    if not found:
        return Reply(tool_calls=tuple(ToolCall("weather", {"city": city}) for city in ("Rome", "Oslo")))
    return Reply(" ".join(found))


@contextlib.contextmanager
def provider(name: str = "OPENAI") -> Iterator[None]:
    """Somebody to ask for the length of the block."""
    with any_provider(policy, name, faults=BAD_DAY) as server:
        yield
    if server is not None:
        print(f"(the provider was asked {server.count()} times)", file=sys.stderr)
