"""What the killed server runs: a graph that asks a model, works on two nodes at once, and keeps checkpoints."""

import operator
from typing import Annotated, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from perdure import App, Context, RetryPolicy, Service
from perdure.ai.langgraph import PerdureSaver, durable, in_handler, memory
from perdure.testing.openai_server import ChatRequest, Reply
from tests.ai.killing import arm, effect

arm()
service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))
model = ChatOpenAI(model="loopback", api_key=lambda: "loopback")


def policy(request: ChatRequest) -> Reply:
    return Reply(f"a plan for {request.text('user')}")


class State(TypedDict, total=False):
    wish: str
    plan: str
    done: Annotated[list[str], operator.add]


@in_handler
async def plan(state: State) -> State:
    return {"plan": (await model.ainvoke(state["wish"])).text}


async def left(state: State) -> State:
    effect("left")
    return {"done": ["left"]}


async def right(state: State) -> State:
    agreed = interrupt("right?")
    effect("right")
    return {"done": [f"right {agreed}"]}


builder = StateGraph(State)
for node in (plan, left, right):
    builder.add_node(node)
builder.add_edge(START, "plan")
builder.add_edge("plan", "left")
builder.add_edge("plan", "right")
graph = durable(builder.compile(checkpointer=PerdureSaver()))


@service.handler()
async def work(ctx: Context, wish: str) -> str:
    thread = {"configurable": {"thread_id": ctx.invocation_id}}
    state = await graph.ainvoke({"wish": wish}, thread)  # type: ignore[call-overload]
    assert state["__interrupt__"]
    state = await graph.ainvoke(Command(resume="agreed"), thread)  # type: ignore[call-overload]
    return f"{state['plan']}: {', '.join(state['done'])}"


app = App(service, *memory)
