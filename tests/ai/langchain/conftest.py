"""ChatOpenAI shares HTTP clients among the models of a process; a test's event loop does not live that long."""

from typing import Any

import pytest
from langchain_openai.chat_models import _client_utils as clients


@pytest.fixture(autouse=True)
def made_clients(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The asynchronous clients that models of this test made, to be closed by it."""
    made: list[Any] = []
    build = clients._build_async_httpx_client

    def recorded(*args: Any, **kwargs: Any) -> Any:
        made.append(build(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(clients, "_build_async_httpx_client", recorded)
    clients._cached_async_httpx_client.cache_clear()
    clients._cached_sync_httpx_client.cache_clear()
    return made
