"""`perdure mcp`, asked by the client of the `mcp` package, over standard input and output and over HTTP."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pyqwest
import pytest
from mcp import Client, MCPError, StdioServerParameters, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from perdure import Client as Perdure
from perdure.mcp.answers import CODE, INVOCATION
from perdure.mcp.server import IDEMPOTENCY_KEY
from tests.ai.ladder import Served as Restarted
from tests.cli.processes import ROOT, Served, perdure, serving

APP = "tests.mcp.served:app"
KEY = {IDEMPOTENCY_KEY: "one"}


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")} | more


def stdio(*arguments: str, **more: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-m", "perdure", "mcp", *arguments], cwd=ROOT, env=environment(**more)
    )


@contextmanager
def over_http(*arguments: str, **more: str) -> Iterator[str]:
    """`perdure mcp --http 0`; its URL."""
    command = [sys.executable, "-m", "perdure", "mcp", "--http", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(**more), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("MCP at "):
                break
        else:
            raise AssertionError(f"it ended with {process.wait()}")
        yield line.removeprefix("MCP at ").strip()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "data", app=APP, env=environment()) as served:
        yield served


def of(server: Served) -> tuple[str, ...]:
    return ("--ingress-url", server.ingress, "--admin-url", server.admin)


def text(result: types.CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text


def invocation(result: types.CallToolResult) -> str:
    return str((result.meta or {})[INVOCATION])


@asynccontextmanager
async def with_key(url: str, key: str) -> AsyncIterator[Any]:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        streamable_http_client(url, http_client=http) as streams,
    ):
        yield streams


async def calls(client: Client) -> None:
    names = [tool.name for tool in (await client.list_tools()).tools]
    assert names[:2] == ["Counter_add", "Counter_get"] and "Shop_secret" not in names and "Shop_hidden" not in names
    assert names[-4:] == ["perdure_start", "perdure_status", "perdure_result", "perdure_cancel"]

    order = await client.call_tool("Shop_order", {"items": [{"name": "tea", "count": 3}]})
    assert order.structured_content == {"total": 6, "lines": ["tea"]}
    assert json.loads(text(order)) == order.structured_content
    assert text(await client.call_tool("Shop_shout", {"input": "hi"})) == "HI"
    assert (await client.call_tool("Shop_nothing")).content == []
    assert text(await client.call_tool("Shop_reverse", {"input": "abc"})) == "cba"

    refused = await client.call_tool("Shop_refuse", {"input": 418})
    assert refused.is_error and text(refused) == "sold out (code 418)"
    assert refused.meta is not None and refused.meta[CODE] == 418
    assert refused.meta["perdure/metadata"] == {"why": "demand"}
    wrong = await client.call_tool("Shop_order", {"items": "tea"})
    assert wrong.is_error and "items" in text(wrong)
    nameless = await client.call_tool("Counter_add", {"input": 1})
    assert nameless.is_error and "key must say which Counter" in text(nameless)
    with pytest.raises(MCPError, match="no tool 'Shop_secret'"):
        await client.call_tool("Shop_secret")


def test_over_stdio(server: Served) -> None:
    async def main() -> None:
        async with Client(stdio(*of(server))) as client:
            await calls(client)

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_http(server: Served, mode: str) -> None:
    async def main(url: str) -> None:
        async with Client(url, mode=mode) as client:
            await calls(client)

    with over_http(*of(server)) as url:
        asyncio.run(main(url))


def test_the_same_key_is_the_same_call_also_of_another_connection(server: Served) -> None:
    async def main() -> None:
        arguments = {"key": "again", "input": 5}
        answers = []
        for _ in range(2):
            async with Client(stdio(*of(server))) as client:
                answers.append(await client.call_tool("Counter_add", arguments, meta=KEY))  # type: ignore[arg-type]
        assert [text(answer) for answer in answers] == ["5", "5"]
        assert invocation(answers[0]) == invocation(answers[1])
        async with Client(stdio(*of(server))) as client:
            assert text(await client.call_tool("Counter_add", arguments)) == "10"
            runs = [await client.call_tool("Report_run", {"key": "q1", "items": []}) for _ in range(2)]
            assert [text(run) for run in runs] == ["q1: 0", "q1: 0"]

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_that_is_lost_stops_nothing_and_one_that_cancels_does(server: Served, mode: str) -> None:
    meta: Any = {IDEMPOTENCY_KEY: f"lost {mode}"}

    async def main() -> None:
        async with Perdure(server.ingress, admin_url=server.admin) as perdure:
            async with Client(stdio(*of(server)), mode=mode) as client:
                call = asyncio.ensure_future(client.call_tool("Shop_wait", {"input": "a"}, meta=meta))
                begun = await client.call_tool("perdure_start", _start("Shop_wait", "a"), meta=meta)
                await _stands(client, invocation(begun), "suspended", "running")
            with pytest.raises(MCPError):
                await call
            async with Client(stdio(*of(server)), mode=mode) as client:
                again = asyncio.ensure_future(client.call_tool("Shop_wait", {"input": "a"}, meta=meta))
                await perdure.invocation(invocation(begun)).signal("go", "on")
                assert text(await again) == "a on"
                assert invocation(await again) == invocation(begun)

                other: Any = {IDEMPOTENCY_KEY: f"cancelled {mode}"}
                cancelled = asyncio.ensure_future(client.call_tool("Shop_wait", {"input": "b"}, meta=other))
                known = await client.call_tool("perdure_start", _start("Shop_wait", "b"), meta=other)
                await _stands(client, invocation(known), "suspended", "running")
                cancelled.cancel()
                await _stands(client, invocation(known), "completed")
                result = await client.call_tool("perdure_result", {"invocation": invocation(known)})
                assert result.is_error and result.meta is not None and result.meta[CODE] == 409

    asyncio.run(main())


def _start(tool: str, input: str) -> dict[str, Any]:
    return {"tool": tool, "arguments": {"input": input}}


async def _stands(client: Client, id: str, *wanted: str) -> None:
    async with asyncio.timeout(30):
        while True:
            answer = await client.call_tool("perdure_status", {"invocation": id})
            assert answer.structured_content is not None, answer
            if answer.structured_content["status"] in wanted:
                return
            await asyncio.sleep(0.01)


def test_what_takes_long_is_begun_and_asked_for_later(server: Served) -> None:
    async def main() -> None:
        async with (
            Perdure(server.ingress, admin_url=server.admin) as perdure,
            Client(stdio(*of(server))) as client,
        ):
            begun = (await client.call_tool("perdure_start", _start("Shop_wait", "x"))).structured_content
            id = {"invocation": begun["invocation"]}
            early = await client.call_tool("perdure_result", {**id, "wait_seconds": 0})
            assert early.structured_content["note"] == "no result yet: ask again"
            await perdure.invocation(begun["invocation"]).signal("go", "there")
            assert text(await client.call_tool("perdure_result", id)) == "x there"
            assert text(await client.call_tool("perdure_result", {**id, "wait_seconds": 0})) == "x there"
            late = await client.call_tool("perdure_cancel", id)
            assert late.is_error

            second = (await client.call_tool("perdure_start", _start("Shop_wait", "y"))).structured_content
            id = {"invocation": second["invocation"]}
            stopped = await client.call_tool("perdure_cancel", id)
            assert stopped.structured_content["note"] == "it was asked to stop"
            assert (await client.call_tool("perdure_result", id)).is_error

            private = await perdure.send("Counter/add", 1, key="other")
            async with Client(stdio(*of(server), "--service", "Shop")) as limited:
                names = [tool.name for tool in (await limited.list_tools()).tools]
                assert not [name for name in names if name.startswith("Counter")]
                hidden = await limited.call_tool("perdure_result", {"invocation": private.id})
                assert hidden.is_error and "not found" in text(hidden)
            for wrong in ({}, {"invocation": 5}, {"invocation": "inv_1", "wait_seconds": -1}):
                assert (await client.call_tool("perdure_result", wrong)).is_error

    asyncio.run(main())


def test_progress_is_what_the_handler_streams(server: Served) -> None:
    told: list[tuple[float, float | None, str | None]] = []
    meta: Any = {IDEMPOTENCY_KEY: "staged"}

    async def main() -> None:
        all_told = asyncio.Event()

        async def heard(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total, message))
            if len(told) == 3:
                all_told.set()

        async with Perdure(server.ingress, admin_url=server.admin) as perdure, Client(stdio(*of(server))) as client:
            call = asyncio.ensure_future(client.call_tool("Shop_stages", progress_callback=heard, meta=meta))
            await asyncio.wait_for(all_told.wait(), 30)
            begun = await client.call_tool("perdure_start", {"tool": "Shop_stages"}, meta=meta)
            await perdure.invocation(invocation(begun)).signal("go", "done")
            assert text(await call) == "done"

    asyncio.run(main())
    assert told == [(1, 3, "one"), (2, None, "two"), (3, None, None)]


def test_a_restart_of_the_server_is_not_seen(tmp_path: Path) -> None:
    server = Restarted(tmp_path, APP, {})
    server.start()
    where = [f"http://127.0.0.1:{port}" for port in (server.ingress, server.admin)]
    meta: Any = {IDEMPOTENCY_KEY: "through a restart"}

    async def main() -> None:
        async with (
            Perdure(where[0], admin_url=where[1]) as perdure,
            Client(stdio("--ingress-url", where[0], "--admin-url", where[1])) as client,
        ):
            call = asyncio.ensure_future(client.call_tool("Shop_wait", {"input": "a"}, meta=meta))
            begun = await client.call_tool("perdure_start", _start("Shop_wait", "a"), meta=meta)
            server.stop()
            await asyncio.to_thread(server.start)
            await perdure.invocation(invocation(begun)).signal("go", "on")
            assert text(await call) == "a on"

    try:
        asyncio.run(main())
    finally:
        server.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
@pytest.mark.parametrize("where", [(), (APP,)], ids=["of a server", "of apps"])
def test_it_ends_when_it_is_told_to(where: tuple[str, ...], tmp_path: Path, server: Served) -> None:
    arguments = (*where, "--data-dir", str(tmp_path / "data")) if where else of(server)
    command = [sys.executable, "-m", "perdure", "mcp", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "nothing"}\n')
        process.stdin.flush()
        assert process.stdout.readline()  # it serves
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_apps_are_served_in_the_process_itself(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))

    async def main() -> None:
        for total in ("5", "10"):  # another process, the same store
            async with Client(stdio(APP, *data)) as client:
                assert text(await client.call_tool("Counter_add", {"key": "k", "input": 5})) == total

    asyncio.run(main())
    with over_http(APP, *data) as url:
        asyncio.run(_one_more(url))


async def _one_more(url: str) -> None:
    async with Client(url) as client:
        assert text(await client.call_tool("Counter_get", {"key": "k"})) == "10"


def test_keys_are_asked_for_and_decide(tmp_path: Path) -> None:
    data = tmp_path / "data"
    keys = {role: _key(data, role) for role in ("operator", "read-only")}

    async def main(url: str) -> None:
        refused = await pyqwest.Client().post(url, {"content-type": "application/json"}, b"{}")
        assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer"
        async with Client(with_key(url, keys["operator"])) as client:
            assert text(await client.call_tool("Shop_shout", {"input": "hi"})) == "HI"
        async with Client(with_key(url, keys["read-only"])) as client:
            looked = await client.call_tool("Shop_shout", {"input": "hi"})
            assert looked.is_error and looked.meta is not None and looked.meta[CODE] == 403

    async def at_stdin(*where: str, key: str) -> types.CallToolResult:
        async with Client(stdio(*where, PERDURE_API_KEY=key)) as client:
            return await client.call_tool("Shop_shout", {"input": "hi"})

    with serving(data, app=APP, env=environment()) as server:
        # Its own key is for its standard input: whoever comes over HTTP has to show one.
        with over_http(*of(server), PERDURE_API_KEY=keys["operator"]) as url:
            asyncio.run(main(url))
        assert text(asyncio.run(at_stdin(*of(server), key=keys["operator"]))) == "HI"
        wrong = asyncio.run(at_stdin(*of(server), key="perdure_no_key"))
        assert wrong.is_error and wrong.meta is not None and wrong.meta[CODE] == 401


def _key(data: Path, role: str) -> str:
    made = perdure("keys", "create", "--data-dir", str(data), "--role", role, "--name", role)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_without_keys_it_is_served_on_loopback_only(server: Served) -> None:
    done = perdure("mcp", "--http", "0", "--host", "0.0.0.0", *of(server), env=environment())
    assert done.returncode == 1 and "asks for no API key" in done.stderr


def test_a_server_that_is_not_there_is_told_to_the_client() -> None:
    where = ("--ingress-url", "http://127.0.0.1:1", "--admin-url", "http://127.0.0.1:1")

    async def main() -> None:
        async with Client(stdio(*where)) as client:
            with pytest.raises(MCPError, match="cannot connect"):
                await client.list_tools()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "check"),
    [
        ((), lambda entry: entry["args"][-4:-2] == ["--ingress-url", "http://127.0.0.1:8080"]),
        ((APP,), lambda entry: entry["args"][-2] == "--data-dir" and str(ROOT) in entry["env"]["PYTHONPATH"]),
        (("--http", "7000"), lambda entry: entry == {"type": "http", "url": "http://127.0.0.1:7000/mcp"}),
    ],
)
def test_what_to_put_into_a_clients_configuration(arguments: tuple[str, ...], check: Callable[[Any], bool]) -> None:
    done = perdure("mcp", *arguments, "--print-config", env=environment(PERDURE_API_KEY="perdure_a_b"))
    assert done.returncode == 0, done.stderr
    assert check(json.loads(done.stdout)["mcpServers"]["perdure"]) and "perdure_a_b" not in done.stdout
