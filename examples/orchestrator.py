"""An orchestrator and its workers: a plan, an invocation for each of its tasks, a text: python -m examples.orchestrator

The workers are a service that is called. Each task has its own journal and retries, and `concurrency` says how many run
at once. Whoever cancels the orchestrator cancels its workers.
"""

import asyncio
from dataclasses import dataclass

from pydantic_ai import Agent

from examples.provider import GPT, provider
from perdure import App, Context, Engine, Service
from perdure.ai.pydantic_ai import PerdureDurability
from perdure.testing.model_server import ChatRequest, Reply, ToolCall

MODEL = f"openai-chat:{GPT}"


@dataclass
class Plan:
    """The tasks that a report consists of; each can be done without the others."""

    tasks: list[str]


planner = Agent(MODEL, name="planner", output_type=Plan, capabilities=[PerdureDurability()], defer_model_check=True)
expert = Agent(
    MODEL,
    name="expert",
    instructions="Do the task in one sentence.",
    capabilities=[PerdureDurability()],
    defer_model_check=True,
)
editor = Agent(
    MODEL,
    name="editor",
    instructions="Make one text of the findings.",
    capabilities=[PerdureDurability()],
    defer_model_check=True,
)

reports = Service("Reports")
workers = Service("Workers")


@workers.handler(concurrency=3)
async def work(ctx: Context, task: str) -> str:
    """One task, done."""
    return (await expert.run(task)).output


@reports.handler()
async def report(ctx: Context, topic: str) -> str:
    """A report: planned, worked out side by side, and put together."""
    plan = (await planner.run(f"Plan a report on {topic}.")).output
    findings = await asyncio.gather(*(ctx.call(work, task) for task in plan.tasks))
    return (await editor.run("\n".join(findings))).output


app = App(reports, workers)


# -- the model without a key, and the command ------------------------------------------------------


def policy(request: ChatRequest) -> Reply:
    said = request.text("user")
    if request.tool_names:  # the planner's: its output is a call of this tool
        topic = said.removeprefix("Plan a report on ").removesuffix(".")
        tasks = [f"the {part} of {topic}" for part in ("history", "use", "cost", "future", "enemies")]
        return Reply(tool_calls=(ToolCall(request.tool_names[0], {"tasks": tasks}),))
    if "\n" in said:
        return Reply(said.replace("\n", " "))
    return Reply(f"{said[0].upper()}{said[1:]} is known.")


async def main() -> None:
    with provider(policy) as server:
        async with Engine(app) as engine:
            print(await engine.call(report, "tea"))
    if server is not None:
        print(f"{server.count()} requests: a plan, {server.count() - 2} tasks, a text")


if __name__ == "__main__":
    asyncio.run(main())
