"""The model of the demo: a deterministic reader, served over HTTP by `perdure.testing.openai_server`.

It has no memory. Each time it is asked, it reads the whole conversation, as a language model does, and decides from the
results of the tools what to do next: which sections to open, which sentence of a section is worth a note, which link to
follow, what to calculate, and what to answer. Change an article, and the run changes.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from examples.research_agent.tools import sentences, terms
from perdure.testing.openai_server import ChatRequest, Reply, ToolCall

SECTIONS_TO_READ = 23
SECTIONS_AT_ONCE = 2
FIRST_DOCUMENTS = 4
NOTES_IN_THE_ANSWER = 8


@dataclass
class Conversation:
    """What the messages say has happened so far."""

    question: str = ""
    searched: bool = False
    hits: list[dict[str, Any]] = field(default_factory=list)
    outlines: dict[str, list[str]] = field(default_factory=dict)
    passages: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    """Documents that were asked for, found or not: a mistake is not made twice."""

    @property
    def wanted(self) -> set[str]:
        return set(terms(self.question))


def researcher(request: ChatRequest) -> Reply:
    """The policy."""
    seen = understand(request.messages)
    if seen.searched and not seen.hits:
        return Reply("The documents say nothing about this.")
    if not seen.searched:
        return Reply("I look for the words of the question first.", tuple(first_searches(seen)))
    calls = [*new_notes(seen)]
    if len(seen.passages) < SECTIONS_TO_READ:
        calls += next_sections(seen) if seen.outlines else []
        calls += next_outlines(seen)
    if any(call.name != "take_note" for call in calls):
        return Reply(None, tuple(calls))
    calls += [ToolCall("calculate", {"expression": expression}) for expression in open_sums(seen)]
    if calls:
        return Reply(None, tuple(calls))
    return Reply(write_answer(seen))


def understand(messages: list[dict[str, Any]]) -> Conversation:
    """Read the conversation from its beginning."""
    seen = Conversation()
    pending: dict[str, tuple[str, dict[str, Any]]] = {}
    for message in messages:
        if message["role"] == "user" and not seen.question:
            seen.question = str(message["content"])
        for call in message.get("tool_calls") or []:
            pending[call["id"]] = (call["function"]["name"], json.loads(call["function"]["arguments"]))
        if message["role"] == "tool":
            name, arguments = pending.pop(message["tool_call_id"])
            absorb(seen, name, arguments, str(message["content"]))
    return seen


def absorb(seen: Conversation, name: str, arguments: dict[str, Any], content: str) -> None:
    """Add the result of one tool call to what is known."""
    if name == "outline":
        seen.tried.add(arguments["document"])
    if content.startswith("error:"):
        return
    result = json.loads(content)
    match name:
        case "search":
            seen.searched = True
            seen.hits += result
        case "outline":
            seen.outlines[arguments["document"]] = result
        case "read":
            seen.passages.append(result)
        case "take_note":
            seen.notes.append(arguments)
        case "calculate":
            seen.results[arguments["expression"]] = f"{result:.6g}"


def first_searches(seen: Conversation) -> list[ToolCall]:
    """Three searches, each with a third of the words of the question."""
    words = list(dict.fromkeys(terms(seen.question)))
    return [ToolCall("search", {"query": " ".join(words[start::3])}) for start in range(3) if words[start::3]]


def next_sections(seen: Conversation) -> list[ToolCall]:
    """The unread sections that promise most: found by a search, or called like something in the question."""
    done = {(passage["document"], passage["section"]) for passage in seen.passages}
    scores = {(hit["document"], hit["section"]): float(hit["score"]) for hit in seen.hits}
    order = list(seen.outlines)
    unread = [(d, s) for d, sections in seen.outlines.items() for s in sections if (d, s) not in done]

    def promise(place: tuple[str, str]) -> tuple[float, int]:
        named = len(seen.wanted & set(terms(place[1].replace("-", " "))))
        return -(scores.get(place, 0.0) + 2.0 * named), order.index(place[0])

    best = sorted(unread, key=promise)[: min(SECTIONS_AT_ONCE, SECTIONS_TO_READ - len(seen.passages))]
    return [ToolCall("read", {"document": document, "section": section}) for document, section in best]


def next_outlines(seen: Conversation) -> list[ToolCall]:
    """At first the documents that the searches found; after every fourth section, one that many passages refer to."""
    found = list(dict.fromkeys(hit["document"] for hit in sorted(seen.hits, key=lambda hit: -float(hit["score"]))))
    if not seen.outlines:
        return [ToolCall("outline", {"document": document}) for document in found[:FIRST_DOCUMENTS]]
    links = [link for passage in seen.passages for link in passage["links"] if link not in seen.tried]
    if not links or len(seen.passages) % 4 != 0 or len(seen.passages) > SECTIONS_TO_READ - 4:
        return []
    return [ToolCall("outline", {"document": max(sorted(set(links)), key=links.count)})]


def new_notes(seen: Conversation) -> list[ToolCall]:
    """One note for each passage of the last round which has a sentence that speaks to the question."""
    noted = {note["source"] for note in seen.notes}
    calls: list[ToolCall] = []
    for passage in seen.passages[-SECTIONS_AT_ONCE:]:
        source = f"{passage['document']}#{passage['section']}"
        sentence, overlap = best_sentence(passage["text"], seen.wanted)
        if source not in noted and overlap:
            calls.append(ToolCall("take_note", {"source": source, "text": sentence}))
    return calls


def best_sentence(text: str, wanted: set[str]) -> tuple[str, int]:
    """The sentence with most of the wanted words, and how many they are. Quotation marks would confuse the check."""
    scored = [(s, len(wanted & set(terms(s)))) for s in sentences(text) if '"' not in s and len(s) < 300]
    return max(scored, key=lambda pair: pair[1], default=("", 0))


def open_sums(seen: Conversation) -> list[str]:
    """Sums that the articles state in backticks and leave to the reader."""
    text = " ".join(passage["text"] for passage in seen.passages)
    sums = dict.fromkeys(re.findall(r"`([^`]*\d[^`]*)`", text))
    return [expression for expression in sums if expression not in seen.results][:4] if not seen.results else []


def write_answer(seen: Conversation) -> str:
    """The notes that speak to the question most, in the order in which they were taken, each with its source."""

    def relevance(note: dict[str, Any]) -> int:
        return len(seen.wanted & set(terms(note["text"])))

    chosen = sorted(seen.notes, key=lambda note: -relevance(note))[:NOTES_IN_THE_ANSWER]
    lines = [f'- "{note["text"]}" [{note["source"]}]' for note in seen.notes if note in chosen]
    answer = [f"From {len(seen.passages)} sections of {len(seen.outlines)} documents:", *lines]
    for expression, result in seen.results.items():
        source = next(p for p in seen.passages if f"`{expression}`" in p["text"])
        answer.append(f"- {expression} = {result} ({source['document']}: {source['title'].lower()})")
    return "\n".join(answer)
