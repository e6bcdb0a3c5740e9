"""Who holds an object's lock, who waits for it, and who is next. First come, first served."""

from perdure.core.tables import INBOX, INVOCATION, LOCK, STATE, InvocationItem, Lock, StateChange
from perdure.core.turn import Turn
from perdure.model.invocation import Target
from perdure.model.state import state_version

__all__ = ["acquire", "change_state", "holder", "leave", "place", "release"]


def acquire(turn: Turn, target: Target, number: int) -> int | None:
    """Take the lock for an invocation; if it is held, queue: the answer is then the place in the inbox."""
    tables = turn.tables
    owner = (target.service, target.key)
    lock = tables.get(LOCK, owner)
    if lock is None:
        tables.put(LOCK, owner, Lock(number))
        return None
    position = tables.count("inbox")
    tables.put(INBOX, (*owner, position), InvocationItem(number))
    tables.put(LOCK, owner, Lock(lock.holder, lock.queued + 1))
    return position


def release(turn: Turn, target: Target, number: int) -> int | None:
    """Give the lock back and pass it on; the answer is the number of the invocation that holds it now."""
    tables = turn.tables
    owner = (target.service, target.key)
    lock = tables.get(LOCK, owner)
    assert lock is not None and lock.holder == number, f"{target} is held by {lock}, not by {number}"
    queued = lock.queued
    while queued:
        ((key, item),) = list(tables.scan(INBOX, owner, limit=1))
        tables.delete(INBOX, key)
        queued -= 1
        if isinstance(item, InvocationItem):
            tables.put(LOCK, owner, Lock(item.number, queued))
            return item.number
        _apply(turn, target.service, target.key or "", item)
    tables.delete(LOCK, owner)
    return None


def leave(turn: Turn, target: Target, position: int) -> None:
    """Take a waiting invocation out of the inbox."""
    tables = turn.tables
    owner = (target.service, target.key)
    lock = tables.get(LOCK, owner)
    assert lock is not None and lock.queued > 0
    tables.delete(INBOX, (*owner, position))
    tables.put(LOCK, owner, Lock(lock.holder, lock.queued - 1))


def place(turn: Turn, target: Target, position: int) -> int:
    """How many are ahead in the inbox."""
    ahead = 0
    for key, _ in turn.tables.scan(INBOX, (target.service, target.key)):
        if key[2] >= position:
            break
        ahead += 1
    return ahead


def holder(turn: Turn, target: Target) -> bytes | None:
    """The id of the invocation that holds the lock."""
    lock = turn.tables.get(LOCK, (target.service, target.key))
    found = None if lock is None else turn.tables.get(INVOCATION, (lock.holder,))
    return None if found is None else found.id


def change_state(turn: Turn, service: str, key: str, change: StateChange) -> bool:
    """Change an object's state in its turn; the answer is whether that was now."""
    tables = turn.tables
    lock = tables.get(LOCK, (service, key))
    if lock is None:
        _apply(turn, service, key, change)
        return True
    position = tables.count("inbox")
    tables.put(INBOX, (service, key, position), change)
    tables.put(LOCK, (service, key), Lock(lock.holder, lock.queued + 1))
    return False


def _apply(turn: Turn, service: str, key: str, change: StateChange) -> None:
    if change.version is not None:
        current = {at[2]: value for at, value in turn.tables.scan(STATE, (service, key))}
        if state_version(current) != change.version:
            return
    if change.replace:
        turn.tables.drop(STATE, (service, key))
    for name, value in change.changes.items():
        if value is None:
            turn.tables.delete(STATE, (service, key, name))
        else:
            turn.tables.put(STATE, (service, key, name), value)
