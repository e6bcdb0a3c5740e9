"""Everything a partition can ask of the world, always after the batch it belongs to is on disk.

Each action is **re-derivable** (recovery finds in the tables that it has to be done again) or **losable** (the
other side asks again). There is no third kind.
"""

from typing import TypeAlias

import msgspec

from perdure.model.commands import Message
from perdure.model.deployments import Deployment
from perdure.model.entries import Entry, Failure, Notification, Value
from perdure.model.invocation import Invocation, Waiting
from perdure.model.keys import ApiKey
from perdure.model.streams import StreamHead, StreamPart

__all__ = [
    "AbortAttempt",
    "Accepted",
    "AckDelivery",
    "Action",
    "AlreadyInvoked",
    "Answer",
    "Deploy",
    "Description",
    "Done",
    "Finished",
    "ForgetKey",
    "LearnKey",
    "Notify",
    "Outcome",
    "Refused",
    "ReplayedJournal",
    "Reply",
    "Send",
    "SetTimer",
    "StartAttempt",
    "StateAnswer",
    "StreamAnswer",
    "StreamStored",
    "Undeploy",
]


class _Struct(msgspec.Struct, frozen=True, gc=False):
    pass


class ReplayedJournal(msgspec.Struct, frozen=True):
    """What an attempt starts from, read in the batch that started it: its journal and its object's state.

    `grown_at` is when the journal's last entry was appended, ms since the epoch. `streams` are those that have rows.
    """

    entries: tuple[Entry, ...]
    state: dict[str, bytes] | None
    grown_at: int = 0
    streams: dict[str, StreamHead] = {}


class StartAttempt(_Struct, frozen=True):
    """Run the handler. Without a journal the runtime asks for it (`Load`) once it has room. Re-derivable."""

    invocation: Invocation
    journal: ReplayedJournal | None


class Notify(_Struct, frozen=True):
    """Give the running attempt a notification. Re-derivable: it is in the journal."""

    number: int
    notification: Notification


class AbortAttempt(_Struct, frozen=True):
    """Drop the running attempt and all it does. Re-derivable: after a crash none runs."""

    number: int


class SetTimer(_Struct, frozen=True):
    """Send a `Tick` at `at` (ms since the epoch). Re-derivable."""

    at: int


class Send(_Struct, frozen=True):
    """Deliver message number `position` to another partition. Re-derivable: it is in the outbox."""

    destination: int
    position: int
    message: Message


class AckDelivery(_Struct, frozen=True):
    """Tell partition `source` that its messages up to `position` are stored. Losable: it sends them again."""

    source: int
    position: int


class Accepted(_Struct, frozen=True):
    """The invocation is durable; `fresh` unless it was already known."""

    id: bytes
    fresh: bool
    execute_at: int | None = None


class Answer(_Struct, frozen=True):
    """A result, and until when (ms since the epoch) it can be asked for again."""

    id: bytes
    result: Value | Failure
    expires_at: int | None = None


class AlreadyInvoked(_Struct, frozen=True):
    """A workflow runs once; this was not the first call."""

    id: bytes


class Done(_Struct, frozen=True):
    """The change is durable. `pending` when it takes effect as the handler gets to it."""

    pending: bool = False
    new_id: bytes | None = None


class Refused(_Struct, frozen=True):
    """It cannot be done: `status` as in HTTP (404 unknown, 409 conflict, 470 not ready...)."""

    status: int
    message: str


class Description(msgspec.Struct, frozen=True):
    invocation: Invocation
    entries: tuple[tuple[int, Entry], ...]
    ahead: int | None = None
    holder: bytes | None = None
    """Who has the lock that it waits for: an invocation's id."""
    waiting: Waiting | None = None
    """What its handler waits for while it runs, if the node knows."""


class StateAnswer(msgspec.Struct, frozen=True):
    values: dict[str, bytes]


class StreamAnswer(msgspec.Struct, frozen=True):
    """What is stored of a stream. `result` once the invocation is completed: nothing will be added."""

    number: int
    attempt: int
    head: StreamHead
    parts: tuple[StreamPart, ...]
    result: Value | Failure | None


Outcome: TypeAlias = Accepted | Answer | AlreadyInvoked | Done | Refused | Description | StateAnswer | StreamAnswer


class Reply(_Struct, frozen=True):
    """Answer whoever holds `token`. Losable: they ask again."""

    token: int
    outcome: Outcome


class Finished(_Struct, frozen=True):
    """The invocation has a result, for whoever waits for it outside any journal. Losable: they attach again."""

    id: bytes
    result: Value | Failure
    expires_at: int | None


class StreamStored(_Struct, frozen=True):
    """What `source` (a completion id, or a write) of this attempt has put into streams is stored. Re-derivable."""

    id: bytes
    attempt: int
    source: int


class Deploy(_Struct, frozen=True):
    """Services are served there. Re-derivable."""

    deployment: Deployment


class Undeploy(_Struct, frozen=True):
    """They no longer are. Re-derivable: it is not in the tables."""

    id: str


class LearnKey(_Struct, frozen=True):
    """An API key is there, or has changed. Re-derivable."""

    key: ApiKey


class ForgetKey(_Struct, frozen=True):
    """It no longer is. Re-derivable: it is not in the tables."""

    id: str


Action: TypeAlias = (
    StartAttempt
    | Notify
    | AbortAttempt
    | SetTimer
    | Send
    | AckDelivery
    | Reply
    | Finished
    | StreamStored
    | Deploy
    | Undeploy
    | LearnKey
    | ForgetKey
)
