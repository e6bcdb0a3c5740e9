"""LangGraph on perdure: python -m examples.quickstarts.langgraph

No model: two nodes side by side, each a durable step, and a checkpoint after each.
"""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph

from perdure import App, Context, Engine, Service
from perdure.ai.langgraph import PerdureSaver, durable, memory


class State(TypedDict, total=False):
    found: Annotated[list[str], operator.add]


async def rome(state: State) -> State:
    return {"found": ["It is sunny in Rome."]}


async def oslo(state: State) -> State:
    return {"found": ["It is sunny in Oslo."]}


builder = StateGraph(State)
for node in (rome, oslo):
    builder.add_node(node)
    builder.add_edge(START, node.__name__)
graph = durable(builder.compile(checkpointer=PerdureSaver()))
travel = Service("Travel")


@travel.handler()
async def ask(ctx: Context) -> str:
    thread: Any = {"configurable": {"thread_id": ctx.invocation_id}}
    return " ".join((await graph.ainvoke({"found": []}, thread))["found"])


app = App(travel, *memory)


async def main() -> None:
    async with Engine(app, path=None) as engine:
        print(await engine.call(ask))


if __name__ == "__main__":
    asyncio.run(main())
