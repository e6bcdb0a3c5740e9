"""`PerdureSaver`: LangGraph's checkpoints in the state of virtual objects."""

import builtins
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from operator import itemgetter
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from perdure.ai.base import durable_context
from perdure.ai.langchain.messages import Packer
from perdure.ai.langgraph.calls import ask, ask_sync
from perdure.ai.langgraph.objects import Document

__all__ = ["PerdureSaver"]


class PerdureSaver(BaseCheckpointSaver[str]):
    """Keeps each thread in a virtual object of its own, `LangGraphThread/<thread id>`.

        graph = durable(builder.compile(checkpointer=PerdureSaver()))
        app = App(service, *memory)                        # with the objects that it lives in

    In handlers it asks the objects durably. Elsewhere it needs somebody to ask: `PerdureSaver(client)`, a `Client` or
    an `Engine` for `ainvoke` and the like, a `SyncClient` for `invoke`. A thread is written by one run at a time.

    `list` is of one thread. `delete_for_runs` is not there: threads are not searched.
    """

    def __init__(self, client: Any = None) -> None:
        super().__init__(serde=JsonPlusSerializer(allowed_msgpack_modules=True))
        self._client = client
        self._pack = Packer(self.serde)

    # Reading

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the thread's newest in that namespace."""
        found = ask_sync(self._client, "LangGraphThread/get", _thread(config), self._wanted_one(config))
        return self._tuple(config, found[0]) if found else None

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `get_tuple`."""
        found = await ask(self._client, "LangGraphThread/get", _thread(config), self._wanted_one(config))
        return self._tuple(config, found[0]) if found else None

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The thread's checkpoints, newest first."""
        wanted = self._wanted(config, before, limit if filter is None else None)
        yield from self._filtered(ask_sync(self._client, "LangGraphThread/get", _thread(config), wanted), filter, limit)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See `list`."""
        wanted = self._wanted(config, before, limit if filter is None else None)
        found = await ask(self._client, "LangGraphThread/get", _thread(config), wanted)
        for each in self._filtered(found, filter, limit):
            yield each

    # Writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint; the config that names it."""
        document = self._document(config, checkpoint, metadata, new_versions)
        ask_sync(self._client, "LangGraphThread/put", _thread(config), document)
        return _named(_thread(config), document["namespace"], checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See `put`."""
        document = self._document(config, checkpoint, metadata, new_versions)
        await ask(self._client, "LangGraphThread/put", _thread(config), document)
        return _named(_thread(config), document["namespace"], checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task wrote."""
        document = self._writes(config, writes, task_id, task_path)
        ask_sync(self._client, "LangGraphThread/put_writes", _thread(config), document)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See `put_writes`."""
        document = self._writes(config, writes, task_id, task_path)
        await ask(self._client, "LangGraphThread/put_writes", _thread(config), document)

    def delete_thread(self, thread_id: str) -> None:
        """Forget a thread."""
        ask_sync(self._client, "LangGraphThread/clear", thread_id, None)

    async def adelete_thread(self, thread_id: str) -> None:
        """See `delete_thread`."""
        await ask(self._client, "LangGraphThread/clear", thread_id, None)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Have one thread be as another is now."""
        state = ask_sync(self._client, "LangGraphThread/dump", source_thread_id, None)
        ask_sync(self._client, "LangGraphThread/load", target_thread_id, state)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `copy_thread`."""
        state = await ask(self._client, "LangGraphThread/dump", source_thread_id, None)
        await ask(self._client, "LangGraphThread/load", target_thread_id, state)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Forget all but the newest checkpoints of threads (`keep_latest`), or all (`delete`).

        Not for graphs with a `DeltaChannel`, which needs its earlier checkpoints.
        """
        for thread_id in thread_ids:
            ask_sync(self._client, _pruned(strategy), thread_id, None)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See `prune`."""
        for thread_id in thread_ids:
            await ask(self._client, _pruned(strategy), thread_id, None)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The next version of a channel: greater than the one before, and another one in each fork."""
        context = durable_context()
        chance = (random if context is None else context.random).getrandbits(32)
        return f"{int(str(current or '0').split('.')[0]) + 1:016d}.{chance:08x}"

    # Documents

    def _wanted_one(self, config: RunnableConfig) -> Document:
        namespace = config.get("configurable", {}).get("checkpoint_ns", "")
        return {"namespace": namespace, "id": get_checkpoint_id(config), "limit": 1}

    def _wanted(self, config: RunnableConfig | None, before: RunnableConfig | None, limit: int | None) -> Document:
        namespace = (config or {}).get("configurable", {}).get("checkpoint_ns")
        wanted: Document = {"namespace": namespace, "id": get_checkpoint_id(config) if config else None, "limit": limit}
        return {**wanted, "before": get_checkpoint_id(before) if before else None}

    def _document(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, versions: ChannelVersions
    ) -> Document:
        bare: Any = {name: _ordered(value) for name, value in checkpoint.items() if name != "channel_values"}
        context = durable_context()
        if context is not None:
            bare["ts"] = context.now().isoformat()  # the framework's is of the moment, and not of this one on replay
        values: Any = checkpoint["channel_values"]
        configurable = config.get("configurable", {})
        return {
            "id": checkpoint["id"],
            "namespace": configurable.get("checkpoint_ns", ""),
            "parent": configurable.get("checkpoint_id"),
            "checkpoint": self._pack(bare),
            "metadata": self._pack(get_checkpoint_metadata(config, metadata)),
            "versions": bare["channel_versions"],
            "values": [
                [channel, version, self._pack(values[channel]) if channel in values else None]
                for channel, version in sorted(versions.items())
            ],
        }

    def _writes(self, config: RunnableConfig, writes: Any, task_id: str, task_path: str) -> Document:
        configurable = config.get("configurable", {})
        return {
            "id": configurable["checkpoint_id"],
            "namespace": configurable.get("checkpoint_ns", ""),
            "writes": [
                [task_id, WRITES_IDX_MAP.get(channel, index), channel, self._pack(value), task_path]
                for index, (channel, value) in enumerate(sorted(writes, key=itemgetter(0)))
            ],
        }

    def _tuple(self, config: RunnableConfig, document: Document) -> CheckpointTuple:
        unpack = self._pack.unpack
        thread, namespace = _thread(config), document["namespace"]
        checkpoint = unpack(document["checkpoint"])
        checkpoint["channel_values"] = {name: unpack(value) for name, value in document["values"].items()}
        writes = sorted(document["writes"], key=lambda write: (write[4], write[0], write[1]))
        parent = document["parent"]
        return CheckpointTuple(
            config=_named(thread, namespace, document["id"]),
            checkpoint=checkpoint,
            metadata=unpack(document["metadata"]),
            parent_config=_named(thread, namespace, parent) if parent else None,
            pending_writes=[(write[0], write[2], unpack(write[3])) for write in writes],
        )

    def _filtered(
        self, found: "builtins.list[Document]", filter: dict[str, Any] | None, limit: int | None
    ) -> Iterator[CheckpointTuple]:
        for document in found:
            if limit is not None and limit <= 0:
                return
            each = self._tuple(_named(document["thread"], "", ""), document)
            metadata: Any = each.metadata
            if all(metadata.get(name) == value for name, value in (filter or {}).items()):
                limit = None if limit is None else limit - 1
                yield each


def _ordered(value: Any) -> Any:
    """LangGraph makes these mappings from sets of names, whose order is another one in each process."""
    if isinstance(value, dict):
        return {name: _ordered(each) for name, each in sorted(value.items())}
    return sorted(value) if isinstance(value, builtins.list) and all(isinstance(each, str) for each in value) else value


def _thread(config: RunnableConfig | None) -> str:
    thread_id = (config or {}).get("configurable", {}).get("thread_id")
    if not thread_id:
        raise ValueError('PerdureSaver looks at one thread: config={"configurable": {"thread_id": "..."}}')
    return str(thread_id)


def _named(thread: str, namespace: str, id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": id}}


def _pruned(strategy: str) -> str:
    handlers = {"keep_latest": "LangGraphThread/keep_latest", "delete": "LangGraphThread/clear"}
    if strategy not in handlers:
        raise ValueError(f"strategy is 'keep_latest' or 'delete', not {strategy!r}")
    return handlers[strategy]
