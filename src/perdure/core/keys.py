"""API keys are rows of partition 0; every process finds them there when it starts.

A key that was revoked or has expired stays for a while, so that it can be seen what became of it. It goes when another
is made: keys never become none by themselves, and a server that asked for keys goes on asking.
"""

from msgspec.structs import replace

from perdure.core.tables import API_KEY
from perdure.core.turn import Turn
from perdure.model.actions import Done, ForgetKey, LearnKey, Refused, Reply
from perdure.model.commands import CreateKey, RevokeKey

__all__ = ["KEPT_MS", "KEY_LIMIT", "create", "recover", "revoke"]

KEPT_MS = 90 * 24 * 3600 * 1000
"""How long a key that opens nothing any more is shown."""
KEY_LIMIT = 10_000
"""How many there may be, those that open nothing any more counted."""


def create(turn: Turn, command: CreateKey) -> None:
    """Store a new key, and forget those that ended long ago."""
    known = list(turn.tables.scan(API_KEY, ()))
    forgotten = 0
    for (id,), key in known:
        ended = key.ended_at(turn.at)
        if ended is not None and ended + KEPT_MS <= turn.at:
            turn.tables.delete(API_KEY, (id,))
            turn.actions.append(ForgetKey(id))
            forgotten += 1
    if len(known) - forgotten >= KEY_LIMIT:
        _reply(turn, command.token, Refused(409, f"there are {KEY_LIMIT} API keys; no more can be made"))
        return
    turn.tables.put(API_KEY, (command.key.id,), command.key)
    turn.actions.append(LearnKey(command.key))
    _reply(turn, command.token, Done())


def revoke(turn: Turn, command: RevokeKey) -> None:
    """From now on the key opens nothing; again is nothing."""
    key = turn.tables.get(API_KEY, (command.id,))
    if key is None:
        _reply(turn, command.token, Refused(404, f"API key {command.id!r} not found"))
        return
    if key.revoked_at is None:
        key = replace(key, revoked_at=turn.at)
        turn.tables.put(API_KEY, (key.id,), key)
        turn.actions.append(LearnKey(key))
    _reply(turn, command.token, Done())


def recover(turn: Turn) -> None:
    """Tell the process of all there are."""
    turn.actions += [LearnKey(key) for _, key in turn.tables.scan(API_KEY, ())]


def _reply(turn: Turn, token: int | None, outcome: Done | Refused) -> None:
    if token is not None:
        turn.actions.append(Reply(token, outcome))
