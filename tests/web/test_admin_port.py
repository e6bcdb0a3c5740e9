"""What goes for every route of the admin port: limits, compression, versions, HEAD, what errors say."""

import asyncio
import gzip
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from perdure.errors import RequestError, Unavailable
from perdure.model.actions import Refused
from perdure.runtime.node import Node
from perdure.web import compression
from perdure.web.admin import Admin
from perdure.web.http import MethodNotAllowed, Request, Response, Router
from tests.web.fakes import ID_TEXT, FakeNode, Reply, Web

GZIP = ("accept-encoding", "br, gzip;q=0.5")


def port(node: FakeNode, **options: Any) -> Web:
    return Web(Admin(cast(Node, node), version="1.2.3", **options))


def ask(node: FakeNode, method: str, path: str, *headers: tuple[str, str], body: bytes = b"", **options: Any) -> Reply:
    reply = asyncio.run(port(node, **options)(method, path, body, *headers))
    assert reply is not None
    return reply


# Routes


def test_a_router_lists_and_finds_its_routes() -> None:
    async def one(request: Request) -> Response:
        return Response(200, [])

    router = Router()
    for method, path in (("GET", "/"), ("GET", "/a/{b}"), ("PATCH", "/a/{b}"), ("POST", "/c/{*rest}")):
        router.add(method, path, one, role=None)
    listed = [(route.method, route.path) for route in router.routes()]
    assert listed == [("GET", "/"), ("GET", "/a/{b}"), ("PATCH", "/a/{b}"), ("POST", "/c/{*rest}")]
    root, item, _, rest = router.routes()
    assert router.find("GET", [""]) == (root, {})
    assert router.find("HEAD", ["a", "x%20y"]) == (item, {"b": "x y"})
    assert router.find("POST", ["c", "d", "e%2Ff"]) == (rest, {"rest": "d/e/f"})
    assert router.find("POST", ["c", ""]) == (rest, {"rest": ""})
    assert router.find("POST", ["c"]) is router.find("GET", ["a", ""]) is router.find("GET", ["a"]) is None
    with pytest.raises(MethodNotAllowed) as refused:
        router.find("PUT", ["a", "x"])
    assert refused.value.allowed == ["GET", "HEAD", "PATCH"]


def test_other_methods_are_told_which_there_are() -> None:
    reply = ask(FakeNode(), "PUT", "/deployments")
    assert (reply.status, reply.headers["allow"]) == (405, "GET,HEAD,POST")
    assert reply.json["source"] == "request"


@pytest.mark.parametrize(
    ("path", "to"), [("/", "/ui/"), ("/ui", "/ui/"), ("/v4", "/ui/"), ("/v3/ui?a=b", "/ui/?a=b"), ("/?a=b", "/ui/?a=b")]
)
def test_browsers_are_led_to_the_console(path: str, to: str) -> None:
    reply = ask(FakeNode(), "GET", path)
    assert (reply.status, reply.headers["location"]) == (308, to)
    assert ask(FakeNode(), "GET", to).headers["content-type"].startswith("text/html")


# Limits


def test_too_many_requests_at_once() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def wait() -> Refused:
            await gate.wait()
            return Refused(409, "completed")

        web = port(FakeNode(wait), concurrency_limit=1)
        waiting = asyncio.ensure_future(web.patch(f"/invocations/{ID_TEXT}/kill"))
        await asyncio.sleep(0)
        refused = await web.get("/version")
        assert refused[::2] == (429, b"")
        said = [
            refused.headers[f"x-{name}"] for name in ("restate-error-source", "perdure-accepted", "perdure-retryable")
        ]
        assert said == ["server", "false", "true"]
        assert (await web.get("/health")).status == 200
        gate.set()
        assert (await waiting).status == 409
        assert (await web.get("/version")).status == 200

    asyncio.run(scenario())


# Errors


@pytest.mark.parametrize(
    ("outcome", "failed", "method", "path", "said"),
    [
        (Unavailable("stopping"), False, "PATCH", f"/invocations/{ID_TEXT}/kill", (503, "server", False, True)),
        (Unavailable("stopping"), True, "PATCH", f"/invocations/{ID_TEXT}/kill", (503, "server", None, True)),
        (Unavailable("x"), True, "PATCH", f"/invocations/{ID_TEXT}/restart-as-new", (503, "server", None, False)),
        (Unavailable("stopping"), True, "GET", f"/invocations/{ID_TEXT}", (503, "server", False, True)),
        (ValueError("a mistake"), False, "PATCH", f"/invocations/{ID_TEXT}/kill", (500, "server", None, True)),
        (
            ValueError("a mistake"),
            False,
            "PATCH",
            f"/invocations/{ID_TEXT}/restart-as-new",
            (500, "server", None, False),
        ),
        (RequestError("a mistake"), False, "GET", f"/invocations/{ID_TEXT}", (500, "server", False, True)),
        (Refused(404, "no"), False, "PATCH", f"/invocations/{ID_TEXT}/kill", (404, "request", False, False)),
        (Refused(425, "no"), False, "PATCH", f"/invocations/{ID_TEXT}/resume", (425, "request", False, True)),
    ],
)
def test_what_errors_say(outcome: Any, failed: bool, method: str, path: str, said: tuple[Any, ...]) -> None:
    node = FakeNode(outcome)
    node.failure = OSError() if failed else None
    reply = ask(node, method, path)
    error = reply.json
    assert (reply.status, error["source"], error["accepted"], error["retryable"]) == said
    assert reply.headers["x-restate-error-source"] == error["source"]
    assert error.get("invocation_id", ID_TEXT) == ID_TEXT
    assert "a mistake" not in error["message"] or isinstance(outcome, RequestError)


# Compression


def test_answers_are_compressed_for_those_who_read_it() -> None:
    plain = ask(FakeNode(), "GET", "/services")
    assert plain.headers["vary"] == "accept-encoding" and "content-encoding" not in plain.headers
    packed = ask(FakeNode(), "GET", "/services", GZIP)
    assert packed.headers["content-encoding"] == "gzip" and len(packed.body) < len(plain.body) / 2
    assert gzip.decompress(packed.body) == plain.body
    assert "content-encoding" not in ask(FakeNode(), "GET", "/health", GZIP).headers
    assert ask(FakeNode(), "HEAD", "/services", GZIP)[::2] == (200, b"")


@pytest.mark.parametrize(
    ("accepts", "packed"),
    [
        ("gzip", True),
        ("*", True),
        ("br, zstd", False),
        ("gzip;q=0", False),
        ("*;q=0, gzip", True),
        ("gzip; q=0.0", False),
    ],
)
def test_who_reads_it(accepts: str, packed: bool) -> None:
    reply = ask(FakeNode(), "GET", "/services", ("accept-encoding", accepts))
    assert ("content-encoding" in reply.headers) is packed


def test_pieces_are_sent_on_as_they_come() -> None:
    async def scenario() -> None:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"a" * 10
            yield b"b" * 100_000

        request = Request(
            {"method": "GET", "headers": [(b"accept-encoding", b"gzip")], "query_string": b""}, cast(Any, None)
        )
        response = await compression.compressed(request, Response(200, [], pieces()))
        assert not isinstance(response.body, bytes)
        found = [piece async for piece in response.body]
        assert len(found) == 3
        assert gzip.decompress(b"".join(found)) == b"a" * 10 + b"b" * 100_000
        large = await compression.compressed(request, Response(200, [], b"c" * 100_000))
        assert isinstance(large.body, bytes) and gzip.decompress(large.body) == b"c" * 100_000

    asyncio.run(scenario())
