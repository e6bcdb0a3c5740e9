"""Transcripts: commands in words, and below each what came of it: the actions, and the rows that changed.

A line of a transcript is a comment (`#`), or a command: a verb (a method `do_*` below), words, and options as
`name=value`. Commands end with a line `----`; what follows up to an empty line is written by the test. In it
`->` is an action, `+` a row that is there now, `-` one that is gone. Letters stand for invocations; `t+5` is 5 ms
after the beginning. Left out are the tables of ids and counters, and of an invocation its times and retention.
"""

import shlex
from collections.abc import Iterable
from enum import Enum
from typing import Any

import msgspec

from perdure.core.tables import INVOCATION, INVOCATION_ID, JOURNAL, META, TIMER, Table
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import AbortAttempt, AckDelivery, Action, Notify, Send, StartAttempt
from perdure.model.ids import awakeable_id, format_invocation_id
from perdure.model.invocation import Invocation, Waiter
from perdure.model.services import RetryPolicy
from tests.core.world import AT, TOKEN, World

__all__ = ["Transcript", "replay"]

TIMERS = ("begin", "end a sleep", "try again", "drop the journal", "forget")
HIDDEN = {"number", "id", "target", "status", "created_at", "started_at", "retention", "caller"}


def replay(source: str) -> str:
    """A transcript with what comes of its commands now."""
    transcript = Transcript()
    written: list[str] = []
    skipping = False
    for line in source.splitlines():
        if skipping:
            skipping = bool(line)
        if skipping:
            continue
        written.append(line)
        if line == "----":
            written += transcript.take_lines() or ["nothing"]
            skipping = True
        elif line and not line.startswith("#"):
            transcript.do(line)
    return "\n".join(written).rstrip("\n") + "\n"


def result_of(word: str) -> e.Value | e.Failure | e.Void:
    """`void`, `failure:409:no`, or a value."""
    if word == "void":
        return e.VOID
    if word.startswith("failure:"):
        _, code, message = word.split(":", 2)
        return e.Failure(int(code), message)
    return e.Value(word.encode())


class Transcript(World):
    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, bytes] = {}  # letter -> id
        self.lines: list[str] = []

    def take_lines(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def do(self, line: str) -> None:
        words = shlex.split(line)
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        getattr(self, f"do_{words[0]}")(*[word for word in words[1:] if "=" not in word], **options)

    def apply(self, command: c.PartitionCommand, partition: int = 0) -> list[Action]:
        actions = super().apply(command, partition)
        prefix = f"{partition} " if len(self.tables) > 1 else ""
        self.lines += [f"{prefix}-> {self.action(partition, action)}" for action in actions]
        self.lines += [prefix + line for line in self.changes()]
        return actions

    # The verbs

    def do_partitions(self, count: str) -> None:
        World.__init__(self, int(count))

    def name(self, letter: str, partition: str = "0") -> bytes:
        if letter not in self.names:
            self.names[letter] = self.fresh_id(int(partition))
        return self.names[letter]

    def time(self, word: str) -> int:
        return self.at + int(word)

    def do_invoke(self, letter: str, path: str, *flags: str, on: str = "0", **options: str) -> None:
        given: dict[str, Any] = dict(options)
        if "execute_at" in given:
            given["execute_at"] = self.time(given["execute_at"])
        if flags:
            given.update(token=TOKEN, wait="wait" in flags)
        self.invoke(path, self.name(letter, on), partition=int(on), **given)

    def do_append(self, letter: str, kind: str, **fields: str) -> None:
        entry = getattr(e, kind)
        values = {name: self.field(kind, name, entry.__annotations__[name], word) for name, word in fields.items()}
        self.append(self.names[letter], entry(**values))

    def field(self, kind: str, name: str, annotation: Any, word: str) -> Any:
        if name == "wake_up_time":
            return self.time(word)
        if name == "result":
            return result_of(word)
        if name == "target":
            target = format_invocation_id(self.names[word])
            return target if kind == "SendSignal" else e.InvocationTarget(target)
        if name == "awakeable_id":
            letter, number = word.split("!")
            return awakeable_id(self.names[letter], int(number))
        if name == "signal":
            return int(word) if word.isdigit() else word
        if annotation is int:
            return int(word)
        return word.encode() if annotation is bytes else word

    def do_call(self, letter: str, path: str, first: str, second: str, callee: str, on: str = "0") -> None:
        self.call(self.names[letter], path, (int(first), int(second)), self.name(callee, on))

    def do_propose(self, letter: str, completion_id: str, word: str) -> None:
        result = result_of(word)
        assert not isinstance(result, e.Void)
        self.propose(self.names[letter], int(completion_id), result)

    def do_suspend(
        self, letter: str, *completions: str, signals: str = "", names: str = "", seen: str | None = None
    ) -> None:
        self.suspend(
            self.names[letter],
            *map(int, completions),
            seen=None if seen is None else int(seen),
            signals=tuple(map(int, signals.split())),
            names=tuple(names.split()),
        )

    def do_end(self, letter: str, word: str) -> None:
        result = result_of(word)
        assert not isinstance(result, e.Void)
        self.end(self.names[letter], result)

    def do_fail(self, letter: str, **policy: str) -> None:
        numbers: dict[str, Any] = {name: int(word) for name, word in policy.items()}
        self.fail(self.names[letter], RetryPolicy(**numbers))

    def do_signal(self, letter: str, signal: str, word: str) -> None:
        id = self.names[letter]
        what = e.Signal(int(signal) if signal.isdigit() else signal, result_of(word))
        self.apply(c.SendSignalTo(self.at, id, what, TOKEN), self.owner(id))

    def do_cancel(self, letter: str) -> None:
        self.order(c.Cancel, self.names[letter])

    def do_kill(self, letter: str) -> None:
        self.order(c.Kill, self.names[letter])

    def do_pause(self, letter: str) -> None:
        self.order(c.Pause, self.names[letter])

    def do_resume(self, letter: str) -> None:
        self.order(c.Resume, self.names[letter])

    def do_load(self, letter: str) -> None:
        it = self[self.names[letter]]
        self.apply(c.Load(self.at, it.number, it.attempts), self.owner(it.id))

    def do_change(self, service: str, key: str, **changes: str) -> None:
        self.apply(c.ChangeState(self.at, service, key, {k: v.encode() for k, v in changes.items()}, token=TOKEN))

    def do_tick(self, after: str) -> None:
        self.tick(int(after))

    def do_recover(self, partition: str = "0") -> None:
        self.recover(int(partition))

    def do_deliver(self, *flags: str) -> None:
        """Carry what is on its way, and what comes of that; `twice`, every message two times."""
        while self.log:
            partition, action = self.log.pop(0)
            if isinstance(action, Send):
                for _ in range(1 + ("twice" in flags)):
                    self.deliver(partition, action)
            elif isinstance(action, AckDelivery):
                self.apply(c.Delivered(self.at, partition, action.position), action.source)

    # What came of it

    def changes(self) -> Iterable[str]:
        for table, groups in self.batch.groups.items():
            if table in (INVOCATION_ID, META):
                continue
            for group, changed in groups.items():
                if changed.dropped:
                    yield f"- {table} {self.key(group)} all"
                for key, value in changed.rows.items():
                    if value is None:
                        yield f"- {table} {self.key(key)}"
                    elif table is TIMER:
                        yield f"+ {table} {self.key(key)}, to {TIMERS[key[2]]}"
                    else:
                        yield f"+ {table} {self.key(key)}" + ("" if value is True else f": {self.row(table, value)}")

    def key(self, key: tuple[Any, ...]) -> str:
        return "/".join(self.show(part) for part in key).replace("'", "")

    def row(self, table: Table[Any], value: Any) -> str:
        if table is JOURNAL:
            at, entry = value
            return f"{self.show(at)} {self.show(entry)}"
        return self.invocation(value) if table is INVOCATION else self.show(value)

    def invocation(self, it: Invocation) -> str:
        rest = [f"{name}={self.show(value)}" for name, value in fields_of(it) if name not in HIDDEN]
        return " ".join([self.show(it.id), str(it.target), self.show(it.status), *rest])

    def action(self, partition: int, action: Action) -> str:
        if isinstance(action, StartAttempt):
            it, journal = action.invocation, action.journal
            if journal is None:
                return f"StartAttempt {self.show(it.id)} attempt {it.attempts}, its journal to be loaded"
            kinds = ", ".join(type(entry).__name__ for entry in journal.entries)
            state = "" if journal.state is None else f", state {self.show(journal.state)}"
            return f"StartAttempt {self.show(it.id)} attempt {it.attempts}, journal [{kinds}]{state}"
        if isinstance(action, Notify):
            return f"Notify {self.owner_of(partition, action.number)} {self.show(action.notification)}"
        if isinstance(action, AbortAttempt):
            return f"AbortAttempt {self.owner_of(partition, action.number)}"
        return self.show(action)

    def owner_of(self, partition: int, number: int) -> str:
        row = self.tables[partition].get(INVOCATION, (number,))
        return "of what is forgotten" if row is None else self.show(row.id)

    def show(self, value: Any) -> str:
        if isinstance(value, c.Invoke):
            waiter = "" if value.waiter is None else f", waiter={self.show(value.waiter)}"
            return f"Invoke({self.show(value.id)} {value.target}{waiter})"
        if isinstance(value, msgspec.Struct):
            name, fields = type(value).__name__, fields_of(value)
            if len(value.__struct_fields__) == 1 or isinstance(value, e.Failure):
                return f"{name}({', '.join(self.show(content) for _, content in fields)})"
            return f"{name}({', '.join(f'{field}={self.show(content)}' for field, content in fields)})"
        if isinstance(value, Enum):
            return str(value)
        if isinstance(value, tuple):
            return "[" + ", ".join(map(self.show, value)) + "]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{self.show(k)}: {self.show(v)}" for k, v in value.items()) + "}"
        if isinstance(value, int) and value >= AT:
            return f"t+{value - AT}"
        if isinstance(value, bytes | str):
            for letter, id in self.names.items():
                if value in (id, format_invocation_id(id)):
                    return letter
            return repr(value.decode() if isinstance(value, bytes) else value)
        return str(value)


def fields_of(value: msgspec.Struct) -> list[tuple[str, Any]]:
    """The fields that are not at their default, with a completion's type by its name."""
    found = []
    for field in msgspec.structs.fields(type(value)):
        content = getattr(value, field.name)
        if isinstance(value, e.Completion | Waiter) and field.name == "type":
            content = completion_name(content)
        if content not in (field.default, None) and not (field.name == "step_attempts" and not content):
            found.append((field.name, content))
    return found


class completion_name(int):
    """A notification's number that prints as the name of the constant."""

    def __str__(self) -> str:
        return next(name for name, number in vars(e).items() if number == int(self) and name.isupper())
