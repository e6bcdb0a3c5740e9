"""`PerdureStore`: LangGraph's long-term memory in the state of a virtual object."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from langgraph.store.base import BaseStore, GetOp, Item, ListNamespacesOp, Op, PutOp, Result, SearchItem, SearchOp

from perdure.ai.langgraph.calls import ask, ask_sync
from perdure.ai.langgraph.objects import Document

__all__ = ["PerdureStore"]


class PerdureStore(BaseStore):
    """Items in namespaces, kept in one virtual object, `LangGraphStore/<name>`.

        graph = durable(builder.compile(store=PerdureStore()))
        app = App(service, *memory)

    In handlers it asks the object durably; elsewhere it needs a client, as `PerdureSaver` does. Values are JSON.
    Filters, prefixes and wildcards are LangGraph's; a `query` in words is not looked at, for there are no vectors, and
    items do not expire. A search reads all items under its prefix: meant for thousands of them, not for millions.
    """

    def __init__(self, client: Any = None, *, name: str = "default") -> None:
        self._client = client
        self._name = name

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """All operations, the reading ones first, as LangGraph has it."""
        operations = list(ops)
        reads, items = _split(operations)
        answers = ask_sync(self._client, "LangGraphStore/read", self._name, reads) if reads else []
        if items:
            ask_sync(self._client, "LangGraphStore/write", self._name, items)
        return _results(operations, answers)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """See `batch`."""
        operations = list(ops)
        reads, items = _split(operations)
        answers = await ask(self._client, "LangGraphStore/read", self._name, reads) if reads else []
        if items:
            await ask(self._client, "LangGraphStore/write", self._name, items)
        return _results(operations, answers)


def _split(operations: list[Op]) -> tuple[list[Document], list[Any]]:
    reads: list[Document] = []
    items: dict[tuple[tuple[str, ...], str], Any] = {}  # of several for one key the last counts
    for op in operations:
        if isinstance(op, PutOp):
            items[(op.namespace, op.key)] = op.value
        elif isinstance(op, GetOp):
            reads.append({"kind": "get", "namespace": list(op.namespace), "key": op.key})
        elif isinstance(op, SearchOp):
            search = {"namespace": list(op.namespace_prefix), "filter": op.filter}
            reads.append({"kind": "search", **search, "limit": op.limit, "offset": op.offset})
        elif isinstance(op, ListNamespacesOp):
            conditions = [[each.match_type, list(each.path)] for each in op.match_conditions or ()]
            listing = {"conditions": conditions, "max_depth": op.max_depth}
            reads.append({"kind": "list", **listing, "limit": op.limit, "offset": op.offset})
        else:
            raise ValueError(f"PerdureStore does not know the operation {type(op).__name__}")
    return reads, [[list(namespace), key, value] for (namespace, key), value in items.items()]


def _results(operations: list[Op], answers: list[Any]) -> list[Result]:
    remaining = iter(answers)
    return [None if isinstance(op, PutOp) else _result(op, next(remaining)) for op in operations]


def _result(op: Op, answer: Any) -> Any:
    if isinstance(op, ListNamespacesOp):
        return [tuple(each) for each in answer]
    if isinstance(op, SearchOp):
        return [SearchItem(**_fields(each), score=None) for each in answer]
    return None if answer is None else Item(**_fields(answer))


def _fields(answer: Document) -> dict[str, Any]:
    times = {name: datetime.fromisoformat(answer[name]) for name in ("created_at", "updated_at")}
    return {"value": answer["value"], "key": answer["key"], "namespace": tuple(answer["namespace"]), **times}
