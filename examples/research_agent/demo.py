"""`make demo`: the research agent is killed again and again, and finishes its work.

    python -m examples.research_agent.demo [--seed N] [--fast]

The driver starts a model server and `perdure serve` as processes of their own, starts the agent over HTTP, and follows
a ledger in which every step leaves a line before and after its effect (`ledger.py`). It kills perdure with SIGKILL at
step 37, at two random moments, and inside a step, and starts it again each time. In the end it asks the witnesses.

With OPENAI_API_KEY or OPENAI_BASE_URL in the environment the agent asks that provider instead, for money.

Exit code: 0 if every promise was kept, 1 if one was broken (a finished step ran twice, a note was lost or doubled), 2
if the demo could not be carried out.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.research_agent.ledger import VARIABLE, Line, Reader, running
from examples.research_agent.outcome import Kill, Outcome, weigh
from examples.research_agent.processes import DemoFailed, Model, Server
from examples.research_agent.screen import Screen, show_outcome

QUESTION = (
    "What lets a program that is killed half-way finish its work without doing any of it twice, "
    "and what does each guarantee cost?"
)
PLANNED_KILLS = 4
POLL_SECONDS = 0.004
LOOK_SECONDS = 0.3

# A provider that never fails would be a strange one: once it is busy, and once it breaks.
FAULTS: list[dict[str, object]] = [{"at": 4, "status": 429, "retry_after": 0.2}, {"at": 9, "status": 500}]


class AgentEnded(Exception):
    """There is nobody left to kill."""


class Driver:
    """Starts, kills and restarts the server, and follows the ledger meanwhile."""

    def __init__(
        self,
        server: Server,
        model: Model | None,
        ledger: Reader,
        screen: Screen,
        chance: random.Random,
        pause: float,
    ) -> None:
        self.server = server
        self.model = model
        self.ledger = ledger
        self.screen = screen
        self.chance = chance
        self.pause = pause
        self.invocation = ""
        self.kills: list[Kill] = []
        self._life_began = 0
        self._next_look = 0.0

    def run(self, topic: dict[str, object], key: str) -> dict[str, Any]:
        """The whole story; returns the agent's report."""
        self.server.start()
        self.screen.say("perdure serve is up; the agent begins")
        self.invocation = self.server.send(topic, key)
        try:
            self.kill_at_step(37)
            self.kill_at_random_moment(40)
            self.kill_at_random_moment(44)
            self.kill_inside_a_step(47)
            self.follow_until(lambda: False)
        except AgentEnded:
            pass
        report = self.server.attach(self.invocation)
        self.ledger.poll()
        return report

    def kill_at_step(self, number: int) -> None:
        """Kill as soon as that many different steps have begun."""
        self.follow_until(lambda: self.ledger.steps_begun >= number)
        self.kill(f"at step {number}")

    def kill_at_random_moment(self, earliest: int) -> None:
        """Kill some time after the agent has begun a step that was drawn, wherever it is then."""
        step = earliest + self.chance.randrange(3)
        self.follow_until(lambda: self.ledger.steps_begun >= step)
        self.follow_for(self.chance.uniform(0, 1.2 * self.pause))
        self.kill("at a random moment")

    def kill_inside_a_step(self, earliest: int) -> None:
        """Kill while a model call waits for its answer: it has begun, and it has not finished."""
        while True:
            self.follow_until(lambda: self.ledger.steps_begun >= earliest and self.provider_is_busy())
            interrupted = self.kill("inside a step")
            if any(line.step.startswith("model") for line in interrupted):
                return
            # The answer came in the very last moment. That was one more kill, and not the one that was promised.
            self.kills[-1].label = "just after a step"

    def provider_is_busy(self) -> bool:
        """Whether a model call has reached the provider and waits for its answer: the provider will see it again."""
        calls = [line for line in running(self.ledger.lines[self._life_began :]) if line.step.startswith("model")]
        if not calls or self.model is None:
            return bool(calls)
        asking = {seen["key"] for seen in self.model.report()["requests"] if seen["outcome"] == "in progress"}
        return any(line.token in asking for line in calls)

    def kill(self, label: str) -> list[Line]:
        """Kill the server, start it again, and return the steps that the kill has interrupted."""
        self.server.kill()
        self.ledger.poll()
        interrupted = running(self.ledger.lines[self._life_began :])
        self._life_began = len(self.ledger.lines)
        kill = Kill(label, self.ledger.steps_begun, [line.step for line in interrupted])
        self.kills.append(kill)
        self.screen.say(f"[bold red]killed {label}[/]: {kill.found}")
        began = time.monotonic()
        self.server.start()
        self.screen.say(f"started again after {time.monotonic() - began:.1f} s")
        return interrupted

    def follow_for(self, seconds: float) -> None:
        """Let the agent work for some time."""
        end = time.monotonic() + seconds
        self.follow_until(lambda: time.monotonic() >= end)

    def follow_until(self, condition: Callable[[], bool]) -> None:
        """Let the agent work until something is true, or raise `AgentEnded`."""
        while True:
            for line in self.ledger.poll():
                self.screen.step(line, self.ledger.steps_begun)
            if condition():
                return
            self.server.check()
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + LOOK_SECONDS
                if self.server.finished(self.invocation):
                    raise AgentEnded
            time.sleep(POLL_SECONDS)


def demonstrate(options: argparse.Namespace, console: Console, directory: Path) -> Outcome:
    """Run the demo in a directory and weigh what the witnesses say."""
    loopback = options.loopback or not ("OPENAI_API_KEY" in os.environ or "OPENAI_BASE_URL" in os.environ)
    latency, pause = ((0.03, 0.08), 0.05) if options.fast else ((0.1, 0.4), 0.8)
    ledger = Reader(directory / "ledger.jsonl")
    environment = {VARIABLE: str(ledger.path)}
    model = Model(directory, latency, FAULTS) if loopback else None
    if model is not None:
        environment |= model.environment
    server = Server(directory, environment)
    began = time.monotonic()
    try:
        if model is not None:
            model.start()
        with Screen(console) as screen:
            screen.say(f"the model is {'a loopback server' if loopback else 'a real one'}; the seed is {options.seed}")
            driver = Driver(server, model, ledger, screen, random.Random(options.seed), pause)
            topic = {"name": "durability", "question": QUESTION, "pause_seconds": pause}
            report = driver.run(topic, key=f"demo-{options.seed}")
        provider = None if model is None else model.report()
        return weigh(ledger.lines, driver.kills, report, provider, time.monotonic() - began)
    finally:
        server.kill()
        if model is not None:
            model.kill()


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m examples.research_agent.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10_000), help="of the random moments"
    )
    parser.add_argument("--fast", action="store_true", help="less to see, sooner over")
    parser.add_argument("--loopback", action="store_true", help="the loopback model, even if a real one is configured")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the data, the ledger and the logs")
    options = parser.parse_args(arguments)
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    keep = True
    try:
        outcome = demonstrate(options, console, directory)
        show_outcome(console, outcome)
        keep = options.keep or bool(outcome.broken)
        if outcome.broken:
            return 1
        if len(outcome.kills) < PLANNED_KILLS:
            console.print("The agent ended before all the kills were done.", style="yellow")
            return 2
        return 0
    except DemoFailed as failure:
        console.print(f"The demo could not be carried out: {failure}", style="bold red", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        keep = options.keep
        return 130
    except Exception:
        # Our own mistake. Left alone it would end with code 1, and accuse the engine.
        console.print_exception()
        return 2
    finally:
        if keep:
            console.print(f"The data, the ledger and the logs are in {directory}", markup=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
