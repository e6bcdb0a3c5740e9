"""The model of the examples: a real one if there is a key, else one on loopback that does as its example says.

OPENAI_API_KEY and OPENAI_MODEL, ANTHROPIC_API_KEY and ANTHROPIC_MODEL choose a real one.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from perdure.testing.model_server import Fault, ModelApp, ModelServer, Policy

__all__ = ["CLAUDE", "GPT", "environment", "provider", "until"]

GPT = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")
CLAUDE = os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5")


@contextlib.contextmanager
def provider(
    policy: Policy,
    *names: str,
    faults: Sequence[Fault] = (),
    latency: tuple[float, float] = (0.0, 0.0),
    pace: float = 0.0,
) -> Iterator[ModelServer | None]:
    """Somebody to ask for the length of the block: `names` ("OPENAI" if there are none), or if one of them has no key
    a loopback server with that policy, which is given. The clients find it by the environment. `pace` is how many
    seconds its streams take for a word.
    """
    names = names or ("OPENAI",)
    if all(os.environ.get(f"{name}_API_KEY") for name in names):
        yield None
        return
    server = ModelServer()
    server.app = _Paced(policy, faults=faults, latency=latency)
    server.app.pace = pace
    with server, set_for_now(environment(server)):
        yield server


class _Paced(ModelApp):
    pace = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def slowly(event: Any) -> None:
            if event.get("more_body"):
                await asyncio.sleep(self.pace)
            await send(event)

        await super().__call__(scope, receive, slowly)


def environment(server: ModelServer) -> dict[str, str]:
    """What clients need to find the server, and to find it without a proxy; also for other processes."""
    return {
        "OPENAI_API_KEY": "loopback",
        "OPENAI_BASE_URL": server.base_url,
        "ANTHROPIC_API_KEY": "loopback",
        "ANTHROPIC_BASE_URL": server.url,
        "NO_PROXY": "127.0.0.1",
    }


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is true."""
    while not true():  # noqa: ASYNC110 - what it looks at has no event to wait for
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def set_for_now(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
