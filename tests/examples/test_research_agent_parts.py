"""The parts of the research agent: its tools, its model, its witness. No engine runs here."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from examples.research_agent import tools
from examples.research_agent.agent import TOOL_DESCRIPTIONS
from examples.research_agent.demo import QUESTION
from examples.research_agent.ledger import Happening, Line, Reader, Verdict, judge, place, running
from examples.research_agent.outcome import weigh
from examples.research_agent.policy import researcher
from examples.research_agent.tools import ToolError
from perdure.testing.openai_server import OpenAIServer

# -- tools -----------------------------------------------------------------------------------------


def test_every_link_of_the_corpus_leads_somewhere() -> None:
    documents = {passage.document for passage in tools.passages()}
    assert len(documents) >= 8
    assert {link for passage in tools.passages() for link in passage.links} <= documents
    assert all("[[" not in passage.text for passage in tools.passages())


def test_names_of_sections_are_unique() -> None:
    places = [(passage.document, passage.section) for passage in tools.passages()]
    assert len(places) == len(set(places))


def test_search_finds_the_right_section() -> None:
    best = tools.search("flushes shared by a group of commits")[0]
    assert best.document == "group-commit"
    assert best.snippet in tools.read(best.document, best.section).text
    assert tools.search("zebra") == []


def test_search_is_deterministic() -> None:
    assert [tools.search("log crash record")] * 3 == [tools.search("log crash record") for _ in range(3)]


def test_outline_and_read() -> None:
    sections = tools.outline("sagas")
    assert sections[0] == "a-long-story-in-short-chapters"
    passage = tools.read("sagas", "compensation-is-not-undo")
    assert passage.title == "Compensation is not undo"
    assert passage.links == ["idempotency"]


@pytest.mark.parametrize("wrong", [("nothing", "of"), ("sagas", "nothing")])
def test_what_does_not_exist(wrong: tuple[str, str]) -> None:
    with pytest.raises(ToolError):
        tools.read(*wrong)
    with pytest.raises(ToolError):
        tools.outline("nothing")


@pytest.mark.parametrize(
    ("expression", "value"),
    [("7200 / 60", 120), ("sqrt(2 * 5 * 43200)", 657.267), ("-(3 + 1) ** 2", -16), ("2e3 - 1", 1999)],
)
def test_calculate(expression: str, value: float) -> None:
    assert tools.calculate(expression) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    "expression",
    [
        "1 / 0",
        "__import__('os')",
        "'a' * 3",
        "9 ** 9 ** 9",
        "sqrt(-1)",
        "sqrt(1, 2)",
        "1 +",
        "a",
        "1 if 1 else 2",
        "1+" * 200,
    ],
)
def test_what_cannot_be_calculated(expression: str) -> None:
    with pytest.raises(ToolError):
        tools.calculate(expression)


def test_every_sum_of_the_corpus_can_be_calculated() -> None:
    sums = [part for passage in tools.passages() for part in passage.text.split("`")[1::2]]
    assert len(sums) >= 8
    assert all(tools.calculate(expression) > 0 for expression in sums)


def test_citations() -> None:
    sentence = tools.sentences(tools.read("sagas", "choosing-the-order").text)[0]
    assert tools.check_citations(f'So: "{sentence}" [sagas#choosing-the-order]') == []
    assert "does not say" in tools.check_citations('"Sagas are songs." [sagas#choosing-the-order]')[0]
    assert "no section" in tools.check_citations('"Sagas are songs." [sagas#nowhere]')[0]
    assert "no citation" in tools.check_citations("I just know.")[0]


# -- the model, over HTTP, with the tools but without an engine ------------------------------------


def converse(question: str) -> tuple[str, list[str]]:
    """The agent's loop in its simplest form: the answer, and the names of the tools that were used."""
    used: list[str] = []
    messages: list[Any] = [{"role": "system", "content": "s"}, {"role": "user", "content": question}]
    with OpenAIServer(researcher) as server, openai.OpenAI(base_url=server.base_url, api_key="loopback") as client:
        for _ in range(40):
            completion = client.chat.completions.create(model="m", messages=messages, tools=TOOL_DESCRIPTIONS)
            said = completion.choices[0].message
            if not said.tool_calls:
                return said.content or "", used
            messages.append(said.to_dict())
            for call in said.tool_calls:
                assert call.type == "function"
                used.append(call.function.name)
                content = use(call.function.name, json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    raise AssertionError("no answer")


def use(name: str, arguments: dict[str, str]) -> str:
    try:
        result = 1 if name == "take_note" else tools.TOOLS[name](**arguments)
    except ToolError as error:
        return f"error: {error}"
    items = result if isinstance(result, list) else [result]
    plain = [asdict(item) if is_dataclass(item) and not isinstance(item, type) else item for item in items]
    return json.dumps(plain if isinstance(result, list) else plain[0])


def test_the_model_works_about_fifty_steps() -> None:
    answer, used = converse(QUESTION)
    assert tools.check_citations(answer) == []
    assert 30 <= sum(name != "take_note" for name in used) <= 45
    assert set(used) == {description["function"]["name"] for description in TOOL_DESCRIPTIONS}


def test_the_answer_depends_on_the_question() -> None:
    answer, _ = converse("How should leases and fencing tokens protect a lock?")
    assert "[leases-and-fencing#" in answer
    assert answer != converse(QUESTION)[0]


def test_a_question_about_something_else() -> None:
    answer, used = converse("Zebras?")
    assert answer == "The documents say nothing about this."
    assert used == ["search"]


def test_the_model_depends_on_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(passage for passage in tools.passages() if passage.document == "sagas")
    monkeypatch.setattr(tools, "passages", lambda: few)
    tools._index.cache_clear()
    try:
        answer, used = converse(QUESTION)
    finally:
        tools._index.cache_clear()
    assert "1 documents" in answer
    assert used.count("read") == 4


# -- the witness -----------------------------------------------------------------------------------

START, FINISH, FAILED = Happening.START, Happening.FINISH, Happening.FAILED


def story(*events: tuple[Happening, str] | tuple[Happening, str, str]) -> list[Line]:
    return [Line(event[0], event[1], event[2] if len(event) > 2 else event[1], 1, 1, 0.0) for event in events]


def verdict(*events: tuple[Happening, str] | tuple[Happening, str, str], step: str = "model 1") -> Verdict:
    return next(history.verdict for history in judge(story(*events)) if history.step == step)


def test_places_follow_the_program() -> None:
    assert place("model 2") < place("tool 2.1 read") < place("model 3")
    assert place("tool 2.1 read") == place("tool 2.2 search") < place("tool 10.1 read")
    with pytest.raises(ValueError, match="place"):
        place("something else")


def test_ran_once() -> None:
    assert verdict((START, "model 1"), (FINISH, "model 1"), (START, "tool 1.1"), (FINISH, "tool 1.1")) is Verdict.ONCE


def test_cut_while_it_ran() -> None:
    assert verdict((START, "model 1"), (START, "model 1"), (FINISH, "model 1")) is Verdict.CUT_INSIDE


def test_cut_before_its_record() -> None:
    events = (START, "model 1"), (FINISH, "model 1"), (START, "model 1"), (FINISH, "model 1")
    assert verdict(*events) is Verdict.CUT_BEFORE_RECORD
    assert verdict(*events, (START, "tool 1.1")) is Verdict.CUT_BEFORE_RECORD


def test_a_parallel_step_proves_nothing() -> None:
    first, second = "tool 1.1 read", "tool 1.2 read"
    events = (START, first), (FINISH, first), (START, second), (START, first), (FINISH, first)
    assert verdict(*events, step=first) is Verdict.CUT_BEFORE_RECORD


@pytest.mark.parametrize("first", [[(START, "model 1")], [(START, "model 1"), (FINISH, "model 1")]])
def test_ran_again_although_a_later_step_had_begun(first: list[tuple[Happening, str]]) -> None:
    events = [*first, (START, "tool 1.1"), (START, "model 1"), (FINISH, "model 1")]
    assert verdict(*events) is Verdict.RAN_AFTER_RECORD
    assert judge(story(*events))[0].broken


def test_failed_and_was_tried_again() -> None:
    events = (START, "model 1"), (FAILED, "model 1"), (START, "model 1"), (FINISH, "model 1")
    assert verdict(*events) is Verdict.TRIED_AGAIN


def test_another_token() -> None:
    events = (START, "model 1", "a"), (START, "model 1", "b"), (FINISH, "model 1", "b")
    assert verdict(*events) is Verdict.TOKEN_CHANGED


def test_never_finished() -> None:
    assert verdict((START, "model 1")) is Verdict.UNFINISHED
    assert verdict((START, "model 1"), (FAILED, "model 1")) is Verdict.UNFINISHED


def test_running() -> None:
    lines = story(
        (START, "model 1"), (FINISH, "model 1"), (START, "tool 1.1"), (START, "tool 1.2"), (FINISH, "tool 1.1")
    )
    assert [line.step for line in running(lines)] == ["tool 1.2"]


def test_reading_a_file_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    reader = Reader(path)
    assert reader.poll() == []
    first, second = (json.dumps(asdict(line)) for line in story((START, "model 1"), (FINISH, "model 1")))
    path.write_text(f"{first}\n{second[:20]}")
    assert [line.event for line in reader.poll()] == [START]
    with path.open("a") as ledger:
        ledger.write(f"{second[20:]}\n")
    assert [line.event for line in reader.poll()] == [FINISH]
    assert reader.steps_begun == 1


# -- the sum of all witnesses ----------------------------------------------------------------------

FAIR = story(
    (START, "model 1"), (FINISH, "model 1"), (START, "tool 1.1 read sagas x"), (FINISH, "tool 1.1 read sagas x")
)


def broken(notes: list[str], visited: list[str], by_key: dict[str, int], *, steps: int = 2) -> list[str]:
    notebook = {"notes": [{"source": source, "text": ""} for source in notes], "visited": visited}
    report = {"answer": "", "done": {"steps": steps, "notes": 2, "sections": 1}, "notebook": notebook}
    return weigh(FAIR, [], report, {"by_key": by_key, "total": 1}, 1.0).broken


def test_all_promises_kept() -> None:
    assert broken(["a", "b"], ["x"], {"model 1": 1}) == []


def test_broken_promises_are_named() -> None:
    assert "2 notes were taken, the notebook holds 1" in broken(["a"], ["x"], {"model 1": 1})
    assert "the note a is there 2 times" in broken(["a", "a"], ["x"], {"model 1": 1})
    assert "1 sections were read, the notebook lists 2" in broken(["a", "b"], ["x", "x"], {"model 1": 1})
    assert "model 1 began 1 times, and the provider was asked 2 times" in broken(["a", "b"], ["x"], {"model 1": 2})
    assert "model 1 began 1 times, and the provider was asked 0 times" in broken(["a", "b"], ["x"], {})
    assert "unknown key" in broken(["a", "b"], ["x"], {"model 1": 1, "other": 1})[0]
    assert "the agent counted 3 steps" in broken(["a", "b"], ["x"], {"model 1": 1}, steps=3)[0]
