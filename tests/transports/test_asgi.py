"""Endpoints that are ASGI applications of this process."""

import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.model.deployments import AsgiEndpoint
from perdure.transports import asgi
from perdure.transports.asgi import AsgiConnector
from perdure.transports.remote import Request
from tests.transports.h2_server import Heard, post
from tests.transports.in_loop import in_loop, until

ENDPOINT = AsgiEndpoint("app")
GREET = Request("GET", "/discover", [("Accept", "text/plain")])
START = {"type": "http.response.start", "status": 200, "headers": [(b"X-One", b"1"), (b"x-one", b"2")]}


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    while True:
        message = await receive()
        await send(piece(message["body"], message["more_body"]))
        if not message["more_body"]:
            return


def open_(app: Any, heard: Heard, connector: AsgiConnector | None = None) -> Any:
    return (connector or AsgiConnector({"app": app})).open(ENDPOINT, post("/invoke/S/h", ("X-Two", "3")), heard)


@in_loop
async def test_both_sides_speak_in_turn() -> None:
    heard = Heard()
    stream = open_(echo, heard)
    for size, word in ((3, b"one"), (6, b"two")):
        stream.write(word)
        assert stream.unsent == 3
        await heard.until(size)
        assert stream.unsent == 0
    stream.write(b"last")
    stream.close()
    assert await heard.over() == "end" and heard.body == b"onetwolast"
    assert (heard.status, heard.headers) == (200, {"x-one": "1"})


@in_loop
async def test_what_an_application_is_told_of_a_request() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        await send(START)
        await send({"type": "http.response.body"})

    heard = Heard()
    open_(app, heard).close()
    assert await heard.over() == "end"
    (scope,) = scopes
    assert (scope["type"], scope["method"], scope["path"]) == ("http", "POST", "/invoke/S/h")
    assert scope["headers"] == [(b"x-two", b"3")] and scope["http_version"] == "2" and scope["query_string"] == b""


@in_loop
async def test_a_fetch_is_a_whole_answer() -> None:
    connector = AsgiConnector({"app": echo})
    answer = await connector.fetch(ENDPOINT, GREET)
    assert (answer.status, answer.headers, answer.body) == (200, {"x-one": "1"}, b"")
    await connector.close()


@in_loop
async def test_an_application_that_raises() -> None:
    async def before(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("a bug")

    async def amid(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"x"))
        raise ZeroDivisionError("a bug")

    async def after(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"x", more=False))
        raise ZeroDivisionError("a bug, but the answer is whole")

    for app, over in ((before, "the application failed: ZeroDivisionError: a bug"), (amid, None), (after, "end")):
        heard = Heard()
        open_(app, heard)
        assert await heard.over() == (over or "the application failed: ZeroDivisionError: a bug")
        await asyncio.sleep(0)
        assert heard.calls.count("end") + heard.calls.count("broken") == 1


@in_loop
async def test_an_application_that_returns_early() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"x"))

    heard = Heard()
    open_(app, heard)
    assert await heard.over() == "the application returned before its response was whole"


@in_loop
async def test_hanging_up_cancels_the_application() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(START)
            await receive()
            await receive()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    heard = Heard()
    stream = open_(app, heard)
    stream.write(b"x")
    await until(lambda: heard.status)
    stream.abort()
    stream.abort()
    await until(lambda: ended)
    assert heard.calls == ["head"]
    stream.write(b"y")
    stream.close()


@in_loop
async def test_who_hears_something_may_hang_up_on_it() -> None:
    class Leaving(Heard):
        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            stream.abort()

    heard = Leaving()
    stream = open_(echo, heard)
    stream.write(b"x")
    await until(lambda: stream.task.done())
    assert heard.calls == ["head", "data"]


@in_loop
async def test_a_listener_that_is_behind_is_waited_for() -> None:
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for at in range(3):
            await send(piece(b"x", more=at < 2))
            sent.append(at)

    heard = Heard()
    heard.congested = True
    open_(app, heard)
    await heard.until(1)
    await asyncio.sleep(0.02)
    assert sent == [] and len(heard.body) == 1
    heard.congested = False
    assert await heard.over() == "end" and len(heard.body) == 3


@in_loop
async def test_an_application_that_does_not_answer_a_fetch_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "FETCH_SECONDS", 0.02)
    ended: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(ConnectionError, match=r"asgi:app/discover: no answer within 0\.02 s"):
        await AsgiConnector({"app": app}).fetch(ENDPOINT, GREET)
    await until(lambda: ended)


@in_loop
async def test_closing_cancels_what_runs() -> None:
    connector = AsgiConnector({"app": echo})
    heards = [Heard(), Heard()]
    streams = [open_(echo, heard, connector) for heard in heards]
    await until(lambda: all(heard.status for heard in heards))
    await connector.close()
    assert all(stream.task.done() for stream in streams)


# ---- `perdure serve` of an application that is not perdure's

ROOT = Path(__file__).parent.parent.parent
SOURCE = """
from tests.cli.served import app as _app

async def application(scope, receive, send):
    await _app(scope, receive, send)
"""


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "foreign.py").write_text(SOURCE)
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]; from perdure.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "foreign:application", "--data-dir", str(folder / "data")]
    process = subprocess.Popen(
        [*command, "--ingress-port", "0", "--admin-port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        found = re.search(r"ingress (http://\S+), admin", ready)
        assert found is not None, ready
        yield found.group(1)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=10)


def call(ingress: str, path: str, body: Any = None) -> Any:
    data = b"" if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"content-type": "application/json"}
    request = urllib.request.Request(f"{ingress}{path}", data, headers, method="POST")
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read() or b"null")


def test_a_served_application_answers_at_the_ingress(ingress: str) -> None:
    assert call(ingress, "/Greeter/greet", {"name": "ada", "times": 2}) == ["hello ada"] * 2
    assert [call(ingress, "/Counter/k/add", n) for n in (1, 2, 3)] == [1, 3, 6]
    assert call(ingress, "/Greeter/slow", 0.01) == "done"
