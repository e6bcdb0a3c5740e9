"""ChatOpenAI shares HTTP clients among the models of a process; a test's event loop does not live that long."""

from collections.abc import Iterator

import pytest
from langchain_openai.chat_models import _client_utils as clients


@pytest.fixture(autouse=True)
def clients_of_its_own() -> Iterator[None]:
    clients._cached_async_httpx_client.cache_clear()
    clients._cached_sync_httpx_client.cache_clear()
    yield
