"""What a transport is: given the start of an attempt, a duplex of messages with the handler."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from perdure.model.entries import Notification
from perdure.protocol.control import Said, Start

__all__ = ["Duplex", "Receive", "Transport"]

Receive: TypeAlias = Callable[[Said], None]


class Duplex(Protocol):
    """The engine's side of a conversation with one attempt of a handler. What the handler says goes to `receive`."""

    def begin(self) -> None:
        """Let the handler run."""
        ...

    def notify(self, notification: Notification) -> None:
        """The next notification of the journal."""
        ...

    def close_input(self) -> None:
        """Say that there will be no more: the handler suspends when it can do nothing more."""
        ...

    def drain(self) -> bool:
        """Have no more steps started; whether hanging up now would cut none short."""
        ...

    def abort(self) -> None:
        """Hang up. Nothing is received afterwards."""
        ...


class Transport(Protocol):
    def open(self, start: Start, receive: Receive) -> Duplex: ...
