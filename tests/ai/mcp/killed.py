"""What the killed server runs: a call of a tool that takes its time, between two that do not."""

import os
from typing import Any

from perdure import App, Context, RetryPolicy, Service
from perdure.ai.mcp import durable, text_of

service = Service("Agent", retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=None))
world = durable(os.environ.get("PERDURE_TEST_MCP", "http://127.0.0.1:1/mcp"))


@service.handler()
async def ask(ctx: Context, number: int) -> list[Any]:
    before = await world.call_tool("add", {"numbers": [number]})
    held = await world.call_tool("hold")
    after = await world.call_tool("add", {"numbers": [number, number]})
    totals = [each.structured_content["total"] for each in (before, after)]
    return [*totals, text_of(held)]


app = App(service)
