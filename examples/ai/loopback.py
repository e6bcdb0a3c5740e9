"""The model of the examples where there is no key: deterministic, on loopback, with a bad day now and then."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from perdure.testing.model_server import ChatRequest, Fault, ModelServer, Reply, ToolCall


def weather_model(request: ChatRequest) -> Reply:
    """Asks for the weather in both places at once, then compares."""
    reports = [str(message["content"]).strip('"') for message in request.messages if message["role"] == "tool"]
    if reports:
        return Reply(" ".join(reports))
    return Reply(tool_calls=(ToolCall("weather", {"place": "Paris"}), ToolCall("weather", {"place": "Rome"})))


@contextmanager
def provider(key: str, url: str, path: str = "") -> Iterator[str]:
    """The name of a model to ask: the loopback one, unless the environment has a key for a real one.

    The first request is answered with 429 and `Retry-After`, the second with 500: perdure tries again.
    """
    if key in os.environ:
        yield os.environ["MODEL"]
        return
    faults = [Fault(status=429, retry_after=0.1), Fault(status=500)]
    with ModelServer(weather_model, faults=faults) as server:
        os.environ |= {key: "loopback", url: server.url + path}
        try:
            yield "loopback"
        finally:
            del os.environ[key], os.environ[url]
        print(f"(the provider was asked {server.count()} times)")
