"""What is due, and what goes from one partition to another.

Messages to a partition are numbered without gaps. The sender keeps each in its outbox until the receiver says
it is stored; the receiver takes only the next number, so a message sent twice is applied once, and in order.
"""

from msgspec.structs import replace

from perdure.core import deployments, keys, lifecycle
from perdure.core.tables import ACTIVE, INVOCATION, META, OUTBOX, TIMER, Key, TimerKind
from perdure.core.turn import Turn
from perdure.model.actions import AckDelivery, Send, SetTimer, StartAttempt
from perdure.model.commands import Deliver, Delivered, Recover
from perdure.model.entries import SLEEP_COMPLETION, VOID, Completion
from perdure.model.invocation import Completed, Invoked, Scheduled

__all__ = ["deliver", "delivered", "recover", "tick"]

TIMERS_PER_TICK = 256  # a million timers due at once must not make one endless batch


def tick(turn: Turn) -> None:
    """Do what is due, oldest first, and say when to look again."""
    due = list(turn.tables.scan(TIMER, (), limit=TIMERS_PER_TICK + 1))
    for key, _ in due[:TIMERS_PER_TICK]:
        if key[0] > turn.at:
            break
        turn.tables.delete(TIMER, key)
        _fire(turn, key)
    following = next(turn.tables.scan(TIMER, (), limit=1), None)
    if following is not None:
        turn.actions.append(SetTimer(following[0][0]))


def _fire(turn: Turn, key: Key) -> None:
    _, number, kind, identity = key
    invocation = turn.tables.get(INVOCATION, (number,))
    if invocation is None:
        return
    status = invocation.status
    if kind == TimerKind.SLEEP:
        lifecycle.notify(turn, invocation, Completion(SLEEP_COMPLETION, identity, VOID, turn.at))
    elif kind == TimerKind.BEGIN:
        if isinstance(status, Scheduled):
            lifecycle.begin(turn, invocation)
    elif kind == TimerKind.RETRY:
        if isinstance(status, Invoked) and invocation.attempts == identity and status.retry_at is not None:
            lifecycle.start(turn, invocation, status=replace(status, retry_at=None))
    elif isinstance(status, Completed):
        if kind == TimerKind.EXPIRE_JOURNAL:
            lifecycle.drop_journal(turn, invocation)
        else:
            lifecycle.forget(turn, invocation)


def deliver(turn: Turn, command: Deliver) -> bool:
    """Whether the message is the next of its stream and so has to be applied."""
    counter = (f"received:{command.source}",)
    received = turn.tables.get(META, counter) or 0
    fresh = command.position == received + 1
    if fresh:
        received += 1
        turn.tables.put(META, counter, received)
    turn.actions.append(AckDelivery(command.source, received))
    return fresh


def delivered(turn: Turn, command: Delivered) -> None:
    """Messages that the receiver has stored need not be kept."""
    for key, _ in turn.tables.scan(OUTBOX, (command.destination,)):
        if key[1] > command.position:
            break
        turn.tables.delete(OUTBOX, key)


def recover(turn: Turn, command: Recover) -> None:
    """Everything that has to be done again because the last process ended: attempts, timers, messages."""
    deployments.recover(turn)
    keys.recover(turn)
    for (number,), _ in list(turn.tables.scan(ACTIVE, ())):
        invocation = turn.tables.get(INVOCATION, (number,))
        assert invocation is not None and isinstance(invocation.status, Invoked)
        if invocation.status.retry_at is not None:
            continue  # its timer is in the table
        invocation = lifecycle.move(turn, invocation, invocation.status, attempts=invocation.attempts + 1)
        turn.actions.append(StartAttempt(invocation, None))
    for destination in range(turn.tables.partitions):
        for key, message in turn.tables.scan(OUTBOX, (destination,)):
            turn.actions.append(Send(destination, key[1], message))
    first = next(turn.tables.scan(TIMER, (), limit=1), None)
    if first is not None:
        turn.actions.append(SetTimer(first[0][0]))
