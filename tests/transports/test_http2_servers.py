"""HTTP/2 to servers that are not there, speak something else, want TLS, or close connections as they like."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config

from perdure.model.deployments import HttpEndpoint
from perdure.transports.remote import NO_HTTP2, Request
from tests.ports import free_port
from tests.transports.h2_server import Heard, Served, ServerConnection, connector, post, serving
from tests.transports.in_loop import in_loop, until

GREET = Request("GET", "/discover", [("accept", "text/plain")])


async def greet(stream: Served) -> None:
    await stream.whole()
    stream.head(200)
    await stream.send(b"hello", end=True)


# ---- nobody there


@in_loop
async def test_nobody_listens() -> None:
    port = free_port()
    async with connector() as client:
        heards = [Heard(), Heard()]
        for heard in heards:
            client.open(HttpEndpoint(f"http://127.0.0.1:{port}"), post(), heard).write(b"x")
        for heard in heards:
            assert (await heard.over()).startswith(f"can't connect to 127.0.0.1:{port}: ")
        with pytest.raises(ConnectionError, match=f"http://127.0.0.1:{port}/discover: can't connect"):
            await client.fetch(HttpEndpoint(f"http://127.0.0.1:{port}"), GREET)


@in_loop
async def test_a_host_that_can_be_none() -> None:
    async with connector() as client:
        for host in ("a..b", "x" * 64 + ".example", "-.invalid"):
            heard = Heard()
            client.open(HttpEndpoint(f"http://{host}:1"), post(), heard)
            assert (await heard.over()).startswith(f"can't connect to {host}:1: ")


@in_loop
async def test_an_endpoint_that_accepts_and_says_nothing() -> None:
    async with serving(greet, greets=False) as server, connector(0.1) as client:
        heard = Heard()
        client.open(server.endpoint, post(), heard).write(b"x")
        assert "no HTTP/2 connection within 0.1 s" in await heard.over()
        with pytest.raises(ConnectionError, match=r"within 0\.1 s"):
            await client.fetch(server.endpoint, GREET)
        for connection in server.connections:
            await asyncio.wait_for(connection.closed, 5)


@in_loop
async def test_an_endpoint_that_never_answers_a_fetch() -> None:
    async def serve(stream: Served) -> None:
        await stream.whole()

    async with serving(serve) as server, connector(0.1) as client:
        with pytest.raises(ConnectionError, match=r"/discover: no answer within 0.1 s"):
            await client.fetch(server.endpoint, GREET)
        await until(lambda: server.connections[0].streams[1].reset_with is not None)


@in_loop
async def test_an_answer_that_never_ends_is_cut_off() -> None:
    async def serve(stream: Served) -> None:
        stream.head()
        with contextlib.suppress(Exception):
            while stream.reset_with is None:
                await stream.send(b"x" * 1_000_000)

    async with serving(serve) as server, connector() as client:
        with pytest.raises(ConnectionError, match="has more than"):
            await client.fetch(server.endpoint, GREET)


# ---- other protocols


@pytest.mark.parametrize(
    "words",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"<!DOCTYPE HTML>\n<html lang=en></html>" * 10, b"220 smtp.example\r\n"],
)
@in_loop
async def test_a_server_of_another_protocol(words: bytes) -> None:
    def shout(connection: ServerConnection) -> None:
        assert connection.transport is not None
        connection.transport.write(words)  # and keeps the connection

    async with serving(greet, greets=False) as server, connector() as client:
        server.shout = shout
        heard = Heard()
        client.open(server.endpoint, post(), heard)
        assert NO_HTTP2 in await heard.over()


@in_loop
async def test_a_server_that_hangs_up_on_http2() -> None:
    async with serving(greet, greets=False) as server, connector() as client:
        server.shout = ServerConnection.close
        with pytest.raises(ConnectionError, match="the endpoint closed the connection"):
            await client.fetch(server.endpoint, GREET)


# ---- TLS


class Certificate:
    """A self-signed one for localhost, in files."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.file = folder / "certificate.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self._key = folder / "key.pem"
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self._key.write_bytes(key.private_bytes(*pem))

    def server(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self._key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    return certificate


@in_loop
async def test_tls_where_http2_is_agreed_on(trusted: Certificate) -> None:
    async with serving(greet, tls=trusted.server("http/1.1", "h2")) as server, connector() as client:
        answer = await client.fetch(server.endpoint, GREET)
        assert (answer.status, answer.body) == (200, b"hello")
        assert server.connections[0].streams[1].headers[":scheme"] == "https"
        await client.close()
        await asyncio.wait_for(server.connections[0].closed, 5)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
@in_loop
async def test_tls_without_http2(trusted: Certificate, protocols: tuple[str, ...]) -> None:
    async with serving(greet, tls=trusted.server(*protocols), lenient=True) as server, connector() as client:
        with pytest.raises(ConnectionError, match=NO_HTTP2):
            await client.fetch(server.endpoint, GREET)


@in_loop
async def test_a_certificate_that_nobody_here_trusts(certificate: Certificate) -> None:
    async with serving(greet, tls=certificate.server("h2")) as server, connector() as client:
        with pytest.raises(ConnectionError, match="certificate verify failed"):
            await client.fetch(server.endpoint, GREET)


@in_loop
async def test_tls_to_a_server_without_it(trusted: Certificate) -> None:
    async with serving(greet, lenient=True) as server, connector() as client:
        with pytest.raises(ConnectionError, match="can't connect"):
            await client.fetch(HttpEndpoint(server.uri.replace("http:", "https:")), GREET)


# ---- Hypercorn


@contextlib.asynccontextmanager
async def hypercorn(app: Callable[..., Any], **options: Any) -> AsyncIterator[HttpEndpoint]:
    """Another implementation, as endpoints have it."""
    config = Config()
    port = free_port()
    config.bind = [f"127.0.0.1:{port}"]
    for name, value in {"graceful_timeout": 0.1, **options}.items():
        setattr(config, name, value)
    stop = asyncio.Event()
    server = asyncio.create_task(
        hypercorn_serve(cast(Any, app), config, shutdown_trigger=cast(Any, stop.wait), mode="asgi")
    )
    await until(lambda: _listens(port))
    try:
        yield HttpEndpoint(f"http://127.0.0.1:{port}")
    finally:
        stop.set()
        await server


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Says what was sent to it."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-y", b"z")]})
    await send({"type": "http.response.body", "body": body})


@in_loop
async def test_hypercorn_with_its_default_of_a_hundred_streams() -> None:
    async with hypercorn(answering) as endpoint, connector() as client:
        heards = [Heard() for _ in range(300)]
        for at, heard in enumerate(heards):
            stream = client.open(endpoint, post(), heard)
            stream.write(b"%d" % at)
            stream.close()
        assert {await heard.over() for heard in heards} == {"end"}
        assert [heard.body for heard in heards] == [b"%d" % at for at in range(300)]


@in_loop
async def test_hypercorn_that_closes_its_connections_after_some_requests() -> None:
    """It forgets the streams it is at work on; who asked is told at once, and asks again: so does an invocation."""
    async with hypercorn(answering, keep_alive_max_requests=40) as endpoint, connector() as client:
        again = 0

        async def ask(at: int) -> None:
            nonlocal again
            while True:
                heard = Heard()
                stream = client.open(endpoint, post(), heard)
                stream.write(b"%d" % at)
                stream.close()
                if await heard.over() == "end":
                    assert heard.body == b"%d" % at
                    return
                again += 1

        async def worker(first: int) -> None:
            for at in range(first, 500, 8):
                await ask(at)

        await asyncio.wait_for(asyncio.gather(*[worker(first) for first in range(8)]), 20)
        assert again < 150
