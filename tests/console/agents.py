"""Agents for the console to be looked at with: what runs, fails, waits, sleeps, asks, streams and calls others.

`python -m tests.console.seed` starts a server with them and has them do all of it.
"""

import asyncio
import json
import os
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import cache
from typing import Annotated, Any

import msgspec
from openai import AsyncOpenAI

from perdure import (
    App,
    Context,
    Escalation,
    ObjectContext,
    RetryableError,
    RetryPolicy,
    Service,
    SharedContext,
    TerminalError,
    VirtualObject,
    Workflow,
    WorkflowContext,
    current_stream,
)
from perdure.ai.openai import durable
from perdure.testing.model_server import ChatRequest, Reply, ToolCall

MODEL = "gpt-4.1-mini"
SOON = 0.3  # seconds after which who waits is put to sleep
LONG = "WhatAServiceIsCalledByATeamThatLikesToSayEverythingInItsName"


# ---- the model


def think(request: ChatRequest) -> Reply:
    """The provider's side: searches twice, then reads, then answers."""
    question = request.text("user")
    if request.turn == 0:
        queries = (f"{question} history", f"{question} today")
        return Reply("I look for both sides of this.", tuple(ToolCall("search", {"query": each}) for each in queries))
    if request.turn == 1:
        return Reply(None, (ToolCall("read", {"document": "doc-7", "section": "2.1"}),))
    return Reply(
        f"{question} has two sides. The older documents describe a slow beginning [doc-3#1]; the newer ones measure "
        "growth of 14 percent a year since then [doc-7#2.1]. Neither says what comes next."
    )


def tool(name: str, about: str, **parameters: str) -> dict[str, Any]:
    properties = {each: {"type": type} for each, type in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


TOOLS: Any = [
    tool("search", "Finds documents", query="string"),
    tool("read", "Reads a section of a document", document="string", section="string"),
]


@cache
def client() -> AsyncOpenAI:
    """Asks the provider that `OPENAI_BASE_URL` names; `seed` starts one on loopback."""
    return durable(AsyncOpenAI(api_key="loopback", base_url=os.environ["OPENAI_BASE_URL"]))


# ---- agents


@dataclass
class Topic:
    """What to find out."""

    question: str
    pause_seconds: float = 0.0
    """Between two turns."""


@dataclass
class Report:
    answer: str
    sources: list[str]


notebook = VirtualObject("Notebook")


@notebook.handler()
async def add(ctx: ObjectContext, note: str) -> int:
    """Keep a note, and return how many there are."""
    notes = [*await ctx.get("notes", list[str], default=[]), note]
    ctx.set("notes", notes)
    ctx.set("updated_by", ctx.key)
    return len(notes)


@notebook.shared()
async def contents(ctx: SharedContext) -> list[str]:
    return await ctx.get("notes", list[str], default=[])


research_agent = Service(
    "ResearchAgent",
    inactivity_timeout=SOON,
    description="Answers questions from documents, with a model and two tools.",
)


@research_agent.handler()
async def research(ctx: Context, topic: Topic) -> Report:
    """Ask the model, use the tools it wants, take notes, until it answers."""
    messages: list[Any] = [
        {"role": "system", "content": "You are a careful researcher. Quote exactly, and say where from."},
        {"role": "user", "content": topic.question},
    ]
    while True:
        answer = await client().chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            break
        messages += await asyncio.gather(*(use(ctx, call) for call in message.tool_calls))
        count = await ctx.call(add, f"turn {len(messages)}", key=topic.question[:40])
        if topic.pause_seconds:
            await ctx.sleep(topic.pause_seconds)
        await ctx.run("remember", str, count)
    return Report(message.content or "", ["doc-3#1", "doc-7#2.1"])


async def use(ctx: Context, call: Any) -> dict[str, Any]:
    arguments = json.loads(call.function.arguments)
    found = await ctx.run(f"tool {call.function.name}", look_up, call.function.name, arguments)
    return {"role": "tool", "tool_call_id": call.id, "content": found}


async def look_up(name: str, arguments: dict[str, str]) -> str:
    await asyncio.sleep(0.05 if name == "search" else 0.12)
    return f"{name}: three passages about {', '.join(arguments.values())}"


chat = Service("Chat", inactivity_timeout=SOON)


@dataclass
class Message:
    text: str
    tokens: Annotated[int, msgspec.Meta(ge=1, le=2000, description="How long the answer is.")] = 60
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 20


@chat.handler()
async def reply(ctx: Context, message: Message) -> str:
    """Streams its answer, token by token, to whoever reads `answer`."""
    with ctx.stream("answer").default():
        said = await ctx.run("model", speak, message.text, message.tokens, message.delay_ms)
    return str(said["value"])


async def speak(text: str, tokens: int, delay_ms: int) -> dict[str, Any]:
    words = f"You said: {text}. Since you ask, here is what can be said about it, one word at a time.".split()
    stream, spoken = current_stream(), []
    for number in range(tokens):
        spoken.append(words[number % len(words)] + " ")
        if stream is not None:
            stream.write(spoken[-1])
        await asyncio.sleep(delay_ms / 1000)
    usage = {"provider": "openai", "model": MODEL, "input_tokens": 40 + len(text), "output_tokens": tokens}
    return {"usage": usage, "value": "".join(spoken)}


# ---- people decide


class Channel(Enum):
    EMAIL = "email"
    PHONE = "phone"


@dataclass
class Refund:
    """What a person approves."""

    amount: Annotated[int, msgspec.Meta(ge=1, le=500, description="In euros.")]
    channel: Channel = Channel.EMAIL
    apology: bool = True
    remark: str | None = None


support = Service("Support", inactivity_timeout=SOON)


@dataclass
class Ticket:
    order: str
    complaint: str


@support.handler()
async def handle(ctx: Context, ticket: Ticket) -> str:
    """Drafts a refund and has somebody decide."""
    amount = await ctx.run("draft", draft, ticket.complaint)
    decision = await ctx.approval(
        f"Refund {amount} EUR for order {ticket.order}?",
        Refund,
        context={"complaint": ticket.complaint, "suggested": amount, "customer": {"since": 2019, "orders": 41}},
        to=["support@shop.example"],
        tags=["refund"],
        escalate=Escalation(timedelta(days=1), ["lead@shop.example"]),
        timeout=timedelta(days=7),
    )
    if not decision:
        return f"rejected: {decision.comment}"
    return await ctx.run("pay", str, f"{decision.value.amount} EUR were paid")


def draft(complaint: str) -> int:
    return 120 if "broken" in complaint else 20


@support.handler()
async def deploy(ctx: Context, version: str) -> bool:
    """A yes or no, without a form."""
    return bool(await ctx.approval(f"Deploy {version} to production?", to=["ops@shop.example"], tags=["deploy"]))


# ---- failing


billing = Service("Billing", inactivity_timeout=SOON)


@billing.handler(retry_policy=RetryPolicy(initial_interval=600.0, max_interval=3600.0))
async def charge(ctx: Context, order: str) -> str:
    """Its step is tried again and again, for the provider is down."""
    await ctx.run("reserve", str, order)
    return await ctx.run("charge card", refuse, order)


async def refuse(order: str) -> str:
    raise RetryableError(f"HTTP 503 from payments.example: the card of {order} could not be charged, try again later")


@billing.handler(retry_policy=RetryPolicy(initial_interval=600.0, max_interval=3600.0))
async def invoice(ctx: Context, order: str) -> str:
    """A bug, outside of any step: the attempt fails, and is made again later."""
    await ctx.run("load", str, order)
    return str({"total": 12}["totals"])


@billing.handler(retry_policy=RetryPolicy(initial_interval=0.01, max_attempts=2))
async def export(ctx: Context, order: str) -> str:
    """Given up after two attempts: paused."""
    raise ValueError(f"cannot export {order}: expected 7 columns, found 6\n  in line 3: A-17;12;;EUR;2026;x")


@billing.handler()
async def validate(ctx: Context, order: str) -> str:
    """Ends with a failure."""
    await ctx.run("check", str, order)
    raise TerminalError(f"order {order} has no address", code=422)


# ---- waiting


inventory = VirtualObject("Inventory", inactivity_timeout=SOON)


@inventory.handler()
async def recount(ctx: ObjectContext, seconds: float) -> int:
    """Holds the object while it counts."""
    count = await ctx.get("count", int, default=100)
    ctx.set("count", count - 1)
    ctx.set("shelf", {"row": 4, "bins": ["a", "b", "c"], "checked": True})
    await ctx.sleep(seconds)
    return count


signup = Workflow("Signup", inactivity_timeout=SOON)


@signup.main()
async def run(ctx: WorkflowContext, email: str) -> str:
    """Waits until the link in a mail is clicked."""
    await ctx.run("send mail", str, email)
    return await ctx.promise("clicked", str).value()


@signup.handler()
async def click(ctx: SharedContext, secret: str) -> None:
    await ctx.promise("clicked", str).resolve(secret)


planner = Service("Planner", inactivity_timeout=SOON)


@dataclass
class Plan:
    goal: str
    branches: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    priority: Annotated[str, msgspec.Meta(pattern="^(low|normal|high)$")] = "normal"
    labels: list[str] = field(default_factory=list)
    deadline: str | None = None


@planner.handler()
async def plan(ctx: Context, plan: Plan) -> list[str]:
    """Calls several others beside each other, which call others again."""
    return list(await asyncio.gather(*(ctx.call(branch, f"{plan.goal} {n}") for n in range(plan.branches))))


@planner.handler()
async def branch(ctx: Context, part: str) -> str:
    await ctx.run("prepare", pause, 0.05 + len(part) % 5 / 50)
    await ctx.call(add, part, key="plans")
    return await ctx.run("finish", str, f"{part}: done")


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


@planner.handler()
async def digest(ctx: Context, day: str) -> str:
    """Is sent with a delay."""
    return day


# ---- names


wordy = VirtualObject(LONG, inactivity_timeout=SOON)


@wordy.handler()
async def do_everything_that_has_to_be_done_before_the_end_of_the_quarter(ctx: ObjectContext, text: str) -> str:
    ctx.set("a key that is as long as its service's name, and has spaces and \u00fcmlauts in it", text)
    ctx.set("large", {"rows": [{"number": n, "text": "x" * 40} for n in range(300)]})
    await ctx.run("a step whose name says what it does, to whom, and why: " + "because " * 12, str, text)
    return text


ping = Service("Ping")


@ping.handler()
async def pong(ctx: Context, n: int) -> int:
    """Nothing but traffic."""
    return await ctx.run("double", lambda: n * 2)


app = App(research_agent, notebook, chat, support, billing, inventory, signup, planner, wordy, ping)


# ---- elsewhere: two versions of one service, as deployments

translator_1 = Service("Translator", inactivity_timeout=SOON)


@translator_1.handler(name="translate")
async def translate_1(ctx: Context, text: str) -> str:
    """Waits for somebody to look over it."""
    await ctx.run("translate", str, text)
    return await ctx.awakeable(str)


translator_2 = Service("Translator", inactivity_timeout=SOON)


@translator_2.handler(name="translate")
async def translate_2(ctx: Context, text: str) -> str:
    """Quicker than it was."""
    return await ctx.run("translate", str.upper, text)


@translator_2.handler()
async def languages(ctx: Context) -> list[str]:
    return ["de", "en", "fr"]


version_1 = App(translator_1)
version_2 = App(translator_2)
