"""What the killed server runs: an agent that uses a tool twice at once."""

import json

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from perdure import App, Context, RetryPolicy, Service
from perdure.ai.langchain import DurableMiddleware
from perdure.testing.openai_server import ChatRequest, Reply, ToolCall
from tests.ai.killing import arm, effect

arm()
service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))


def policy(request: ChatRequest) -> Reply:
    """Two squares at once, then their sum."""
    results = [json.loads(m["content"]) for m in request.messages if m["role"] == "tool"]
    if request.turn == 0:
        return Reply(tool_calls=(ToolCall("square", {"number": 2}), ToolCall("square", {"number": 3})))
    return Reply(f"It is {sum(results)}")


@tool
async def square(number: int) -> int:
    """The square of a number."""
    effect(f"square {number}")
    return number * number


MODEL = ChatOpenAI(model="loopback", api_key=lambda: "loopback")
agent = create_agent(MODEL, [square], middleware=[DurableMiddleware()])


@service.handler()
async def ask(ctx: Context, question: str) -> str:
    state = await agent.ainvoke({"messages": [{"role": "user", "content": question}]})
    return str(state["messages"][-1].text)


app = App(service)
