"""HTTP/1.1 to endpoints: one request with all that is known, one response."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from perdure.model.deployments import HttpEndpoint
from perdure.transports.http import HttpConnector
from perdure.transports.http1 import Http1Connector
from perdure.transports.remote import Request
from tests.transports.h2_server import Heard, Served, post
from tests.transports.h2_server import serving as serving_h2
from tests.transports.in_loop import in_loop, until

GREET = Request("GET", "/discover", [("accept", "text/plain")])


class Conversation:
    """One request to the little server, read whole, and the connection it came on."""

    def __init__(self, writer: asyncio.StreamWriter, line: str, headers: dict[str, str], body: bytes) -> None:
        self.writer = writer
        self.line = line
        self.headers = headers
        self.body = body

    def head(self, status: int, *headers: str) -> None:
        lines = "".join(f"{header}\r\n" for header in headers)
        self.writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())

    def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))


class Server:
    def __init__(self, serve: Callable[[Conversation], Awaitable[None]]) -> None:
        self._serve = serve
        self.connections = 0
        self.open = 0
        self.requests: list[Conversation] = []
        self.endpoint = HttpEndpoint("", "1.1")

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                conversation = Conversation(writer, line, headers, body)
                self.requests.append(conversation)
                await self._serve(conversation)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(serve: Callable[[Conversation], Awaitable[None]]) -> AsyncIterator[tuple[Server, Http1Connector]]:
    server = Server(serve)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.endpoint = HttpEndpoint(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/base", "1.1")
    client = Http1Connector(5.0)
    try:
        yield server, client
    finally:
        await client.close()
        listener.close()
        await until(lambda: server.open == 0)


async def greet(it: Conversation) -> None:
    it.head(200, "content-length: 5", "x-restate-server: sdk/1", "X-Restate-Server: second")
    it.writer.write(b"hello")


@in_loop
async def test_a_request_goes_out_once_it_is_whole() -> None:
    async with serving(greet) as (server, client):
        heard = Heard()
        stream = client.open(server.endpoint, post("/invoke/S/h", ("x-one", "1")), heard)
        stream.write(b"first")
        stream.write(b" second")
        assert stream.unsent == 12
        await asyncio.sleep(0.02)
        assert server.connections == 0
        stream.close()
        stream.close()
        assert stream.unsent == 0
        assert await heard.over() == "end"
        assert (heard.status, bytes(heard.body), heard.headers["x-restate-server"]) == (200, b"hello", "sdk/1")
        (request,) = server.requests
        assert request.line == "POST /base/invoke/S/h HTTP/1.1" and request.body == b"first second"
        assert request.headers["x-one"] == "1" and "transfer-encoding" not in request.headers


@in_loop
async def test_a_response_is_heard_as_it_comes() -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    async def serve(it: Conversation) -> None:
        it.head(200, "transfer-encoding: chunked")
        for at, gate in enumerate(gates):
            it.chunk(b"piece %d " % at)
            await gate.wait()
        it.writer.write(b"0\r\n\r\n")

    async with serving(serve) as (server, client):
        heard = Heard()
        client.open(server.endpoint, post(), heard).close()
        assert await heard.until(8) == b"piece 0 "
        gates[0].set()
        assert await heard.until(16) == b"piece 0 piece 1 "
        assert not heard.is_over
        gates[1].set()
        assert await heard.over() == "end"


@in_loop
async def test_a_connection_that_is_closed_early() -> None:
    async def serve(it: Conversation) -> None:
        it.head(200, "transfer-encoding: chunked")
        it.chunk(b"some")
        it.writer.close()

    async with serving(serve) as (server, client):
        heard = Heard()
        client.open(server.endpoint, post(), heard).close()
        assert await heard.over() != "end" and heard.body == b"some"


@in_loop
async def test_connections_are_used_again() -> None:
    async with serving(greet) as (server, client):
        for _ in range(5):
            answer = await client.fetch(server.endpoint, GREET)
            assert (answer.status, answer.body, answer.http_version) == (200, b"hello", "1.1")
        assert server.connections == 1
        assert server.requests[0].line == "GET /base/discover HTTP/1.1"


@in_loop
async def test_statuses_and_redirects_are_told_as_they_are() -> None:
    async def serve(it: Conversation) -> None:
        it.head(302, "location: http://127.0.0.1:1/", "content-length: 0")

    async with serving(serve) as (server, client):
        assert (await client.fetch(server.endpoint, GREET)).status == 302


@in_loop
async def test_nobody_listens() -> None:
    client = Http1Connector(5.0)
    heard = Heard()
    client.open(HttpEndpoint("http://127.0.0.1:1", "1.1"), post(), heard).close()
    assert await heard.over() != "end" and heard.calls == ["broken"]
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:1/discover"):
        await client.fetch(HttpEndpoint("http://127.0.0.1:1", "1.1"), GREET)
    await client.close()


@in_loop
async def test_hanging_up_closes_the_connection_and_says_nothing() -> None:
    async def serve(it: Conversation) -> None:
        it.head(200, "transfer-encoding: chunked")
        it.chunk(b"some")
        await it.writer.drain()
        while not it.writer.is_closing():
            it.chunk(b"x")
            await it.writer.drain()
            await asyncio.sleep(0.005)

    async with serving(serve) as (server, client):
        heard = Heard()
        stream = client.open(server.endpoint, post(), heard)
        stream.close()
        await heard.until(4)
        stream.abort()
        stream.abort()
        calls = list(heard.calls)
        await until(lambda: server.open == 0)
        assert heard.calls == calls


@in_loop
async def test_a_request_that_was_given_up_is_not_sent() -> None:
    async with serving(greet) as (server, client):
        heard = Heard()
        stream = client.open(server.endpoint, post(), heard)
        stream.write(b"x")
        stream.abort()
        stream.close()
        await client.fetch(server.endpoint, GREET)
        assert len(server.requests) == 1 and heard.calls == []


@in_loop
async def test_closing_ends_what_runs() -> None:
    gate = asyncio.Event()

    async def serve(it: Conversation) -> None:
        await gate.wait()

    async with serving(serve) as (server, client):
        heard = Heard()
        stream = client.open(server.endpoint, post(), heard)
        stream.close()
        await until(lambda: server.requests)
        await client.close()
        assert stream._task is not None and stream._task.done()
        gate.set()


@in_loop
async def test_each_endpoint_is_asked_in_the_version_it_speaks() -> None:
    async def serve(stream: Served) -> None:
        await stream.whole()
        stream.head()
        await stream.send(b"two", end=True)

    async with serving(greet) as (one, _), serving_h2(serve) as two:
        client = HttpConnector(5.0)
        assert (await client.fetch(one.endpoint, GREET)).body == b"hello"
        assert (await client.fetch(two.endpoint, GREET)).body == b"two"
        heards = [Heard(), Heard()]
        for endpoint, heard in zip((one.endpoint, two.endpoint), heards, strict=True):
            client.open(endpoint, post(), heard).close()
            assert await heard.over() == "end"
        await client.close()
