"""The virtual objects that LangGraph's checkpoints and long-term memory live in, one per thread and one per store.

An app that uses `PerdureSaver` or `PerdureStore` has them among its services: `App(agent, *memory)`. Each checkpoint,
each value of a channel, each task's writes, each item of a store is one entry of state:

| service, key | state |
| --- | --- |
| `LangGraphThread`, the thread's id | `c/<namespace>/<id>` a checkpoint, `w/<namespace>/<id>` the tasks' writes |
| | `v/<namespace>/<channel>/<version>` a value |
| `LangGraphStore`, the store's name | `["<namespace>", ..., "<key>"]` an item |
"""

import json
from typing import Any

from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, SearchOp
from langgraph.store.memory import InMemoryStore

from perdure.sdk.context import ObjectContext, SharedContext
from perdure.sdk.service import VirtualObject

__all__ = ["memory", "store", "thread"]

thread = VirtualObject("LangGraphThread", description="The checkpoints of one thread of LangGraph.")
store = VirtualObject("LangGraphStore", description="A long-term memory of LangGraph.")
memory = (thread, store)

Document = dict[str, Any]


@thread.handler()
async def put(ctx: ObjectContext, document: Document) -> None:
    """Keep a checkpoint, and the values of its channels that are new."""
    namespace, values = document["namespace"], document.pop("values")
    for channel, version, value in values:
        if value is not None:
            ctx.set(f"v/{namespace}/{channel}/{version}", value)
    ctx.set(f"c/{namespace}/{document['id']}", document)


@thread.handler()
async def put_writes(ctx: ObjectContext, document: Document) -> None:
    """Keep what a task wrote after a checkpoint; what is kept already stays, unless it is a special write."""
    name = f"w/{document['namespace']}/{document['id']}"
    kept: list[Any] = await ctx.get(name, list[Any], default=[])
    places = {(write[0], write[1]): index for index, write in enumerate(kept)}
    for write in document["writes"]:
        index = places.get((write[0], write[1]))
        if index is None:
            kept.append(write)
        elif write[1] < 0:
            kept[index] = write
    ctx.set(name, kept)


@thread.shared()
async def get(ctx: SharedContext, wanted: Document) -> list[Document]:
    """Checkpoints with their values and writes, the newest first: of a namespace or all, one id or those before one."""
    names = [name.split("/", 1)[1].rsplit("/", 1) for name in await ctx.keys() if name.startswith("c/")]
    found = [
        (id, namespace)
        for namespace, id in names
        if wanted.get("namespace") in (None, namespace)
        and wanted.get("id") in (None, id)
        and (wanted.get("before") is None or id < wanted["before"])
    ]
    found.sort(reverse=True)
    return [await _checkpoint(ctx, namespace, id) for id, namespace in found[: wanted.get("limit")]]


async def _checkpoint(ctx: SharedContext, namespace: str, id: str) -> Document:
    document: Document = await ctx.get(f"c/{namespace}/{id}", dict[str, Any], default={})
    values = {}
    for channel, version in document["versions"].items():
        value = await ctx.get(f"v/{namespace}/{channel}/{version}", list[Any])
        if value is not None:
            values[channel] = value
    writes = await ctx.get(f"w/{namespace}/{id}", list[Any], default=[])
    return {**document, "thread": ctx.key, "values": values, "writes": writes}


@thread.handler()
async def clear(ctx: ObjectContext) -> None:
    """Forget the thread."""
    ctx.clear_all()


@thread.handler()
async def keep_latest(ctx: ObjectContext) -> None:
    """Forget all checkpoints but the newest of each namespace, and the values that only they had."""
    names = await ctx.keys()
    newest: dict[str, str] = {}
    for name in names:
        if name.startswith("c/"):
            namespace, id = name[2:].rsplit("/", 1)
            newest[namespace] = max(id, newest.get(namespace, ""))
    kept = set()
    for namespace, id in newest.items():
        document = await ctx.get(f"c/{namespace}/{id}", dict[str, Any], default={})
        kept |= {f"v/{namespace}/{channel}/{version}" for channel, version in document["versions"].items()}
        kept |= {f"c/{namespace}/{id}", f"w/{namespace}/{id}"}
    for name in names:
        if name not in kept:
            await ctx.clear(name)


@thread.shared()
async def dump(ctx: SharedContext) -> Document:
    """The thread's whole state, for a copy of it."""
    return {name: await ctx.get(name, Any) for name in await ctx.keys()}


@thread.handler()
async def load(ctx: ObjectContext, state: Document) -> None:
    """Have exactly this state."""
    ctx.clear_all()
    for name, value in state.items():
        ctx.set(name, value)


@store.handler()
async def write(ctx: ObjectContext, items: list[Any]) -> None:
    """Put items, or delete those without a value."""
    now = ctx.now().isoformat()
    for namespace, key, value in items:
        name = json.dumps([*namespace, key])
        if value is None:
            await ctx.clear(name)
            continue
        before: Document = await ctx.get(name, dict[str, Any], default={})
        ctx.set(name, {"value": value, "created_at": before.get("created_at", now), "updated_at": now})


@store.shared()
async def read(ctx: SharedContext, operations: list[Document]) -> list[Any]:
    """The answers to get, search and list operations, by LangGraph's own rules for them."""
    found: dict[tuple[str, ...], Document] = {}
    wanted = [tuple(each["namespace"]) for each in operations if each["kind"] != "list"]
    whole = len(wanted) < len(operations)
    for name in sorted(await ctx.keys()):
        path = tuple(json.loads(name))
        if whole or any(path[: len(prefix)] == prefix for prefix in wanted):
            found[path] = await ctx.get(name, dict[str, Any], default={})
    items = InMemoryStore()
    for path, document in found.items():
        items.put(path[:-1], path[-1], document["value"])
    answers = items.batch([_operation(each) for each in operations])
    return [_answer(answer, found) for answer in answers]


def _operation(document: Document) -> Any:
    if document["kind"] == "get":
        return GetOp(tuple(document["namespace"]), document["key"])
    if document["kind"] == "search":
        filter, limit, offset = document["filter"], document["limit"], document["offset"]
        return SearchOp(tuple(document["namespace"]), filter, limit, offset)
    conditions = tuple(MatchCondition(kind, tuple(path)) for kind, path in document["conditions"])
    return ListNamespacesOp(conditions or None, document["max_depth"], document["limit"], document["offset"])


def _answer(answer: Any, found: dict[tuple[str, ...], Document]) -> Any:
    if isinstance(answer, list):
        return [_answer(each, found) for each in answer]
    if answer is None or isinstance(answer, tuple):
        return answer
    return {"namespace": answer.namespace, "key": answer.key, **found[(*answer.namespace, answer.key)]}
