"""The tools of the research agent: plain functions over a folder of Markdown articles.

Nothing here knows about durability. The agent runs each call as a step, and that is all there is to it.
"""

import ast
import functools
import inspect
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

_COMMON = """
a about after all also an and any are as at be because been before but by can cannot could did do does each for from
had has have how if in into is it its may more most must no not nothing of off on one only or other out over own same so
some such than that the their them then there these they this those through to under until up was were what when where
which while who whose why will with without would you your
"""
STOP_WORDS = frozenset(_COMMON.split())


class ToolError(Exception):
    """A mistake of the model's: it is told, and may try something else."""


@dataclass(frozen=True)
class Passage:
    """One section of a document."""

    document: str
    section: str
    title: str
    text: str
    links: list[str]
    """Documents that the section refers to."""


@dataclass(frozen=True)
class Hit:
    """A search result."""

    document: str
    section: str
    score: float
    snippet: str


def search(query: str) -> list[Hit]:
    """Search all documents for some words and return the best sections."""
    wanted = set(terms(query))
    hits: list[Hit] = []
    for passage, counts in _index():
        score = sum(_weight(term) * (1 + math.log(counts[term])) for term in wanted if counts[term])
        if score:
            hits.append(Hit(passage.document, passage.section, round(score, 3), _best_sentence(passage.text, wanted)))
    # The order must not depend on chance: equal scores are ordered by name.
    return sorted(hits, key=lambda hit: (-hit.score, hit.document, hit.section))[:6]


def outline(document: str) -> list[str]:
    """List the sections of a document."""
    sections = [passage.section for passage in passages() if passage.document == document]
    if not sections:
        raise ToolError(f"there is no document {document!r}; search returns the names that exist")
    return sections


def read(document: str, section: str) -> Passage:
    """Read one section of a document."""
    for passage in passages():
        if (passage.document, passage.section) == (document, section):
            return passage
    raise ToolError(f"there is no section {section!r} in {document!r}; outline lists those that exist")


def calculate(expression: str) -> float:
    """Evaluate an arithmetic expression: numbers, + - * / **, parentheses and sqrt()."""
    if len(expression) > 200:
        raise ToolError("that is too long to be calculated")
    try:
        return float(_evaluate(ast.parse(expression, mode="eval").body))
    except (SyntaxError, ArithmeticError, ValueError, TypeError) as error:
        raise ToolError(f"{expression!r} cannot be calculated: {error}") from None


def check_citations(answer: str) -> list[str]:
    """Compare every quotation of an answer with its source, and return what is wrong with it."""
    citations = re.findall(r'"([^"]+)"\s*\[([a-z-]+)#([a-z-]+)\]', answer)
    problems = [] if citations else ['no citation of the form "exact words" [document#section]']
    for quotation, document, section in citations:
        try:
            source = read(document, section).text
        except ToolError as error:
            problems.append(str(error))
        else:
            if quotation not in source:
                problems.append(f"[{document}#{section}] does not say: {quotation}")
    return problems


TOOLS: dict[str, Callable[..., object]] = {
    "search": search,
    "outline": outline,
    "read": read,
    "calculate": calculate,
}


def describe(function: Callable[..., object]) -> tuple[str, str, list[str]]:
    """The name, the purpose and the parameters (all of them text) of a tool, as a model has to be told."""
    return function.__name__, inspect.getdoc(function) or "", list(inspect.signature(function).parameters)


# -- the corpus ------------------------------------------------------------------------------------


@functools.cache
def passages() -> tuple[Passage, ...]:
    """Every section of every document, in the order of their names."""
    return tuple(passage for path in sorted(CORPUS.glob("*.md")) for passage in _split(path))


def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return re.split(r"(?<=[.?!])\s+(?=[A-Z])", text.strip())


def terms(text: str) -> list[str]:
    """The words that matter, without their most common endings, so that `killed` finds `kill`."""
    words = (word for word in re.findall(r"[a-zäöü]+", text.lower()) if word not in STOP_WORDS)
    return [stem for stem in map(_stem, words) if len(stem) > 2]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def _split(path: Path) -> Iterator[Passage]:
    _, *parts = path.read_text(encoding="utf-8").split("\n## ")
    for part in parts:
        title, _, body = part.partition("\n")
        links = re.findall(r"\[\[([a-z-]+)\]\]", body)
        # "See [[a]] and [[b]]." is for following, not for quoting.
        prose = re.sub(r"\s*See \[\[[^.]*\]\][^.]*\.", "", " ".join(body.split()))
        yield Passage(path.stem, re.sub(r"[^a-z]+", "-", title.lower()).strip("-"), title, prose, links)


@functools.cache
def _index() -> tuple[tuple[Passage, Counter[str]], ...]:
    return tuple((passage, Counter(terms(f"{passage.title} {passage.text}"))) for passage in passages())


@functools.cache
def _weight(term: str) -> float:
    """Rare terms say more: the inverse document frequency."""
    containing = sum(bool(counts[term]) for _, counts in _index())
    return math.log(1 + len(_index()) / (1 + containing))


def _best_sentence(text: str, wanted: set[str]) -> str:
    return max(sentences(text), key=lambda sentence: len(wanted & set(terms(sentence))))


# -- arithmetic ------------------------------------------------------------------------------------

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # unlike `**` it overflows at once instead of computing a number with a million digits
}


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(left), _evaluate(right))
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
            return math.sqrt(_evaluate(argument))
    raise ValueError("only numbers, + - * / **, parentheses and sqrt() are understood")
