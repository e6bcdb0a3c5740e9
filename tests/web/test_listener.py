"""The listener with a real socket: both versions of HTTP, ports in use, orderly ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pyqwest
import pytest

from perdure.web.listener import Listener, PortInUse


async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    answer = scope["http_version"].encode() + b" " + scope["raw_path"] + b" " + body
    await send({"type": "http.response.start", "status": 470, "headers": [(b"x-a", b"b")]})
    await send({"type": "http.response.body", "body": answer})


@pytest.mark.parametrize("version", [pyqwest.HTTPVersion.HTTP1, pyqwest.HTTPVersion.HTTP2])
def test_both_versions_in_clear_text(version: pyqwest.HTTPVersion) -> None:
    async def scenario() -> None:
        listener = Listener(app, "127.0.0.1", 0)
        listener.start()
        async with pyqwest.HTTPTransport(http_version=version, enable_otel=False) as transport:
            reply = await pyqwest.Client(transport).post(f"{listener.url}/a%2Fb", content=b"x" * 100_000)
            assert (reply.status, reply.headers["x-a"]) == (470, "b")
            number = b"1.1" if version == pyqwest.HTTPVersion.HTTP1 else b"2"
            assert reply.content == number + b" /a%2Fb " + b"x" * 100_000
        listener.close()
        assert await listener.closed(5)

    asyncio.run(scenario())


def test_a_port_in_use() -> None:
    async def scenario() -> None:
        listener = Listener(app, "127.0.0.1", 0)
        listener.start()
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{listener.port}: .*in use"):
            Listener(app, "127.0.0.1", listener.port).start()
        listener.close()
        assert await listener.closed(5)

    asyncio.run(scenario())


def test_a_host_that_is_not_ours() -> None:
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(PortInUse, match="cannot listen"):
            Listener(app, host, 0).bind()


def test_open_requests_are_answered_before_the_end() -> None:
    async def scenario() -> None:
        listener = Listener(app, "127.0.0.1", 0)
        listener.start()
        async with pyqwest.HTTPTransport(enable_otel=False) as transport:
            client = pyqwest.Client(transport)
            slow = asyncio.ensure_future(client.get(f"{listener.url}/slow"))
            await asyncio.sleep(0.1)
            listener.close()
            assert not await listener.closed(0.05), "one is still open"
            with pytest.raises(ConnectionError):
                await client.get(f"{listener.url}/late")
            assert (await slow).status == 470
        assert await listener.closed(5)

    asyncio.run(scenario())


def test_logging_is_left_alone() -> None:
    handler = logging.NullHandler()
    logging.getLogger("somebody").addHandler(handler)
    levels = logging.getLogger().level

    async def scenario() -> None:
        listener = Listener(app, "127.0.0.1", 0)
        listener.start()
        listener.close()
        await listener.closed(5)

    asyncio.run(scenario())
    assert logging.getLogger("somebody").handlers == [handler]
    assert logging.getLogger().level == levels
    assert not logging.getLogger("_granian").handlers
    logging.getLogger("somebody").removeHandler(handler)
