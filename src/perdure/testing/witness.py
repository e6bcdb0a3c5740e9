"""What handlers, steps and clients saw, held against what the disk has: the checkers on the other side of the engine.

One property each: a journaled step does not run again; nobody is told of anything before it is stored; a replay sees
what the first run saw, in the same order; one exclusive handler's code runs per key at a time.
"""

import json
from collections.abc import Callable

from perdure.model import entries as e
from perdure.model.ids import parse_awakeable_id, parse_invocation_id
from perdure.sdk.steps import StepInfo
from perdure.testing.oracle import Ledger

__all__ = ["Run", "Witness"]


class Run:
    """One run of a handler's code, from its first line on: the first, or a replay."""

    __slots__ = ("_witness", "invocation", "over", "owner", "seen", "signals")

    def __init__(self, witness: "Witness", invocation: str, owner: str | None) -> None:
        self._witness = witness
        self.invocation = invocation
        self.owner = owner
        self.seen = 0
        self.signals: dict[str, int] = {}  # of each name, up to which it got them
        self.over = False  # the code failed in a way that will not replay; what it sees from here on is nothing

    @classmethod
    def nobody(cls) -> "Run":
        """A run that nobody looks at."""
        return _NOBODY

    def saw(self, uid: str, value: str) -> None:
        """The code got `value` at the await named `uid`."""
        if not self.over:
            self._witness.saw(self, uid, value)

    def leave(self) -> None:
        """The code is at its end, or dropped."""
        self.over = True
        self._witness.left(self)


class _Nobody(Run):
    def __init__(self) -> None:
        self.over = True


_NOBODY = _Nobody()


class Witness:
    """Sees everything that happens outside of the engine. `alive` is false while the process is dead.

    `lazy` says that objects' state is too large to go along with every start of a handler. `elsewhere` says that
    handlers are spoken to in the service protocol, which carries no times and not how often a step was tried: a time
    that was read before the journal had it may be another in the next attempt, and a policy is not kept to the try.
    """

    def __init__(self, ledger: Ledger, complain: Callable[[str], None], lazy: bool, elsewhere: bool = False) -> None:
        self.lazy = lazy
        self.elsewhere = elsewhere
        self.ledger = ledger
        self.complain = complain
        self.alive = False
        self.awakeables: dict[str, None] = {}  # ids that handlers told the world
        self.expected: dict[tuple[str, str], None] = {}  # (invocation, name of the signal it waits for)
        self.flows: dict[str, None] = {}  # ids of workflows whose code was reached
        self.happened: dict[str, int] = {}  # how often what succeeded
        self._logs: dict[str, list[tuple[str, str]]] = {}
        self._holders: dict[str, str] = {}
        self._runs: dict[str, int] = {}
        self._outcomes: dict[str, set[str]] = {}
        self._returned: dict[str, set[str]] = {}
        self._flaky: dict[tuple[str, str], int] = {}

    def count(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1

    # Handlers

    def enter(self, invocation: str, owner: str | None) -> Run:
        """A handler's code begins. `owner` names the object that it must have for itself."""
        run = Run(self, invocation, owner)
        known = self.ledger.known.get(parse_invocation_id(invocation))
        if known is None:
            self.complain(f"{invocation} runs, and the disk does not know it")
        if owner is not None:
            holder = self._holders.setdefault(owner, invocation)
            if holder != invocation:
                self.complain(f"{invocation} runs while {holder} has {owner}")
        return run

    def left(self, run: Run) -> None:
        if run.owner is not None and self._holders.get(run.owner) == run.invocation:
            del self._holders[run.owner]

    def saw(self, run: Run, uid: str, value: str) -> None:
        if not self.alive:
            return
        log = self._logs.setdefault(run.invocation, [])
        if run.seen < len(log):
            if log[run.seen] != (uid, value):
                self.complain(
                    f"a replay of {run.invocation} saw {uid} = {value}; the first run had {log[run.seen]} at {run.seen}"
                )
            else:
                self.count("replayed")
        else:
            log.append((uid, value))
        run.seen += 1

    def returned(self, run: Run, value: str) -> None:
        """The handler's code is done."""
        if self.alive:
            self._returned.setdefault(run.invocation, set()).add(json.dumps(value))

    def fails(self, invocation: str, uid: str, times: int) -> bool:
        """Whether this is one of the first so many runs of a line of code."""
        ran = self._flaky[invocation, uid] = self._flaky.get((invocation, uid), 0) + 1
        return ran <= times

    # Steps

    def step_begins(self, info: StepInfo, most: int | None) -> int:
        """A step's function is called; which call this is. `most` is how often its policy allows in a row."""
        if info.token in self.ledger.recorded:
            self.complain(f"step {info.name} of {info.token} runs again, though its result is journaled")
        if most is not None and info.attempt > most and not self.elsewhere:
            self.complain(f"step {info.name} of {info.token} is tried {info.attempt} times, and its policy says {most}")
        run = self._runs[info.token] = self._runs.get(info.token, 0) + 1
        return run

    def step_ends(self, info: StepInfo, outcome: str) -> str:
        """A step's function is done, and this is its result."""
        self._outcomes.setdefault(info.token, set()).add(outcome)
        self.count("step")
        return outcome

    def saw_step(self, outcome: str) -> None:
        """The code got a step's result."""
        if not self.alive:
            return
        token = outcome.partition("#")[0]
        recorded = self.ledger.recorded.get(token)
        text = None
        if isinstance(recorded, e.Value):
            text = json.loads(recorded.content)
        elif isinstance(recorded, e.Failure):
            text = recorded.message
        if text is None:
            self.complain(f"the result of {token} was told before it was stored")
        elif text != outcome:
            self.complain(f"the journal has {text} for {token}, the code was told {outcome}")
        elif outcome not in self._outcomes.get(token, ()):
            self.complain(f"the journal has {text} for {token}, which that step never returned")

    def saw_shown(self, outcome: str) -> None:
        """The code got the result of a step that writes to a stream: what it wrote is stored by then."""
        if self.alive and self.ledger.shown.get(outcome) != 2:
            self.complain(f"{outcome} was told, and {self.ledger.shown.get(outcome, 0)} of its 2 chunks are stored")

    # What comes from elsewhere

    def _sent(self, invocation: str, signal: int | str) -> list[str]:
        """The values of the signals of that name or number in the journal, in order."""
        sent = self.ledger.signals.get((parse_invocation_id(invocation), signal), [])
        return [str(json.loads(result.content)) for result in sent if isinstance(result, e.Value)]

    def saw_signal(self, run: Run, name: str, value: str) -> None:
        """Signals of a name are got in the order in which they were journaled, each once."""
        if self.alive:
            sent = self._sent(run.invocation, name)
            following = run.signals.get(name, 0)
            if value not in sent[following:]:
                self.complain(f"{run.invocation} got {value} of signals {name} {sent}, after {following} of them")
            else:
                run.signals[name] = sent.index(value, following) + 1

    def saw_awakeable(self, id: str, value: str) -> None:
        """The first completion of an awakeable counts."""
        if self.alive:
            invocation, number = parse_awakeable_id(id)
            sent = self.ledger.signals.get((invocation, number), [])
            if not sent or sent[0] != e.Value(json.dumps(value).encode()):
                self.complain(f"awakeable {id} was awaited with {value}; the journal has {sent}")

    def saw_promise(self, key: str, name: str, value: str) -> None:
        """A promise has the value that it was resolved with."""
        if self.alive:
            known = self.ledger.promises.get((key, name))
            if known != e.Value(json.dumps(value).encode()):
                self.complain(f"promise {name} of {key} was awaited with {value}; it has {known}")

    # Clients

    def accepted(self, id: bytes) -> None:
        """A client was told that its invocation is accepted."""
        if id not in self.ledger.known:
            self.complain(f"a client was told that {id.hex()} is accepted, and the disk does not know it")

    def answered(self, id: bytes, result: e.Value | e.Failure) -> None:
        """A client was told a result."""
        known = self.ledger.known.get(id)
        if known is None or result not in (known.result, *known.earlier):
            self.complain(f"a client was told {result} of {known}, and the disk has {known and known.result}")

    # The end

    def crashed(self) -> None:
        self.alive = False
        self._holders.clear()

    def end(self) -> None:
        """Every result is one that the handler's code returned."""
        for known in self.ledger.known.values():
            returned = self._returned.get(known.text, ())
            if isinstance(known.result, e.Value) and known.result.content.decode() not in returned:
                self.complain(f"{known} has the result {known.result.content!r}, and its code returned {returned}")
