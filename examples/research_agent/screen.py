"""What the demo shows: progress while it runs, a table at the end."""

import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from examples.research_agent.ledger import Happening, History, Line, Verdict
from examples.research_agent.outcome import Outcome

EXPECTED_STEPS = 54
"""With the loopback model and the question of the demo; for the length of the bar only."""

STYLES = {Happening.START: "yellow", Happening.FINISH: "green", Happening.FAILED: "red"}
WORDS = {Happening.START: "running", Happening.FINISH: "done", Happening.FAILED: "failed, will be tried again"}


class Screen:
    """The live view. Where there is no terminal, the events are printed line by line."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._recent: dict[str, Line] = {}
        self._begun = 0
        self._began = time.monotonic()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=12, transient=True)

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, event: str) -> None:
        """Something happened that is worth a line of its own."""
        self.console.print(f"[dim]{time.monotonic() - self._began:5.1f} s[/]  {event}", highlight=False)

    def step(self, line: Line, begun: int) -> None:
        """A step has begun or ended."""
        self._begun = begun
        recent = {step: seen for step, seen in self._recent.items() if step != line.step}
        # Replaced as a whole: the live view reads it from a thread of its own.
        self._recent = dict(deque([*recent.items(), (line.step, line)], maxlen=8))

    def render(self) -> RenderableType:
        """The live view now."""
        steps = Table.grid(padding=(0, 2))
        for line in self._recent.values():
            style = STYLES[line.event]
            steps.add_row(Text(line.step), Text(WORDS[line.event], style), Text(f"process {line.pid}", "dim"))
        bar = Table.grid(padding=(0, 1))
        total = max(EXPECTED_STEPS, self._begun)
        bar.add_row(ProgressBar(total, self._begun, width=50), f"step {self._begun} of about {total}")
        return Group(Text(), bar, steps)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """The table at the end, and the answer."""
    table = Table(title="The demo in figures", show_header=False, title_justify="left", min_width=60)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    calls = len(outcome.model_calls)
    table.add_row(
        "steps", f"{len(outcome.histories)}: {calls} model calls, {len(outcome.histories) - calls} tool calls"
    )
    kills = "\n".join(escape(f"{kill.label} ({kill.found})") for kill in outcome.kills)
    table.add_row("kills", f"{len(outcome.kills)}\n{kills}")
    table.add_row("provider requests seen", _requests(outcome))
    table.add_row("steps run more than once", _steps(outcome.repeated))
    failed = ", ".join(history.step for history in outcome.tried_again)
    table.add_row("errors of the provider, retried", f"{len(outcome.tried_again)} ({failed})" if failed else "0")
    twice = [history for history in outcome.histories if history.verdict is Verdict.RAN_AFTER_RECORD]
    table.add_row("finished steps run twice", f"[bold red]{_steps(twice)}[/]" if twice else "[green]0[/]")
    done, held = outcome.report["done"], outcome.report["notebook"]
    table.add_row("notes taken, notes held", f"{done['notes']}, {len(held['notes'])}")
    table.add_row("sections read, sections listed", f"{done['sections']}, {len(held['visited'])}")
    table.add_row("time", f"{outcome.seconds:.1f} s")
    console.print(table)
    console.print(Panel(Text(str(outcome.report["answer"])), title="The agent's answer", title_align="left"))
    for problem in outcome.broken:
        console.print(f"BROKEN: {problem}", style="bold red", markup=False)


def _requests(outcome: Outcome) -> str:
    calls = len(outcome.model_calls)
    if outcome.provider is None:
        sent = sum(history.starts for history in outcome.model_calls)
        return f"a real provider does not tell; {sent} were sent for {calls} model calls"
    names = {token: history.step for history in outcome.model_calls for token in history.tokens}
    again = [
        f"{names.get(key, key)} asked {count} times" for key, count in outcome.provider["by_key"].items() if count > 1
    ]
    return "\n".join([f"{outcome.provider['total']} for {calls} model calls", *again])


def _steps(histories: list[History]) -> str:
    if not histories:
        return "0"
    return "\n".join([str(len(histories)), *(escape(f"{history.step}: {history.verdict}") for history in histories)])
