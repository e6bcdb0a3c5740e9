"""LangChain agents on perdure: one more middleware.

    from perdure.ai.langchain import DurableMiddleware

    agent = create_agent(model, tools, middleware=[DurableMiddleware()])

In a handler its model calls and tools are steps; elsewhere nothing changes. See docs/ai/langchain.md.
"""

from langchain_core.utils.uuid import uuid7
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver

from perdure.ai.base import in_handler
from perdure.ai.ids import make_ids_replay, replaying, time_ordered
from perdure.ai.instrumented import only_of_the_handler
from perdure.ai.langchain import middleware, models, runs
from perdure.ai.langchain.approvals import decide, decide_sync
from perdure.ai.langchain.history import PerdureChatMessageHistory
from perdure.ai.langchain.middleware import DurableMiddleware

__all__ = ["DurableMiddleware", "PerdureChatMessageHistory", "decide", "decide_sync", "in_handler"]

models.install()
middleware.install()
runs.install()
only_of_the_handler(
    InMemorySaver, ("get_tuple", "list", "put", "put_writes", "delete_thread"), "PerdureSaver is durable"
)
for _package in ("langchain", "langchain_core", "langgraph"):
    make_ids_replay(_package, {uuid7: replaying(uuid7), uuid6: time_ordered(uuid6)})
