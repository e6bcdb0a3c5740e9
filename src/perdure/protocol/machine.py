"""The handler's end of one attempt: a cursor over the journal.

The machine owns: the commands still to be matched, the notifications still to be delivered and their order,
the ids of completions and signals, the view of the object's state, and the journal's clock. Its driver owns:
the handler's code, when it runs, and everything that waits.

Two states. While *replaying* there are journaled commands left, and each command that the code issues has to be
the next of them. With the last one matched the machine is *processing*: commands go to the engine. Either way
the code goes on at once, and notifications are delivered one at a time, in the journal's order, each only when
the code can do nothing more without one. Given the same journal, code that asks nobody else therefore issues
the same commands in the same order.

Where the journal has no clock (`started_at` is 0: notifications on the wire carry no times) the machine's time begins
at 0 and stands still until a wall clock's time is found in the journal (`tell_time`). Differences of times are then as
right as they can be, and replay.

An error is sticky: after a mismatch every call unwinds the handler with `AttemptGone`, for code that swallowed
the first must not go on.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from perdure.errors import AttemptGone, JournalMismatch
from perdure.model import entries as e
from perdure.model.ids import FIRST_AWAKEABLE_SIGNAL
from perdure.protocol.control import FromHandler, Start

__all__ = ["Machine", "differences"]

C = TypeVar("C", bound=e.Command)

_IGNORED: dict[type[Any], frozenset[str]] = {  # what may differ on replay: it depended on the clock
    e.Sleep: frozenset({"wake_up_time", "completion_id"}),
    e.OneWayCall: frozenset({"invoke_time"}),
}
_OF_ANOTHER: dict[type[Any], frozenset[str]] = {  # where a kept command may name ids of the invocation it was made by
    e.SetState: frozenset({"value"}),
    e.CompletePromise: frozenset({"result"}),
    e.Call: frozenset({"parameter", "key", "headers", "idempotency_key"}),
    e.OneWayCall: frozenset({"parameter", "key", "headers", "idempotency_key"}),
    e.SendSignal: frozenset({"target", "result"}),
    e.AttachInvocation: frozenset({"target"}),
    e.GetInvocationOutput: frozenset({"target"}),
    e.CompleteAwakeable: frozenset({"awakeable_id", "result"}),
}


def differences(journal: e.Command, code: e.Command) -> dict[str, tuple[object, object]]:
    """The fields in which two commands of one kind differ so that it matters: field -> (journal, code)."""
    ignored = _IGNORED.get(type(journal), frozenset())
    return {
        field: (getattr(journal, field), getattr(code, field))
        for field in journal.__struct_fields__
        if field not in ignored and getattr(journal, field) != getattr(code, field)
    }


def _describe(entry: e.Command) -> str:
    name = getattr(entry, "name", "") or getattr(entry, "key", "") or getattr(entry, "handler", "")
    return f"{type(entry).__name__}({name!r})" if name else type(entry).__name__


class Machine:
    """See the module's docstring. `send` takes what goes to the engine and must not call back."""

    __slots__ = (
        "_commands",
        "_kept",
        "_next_completion",
        "_next_signal",
        "_notifications",
        "_send",
        "_state",
        "_zero",
        "closed",
        "command_index",
        "failure",
        "known",
        "seen",
        "settled",
        "started_at",
        "time",
        "whole_state",
    )

    def __init__(self, start: Start, send: Callable[[FromHandler], None]) -> None:
        self._send = send
        self._commands: deque[e.Command] = deque()
        self._notifications: deque[e.Notification] = deque()
        self.settled: set[int] = set()  # completion ids that the journal answers, delivered or not
        for entry in start.entries[1:]:
            if isinstance(entry, e.Completion):
                self._notifications.append(entry)
                self.settled.add(entry.completion_id)
            elif isinstance(entry, e.Signal):
                self._notifications.append(entry)
            else:
                self._commands.append(entry)
        self._kept = start.kept
        self._state: dict[str, bytes | None] = dict(start.state or {})  # None: known to be absent
        self.whole_state = start.state is not None
        self._next_completion = 1
        self._next_signal = FIRST_AWAKEABLE_SIGNAL
        self.command_index = 0  # of the command matched or sent last; 0 is the input
        self.seen = 0
        self.known = -1 if start.seen is None else start.seen  # notifications that an earlier attempt was given
        self.time = start.started_at
        self.started_at = start.started_at
        self._zero = 0  # the wall clock's time (ms since the epoch) at time 0, once it is known
        self.failure: JournalMismatch | None = None
        self.closed = False  # set by the driver when nothing may be issued any more

    @property
    def replaying(self) -> bool:
        return bool(self._commands)

    @property
    def repeating(self) -> bool:
        """Whether the code does what an earlier attempt did, as far as is known."""
        return bool(self._commands) or self.seen <= self.known

    @property
    def wall_time(self) -> int | None:
        """The time in ms since the epoch; None if nothing in the journal says it."""
        if self.started_at:
            return self.time
        return self._zero + self.time if self._zero else None

    def tell_time(self, wall_time: int) -> None:
        """A wall clock's time (ms since the epoch) that the journal holds; ignored where the journal has a clock."""
        if self.started_at:
            return
        if not self._zero:
            self._zero = wall_time - self.time
        self.time = max(self.time, wall_time - self._zero)

    def completion_id(self) -> int:
        """A fresh id for a command's answer."""
        fresh = self._next_completion
        self._next_completion = fresh + 1
        return fresh

    def signal_id(self) -> int:
        """A fresh number for an awakeable's signal."""
        fresh = self._next_signal
        self._next_signal = fresh + 1
        return fresh

    def issue(self, command: C) -> C:
        """The code issues a command: matched against the journal, or sent. Returns the journal's word for it."""
        if self.closed:
            raise AttemptGone
        self.command_index += 1
        commands = self._commands
        if not commands:
            self._send(command)
            return command
        recorded = commands.popleft()
        if recorded == command:
            return command
        if type(recorded) is not type(command):
            raise self._mismatch(_describe(recorded), _describe(command))
        found = differences(recorded, command)
        if self.command_index <= self._kept:
            of_another = _OF_ANOTHER.get(type(recorded), frozenset())
            found = {field: values for field, values in found.items() if field not in of_another}
        if found:
            raise self._mismatch(_describe(recorded), _describe(command), found)
        return recorded

    def _mismatch(
        self, expected: str, found: str, fields: dict[str, tuple[object, object]] | None = None
    ) -> AttemptGone:
        self.failure = JournalMismatch(self.command_index, expected, found, fields)
        self.closed = True
        return AttemptGone()

    def propose(self, proposal: FromHandler) -> None:
        """Send what is no command."""
        self._send(proposal)

    def feed(self, notification: e.Notification) -> None:
        """The engine appended a notification; it is delivered in its turn."""
        self._notifications.append(notification)

    def take(self) -> e.Notification | None:
        """The next notification, for code that can do nothing more without one."""
        if not self._notifications:
            return None
        notification = self._notifications.popleft()
        self.seen += 1
        if notification.at > self.time:
            self.time = notification.at
        return notification

    def stalled(self) -> JournalMismatch | None:
        """Called when the code waits and no notification is left: journaled commands that never came are an error."""
        if self._commands and self.failure is None:
            self.command_index += 1
            self._mismatch(_describe(self._commands[0]), "nothing: it waits")
        return self.failure

    # State. The view is kept up during replay too, so that it is what it was.

    def get_state(self, key: str) -> e.Value | e.Void | int:
        """The value of a key, or the completion id under which it will come."""
        completion_id = self.completion_id()  # used up either way: later ids must not depend on which
        if self._commands:
            recorded = self._commands[0]
            if isinstance(recorded, e.GetEagerState):
                return self.issue(e.GetEagerState(key, recorded.result)).result
            self.issue(e.GetLazyState(key, completion_id))
            return completion_id
        if key in self._state or self.whole_state:
            value = self._state.get(key)
            return self.issue(e.GetEagerState(key, e.VOID if value is None else e.Value(value))).result
        self.issue(e.GetLazyState(key, completion_id))
        return completion_id

    def get_state_keys(self) -> tuple[str, ...] | int:
        """The keys that have a value, sorted, or the completion id under which they will come."""
        completion_id = self.completion_id()
        if self._commands:
            recorded = self._commands[0]
            if isinstance(recorded, e.GetEagerStateKeys):
                return self.issue(recorded).keys
            self.issue(e.GetLazyStateKeys(completion_id))
            return completion_id
        if self.whole_state:
            keys = tuple(sorted(key for key, value in self._state.items() if value is not None))
            return self.issue(e.GetEagerStateKeys(keys)).keys
        self.issue(e.GetLazyStateKeys(completion_id))
        return completion_id

    def set_state(self, key: str, value: bytes) -> None:
        self.issue(e.SetState(key, value))
        self._state[key] = value

    def clear_state(self, key: str) -> None:
        self.issue(e.ClearState(key))
        self._state[key] = None

    def clear_all_state(self) -> None:
        self.issue(e.ClearAllState())
        self._state.clear()
        self.whole_state = True
