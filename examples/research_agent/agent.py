"""A research agent: about fifty steps, a model over HTTP, tools in parallel, notes in a virtual object.

Everything that touches the world is a step, `await ctx.run(...)`. What is between the steps is ordinary asyncio. Kill
the process wherever you like, start it again, and the agent goes on with the step at which it was killed.

    perdure serve examples.research_agent.agent:app

The model is whatever the `openai` client finds: set OPENAI_API_KEY, and OPENAI_BASE_URL for another provider.
"""

import asyncio
import json
import os
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from examples.research_agent.ledger import witnessed
from examples.research_agent.tools import TOOLS, ToolError, check_citations, describe
from perdure import (
    App,
    Context,
    ObjectContext,
    RetryableError,
    RetryPolicy,
    Service,
    SharedContext,
    TerminalError,
    VirtualObject,
    current_step,
)

INSTRUCTIONS = """\
You are a careful researcher. Search the documents, outline those that look useful, read their sections, and follow what
they refer to. Take a note of the sentence that matters in each section, word for word. Calculate sums that the
documents leave to the reader. When about twenty sections are read, answer the question from your notes. Quote exactly,
and put the source behind each quotation, like this: "exact words" [document#section]."""


@dataclass
class Topic:
    """What to find out, and within which limits."""

    name: str
    question: str
    pause_seconds: float = 0.3
    """Between two turns: providers limit how often they may be asked."""
    max_turns: int = 40
    deadline_seconds: float = 3600


@dataclass
class Note:
    source: str
    text: str


@dataclass
class Notebook:
    """What a notebook holds."""

    notes: list[Note] = field(default_factory=list)
    visited: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """What the agent has done, by its own count."""

    steps: int = 0
    notes: int = 0
    sections: int = 0


@dataclass
class Report:
    answer: str
    done: Tally
    notebook: Notebook


@dataclass
class ToolUse:
    """A tool that the model asks for."""

    id: str
    name: str
    arguments: str


@dataclass
class Turn:
    """What the model said."""

    text: str | None
    tools: list[ToolUse]


# -- the notebook: one virtual object per topic ----------------------------------------------------

notebook = VirtualObject("Notebook")


@notebook.handler()
async def add(ctx: ObjectContext, note: Note) -> int:
    """Keep a note, and return how many there are."""
    held = await ctx.get("notebook", Notebook, default=Notebook())
    ctx.set("notebook", Notebook([*held.notes, note], held.visited))
    return len(held.notes) + 1


@notebook.handler()
async def visit(ctx: ObjectContext, place: str) -> None:
    """Remember that a section was read."""
    held = await ctx.get("notebook", Notebook, default=Notebook())
    ctx.set("notebook", Notebook(held.notes, [*held.visited, place]))


@notebook.shared()
async def contents(ctx: SharedContext) -> Notebook:
    """Everything in the notebook."""
    return await ctx.get("notebook", Notebook, default=Notebook())


# -- the agent -------------------------------------------------------------------------------------

agent = Service("ResearchAgent", retry_policy=RetryPolicy(initial_interval=0.1, max_attempts=20))


@agent.handler()
async def research(ctx: Context, topic: Topic) -> Report:
    """Answer a question from the documents."""
    try:
        async with asyncio.timeout(topic.deadline_seconds):  # a durable timer: no restart begins it anew
            return await investigate(ctx, topic)
    except TimeoutError:
        raise TerminalError(f"no answer within {topic.deadline_seconds:g} seconds", code=408) from None


async def investigate(ctx: Context, topic: Topic) -> Report:
    """The loop of every agent: ask the model, use the tools that it wants, tell it what came of them."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": topic.question},
    ]
    done = Tally()
    for turn in range(1, topic.max_turns + 1):
        said = await ctx.run(f"model {turn}", ask_model, messages)
        messages.append(assistant_message(said))
        done.steps += 1
        if said.tools:
            uses = enumerate(said.tools, start=1)
            messages += await asyncio.gather(
                *(use_tool(ctx, topic, done, f"tool {turn}.{number}", use) for number, use in uses)
            )
            await asyncio.sleep(topic.pause_seconds)  # durable too: it may be a day, and nothing stays in memory
            continue
        answer = said.text or ""
        problems = await ctx.run(f"tool {turn}.1 check citations", check, answer)
        done.steps += 1
        if not problems:
            held = await ctx.call(contents, key=topic.name)
            return Report(answer, done, held)
        messages.append({"role": "user", "content": "Please correct your answer: " + "; ".join(problems)})
    raise TerminalError(f"no answer within {topic.max_turns} turns")


async def use_tool(ctx: Context, topic: Topic, done: Tally, name: str, use: ToolUse) -> ChatCompletionMessageParam:
    """Use one tool. What is wrong with the request is told to the model, which may do better."""
    try:
        arguments = json.loads(use.arguments)
        if use.name == "take_note":
            # A call of another handler: it happens exactly once, even if we are killed while we wait for it.
            result: object = await ctx.call(add, Note(arguments["source"], arguments["text"]), key=topic.name)
            done.notes += 1
        else:
            done.steps += 1
            what = " ".join(map(str, arguments.values()))[:40]
            result = await ctx.run(f"{name} {use.name} {what}", run_tool, use.name, arguments)
        if use.name == "read":
            await ctx.send(visit, f"{arguments['document']}#{arguments['section']}", key=topic.name)
            done.sections += 1
        content = json.dumps(result)
    except (TerminalError, ValueError, LookupError, TypeError, AttributeError) as error:
        content = f"error: {error}"
    return {"role": "tool", "tool_call_id": use.id, "content": content}


# -- the steps: `witnessed` is for the demo, which wants to know when they run ----------------------


@witnessed
async def ask_model(messages: list[ChatCompletionMessageParam]) -> Turn:
    """Ask the model what to do next. The client does not retry: perdure does, across restarts too."""
    # Some providers want no key, but the client wants one; and where one was forgotten, 401 ends the agent at once.
    key = os.environ.get("OPENAI_API_KEY") or "none"
    async with openai.AsyncOpenAI(api_key=key, max_retries=0, timeout=120) as client:
        try:
            completion = await client.chat.completions.create(
                model=os.environ.get("OPENAI_MODEL", "gpt-4.1-mini"),
                messages=messages,
                tools=TOOL_DESCRIPTIONS,
                # The same for every attempt of this step: a provider that looks at it answers once.
                extra_headers={"Idempotency-Key": current_step().token},
            )
        except openai.RateLimitError as error:
            raise RetryableError(str(error), retry_after=float(error.response.headers.get("retry-after", 1))) from error
        except (openai.BadRequestError, openai.AuthenticationError, openai.NotFoundError) as error:
            raise TerminalError(str(error), code=error.status_code) from error
    message = completion.choices[0].message
    tools = [
        ToolUse(call.id, call.function.name, call.function.arguments)
        for call in message.tool_calls or []
        if call.type == "function"
    ]
    return Turn(message.content, tools)


@witnessed
def run_tool(name: str, arguments: dict[str, Any]) -> Any:
    """Run a tool, in a worker thread because it is a plain function. Its result goes to the model as JSON."""
    if name not in TOOLS:
        raise TerminalError(f"there is no tool {name!r}")
    try:
        result = TOOLS[name](**arguments)
    except (ToolError, TypeError) as error:
        # The same call would fail in the same way: not to be tried again.
        raise TerminalError(str(error), code=400) from error
    return _plain(result)


check = witnessed(check_citations)


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


# -- what is said to the model ---------------------------------------------------------------------


def assistant_message(said: Turn) -> ChatCompletionMessageParam:
    """A turn of the model's, as it is given back to it."""
    calls = [
        {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": use.arguments}}
        for use in said.tools
    ]
    message = {"role": "assistant", "content": said.text, **({"tool_calls": calls} if calls else {})}
    return cast(ChatCompletionMessageParam, message)


def tool_description(name: str, purpose: str, parameters: list[str]) -> ChatCompletionToolParam:
    """A tool in the words of the API."""
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema: dict[str, object] = {"type": "object", "properties": properties, "required": parameters}
    return {"type": "function", "function": {"name": name, "description": purpose, "parameters": schema}}


TOOL_DESCRIPTIONS = [
    *(tool_description(*describe(tool)) for tool in TOOLS.values()),
    tool_description("take_note", "Note a sentence and its source, document#section.", ["source", "text"]),
]

app = App(agent, notebook)
