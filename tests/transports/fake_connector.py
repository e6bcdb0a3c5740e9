"""A connector that moves nothing: it remembers what was written, and the test is the endpoint."""

from collections.abc import Awaitable, Callable, Mapping

from perdure.model.deployments import Endpoint
from perdure.transports.remote import Answer, Listener, Request

Fetch = Callable[[Endpoint, Request], Awaitable[Answer]]


class FakeStream:
    """One exchange."""

    def __init__(self, endpoint: Endpoint, request: Request, listener: Listener) -> None:
        self.endpoint = endpoint
        self.request = request
        self.listener = listener
        self.written: list[bytes] = []
        self.closed = False
        self.aborts = 0
        self.unsent = 0

    def write(self, data: bytes) -> None:
        assert not self.closed and not self.aborts, "written after the end"
        self.written.append(data)

    def close(self) -> None:
        assert not self.aborts, "closed after it was hung up"
        self.closed = True

    def abort(self) -> None:
        self.aborts += 1

    @property
    def headers(self) -> Mapping[str, str]:
        return dict(self.request.headers)


class FakeConnector:
    """`fetch` is the endpoint's answer to discovery."""

    def __init__(self, fetch: Fetch | None = None) -> None:
        self.streams: list[FakeStream] = []
        self.fetched: list[tuple[Endpoint, Request]] = []
        self.closed = False
        self.on_open: Callable[[FakeStream], None] = lambda stream: None
        self._fetch = fetch

    def open(self, endpoint: Endpoint, request: Request, listener: Listener) -> FakeStream:
        stream = FakeStream(endpoint, request, listener)
        self.streams.append(stream)
        self.on_open(stream)
        return stream

    async def fetch(self, endpoint: Endpoint, request: Request) -> Answer:
        self.fetched.append((endpoint, request))
        assert self._fetch is not None
        return await self._fetch(endpoint, request)

    async def close(self) -> None:
        self.closed = True
