"""HTTP/2 to endpoints: what a conversation is, and what becomes of it when connections, streams and servers end."""

import asyncio
import logging

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from perdure.model.deployments import HttpEndpoint
from perdure.transports import http2
from perdure.transports.http2 import Http2Connector
from perdure.transports.remote import Request
from tests.transports.h2_server import Heard, Served, ServerConnection, connector, post, serving
from tests.transports.in_loop import in_loop, until

GREET = Request("GET", "/discover", [("accept", "text/plain")])
MEGABYTE = 1 << 20


async def echo(stream: Served) -> None:
    """Every piece comes back as it came."""
    stream.head(200, {"content-type": "x/y"})
    while (chunk := await stream.read()) is not None:
        await stream.send(chunk)
    if stream.reset_with is None and stream.connection.transport is not None:
        await stream.send(b"", end=True)


async def greet(stream: Served) -> None:
    await stream.whole()
    stream.head(200, {"x-path": stream.headers[":path"]})
    await stream.send(b"hello", end=True)


# ---- conversations


@in_loop
async def test_both_sides_speak_in_turn() -> None:
    async with serving(echo) as server, connector() as client:
        heard = Heard()
        stream = client.open(server.endpoint, post("/invoke/S/h", ("x-one", "1")), heard)
        for size, piece in ((3, b"one"), (6, b"two"), (8, b"!!")):
            stream.write(piece)
            assert len(await heard.until(size)) == size
        stream.close()
        assert await heard.over() == "end"
        assert (heard.status, heard.headers, bytes(heard.body)) == (200, {"content-type": "x/y"}, b"onetwo!!")
        sent = server.connections[0].streams[1].headers
        assert sent[":method"] == "POST" and sent[":path"] == "/invoke/S/h" and sent["x-one"] == "1"
        assert sent[":authority"] == server.uri.removeprefix("http://") and sent[":scheme"] == "http"


@in_loop
async def test_the_endpoints_own_path_comes_first() -> None:
    async with serving(greet) as server, connector() as client:
        answer = await client.fetch(HttpEndpoint(f"{server.uri}/a/b"), GREET)
        assert (answer.status, answer.body, answer.http_version) == (200, b"hello", "2")
        assert answer.headers["x-path"] == "/a/b/discover"


@in_loop
async def test_three_megabytes_go_both_ways_through_small_windows() -> None:
    async def serve(stream: Served) -> None:
        body = await stream.whole()
        stream.head()
        await stream.send(body[::-1], end=True)

    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 20_000, SettingCodes.MAX_CONCURRENT_STREAMS: 100}
    body = bytes(range(256)) * (3 * MEGABYTE // 256)
    async with serving(serve, settings) as server, connector() as client:
        heards = [Heard(), Heard()]
        for heard in heards:
            stream = client.open(server.endpoint, post(), heard)
            stream.write(body)
            assert stream.unsent == len(body)
            stream.close()
        for heard in heards:
            assert await heard.over() == "end" and heard.body == body[::-1]
        assert len(server.connections) == 1


@in_loop
async def test_what_is_not_read_is_held_back() -> None:
    async def serve(stream: Served) -> None:
        stream.head()
        await stream.send(b"x" * (4 * MEGABYTE), end=True)

    async with serving(serve) as server, connector() as client:
        heard = Heard()
        heard.congested = True
        client.open(server.endpoint, post(), heard)
        await heard.until(http2.STREAM_WINDOW)
        await asyncio.sleep(0.05)
        assert len(heard.body) == http2.STREAM_WINDOW, "no more than the window is sent ahead"
        heard.congested = False
        assert await heard.over() == "end" and len(heard.body) == 4 * MEGABYTE


@in_loop
async def test_a_response_may_end_before_its_request_does() -> None:
    async def serve(stream: Served) -> None:
        stream.head()
        await stream.send(b"enough", end=True)

    async with serving(serve) as server, connector() as client:
        heard = Heard()
        stream = client.open(server.endpoint, post(), heard)
        stream.write(b"and")
        assert await heard.over() == "end" and heard.body == b"enough"
        stream.write(b"so on")
        stream.close()
        stream.abort()
        assert (await client.fetch(server.endpoint, GREET)).body == b"enough"
        assert len(server.connections) == 1


@in_loop
async def test_a_response_that_ends_with_a_reset_is_whole() -> None:
    """Servers that did not read the whole request say so, in the same breath as they end the response."""

    async def serve(stream: Served) -> None:
        stream.connection.held = True
        stream.head()
        await stream.send(b"done", end=True)
        stream.reset(ErrorCodes.NO_ERROR)
        stream.connection.held = False
        stream.connection.flush()

    class Closer(Heard):
        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            stream.write(b"late")
            stream.close()

    async with serving(serve) as server, connector() as client:
        other = Heard()
        for heard in (Heard(), Closer()):
            stream = client.open(server.endpoint, post(), heard)
            stream.write(b"x")
            assert await heard.over() == "end" and heard.body == b"done"
        client.open(server.endpoint, post(), other)
        assert await other.over() == "end"
        assert len(server.connections) == 1, "the connection did not suffer"


@in_loop
async def test_hanging_up_resets_the_stream_and_says_nothing_more() -> None:
    async with serving(echo) as server, connector() as client:
        heard, other = Heard(), Heard()
        stream = client.open(server.endpoint, post(), heard)
        client.open(server.endpoint, post(), other).write(b"b")
        stream.write(b"a")
        await heard.until(1)
        await other.until(1)
        stream.abort()
        stream.abort()
        stream.write(b"c")
        stream.close()
        await until(lambda: server.connections[0].streams[1].reset_with is not None)
        assert server.connections[0].streams[1].reset_with == ErrorCodes.CANCEL
        assert not heard.is_over and heard.calls == ["head", "data"] and not other.is_over


@in_loop
async def test_a_header_that_is_no_utf8_hurts_nobody() -> None:
    async def serve(stream: Served) -> None:
        h2 = stream.connection.h2
        h2.config.header_encoding = None
        h2.send_headers(stream.number, [(b":status", b"200"), (b"x-restate-server", b"caf\xe9/1")], end_stream=True)
        stream.connection.flush()

    async with serving(serve) as server, connector() as client:
        heard = Heard()
        client.open(server.endpoint, post(), heard).close()
        assert await heard.over() == "end"
        assert heard.status == 200 and heard.headers["x-restate-server"].startswith("caf")


# ---- many


@in_loop
async def test_more_streams_than_a_connection_takes_open_more_connections() -> None:
    gate = asyncio.Event()

    async def serve(stream: Served) -> None:
        await gate.wait()
        await greet(stream)

    async with serving(serve, {SettingCodes.MAX_CONCURRENT_STREAMS: 2}) as server, connector() as client:
        heards = [Heard() for _ in range(20)]
        for heard in heards:
            client.open(server.endpoint, post(), heard).close()
        await until(lambda: sum(connection.requests for connection in server.connections) == 20)
        assert len(server.connections) == 10
        gate.set()
        assert [await heard.over() for heard in heards] == ["end"] * 20
        for _ in range(5):
            assert (await client.fetch(server.endpoint, GREET)).body == b"hello"
        assert len(server.connections) == 10, "those that there are are used again"


@in_loop
async def test_a_burst_keeps_to_the_limit_of_a_server_that_is_strict_from_the_start() -> None:
    async with serving(greet, {SettingCodes.MAX_CONCURRENT_STREAMS: 100}) as server, connector() as client:
        heards = [Heard() for _ in range(450)]
        for heard in heards:
            client.open(server.endpoint, post(), heard).close()
        assert {await heard.over() for heard in heards} == {"end"}
        assert len(server.connections) <= 5


@in_loop
async def test_a_limit_that_is_lowered_later_is_kept() -> None:
    async def serve(stream: Served) -> None:
        if stream.headers[":path"] == "/lower":
            stream.connection.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
            stream.connection.flush()
        await greet(stream)

    async with serving(serve) as server, connector() as client:
        await client.fetch(server.endpoint, Request("GET", "/lower", ()))
        heards = [Heard() for _ in range(5)]
        streams = [client.open(server.endpoint, post(), heard) for heard in heards]
        for stream in streams:
            stream.close()
        assert [await heard.over() for heard in heards] == ["end"] * 5


@in_loop
async def test_an_endpoint_that_takes_no_streams_is_not_asked_for_ever() -> None:
    async with serving(greet, {SettingCodes.MAX_CONCURRENT_STREAMS: 0}) as server, connector() as client:
        heard = Heard()
        client.open(server.endpoint, post(), heard).close()
        assert "takes no streams" in await heard.over()
        assert len(server.connections) == 1


@in_loop
async def test_streams_that_were_given_up_while_they_waited_are_not_opened() -> None:
    async with serving(greet) as server, connector() as client:
        heard, other = Heard(), Heard()
        client.open(server.endpoint, post(), heard).abort()
        client.open(server.endpoint, post("/other"), other).close()
        assert await other.over() == "end"
        assert server.connections[0].requests == 1 and not heard.calls


# ---- goodbyes


@in_loop
async def test_after_goaway_what_had_begun_goes_on_and_the_rest_is_opened_elsewhere() -> None:
    bodies: dict[str, list[bytes]] = {}

    async def serve(stream: Served) -> None:
        stream.head()
        await stream.send(b".")
        body = await stream.whole()
        bodies.setdefault(stream.headers[":path"], []).append(body)
        await stream.send(body, end=True)

    async with serving(serve) as server, connector() as client:
        heards = [Heard() for _ in range(4)]
        streams = [client.open(server.endpoint, post(f"/{at}"), heards[at]) for at in range(2)]
        for at in range(2):
            await heards[at].until(1)
        server.connections[0].goodbye(3)
        for at in range(2, 4):  # sent before the client has heard of it
            streams.append(client.open(server.endpoint, post(f"/{at}"), heards[at]))
        for at, stream in enumerate(streams):
            stream.write(b"x" * 200_000 + str(at).encode())  # needs windows from the connection that is left
        for at in range(2, 4):
            await heards[at].until(1)
        for stream in streams:
            stream.close()
        assert [await heard.over() for heard in heards] == ["end"] * 4
        assert bodies == {f"/{at}": [b"x" * 200_000 + str(at).encode()] for at in range(4)}
        assert [connection.requests for connection in server.connections] == [2, 2]
        await asyncio.wait_for(server.connections[0].closed, 5)  # it is let go when its last stream has ended


@in_loop
async def test_hanging_up_on_the_last_stream_after_goaway_lets_the_connection_go() -> None:
    async with serving(echo) as server, connector() as client:
        heard = Heard()
        stream = client.open(server.endpoint, post(), heard)
        stream.write(b"1")
        await heard.until(1)
        server.connections[0].goodbye(1)
        await client.fetch(server.endpoint, GREET)
        stream.abort()
        await asyncio.wait_for(server.connections[0].closed, 5)
        assert server.connections[0].streams[1].reset_with == ErrorCodes.CANCEL


@in_loop
async def test_goaway_in_the_same_breath_as_an_answer() -> None:
    async def serve(stream: Served) -> None:
        connection = stream.connection
        await stream.whole()
        connection.held = True
        stream.head()
        await stream.send(b"x", end=True)
        connection.held = False
        connection.goodbye(stream.number)

    async with serving(serve, {SettingCodes.MAX_CONCURRENT_STREAMS: 1}) as server, connector() as client:
        heards = [Heard() for _ in range(10)]
        for heard in heards:
            client.open(server.endpoint, post(), heard).close()
        assert [await heard.over() for heard in heards] == ["end"] * 10
        assert sum(connection.requests for connection in server.connections) == 10


@in_loop
async def test_an_endpoint_that_only_says_goodbye_is_given_up() -> None:
    async with serving(greet) as server, connector() as client:
        made = ServerConnection.connection_made

        def leave(self: ServerConnection, transport: asyncio.BaseTransport) -> None:
            made(self, transport)
            self.goodbye(0, ErrorCodes.ENHANCE_YOUR_CALM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ServerConnection, "connection_made", leave)
            heard = Heard()
            client.open(server.endpoint, post(), heard).close()
            assert "ENHANCE_YOUR_CALM" in await heard.over()
        assert len(server.connections) <= http2.REOPENINGS + 1


@in_loop
async def test_refused_streams_are_opened_again_but_not_for_ever() -> None:
    refusals = {"/twice": 2, "/always": 1000}
    seen: dict[str, int] = {}

    async def serve(stream: Served) -> None:
        path = stream.headers[":path"]
        seen[path] = seen.get(path, 0) + 1
        if refusals[path] > 0:
            refusals[path] -= 1
            stream.reset(ErrorCodes.REFUSED_STREAM)
            return
        body = await stream.whole()
        stream.head()
        await stream.send(body, end=True)

    async with serving(serve) as server, connector() as client:
        twice, always = Heard(), Heard()
        for path, heard in (("/twice", twice), ("/always", always)):
            stream = client.open(server.endpoint, post(path), heard)
            stream.write(b"body ")
            stream.write(b"again")
            stream.close()
        assert await twice.over() == "end" and twice.body == b"body again"
        assert "refuses" in await always.over()
        assert seen == {"/twice": 3, "/always": http2.REOPENINGS + 1}


@in_loop
async def test_a_stream_that_was_answered_is_not_opened_again() -> None:
    async def serve(stream: Served) -> None:
        stream.head()
        stream.reset(ErrorCodes.REFUSED_STREAM)

    async with serving(serve) as server, connector() as client:
        heard = Heard()
        client.open(server.endpoint, post(), heard).close()
        assert "refuses" in await heard.over()
        assert server.connections[0].requests == 1


# ---- what breaks


@in_loop
async def test_a_reset_stream_is_broken_and_the_others_are_not() -> None:
    async def serve(stream: Served) -> None:
        stream.head()
        if stream.headers[":path"] == "/bad":
            stream.reset(ErrorCodes.INTERNAL_ERROR)
        else:
            await stream.whole()
            await stream.send(b"fine", end=True)

    async with serving(serve) as server, connector() as client:
        good, bad = Heard(), Heard()
        stream = client.open(server.endpoint, post("/good"), good)
        client.open(server.endpoint, post("/bad"), bad)
        assert await bad.over() == "the endpoint reset the stream: INTERNAL_ERROR"
        stream.close()
        assert await good.over() == "end" and good.body == b"fine"


@in_loop
async def test_a_lost_connection_breaks_its_streams_and_the_next_one_is_another() -> None:
    async with serving(echo) as server, connector() as client:
        for lose in (ServerConnection.abort, ServerConnection.close):
            heards = [Heard(), Heard()]
            for heard in heards:
                client.open(server.endpoint, post(), heard).write(b"1")
                await heard.until(1)
            lose(server.connections[-1])
            for heard in heards:
                assert "connection" in await heard.over()
        heard = Heard()
        stream = client.open(server.endpoint, post(), heard)
        stream.write(b"1")
        stream.close()
        assert await heard.over() == "end" and len(server.connections) == 3


@in_loop
async def test_a_listener_that_fails_does_not_take_the_others_along(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Heard):
        def data(self, chunk: bytes) -> None:
            raise ZeroDivisionError("a bug")

    async with serving(echo) as server, connector() as client:
        good, bad = Heard(), Failing()
        stream = client.open(server.endpoint, post(), good)
        stream.write(b"1")
        await good.until(1)
        with caplog.at_level(logging.CRITICAL, "perdure"):
            client.open(server.endpoint, post(), bad).write(b"1")
            assert "a bug" in await bad.over()
        stream.close()
        assert await good.over() == "end"


@in_loop
async def test_an_endpoint_that_breaks_http2_is_told_so() -> None:
    async def serve(stream: Served) -> None:
        transport = stream.connection.transport
        assert transport is not None
        transport.write(b"\0\0\x01\x06\0\0\0\0\x05!")  # a ping on a stream

    async with serving(serve) as server, connector() as client:
        heard = Heard()
        client.open(server.endpoint, post(), heard)
        assert "broke HTTP/2" in await heard.over()
        await asyncio.wait_for(server.connections[0].closed, 5)
        assert server.connections[0].farewell == ErrorCodes.PROTOCOL_ERROR


# ---- pings and idleness


@in_loop
async def test_pings_keep_a_connection_and_a_silent_one_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "PING_SECONDS", 0.05)
    async with serving(echo) as server, connector() as client:
        heard = Heard()
        client.open(server.endpoint, post(), heard).write(b"1")
        await heard.until(1)
        await until(lambda: server.pings >= 3)
        assert not heard.is_over
        server.connections[0].deaf = True
        assert await heard.over() == "the endpoint does not answer pings"


@in_loop
async def test_a_connection_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "PING_SECONDS", 0.05)
    monkeypatch.setattr(http2, "IDLE_SECONDS", 0.1)
    async with serving(greet) as server, connector() as client:
        await client.fetch(server.endpoint, GREET)
        await asyncio.wait_for(server.connections[0].closed, 5)
        assert server.connections[0].farewell == ErrorCodes.NO_ERROR
        assert (await client.fetch(server.endpoint, GREET)).body == b"hello"
        assert len(server.connections) == 2


@in_loop
async def test_closing_tells_all_streams_and_says_goodbye() -> None:
    async with serving(echo) as server:
        async with connector() as client:
            open_, waiting, connecting = Heard(), Heard(), Heard()
            client.open(server.endpoint, post(), open_).write(b"1")
            await open_.until(1)
            client.open(HttpEndpoint(server.uri.replace("127.0.0.1", "localhost")), post(), connecting)
            await client.close()
            assert await open_.over() == "the engine has hung up"
            assert await connecting.over() == "the engine stops"
            assert not waiting.is_over
        await asyncio.wait_for(server.connections[0].closed, 5)
        assert server.connections[0].farewell == ErrorCodes.NO_ERROR


# ---- names and paths


@in_loop
async def test_origins_are_told_apart_by_scheme_host_and_port() -> None:
    async with serving(greet) as one, serving(greet) as two, connector() as client:
        for server in (one, two, one):
            await client.fetch(server.endpoint, GREET)
        assert (len(one.connections), len(two.connections)) == (1, 1)


@in_loop
async def test_an_endpoint_at_an_ipv6_address() -> None:
    loop = asyncio.get_running_loop()
    async with serving(greet) as server, connector() as client:
        try:
            listener = await loop.create_server(lambda: ServerConnection(server), "::1", 0)
        except OSError:
            pytest.skip("no IPv6 here")
        uri = f"http://[::1]:{listener.sockets[0].getsockname()[1]}"
        assert (await client.fetch(HttpEndpoint(uri), GREET)).body == b"hello"
        await client.close()
        listener.close()


def test_a_connector_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        Http2Connector()
