"""Runs in traces: each is a span, once, with what it asks and does below it."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from opentelemetry import trace

from perdure import App, Context, Service
from perdure.ai.langchain import DurableMiddleware
from perdure.ai.langgraph import durable, in_handler
from perdure.testing import TestEngine
from tests.ai.harness import FAST
from tests.ai.langchain.fakes import call, fake, says
from tests.telemetry.test_tracing import Seen


class State(TypedDict, total=False):
    messages: Annotated[list[Any], operator.add]


def traced_graph() -> Any:
    """A graph with a node that asks a model, and an agent as another node."""

    @tool
    def double(n: int) -> int:
        """Doubles."""
        return 2 * n

    model = fake(says("", call("double", "a", n=2)), says("four"))
    agent = create_agent(model, [double], middleware=[DurableMiddleware()], name="expert")
    other = fake(says("why"))

    @in_handler
    async def plan(state: State) -> Any:
        return {"messages": [("user", (await other.ainvoke("x")).text)]}

    builder = StateGraph(State)
    builder.add_node("plan", plan)
    builder.add_node("expert", agent)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "expert")
    return durable(builder.compile(name="desk"))


@pytest.mark.parametrize("streamed", [False, True])
def test_runs_are_spans_nested_ones_too(streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    monkeypatch.setattr(trace, "get_tracer", seen.provider.get_tracer)
    graph = traced_graph()
    service = Service("desk", retry_policy=FAST)

    @service.handler()
    async def work(ctx: Context) -> Any:
        if not streamed:
            await graph.ainvoke({"messages": []})
            return None
        async for _ in graph.astream({"messages": []}):
            await ctx.run("of the reader", lambda: None)

    async def main() -> None:
        async with TestEngine(App(service), replay=True, tracer_provider=seen.provider) as engine:
            await engine.call(work)

    asyncio.run(main())
    desk = ["invoke_agent desk", "desk/work"]
    expert = ["invoke_agent expert", *desk]
    assert seen.path(seen.named("execute_tool double")) == ["execute_tool double", *expert]
    chats = sorted(seen.path(span) for span in seen.spans if span.name == "chat Fake")
    assert chats == sorted([["chat Fake", *expert], ["chat Fake", *expert], ["chat Fake", *desk]])
    assert (seen.named("invoke_agent expert").attributes or {})["perdure.agent.framework"] == "langgraph"
    readers = [seen.path(span) for span in seen.spans if span.name == "of the reader"]
    assert readers == [["of the reader", "desk/work"]] * (2 if streamed else 0)


def test_a_plain_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    monkeypatch.setattr(trace, "get_tracer", seen.provider.get_tracer)
    agent: Any = create_agent(fake(says("four")), [], middleware=[DurableMiddleware()])
    service = Service("desk", retry_policy=FAST)

    @service.handler()
    def work(ctx: Any) -> Any:
        return agent.invoke({"messages": [("user", "x")]})["messages"][-1].text

    async def main() -> None:
        async with TestEngine(App(service), replay=True, tracer_provider=seen.provider) as engine:
            assert await engine.call(work) == "four"

    asyncio.run(main())
    assert seen.path(seen.named("chat Fake")) == ["chat Fake", "invoke_agent", "desk/work"]
