"""Whether what a suspended handler waits for has come.

What it waits for is a tree: leaves are completions and signals, nodes say how their children combine. Waking too often
only costs an attempt, which suspends again; never waking is the one mistake. So where it can't be told whether a node
is done (which child of an UNKNOWN one counts), it is.
"""

from collections.abc import Iterable
from enum import Enum

from perdure.model.entries import Completion, Failure, Notification
from perdure.model.ids import CANCEL_SIGNAL
from perdure.model.invocation import Combinator, Waiting

__all__ = ["has_come", "is_awaited"]


class _State(Enum):
    PENDING = 0
    SUCCEEDED = 1
    FAILED = 2
    DONE = 3  # how it ended depends on what can't be told


def is_awaited(waiting: Waiting, notification: Notification) -> bool:
    """Whether a notification is among the leaves. A cancellation always is."""
    if isinstance(notification, Completion):
        found = notification.completion_id in waiting.completions
    elif isinstance(notification.signal, str):
        found = notification.signal in waiting.names
    else:
        found = notification.signal in waiting.signals or notification.signal == CANCEL_SIGNAL
    return found or any(is_awaited(child, notification) for child in waiting.nested)


def has_come(waiting: Waiting, notifications: Iterable[Notification]) -> bool:
    """Whether these notifications, all that the handler had not seen, are what it waits for."""
    come: dict[int | tuple[int] | str, bool] = {}  # completions by id, signals by (number,) or name -> did it fail
    for notification in notifications:
        if isinstance(notification, Completion):
            leaf: int | tuple[int] | str = notification.completion_id
        elif isinstance(notification.signal, str):
            leaf = notification.signal
        else:
            if notification.signal == CANCEL_SIGNAL:
                return True
            leaf = (notification.signal,)
        come.setdefault(leaf, isinstance(notification.result, Failure))
    return bool(come) and _state(waiting, come) is not _State.PENDING


def _state(waiting: Waiting, come: dict[int | tuple[int] | str, bool]) -> _State:
    leaves = [*waiting.completions, *((number,) for number in waiting.signals), *waiting.names]
    states = [
        _State.PENDING if leaf not in come else _State.FAILED if come[leaf] else _State.SUCCEEDED for leaf in leaves
    ]
    states += [_state(child, come) for child in waiting.nested]
    done = [state for state in states if state is not _State.PENDING]
    combinator = waiting.combinator
    if not done:
        return _State.PENDING
    if combinator == Combinator.UNKNOWN:
        return _State.DONE
    if combinator == Combinator.FIRST_COMPLETED:
        return done[0] if len(done) == 1 else _State.DONE
    if combinator == Combinator.ALL_COMPLETED:
        return _State.SUCCEEDED if len(done) == len(states) else _State.PENDING
    if _State.DONE in done:
        return _State.DONE
    wins, loses = _State.SUCCEEDED, _State.FAILED
    if combinator == Combinator.ALL_SUCCEEDED_OR_FIRST_FAILED:
        wins, loses = loses, wins
    if wins in done:
        return wins
    return loses if len(done) == len(states) else _State.PENDING
