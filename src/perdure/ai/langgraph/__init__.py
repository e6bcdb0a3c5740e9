"""LangGraph on perdure: graphs, checkpoints and long-term memory.

    from perdure.ai.langgraph import PerdureSaver, PerdureStore, durable, memory

    graph = durable(builder.compile(checkpointer=PerdureSaver(), store=PerdureStore()))
    app = App(service, *memory)

In a handler its nodes and tasks are steps; elsewhere nothing changes. See docs/ai/langgraph.md.
"""

from perdure.ai.langchain import decide, decide_sync, in_handler
from perdure.ai.langgraph import graph
from perdure.ai.langgraph.graph import durable
from perdure.ai.langgraph.objects import memory
from perdure.ai.langgraph.saver import PerdureSaver
from perdure.ai.langgraph.store import PerdureStore

__all__ = ["PerdureSaver", "PerdureStore", "decide", "decide_sync", "durable", "in_handler", "memory"]

graph.install()
