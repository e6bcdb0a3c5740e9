"""A node with invocations in every status, and SQL over it: what the tests of the tables look at."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from perdure import App, Context, ObjectContext, RetryPolicy, Service, TerminalError, VirtualObject, Workflow
from perdure import WorkflowContext as Run
from perdure.assembly import LocalNode, assemble
from perdure.model.ids import format_invocation_id
from perdure.sql.facts import Facts
from perdure.sql.render import json_rows
from perdure.sql.session import execute
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import copy_to
from perdure.web.sql import facts_of

MEMORY = 256 << 20

plain = Service("Plain")
sleepy = Service("Sleepy", inactivity_timeout=0)
counter = VirtualObject("Counter")
signup = Workflow("Signup")
ONCE = RetryPolicy(max_attempts=1)
LATER = RetryPolicy(initial_interval=1000.0, max_interval=1000.0)


@plain.handler()
async def good(ctx: Context, value: int) -> int:
    return await ctx.run("add one", lambda: value + 1)


@plain.handler()
async def bad(ctx: Context, value: int) -> int:
    raise TerminalError("no way", code=409)


@plain.handler(retry_policy=LATER)
async def flaky(ctx: Context, value: int) -> int:
    raise ValueError("boom")


@plain.handler(retry_policy=ONCE)
async def hopeless(ctx: Context, value: int) -> int:
    raise ValueError("bang")


@plain.handler()
async def busy(ctx: Context, value: int) -> int:
    await ctx.run("for ever", asyncio.Event().wait)
    return value


@plain.handler()
async def caller(ctx: Context, value: int) -> int:
    await ctx.send(good, 7, delay=3600)
    return int(await ctx.call(total, key="a"))


@sleepy.handler()
async def sleeps(ctx: Context, value: int) -> None:
    ctx.stream("log").write("zz")
    ctx.stream("log").write("z")
    await ctx.sleep(10_000, name="long")


@counter.handler()
async def add(ctx: ObjectContext, value: int) -> None:
    ctx.set("total", {"sum": value})
    ctx.set("rest", 1)
    await ctx.clear("rest")
    await ctx.run("for ever", asyncio.Event().wait)


@counter.shared()
async def total(ctx: Any) -> int:
    found = await ctx.get("total", dict, default={})
    return int(found.get("sum", 0))


@signup.main()
async def run(ctx: Run, value: int) -> str:
    await ctx.promise("yes", str).resolve("it is")
    await ctx.promise("no", str).reject("nope", code=400)
    return await ctx.promise("open", str)


class World(NamedTuple):
    """Files and facts to query, and the printed ids by name."""

    files: list[str]
    facts: Facts
    ids: dict[str, str]

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows as `POST /query` gives them in JSON."""
        answer = b"".join(json_rows(execute(sql, self.files, self.facts, MEMORY)))
        rows: list[dict[str, Any]] = msgspec.json.decode(answer)["rows"]
        return rows

    def row(self, sql: str) -> dict[str, Any]:
        (row,) = self.rows(sql)
        return row


SENDS: dict[str, tuple[str, str, str | None, dict[str, Any]]] = {  # name -> service, handler, key, options
    "good": ("Plain", "good", None, {"idempotency_key": "once"}),
    "bad": ("Plain", "bad", None, {}),
    "flaky": ("Plain", "flaky", None, {}),
    "hopeless": ("Plain", "hopeless", None, {}),
    "busy": ("Plain", "busy", None, {}),
    "later": ("Plain", "good", None, {"delay_ms": 3_600_000}),
    "sleeps": ("Sleepy", "sleeps", None, {}),
    "holds": ("Counter", "add", "a", {}),
    "waits": ("Counter", "add", "a", {}),
    "signup": ("Signup", "run", "ada", {}),
}


@contextlib.asynccontextmanager
async def small_node(storages: list[MemoryStorage]) -> AsyncIterator[tuple[LocalNode, dict[str, str]]]:
    """A node whose invocations have come to rest, or as near to it as they come."""
    node = assemble([App(plain, sleepy, counter, signup)], storages)
    await node.start()
    ids = {}
    for name, (service, handler, key, options) in SENDS.items():
        accepted = await node.send(node.registry.target(service, handler, key), b"5", **options)
        ids[name] = format_invocation_id(accepted.id)
    await asyncio.sleep(0.3)
    accepted = await node.send(node.registry.target("Plain", "caller", None), b"5")
    ids["caller"] = format_invocation_id(accepted.id)
    await asyncio.sleep(0.3)
    try:
        yield node, ids
    finally:
        await node.stop(0.1)


async def _built(folder: Path, partitions: int) -> World:
    storages = [MemoryStorage() for _ in range(partitions)]
    files = [folder / f"partition-{index}.db" for index in range(partitions)]
    async with small_node(storages) as (node, ids):
        facts = facts_of(node)
        for storage, file in zip(storages, files, strict=True):
            copy_to(storage.snapshot(), file)
    return World([str(file) for file in files], facts, ids)


def build(folder: Path, partitions: int = 2) -> World:
    """Files that hold what such a node has stored."""
    world = asyncio.run(_built(folder, partitions))
    sent = world.row("SELECT id FROM sys_invocation WHERE target = 'Plain/good' AND invoked_by = 'service'")
    world.ids["sent"] = sent["id"]
    return world
