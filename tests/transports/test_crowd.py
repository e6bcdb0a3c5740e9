"""Many attempts at once, on an endpoint that is another process."""

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from perdure.assembly import LocalNode, Reach, assemble
from perdure.model.actions import Answer as Result
from perdure.model.deployments import HttpEndpoint
from perdure.model.entries import VOID, Signal, Value
from perdure.model.ids import InvocationId
from perdure.runtime.deployments import Deployments, Registration
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import SqliteStorage
from tests.ports import free_port
from tests.transports.in_loop import in_loop, until
from tests.transports.test_http2_servers import _listens

ROOT = Path(__file__).parent.parent.parent
COUNT = 2_000
BYTES_EACH = 60_000


@contextlib.asynccontextmanager
async def crowded(
    stores: list[MemoryStorage] | list[SqliteStorage], requests: int = 1_000_000, attempt_limit: int = 4_000
) -> AsyncIterator[LocalNode]:
    """A node with the endpoint registered; `requests` are how many that takes on one connection."""
    port = free_port()
    command = [sys.executable, "-m", "tests.transports.crowd_endpoint", str(port), str(requests)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)  # noqa: ASYNC220  # once
    try:
        await until(lambda: _listens(port), 20)
        node = assemble([], stores, reach=Reach(attempt_limit=attempt_limit))
        await node.start()
        await Deployments(node).register(Registration(HttpEndpoint(f"http://127.0.0.1:{port}")))
        yield node
        await node.stop(0)
    finally:
        process.kill()
        process.wait(10)


async def send(node: LocalNode, handler: str, count: int) -> list[InvocationId]:
    target = node.registry.target("Crowd", handler, None)
    accepted = await asyncio.gather(*[node.send(target, b"%d" % number) for number in range(count)])
    return [InvocationId(each.id) for each in accepted]


async def results(node: LocalNode, ids: list[InvocationId]) -> list[int]:
    found = await asyncio.gather(*[node.attach(id) for id in ids])
    values = [each.result for each in found if isinstance(each, Result)]
    return [json.loads(value.content) for value in values if isinstance(value, Value)]


@in_loop
async def test_two_thousand_attempts_at_once(tmp_path: Path) -> None:
    """They are all alive at the same time, on connections of a hundred streams."""
    async with crowded([SqliteStorage(tmp_path / "store.db")]) as node:
        process = psutil.Process()
        await results(node, await send(node, "double", 200))  # what is needed once is there
        gc.collect()
        before, began = process.memory_info().rss, time.monotonic()
        ids = await send(node, "wait", COUNT)
        await until(lambda: node.invoker.live == COUNT, 20)
        described = await asyncio.gather(*[node.describe(id) for id in ids])
        while any(len(getattr(each, "entries", ())) < 3 for each in described):
            await asyncio.sleep(0.05)
            described = await asyncio.gather(*[node.describe(id) for id in ids])
        del described
        gc.collect()
        each = (process.memory_info().rss - before) / COUNT
        await asyncio.gather(*[node.signal(id, Signal("go", VOID)) for id in ids])
        assert await results(node, ids) == [number * 2 for number in range(COUNT)]
        seconds = time.monotonic() - began
        print(f"{each:.0f} bytes for each of {COUNT} attempts, {seconds:.1f} s")
        assert each < BYTES_EACH


@in_loop
async def test_a_limit_to_attempts_elsewhere_makes_the_others_wait() -> None:
    async with crowded([MemoryStorage()], attempt_limit=20) as node:
        most = 0
        task = asyncio.create_task(results(node, await send(node, "double", 300)))
        while not task.done():
            most = max(most, node.invoker.live)
            await asyncio.sleep(0.001)
        assert await task == [number * 2 for number in range(300)]
        assert most <= 20


@in_loop
async def test_invocations_survive_connections_that_are_closed_under_load() -> None:
    """Hypercorn closes after some requests, with what is on the connection."""
    async with crowded([MemoryStorage()], requests=100) as node:
        assert await results(node, await send(node, "double", 500)) == [number * 2 for number in range(500)]
