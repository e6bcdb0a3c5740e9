"""What the witnesses of the demo say, weighed."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from examples.research_agent.ledger import History, Line, Verdict, judge


@dataclass
class Kill:
    """One kill of the server."""

    label: str
    steps_begun: int
    interrupted: list[str]
    """The steps that had begun and not finished."""

    @property
    def found(self) -> str:
        """Where the agent was."""
        where = f"step {self.steps_begun}"
        return f"{where}, in {', '.join(self.interrupted)}" if self.interrupted else f"{where}, between steps"


@dataclass
class Outcome:
    """The result of the demo."""

    kills: list[Kill]
    report: dict[str, Any]
    histories: list[History]
    provider: dict[str, Any] | None
    """What the loopback provider has counted; a real one does not tell."""
    seconds: float
    broken: list[str] = field(default_factory=list)
    """The promises that were broken, in words."""

    @property
    def model_calls(self) -> list[History]:
        """The steps that asked the provider."""
        return [history for history in self.histories if history.step.startswith("model")]

    @property
    def repeated(self) -> list[History]:
        """The steps that ran more than once, other than because they had failed."""
        return [h for h in self.histories if h.starts > 1 and h.verdict is not Verdict.TRIED_AGAIN]

    @property
    def tried_again(self) -> list[History]:
        """The steps that failed, as steps do, and were tried again."""
        return [history for history in self.histories if history.verdict is Verdict.TRIED_AGAIN]


def weigh(
    lines: list[Line], kills: list[Kill], report: dict[str, Any], provider: dict[str, Any] | None, seconds: float
) -> Outcome:
    """Compare the ledger, the provider's count, the notebook and the agent's own report."""
    outcome = Outcome(kills, report, judge(lines), provider, seconds)
    outcome.broken += [f"{history.step}: {history.verdict.lower()}" for history in outcome.histories if history.broken]
    outcome.broken += [f"{h.step}: {h.verdict}" for h in outcome.histories if h.verdict is Verdict.UNFINISHED]
    if len(outcome.histories) != report["done"]["steps"]:
        outcome.broken.append(f"the agent counted {report['done']['steps']} steps, the ledger {len(outcome.histories)}")
    outcome.broken += _check_notebook(outcome)
    if provider is not None:
        outcome.broken += _check_provider(outcome, provider)
    return outcome


def _check_notebook(outcome: Outcome) -> list[str]:
    """Calls and messages to the notebook happen exactly once: nothing is missing, nothing is there twice."""
    done, held = outcome.report["done"], outcome.report["notebook"]
    problems = []
    if len(held["notes"]) != done["notes"]:
        problems.append(f"{done['notes']} notes were taken, the notebook holds {len(held['notes'])}")
    if len(held["visited"]) != done["sections"]:
        problems.append(f"{done['sections']} sections were read, the notebook lists {len(held['visited'])}")
    if outcome.provider is not None:  # a real model may take a note twice; ours does not
        sources = Counter(note["source"] for note in held["notes"])
        problems += [f"the note {source} is there {count} times" for source, count in sources.items() if count > 1]
    return problems


def _check_provider(outcome: Outcome, provider: dict[str, Any]) -> list[str]:
    """The provider was asked for each model call at least once, and never more often than the ledger knows."""
    asked = dict(provider["by_key"])
    problems = []
    for history in outcome.model_calls:
        count = sum(asked.pop(token, 0) for token in history.tokens)
        if not history.finishes <= count <= history.starts:
            problems.append(f"{history.step} began {history.starts} times, and the provider was asked {count} times")
    return problems + [f"the provider was asked with an unknown key {key}" for key in asked]
