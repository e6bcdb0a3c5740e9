"""A server over real sockets: when it stops, what is open is answered and what is new refused; limits."""

import asyncio
import socket
from pathlib import Path

import h2.connection
import h2.events
import pyqwest
import pytest

from perdure import App, Context, Service
from perdure.config import Config
from perdure.server import Server
from tests.transports.in_loop import in_loop, until

service = Service("Gate")
begun: list[str] = []
gates: dict[str, asyncio.Event] = {}


@service.handler()
async def through(ctx: Context, name: str) -> str:
    async def step() -> str:
        begun.append(name)
        await gates[name].wait()
        return name

    return await ctx.run("wait", step)


def config(directory: Path, **options: float) -> Config:
    return Config(str(directory), ingress_port=0, admin_port=0, stop_grace_seconds=0.0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [pyqwest.HTTPVersion.HTTP1, pyqwest.HTTPVersion.HTTP2])
@in_loop
async def test_what_is_open_is_answered_and_what_is_new_is_refused(
    version: pyqwest.HTTPVersion, tmp_path: Path
) -> None:
    name = f"open {version}"
    gates[name] = asyncio.Event()
    server = Server(config(tmp_path, drain_seconds=20.0), [App(service)])
    await server.start()
    assert server.ingress is not None
    url = f"{server.ingress.url}/Gate/through"
    async with pyqwest.HTTPTransport(http_version=version, enable_otel=False) as transport:
        client = pyqwest.Client(transport)
        headers = {"content-type": "application/json"}
        waiting = asyncio.ensure_future(client.post(url, headers, content=f'"{name}"'.encode()))
        await until(lambda: name in begun)
        stopping = asyncio.ensure_future(server.stop())
        await server.stopping.wait()
        assert await refused(client, url, headers)
        gates[name].set()
        answer = await waiting
        assert (answer.status, answer.content) == (200, f'"{name}"'.encode())
        await stopping


async def refused(client: pyqwest.Client, url: str, headers: dict[str, str]) -> bool:
    """No connection, or an answer that says that nothing was accepted and it may be sent again."""
    try:
        answer = await client.post(url, headers, content=b'"late"')
    except (OSError, pyqwest.ReadError, pyqwest.WriteError, pyqwest.RemoteProtocolError):
        return True
    return answer.status == 503 and b'"accepted":false,"retryable":true' in answer.content


@in_loop
async def test_whoever_waits_longer_is_told_that_it_goes_on(tmp_path: Path) -> None:
    gates["long"] = asyncio.Event()
    server = Server(config(tmp_path, drain_seconds=0.0), [App(service)])
    await server.start()
    assert server.ingress is not None
    url = f"{server.ingress.url}/Gate/through"
    async with pyqwest.HTTPTransport(enable_otel=False) as transport:
        post = pyqwest.Client(transport).post(url, {"content-type": "application/json"}, content=b'"long"')
        waiting = asyncio.ensure_future(post)
        await until(lambda: "long" in begun)
        stopping = asyncio.ensure_future(server.stop())
        answer = await waiting
        assert answer.status == 503 and b'"accepted":true' in answer.content
        assert answer.headers["x-restate-id"].startswith("inv_1")
        gates["long"].set()
        await stopping


@in_loop
async def test_a_connection_is_told_how_many_requests_it_may_carry(tmp_path: Path) -> None:
    server = Server(config(tmp_path, http2_stream_limit=7, drain_seconds=0.0), [App(service)])
    await server.start()
    assert server.ingress is not None and server.admin is not None
    for port in (server.ingress.port, server.admin.port):
        assert await asyncio.to_thread(streams, port) == 7
    await server.stop()


def streams(port: int) -> int | None:
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    with socket.create_connection(("127.0.0.1", port), 10) as plug:
        plug.sendall(connection.data_to_send())
        while True:
            for event in connection.receive_data(plug.recv(65536)):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    return connection.remote_settings.max_concurrent_streams
