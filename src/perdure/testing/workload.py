"""What the simulator asks of the node: random programs for the handlers, and what clients do with invocations.

`Author` writes programs that end, if everything outside of the engine behaves in the end: a handler that holds an
object waits only for objects further down a fixed order, so no two wait for each other.
"""

import json
import random
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from perdure.errors import Invalid, NotFound
from perdure.model import actions as a
from perdure.model import entries as e
from perdure.model.ids import InvocationId, partition_key_of, partition_of
from perdure.model.streams import Cursor, EndEvent, RegeneratedEvent, StreamEvent
from perdure.runtime.node import Node
from perdure.testing.oracle import Known
from perdure.testing.programs import Op, Program
from perdure.testing.witness import Witness

__all__ = ["REQUESTS", "Author", "Request", "Requests"]

PLAIN_TARGETS = ("Play/run", "Eager/run", "Brief/run", "Frail/run", "Narrow/run")
BOXES = ("b0", "b1", "b2", "b3")
COUNTERS = ("c0", "c1", "c2")
PROMISES = ("p0", "p1")
BRANCHED = ("gather", "group", "race", "completed", "queue", "lock")
OFTEN = ("step", "step", "step", "sleep", "sleep", "call", "call")
STREAMS = ("s0", "s1")
RARELY = (
    "send",
    "plain",
    "show",
    "show",
    "awakeable",
    "resolve_awakeable",
    "signal",
    "flaky",
    "flaky",
    "terminal",
    "chance",
)
COMMON = (*OFTEN, *RARELY, *BRANCHED, "timeout", "try", "cleanup", "leave")
READING = ("get", "keys")
STATEFUL = (*READING, "set", "incr", "incr", "clear")
_BOUND = tuple(f'"{kind}"'.encode() for kind in ("awakeable", "incr", "set", "clear"))


class Scope(NamedTuple):
    """Where in a program an operation stands."""

    target: str
    floor: int = 0
    """The highest rank of the objects that whoever waits for this holds; it may wait only for higher ones."""
    depth: int = 0
    alone: bool = True
    """Nothing else of the handler runs meanwhile. A failure that no journal holds may happen here only: where others
    run, what they had done by then would not replay."""
    timed: bool = False
    """A timeout may cancel it. Before CPython 3.13 a `TaskGroup` that fails in that moment leaves a cancellation
    behind that nobody asked for."""


class Author:
    """Writes programs. `kinds` are the operations it uses at all: each seed leaves some out, so others meet more."""

    def __init__(self, rng: random.Random, longest: int) -> None:
        self._rng = rng
        self._longest = longest
        self._callees: list[list[Any]] = []
        kinds = sorted({*COMMON, *STATEFUL, "promise"})
        left_out = rng.sample(kinds, rng.randrange(len(kinds) - 4))
        self.kinds = {*kinds, "step"}.difference(left_out) | {"step"}

    def program(self, uid: str, target: str, floor: int = 0, depth: int = 0) -> Program:
        """For a handler of `target`, whose callers hold objects of rank `floor` at most."""
        return {"uid": uid, "ops": self._ops(uid, Scope(target, floor, depth), self._rng.randint(1, self._longest))}

    def _ops(self, uid: str, scope: Scope, count: int) -> list[Op]:
        kinds = [*COMMON]
        if scope.target in ("Box/play", "Box/hurry"):
            kinds += STATEFUL * 2
        elif scope.target == "Flow/run":
            kinds += [*STATEFUL, *["promise"] * 4]
        elif scope.target == "Flow/look":
            kinds += [*READING, *["promise"] * 8]
        elif scope.target == "Box/look":
            kinds += READING * 4
        kinds = [kind for kind in kinds if kind in self.kinds and self._fits(kind, scope)] or ["step"]
        return [self._op(f"{uid}.{index}", self._rng.choice(kinds), scope) for index in range(count)]

    def _fits(self, kind: str, scope: Scope) -> bool:
        if kind == "flaky":
            return scope.alone
        if kind == "group" and scope.timed:
            return False
        return scope.depth < 2 or (kind not in BRANCHED and kind not in ("call", "send"))

    def _op(self, uid: str, kind: str, scope: Scope) -> Op:
        rng, floor, depth = self._rng, scope.floor, scope.depth
        if kind == "step":
            fails = rng.choice((0, 0, 0, 0, 1, 1, 2, 7))
            takes_us = rng.choice((0, 0, 0, 300, 5_000, 200_000))
            return [
                kind,
                uid,
                fails,
                takes_us,
                rng.choice(("ok",) * 9 + ("terminal", "later")),
                rng.choice((None, None, 1, 3)),
            ]
        if kind == "sleep":
            return [kind, uid, rng.choice((0, 1, 20, 20, 300, 4_000)), rng.random() < 0.5]
        if kind == "call":
            return [kind, uid, *self._callee(f"{uid}c", floor, depth + 1)]
        if kind == "send":
            then = rng.choice(("", "", "", "attach", "output", "cancel", "signal"))
            callee = self._callee(f"{uid}s", floor if then == "attach" else 0, depth + 1, plain=False)
            return [kind, uid, *callee, rng.choice((0, 0, 10, 500, 6_000)), then]
        if kind in BRANCHED:
            inner = scope._replace(depth=depth + 1, alone=False)
            branches = [self._ops(f"{uid}.{index}", inner, rng.randint(1, 2)) for index in range(rng.randint(2, 4))]
            return [kind, uid, branches, rng.random() < 0.5] if kind == "gather" else [kind, uid, branches]
        if kind in ("timeout", "try", "cleanup", "leave"):
            inner = scope._replace(
                depth=depth + 1,
                alone=scope.alone and kind == "timeout",
                timed=scope.timed or kind == "timeout",
            )
            ops = self._ops(uid, inner, rng.randint(1, 2))
            if kind == "timeout":
                return [kind, uid, rng.choice((1, 30, 700)), ops]
            cleanup = [["step", f"{uid}.z", 0, 0, "ok", None]]
            if kind == "leave" and "cleanup" in self.kinds:
                return [kind, uid, [["cleanup", f"{uid}.y", [*ops, ["sleep", f"{uid}.x", 900, True]], cleanup]]]
            return [kind, uid, ops, cleanup] if kind == "cleanup" else [kind, uid, ops]
        return [kind, uid, *self._simple(kind)]

    def _simple(self, kind: str) -> list[Any]:
        rng = self._rng
        if kind == "resolve_awakeable":
            return [rng.randrange(100), rng.random() < 0.2]
        if kind == "signal":
            return [rng.choice(("go", "stop"))]
        if kind == "show":
            return [rng.choice(STREAMS), rng.choice((0, 0, 0, 1, 2)), rng.choice((0, 300, 200_000))]
        if kind == "flaky":
            return [rng.choice((1, 1, 2, 6)), rng.choice((None, None, 0, 40))]
        if kind in ("get", "set"):
            return [rng.choice(("x", "y"))]
        if kind == "clear":
            return [rng.choice(("x", "y", None))]
        if kind == "promise":
            return [rng.choice(PROMISES), rng.choice(("await", "await", "peek", "resolve", "reject"))]
        return []

    def _callee(self, uid: str, floor: int, depth: int, plain: bool = True) -> list[Any]:
        """Target, key, program."""
        rng = self._rng
        choice = rng.random()
        if choice < 0.14 and plain:
            return self._shared()
        boxes = [index for index in range(len(BOXES)) if index + 1 > floor]
        if choice < 0.25:
            return ["Counter/add", rng.choice(COUNTERS), {"uid": uid}]
        if choice < 0.3:
            return ["Counter/get", rng.choice(COUNTERS), {"uid": uid}]
        if choice < 0.5 and boxes:
            index = rng.choice(boxes)
            target = rng.choice(("Box/play", "Box/hurry"))
            return [target, BOXES[index], self.program(uid, target, index + 1, depth)]
        if choice < 0.55:
            return ["Box/look", rng.choice(BOXES), self.program(uid, "Box/look", floor, depth)]
        if choice < 0.62:
            return ["Flow/run", uid, self.program(uid, "Flow/run", floor, depth)]
        target = rng.choice(PLAIN_TARGETS)
        if plain and rng.random() < 0.1:
            uid = f"{uid}*"
        return [target, None, self.program(uid, target, floor, depth)]

    def _shared(self) -> list[Any]:
        """One of two that several callers call by the same key, so that they wait for one and the same."""
        if not self._callees:
            for uid in ("k0*", "k1*"):
                self._callees.append(["Play/run", None, {"uid": uid, "ops": []}])
            for _, _, program in self._callees:
                ops = self._ops(program["uid"], Scope("Play/run", len(BOXES), 2), 1)
                program["ops"] = [*ops, ["sleep", f"{program['uid']}.z", 3000, True]]
        return self._rng.choice(self._callees)

    def invocation(self, uid: str) -> tuple[str, str | None, Program]:
        """Something for a client to invoke."""
        rng = self._rng
        choice = rng.random()
        if choice < 0.2:
            return "Counter/add", rng.choice(COUNTERS), {"uid": uid}
        if choice < 0.25:
            return "Counter/get", rng.choice(COUNTERS), {"uid": uid}
        if choice < 0.5:
            index = rng.randrange(len(BOXES))
            target = rng.choice(("Box/play", "Box/play", "Box/hurry"))
            return target, BOXES[index], self.program(uid, target, index + 1)
        if choice < 0.55:
            return "Box/look", rng.choice(BOXES), self.program(uid, "Box/look")
        if choice < 0.65:
            return "Flow/run", uid, self.program(uid, "Flow/run")
        target = rng.choice(PLAIN_TARGETS)
        return target, None, self.program(uid, target)


class Request(NamedTuple):
    """One thing that a client asks: its kind, what identifies it, and how to ask a node."""

    kind: str
    uid: str
    ask: Callable[[Node], Awaitable[Any]]
    again: bool
    """Whether it is asked again if the process dies before the answer; harmless things are, and what has a key."""


class Reading:
    """A reader of a stream: it applies the events in order, and comes back with the cursor that it was given."""

    def __init__(self, id: InvocationId, name: str, complain: Callable[[str], None]) -> None:
        self._id = id
        self._name = name
        self._complain = complain
        self._texts: dict[int, str] = {}
        self._cursor: Cursor | None = None

    async def go_on(self, node: Node, witness: Witness) -> Any:
        """To the end of the stream; then what it holds has to be what is stored."""
        partition = partition_of(self._id, len(node.partitions))
        try:
            async with await node.streams.read(self._id, self._name, cursor=self._cursor) as reader:
                while reader.at_end is False:
                    batch = await reader.next()
                    if self._apply(batch.events):
                        stored = witness.ledger.streams.get((partition, batch.cursor.number, self._name), {})
                        if self._texts != stored:
                            self._complain(f"ends with {self._texts}; what is stored is {stored}")
                        witness.count("read to the end" if stored else "read nothing")
                        return "the end"
                    self._cursor = batch.cursor
        except NotFound as error:
            return error
        return "nothing new"

    def _apply(self, events: list[StreamEvent]) -> bool:
        for event in events:
            if isinstance(event, EndEvent):
                return True
            if isinstance(event, RegeneratedEvent):
                self._texts = {at: text for at, text in self._texts.items() if at < event.position}
            elif event.position <= max(self._texts, default=-1):
                self._complain(f"got position {event.position} after {max(self._texts)}")
            else:
                self._texts[event.position] = json.loads(event.chunk)
        return False


class Requests:
    """Draws what clients ask. Each method of `REQUESTS` makes one request, or None if there is nothing to ask about."""

    def __init__(self, rng: random.Random, author: Author, witness: Witness) -> None:
        self._rng = rng
        self._author = author
        self._witness = witness
        self._count = 0
        self._keyed: list[tuple[str, str | None, Program]] = []
        kinds = sorted(REQUESTS)
        kinds = [kind for kind in kinds if rng.random() < 0.7] or kinds
        self._kinds = [*kinds, "call", "send", "send"]

    def draw(self) -> Request:
        """The next request."""
        while True:
            kind = self._rng.choice(self._kinds)
            request = REQUESTS[kind](self, kind)
            if request is not None:
                return request
            self._kinds.append("send")

    def _fresh(self) -> str:
        self._count += 1
        return f"c{self._count}"

    def _known(self, live: bool = True) -> InvocationId | None:
        ledger = self._witness.ledger
        known = ledger.live() if live else list(ledger.known.values())
        return InvocationId(self._rng.choice(known).id) if known else None

    def _call(self, kind: str) -> Request:
        target, key, program = self._author.invocation(self._fresh())
        return Request(kind, program["uid"], lambda node: self.invoke(node, target, key, program, None), False)

    def _send(self, kind: str) -> Request:
        target, key, program = self._author.invocation(self._fresh())
        delay_ms = self._rng.choice((0, 0, 0, 50, 3_000)) if kind == "delayed send" else 0
        return Request(kind, program["uid"], lambda node: self.invoke(node, target, key, program, delay_ms), False)

    def _idempotent(self, kind: str) -> Request:
        if self._keyed and self._rng.random() < 0.6:
            target, key, program = self._rng.choice(self._keyed)
        else:
            target, key, program = self._author.invocation(f"{self._fresh()}*")
            self._keyed.append((target, key, program))
        delay_ms = None if self._rng.random() < 0.5 else self._rng.choice((0, 200))
        return Request(kind, program["uid"], lambda node: self.invoke(node, target, key, program, delay_ms), True)

    async def invoke(self, node: Node, target: str, key: str | None, program: Program, delay_ms: int | None) -> Any:
        """Call, or with `delay_ms` send; and hold the answer against what the disk has."""
        service, _, handler = target.partition("/")
        found = node.registry.target(service, handler, key)
        body = json.dumps(program).encode()
        idempotency_key = program["uid"] if program["uid"].endswith("*") and service != "Flow" else None
        witness = self._witness
        if delay_ms is not None:
            accepted = await node.send(found, body, idempotency_key=idempotency_key, delay_ms=delay_ms)
            witness.accepted(accepted.id)
            return accepted
        answer = await node.call(found, body, idempotency_key=idempotency_key)
        if isinstance(answer, a.Answer):
            witness.answered(answer.id, answer.result)
        else:
            witness.accepted(answer.id)
        return answer

    def _on_live(self, kind: str) -> Request | None:
        id = self._known()
        if id is None:
            return None
        method = {"cancel": Node.cancel, "kill": Node.kill, "pause": Node.pause, "resume": Node.resume}[kind]
        return Request(kind, id.hex(), lambda node: method(node, id), True)

    def _purge(self, kind: str) -> Request | None:
        known = [known for known in self._witness.ledger.known.values() if known.result is not None]
        known = [each for each in known if not each.uid.endswith("*") and each.target.service != "Flow"]
        if not known:
            return None
        id = InvocationId(self._rng.choice(known).id)
        journal_only = self._rng.random() < 0.5
        return Request(kind, id.hex(), lambda node: node.purge(id, journal_only), True)

    def _restart(self, kind: str) -> Request | None:
        id = self._known(live=False)
        if id is None:
            return None
        known = self._witness.ledger.known[id]
        row = self._witness.ledger.tables[known.partition]["journal"].get((known.number, 0))
        # Awakeables belong to the id, which is another one; and an object's state has gone on since.
        bound = row is None or known.target.service == "Counter" or any(kind in row[1].value for kind in _BOUND)
        keep = 1 if bound else self._rng.choice((1, 3, 5))
        return Request(kind, id.hex(), lambda node: node.restart(id, keep), False)

    def _look(self, kind: str) -> Request | None:
        id = self._known(live=False)
        if id is None:
            return None
        method: Callable[[Node, InvocationId], Awaitable[Any]]
        method = {"attach": Node.attach, "output": Node.output, "describe": Node.describe}[kind]

        async def ask(node: Node) -> Any:
            answer = await method(node, id)
            if isinstance(answer, a.Answer):
                self._witness.answered(answer.id, answer.result)
            return answer

        return Request(kind, id.hex(), ask, True)

    def _read(self, kind: str) -> Request | None:
        """Read a stream, over as many lives of the process as it takes, and hold it against what is stored."""
        name, witness, ledger = self._rng.choice(STREAMS), self._witness, self._witness.ledger
        known = ledger.live() if self._rng.random() < 0.8 else list(ledger.known.values())
        known = [each for each in known if self._writes(each, name)]
        if not known:
            return None
        id = InvocationId(self._rng.choice(known).id)
        reading = Reading(id, name, lambda problem: witness.complain(f"a reader of {name} of {id.hex()} {problem}"))
        return Request(kind, id.hex(), lambda node: reading.go_on(node, witness), True)

    def _writes(self, known: Known, name: str) -> bool:
        row = self._witness.ledger.tables[known.partition]["journal"].get((known.number, 0))
        return row is not None and f'"{name}"'.encode() in row[1].value

    def _awakeable(self, kind: str) -> Request | None:
        known = list(self._witness.awakeables)
        if not known:
            return None
        id = self._rng.choice(known)
        return Request(kind, id, lambda node: node.complete_awakeable(id, e.Value(b'"done"')), True)

    def _signal(self, kind: str) -> Request | None:
        id = self._known()
        name = self._rng.choice(("go", "stop"))
        number = self._fresh()
        signal = e.Signal(name, e.Value(f'"{number}"'.encode()))
        return None if id is None else Request(kind, id.hex(), lambda node: node.signal(id, signal), True)

    def _flow(self, kind: str) -> Request | None:
        """Touch a workflow's promises, by a shared handler."""
        flows = list(self._witness.flows)
        if not flows:
            return None
        uid = self._fresh()
        program = self._author.program(uid, "Flow/look", 0, 1)
        key = self._rng.choice(flows)
        return Request(kind, uid, lambda node: self.invoke(node, "Flow/look", key, program, 0), False)

    def _state(self, kind: str) -> Request:
        key = self._rng.choice(BOXES)
        return Request(kind, key, lambda node: node.state("Box", key), True)

    def _change_state(self, kind: str) -> Request:
        key = self._rng.choice(BOXES)
        changes = {"x": None if self._rng.random() < 0.3 else b'"changed"'}
        return Request(kind, key, lambda node: node.change_state("Box", key, changes), True)

    def _invalid(self, kind: str) -> Request:
        async def ask(node: Node) -> Any:
            try:
                await node.complete_awakeable("sign_1nonsense", e.Value(b""))
            except Invalid:
                return "refused"
            raise AssertionError("an awakeable's id that is none was taken for one")

        return Request(kind, "", ask, True)


REQUESTS: dict[str, Callable[[Requests, str], Request | None]] = {
    "call": Requests._call,
    "send": Requests._send,
    "delayed send": Requests._send,
    "idempotent": Requests._idempotent,
    "cancel": Requests._on_live,
    "kill": Requests._on_live,
    "pause": Requests._on_live,
    "resume": Requests._on_live,
    "purge": Requests._purge,
    "restart": Requests._restart,
    "attach": Requests._look,
    "output": Requests._look,
    "describe": Requests._look,
    "read": Requests._read,
    "read again": Requests._read,
    "awakeable": Requests._awakeable,
    "signal": Requests._signal,
    "flow": Requests._flow,
    "state": Requests._state,
    "change state": Requests._change_state,
    "invalid": Requests._invalid,
}


def spread(partitions: int) -> list[int]:
    """Which partition each box and counter belongs to; shown in a trace."""
    return [partition_of(partition_key_of(key) + bytes(16), partitions) for key in (*BOXES, *COUNTERS)]
