"""The saver and the store, from outside of handlers: what LangGraph's own keep to is what these keep to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langgraph.checkpoint.base import create_checkpoint, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from perdure import App
from perdure.ai.langgraph import PerdureSaver, PerdureStore, memory
from perdure.testing import TestEngine


def both(test: Callable[[Any], Awaitable[Any]], make: Callable[[Any], Any], model: Any) -> None:
    """The same is asked of ours and of LangGraph's; the answers are the same."""

    async def main() -> None:
        async with TestEngine(App(*memory), replay=True) as engine:
            assert await test(make(engine)) == await test(model)

    asyncio.run(main())


async def use_saver(saver: Any) -> list[Any]:
    thread: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    seen: list[Any] = [await saver.aget_tuple(thread)]
    config, version, ids = thread, None, []
    for n in range(4):
        version = saver.get_next_version(version, None)
        checkpoint = create_checkpoint(empty_checkpoint(), None, n)
        checkpoint["channel_values"] = {"n": n, "same": [1, 2]}
        checkpoint["channel_versions"] = {"n": version, "same": "0001.0"}
        new = {"n": version} | ({"same": "0001.0"} if n == 0 else {})
        config = await saver.aput(config, checkpoint, {"source": "loop", "step": n}, new)
        ids.append(checkpoint["id"])
        await saver.aput_writes(config, [("n", n), ("other", {n: "x"})], "task b", "1")
        await saver.aput_writes(config, [("n", n + 10)], "task a", "0")
        await saver.aput_writes(config, [("n", "ignored: it is kept already")], "task a", "0")
    other: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "inner"}}
    await saver.aput(other, create_checkpoint(empty_checkpoint(), None, 0), {"step": 0}, {})

    def plain(found: Any) -> Any:
        configs = [found.config["configurable"], (found.parent_config or {"configurable": {}})["configurable"]]
        places = [ids.index(each["checkpoint_id"]) if each.get("checkpoint_id") in ids else None for each in configs]
        names = [(each.get("thread_id"), each.get("checkpoint_ns")) for each in configs]
        return [found.checkpoint["channel_values"], found.metadata, found.pending_writes, places, names]

    async def listed(config: Any = thread, **options: Any) -> list[Any]:
        return [plain(each) async for each in saver.alist(config, **options)]

    seen.append(plain(await saver.aget_tuple(thread)))
    named: Any = {"configurable": {**thread["configurable"], "checkpoint_id": ids[1]}}
    seen += [plain(await saver.aget_tuple(named)), await listed(), await listed(limit=2)]
    seen += [await listed(filter={"step": 2}), await listed(before=named), await listed(named)]
    seen += [len(await listed({"configurable": {"thread_id": "t"}})), await listed(filter={"source": "loop"}, limit=1)]
    await saver.adelete_thread("t")
    return [*seen, await listed(), await saver.aget_tuple(named)]


def test_the_saver_is_as_langgraphs_own() -> None:
    both(use_saver, PerdureSaver, InMemorySaver())


def test_threads_are_copied_and_pruned() -> None:
    async def main() -> None:
        async with TestEngine(App(*memory)) as engine:
            saver = PerdureSaver(engine)
            config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            for n in range(3):
                checkpoint = create_checkpoint(empty_checkpoint(), None, n)
                checkpoint["channel_values"] = {"n": n}
                checkpoint["channel_versions"] = {"n": f"{n}"}
                config = await saver.aput(config, checkpoint, {"step": n}, {"n": f"{n}"})
            await saver.acopy_thread("t", "u")
            await saver.aprune(["t"])
            copied: Any = {"configurable": {"thread_id": "u"}}
            assert len([each async for each in saver.alist(copied)]) == 3
            kept = [each async for each in saver.alist({"configurable": {"thread_id": "t"}})]
            assert [each.checkpoint["channel_values"] for each in kept] == [{"n": 2}]
            await saver.aprune(["u"], strategy="delete")
            assert await saver.aget_tuple(copied) is None
            with pytest.raises(ValueError, match="strategy"):
                await saver.aprune(["u"], strategy="half")
            with pytest.raises(ValueError, match="thread_id"):
                await saver.aget_tuple({"configurable": {}})
            with pytest.raises(TypeError, match="SyncClient"):
                saver.get_tuple(copied)
        with pytest.raises(LookupError, match="client"):
            await PerdureSaver().aget_tuple(copied)

    asyncio.run(main())


async def use_store(store: Any) -> list[Any]:
    for person, n in (("ann", 1), ("bob", 2), ("eve", 3)):
        await store.aput(("people", person), "likes", {"n": n, "tags": ["a", n]})
        await store.aput(("people", person, "more"), "notes", {"n": n * 10})
    await store.aput(("pets",), "cat", {"n": 5})
    await store.aput(("pets",), "cat", {"n": 6})
    await store.aput(("people", "eve"), "more", {"n": 4})
    await store.adelete(("people", "eve"), "likes")

    def plain(item: Any) -> Any:
        return None if item is None else [item.namespace, item.key, item.value, item.updated_at >= item.created_at]

    async def found(*prefix: str, **options: Any) -> list[Any]:
        return sorted(plain(item) for item in await store.asearch(prefix, **options))

    return [
        plain(await store.aget(("pets",), "cat")),
        plain(await store.aget(("pets",), "dog")),
        plain(await store.aget(("people", "eve"), "likes")),
        await found("people"),
        await found("people", "ann"),
        await found("people", filter={"n": {"$gte": 2}}),
        await found("people", filter={"tags": ["a", 2]}),
        len(await found("people", limit=2)),
        len(await found("people", limit=10, offset=4)),
        sorted(await store.alist_namespaces()),
        sorted(await store.alist_namespaces(prefix=("people",), max_depth=2)),
        sorted(await store.alist_namespaces(suffix=("more",))),
        sorted(await store.alist_namespaces(prefix=("people", "*", "more"))),
    ]


def test_the_store_is_as_langgraphs_own() -> None:
    both(use_store, PerdureStore, InMemoryStore())
