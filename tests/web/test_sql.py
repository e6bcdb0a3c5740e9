"""`POST /query`: the route, and the processes behind it."""

import asyncio
import contextlib
import importlib.util
import io
import json
import os
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pytest

from perdure import App, Service
from perdure.assembly import assemble, queries_of
from perdure.sql.facts import Facts
from perdure.sql.pool import Queries, QueryRefused, TooManyQueries
from perdure.storage.memory import MemoryStorage
from perdure.web.admin import Admin
from tests.web.fakes import Reply, Web
from tests.web.sql_world import small_node

T = TypeVar("T")
SLOW = "SELECT COUNT(*) FROM generate_series(1, 10000000000) WHERE value % 7 = 3"
LONG = "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 20000)"
JSON = (("content-type", "application/json"), ("accept", "application/json"))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


@contextlib.asynccontextmanager
async def open_queries(**options: Any) -> AsyncIterator[Queries]:
    @contextlib.asynccontextmanager
    async def files() -> AsyncIterator[list[str]]:
        yield []

    queries = Queries(files, Facts, **options)
    try:
        yield queries
    finally:
        await queries.close()


async def whole(queries: Queries, sql: str) -> bytes:
    return b"".join([piece async for piece in queries.answer(sql, "json")])


async def post(web: Web, sql: str, *headers: tuple[str, str]) -> Reply:
    body = json.dumps({"query": sql}).encode()
    return await web.post("/query", body, *(headers or JSON))


# The route


def test_the_route() -> None:
    async def main() -> None:
        storages = [MemoryStorage(), MemoryStorage()]
        async with small_node(storages) as (node, ids):
            queries = queries_of(node, storages)
            try:
                web = Web(Admin(node, version="1", queries=queries))
                await check_route(web, ids)
            finally:
                await queries.close()

    run(main())


async def check_route(web: Web, ids: dict[str, str]) -> None:
    reply = await post(web, f"SELECT status FROM sys_invocation WHERE id = '{ids['busy']}'")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == {"rows": [{"status": "running"}]}
    assert (await web.post("/v4/query", b'{"query": "SELECT 1 AS a"}', *JSON)).json == {"rows": [{"a": 1}]}

    for accept in ((), (("accept", "*/*"),), (("accept", "application/json, text/plain"),)):
        reply = await post(web, "SELECT id, created_at FROM sys_invocation", JSON[0], *accept)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/vnd.apache.arrow.stream")
        table = pa.ipc.open_stream(reply.body).read_all()
        assert table.schema.names == ["id", "created_at"]
        assert set(ids.values()) <= set(table.column("id").to_pylist())
    reply = await post(web, "SELECT COUNT(*) FROM sys_rules", JSON[0])
    (count,) = pa.ipc.open_stream(io.BytesIO(reply.body)).read_all().columns
    assert (count.type, count.to_pylist()) == (pa.int64(), [0])
    nothing = pa.ipc.open_stream((await post(web, "SELECT * FROM sys_rules", JSON[0])).body).read_all()
    assert nothing.num_rows == 0 and "pattern" in nothing.schema.names

    for sql, status in (("selec", 400), ("DROP TABLE state", 400), ("SELECT * FROM nothing", 500)):
        for accept in ((JSON[1],), ()):
            reply = await post(web, sql, JSON[0], *accept)
            assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
            assert [*reply.json] == ["message"]
            assert reply.json["message"].startswith("Datafusion error: ")

    assert (await web.post("/query", b'{"query": "SELECT 1"}')).status == 415
    assert (await web.post("/query", b"{", *JSON)).status == 400
    assert (await web.post("/query", b'{"sql": "SELECT 1"}', *JSON)).status == 422
    assert (await web.get("/query")).status == 405


def test_what_is_written_is_seen(tmp_path: Path) -> None:
    """On files, which the processes read while the engine writes them."""
    from perdure.storage.sqlite import SqliteStorage

    greeter = Service("Greeter")

    @greeter.handler()
    async def greet(ctx: Any, name: str) -> str:
        return name

    async def main() -> None:
        storages = [SqliteStorage(tmp_path / f"p{index}.db") for index in range(2)]
        node = assemble([App(greeter)], storages)
        await node.start()
        queries = queries_of(node, storages)
        try:
            web = Web(Admin(node, version="1", queries=queries))
            for count in range(1, 4):
                await node.call(node.registry.target("Greeter", "greet", None), b'"ada"')
                reply = await post(web, "SELECT COUNT(*) AS n FROM sys_invocation WHERE status = 'completed'")
                assert reply.json == {"rows": [{"n": count}]}
        finally:
            await queries.close()
            await node.stop(0.1)

    run(main())


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datafusion" else found(name))

    async def main() -> Reply:
        storages = [MemoryStorage()]
        node = assemble([], storages)
        queries = queries_of(node, storages)
        reply = await post(Web(Admin(node, version="1", queries=queries)), "SELECT 1")
        await queries.close()
        await node.stop(0.1)
        return reply

    reply = run(main())
    assert reply.status == 503
    assert "pip install 'perdure[sql]'" in reply.json["message"]


def test_what_goes_wrong_later_cuts_the_answer_off(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def answer(self, sql: str, format: str) -> AsyncIterator[bytes]:
            yield b'{"rows":['
            raise QueryRefused("it took too long", 504)

    async def main() -> None:
        storages = [MemoryStorage()]
        node = assemble([], storages)
        web = Web(Admin(node, version="1", queries=cast(Queries, Broken())))
        reply = await post(web, "SELECT 1")
        assert (reply.status, reply.body) == (200, b'{"rows":[')
        await node.stop(0.1)

    run(main())
    assert "POST /query was cut off: it took too long" in caplog.text


# The processes


def test_one_process_answers_one_after_another() -> None:
    async def main() -> None:
        async with open_queries(idle_seconds=0.2) as queries:
            first = await whole(queries, "SELECT 1 AS a")
            assert first == b'{"rows":[{"a":1}]}'
            (worker,) = queries._idle
            with pytest.raises(QueryRefused):
                await whole(queries, "selec")
            assert await whole(queries, "SELECT 2 AS a") == b'{"rows":[{"a":2}]}'
            assert queries._idle == [worker]
            await asyncio.sleep(1.0)
            assert queries._idle == []
            assert not worker.alive
            assert await whole(queries, "SELECT 3 AS a") == b'{"rows":[{"a":3}]}'

    run(main())


def test_a_long_answer_comes_in_pieces() -> None:
    async def main() -> None:
        async with open_queries() as queries:
            pieces = [piece async for piece in queries.answer(LONG, "json")]
            assert len(pieces) > 10
            rows = json.loads(b"".join(pieces))["rows"]
            assert [row["value"] for row in rows] == list(range(1, 20_001))

    run(main())


def test_the_time_limit() -> None:
    async def main() -> None:
        async with open_queries(time_limit=3.0) as queries:
            began = time.monotonic()
            with pytest.raises(QueryRefused, match=r"longer than 3 s") as refused:
                await whole(queries, SLOW)
            assert refused.value.status == 504
            assert time.monotonic() - began < 8
            assert await whole(queries, "SELECT 1 AS a") == b'{"rows":[{"a":1}]}'

    run(main())


def test_the_event_loop_is_never_held_up() -> None:
    async def main() -> None:
        async with open_queries(time_limit=2.0) as queries:
            await whole(queries, "SELECT 1")
            slow = asyncio.create_task(whole(queries, SLOW))
            latest = 0.0
            for _ in range(50):
                began = time.monotonic()
                await asyncio.sleep(0.01)
                latest = max(latest, time.monotonic() - began)
            assert latest < 0.5
            slow.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await slow

    run(main())


def test_who_leaves_ends_the_query() -> None:
    async def main() -> None:
        async with open_queries(concurrency=1) as queries:
            task = asyncio.create_task(whole(queries, SLOW))
            await asyncio.sleep(1.0)
            (worker,) = queries._busy
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await asyncio.wait_for(whole(queries, "SELECT 1 AS a"), 10) == b'{"rows":[{"a":1}]}'
            assert not worker.alive

    run(main())


def test_others_wait_and_too_many_are_refused() -> None:
    async def main() -> None:
        async with open_queries(concurrency=1, queue_limit=2, time_limit=1.5) as queries:
            slow = asyncio.create_task(whole(queries, SLOW))
            await asyncio.sleep(0.1)
            waiting = [asyncio.create_task(whole(queries, "SELECT 1 AS a")) for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(TooManyQueries):
                await whole(queries, "SELECT 1")
            with pytest.raises(QueryRefused):
                await slow
            assert {type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)} <= {
                bytes,
                QueryRefused,
            }

    run(main())


def test_a_process_that_dies() -> None:
    async def main() -> None:
        async with open_queries() as queries:
            await whole(queries, "SELECT 1")
            (worker,) = queries._idle
            task = asyncio.create_task(whole(queries, SLOW))
            await asyncio.sleep(0.3)
            worker.kill()
            with pytest.raises(QueryRefused, match="has died"):
                await task
            assert await whole(queries, "SELECT 1 AS a") == b'{"rows":[{"a":1}]}'

    run(main())


def test_stopping_ends_what_runs() -> None:
    async def main() -> None:
        async with open_queries() as queries:
            task = asyncio.create_task(whole(queries, SLOW))
            await asyncio.sleep(1.0)
            (worker,) = queries._busy
            await queries.close()
            assert not worker.alive
            with pytest.raises(QueryRefused):
                await task

    run(main())


def test_nothing_of_it_is_imported_by_the_server() -> None:
    import subprocess
    import sys

    code = "import sys, perdure.server; print({'pyarrow', 'datafusion'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "set()"
