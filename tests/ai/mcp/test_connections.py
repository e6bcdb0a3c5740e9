"""Real MCP servers, over standard input and output, HTTP and SSE: when connections open, break and close."""

import asyncio
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from perdure import App, Context, Service, TerminalError
from perdure.ai.mcp import connections as c
from perdure.ai.mcp import durable, text_of
from perdure.testing import TestEngine
from tests.ai.harness import FAST, run
from tests.ai.mcp.server import lines, make_server
from tests.ports import free_ports

ROOT = pathlib.Path(__file__).parents[3]


def stdio(ledger: pathlib.Path) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-m", "tests.ai.mcp.server", str(ledger)], cwd=ROOT)


@contextmanager
def listening(ledger: pathlib.Path, *more: str, port: int = 0) -> Iterator[int]:
    """A server of HTTP in a process of its own."""
    if not port:
        (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.ai.mcp.server", str(ledger), str(port), *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < deadline
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "ledger"


def test_a_command_that_dies_in_a_call_is_called_again_with_the_same_key(ledger: pathlib.Path) -> None:
    world = durable(stdio(ledger))

    async def handler(ctx: Context) -> Any:
        first = text_of(await world.call_tool("die_once"))
        second = (await world.call_tool("add", {"numbers": [1]})).structured_content
        return [first, second]

    assert run(handler) == ["alive", {"total": 1, "of": [1]}]
    died, again, added = lines(ledger)
    assert died == again and added.startswith("add ")


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_over_http(ledger: pathlib.Path, transport: Any) -> None:
    with listening(ledger, *(["sse"] if transport == "sse" else [])) as port:
        path = "mcp" if transport == "http" else "sse"
        world = durable(f"http://127.0.0.1:{port}/{path}", transport=transport)

        async def handler(ctx: Context) -> Any:
            names = [tool.name for tool in (await world.list_tools()).tools]
            both = await asyncio.gather(*(world.call_tool("add", {"numbers": [n]}, call_id=str(n)) for n in (1, 2)))
            return [len(names) > 5, *(each.structured_content["total"] for each in both)]

        assert run(handler) == [True, 1, 2]
    assert len(lines(ledger)) == 2


def test_a_server_that_was_started_again_is_connected_to_again(ledger: pathlib.Path) -> None:
    (port,) = free_ports(1)
    world = durable(lambda: Client(f"http://127.0.0.1:{port}/mcp", mode="legacy"))
    service = Service("S", retry_policy=FAST)

    @service.handler()
    async def handler(ctx: Context, number: int) -> Any:
        return (await world.call_tool("add", {"numbers": [number]})).structured_content

    async def main() -> None:
        async with TestEngine(App(service)) as engine:
            for number in (1, 2):
                with listening(ledger, port=port):
                    assert (await engine.call(handler, number))["total"] == number
            await world.close()

    asyncio.run(main())
    assert len(lines(ledger)) == 2


def test_a_replay_that_needs_no_call_opens_no_connection(ledger: pathlib.Path) -> None:
    opened = 0

    def make() -> Client:
        nonlocal opened
        opened += 1
        return Client(make_server(ledger))

    world = durable(make, idle_seconds=0)
    service = Service("S")

    @service.handler()
    async def handler(ctx: Context) -> Any:
        await world.list_tools()
        await ctx.sleep(60)
        return (await world.list_tools()).tools[0].name

    async def main() -> None:
        async with TestEngine(App(service), replay=True) as engine:
            assert await engine.call(handler) == "add"

    asyncio.run(main())
    assert opened == 1


def test_an_unused_connection_closes_and_their_number_is_bounded(
    ledger: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closed(connection: c.Connection) -> None:
        while connection.open:  # noqa: ASYNC110 - it closes by itself, and tells nobody
            await asyncio.sleep(0.001)

    async def main() -> None:
        monkeypatch.setattr(c, "OPEN_LIMIT", 1)
        one, two = durable(make_server(ledger), idle_seconds=60), durable(make_server(ledger), idle_seconds=0)
        await one.list_tools()
        (first,) = c._OPEN[asyncio.get_running_loop()]
        await two.list_tools()  # there is room for one, and nobody uses the first
        await closed(first)
        await closed(c._OPEN[asyncio.get_running_loop()][-1])  # not used for 0 seconds
        assert (await one.list_tools()).tools
        await one.close()

    asyncio.run(main())


def test_a_time_out_is_tried_again_and_then_given_up(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger), timeout=0.05, retry=FAST)

    async def handler(ctx: Context) -> Any:
        try:
            await world.call_tool("slow")
        except TerminalError as error:
            return str(error)

    assert "timed out" in run(handler).lower()
    slow = [line for line in lines(ledger) if line.startswith("slow ")]
    assert len(slow) == FAST.max_attempts and len(set(slow)) == 1


class _Refusing(BaseHTTPRequestHandler):
    status = 503

    def do_POST(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@contextmanager
def refusing(status: int) -> Iterator[tuple[int, Callable[[], int]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Refusing", (_Refusing,), {"status": status}))
    server.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1], lambda: server.asked  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [401, 503])
def test_http_says_whether_to_try_again(status: int) -> None:
    with refusing(status) as (port, asked):
        world = durable(f"http://127.0.0.1:{port}/mcp", retry=FAST)

        async def handler(ctx: Context) -> Any:
            try:
                await world.call_tool("add", {"numbers": [1]})
            except TerminalError as error:
                return [error.code, str(error)]

        code, words = run(handler)
        assert code == status and f"HTTP {status}" in words
        assert asked() >= 5 if status == 503 else asked() <= 3
