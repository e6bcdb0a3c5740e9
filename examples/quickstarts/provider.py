"""The model: OpenAI's if there is a key, else one on loopback that knows one tool."""

import contextlib
import os
from collections.abc import Iterator

from perdure.testing.model_server import ChatRequest, ModelServer, Reply, ToolCall

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")


def policy(request: ChatRequest) -> Reply:
    """Ask for the weather in Rome and in Oslo, then say what was found."""
    found = [message["content"] for message in request.messages if message.get("role") == "tool"]
    if not found:
        return Reply(tool_calls=tuple(ToolCall("weather", {"city": city}) for city in ("Rome", "Oslo")))
    return Reply(" ".join(str(each) for each in found))


@contextlib.contextmanager
def provider() -> Iterator[None]:
    """Somebody to ask for the length of the block."""
    if os.environ.get("OPENAI_API_KEY"):
        yield
        return
    with ModelServer(policy) as server:
        ours = {"OPENAI_API_KEY": "loopback", "OPENAI_BASE_URL": server.base_url, "NO_PROXY": "127.0.0.1"}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
