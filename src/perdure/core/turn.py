"""One command's way through the core: the tables it may touch, its time, and what comes of it."""

from collections import deque

from perdure.core.tables import OUTBOX, Tables
from perdure.model.actions import Action, Send
from perdure.model.commands import Message
from perdure.model.ids import partition_of

__all__ = ["Turn"]


class Turn:
    """Handed from function to function while one command is applied.

    `local` holds messages to invocations of this partition. They are applied after the function that posted
    them, in the same batch, so no function of the core calls itself through another.
    """

    __slots__ = ("actions", "at", "local", "tables")

    def __init__(self, tables: Tables, at: int) -> None:
        self.tables = tables
        self.at = at
        self.actions: list[Action] = []
        self.local: deque[Message] | None = None  # few commands post anything

    def post(self, invocation: bytes, message: Message) -> None:
        """Hand a message to the partition that owns `invocation`: this one now, another one through the outbox."""
        tables = self.tables
        destination = partition_of(invocation, tables.partitions)
        if destination == tables.index:
            self.post_local(message)
            return
        position = tables.count(f"sent:{destination}")
        tables.put(OUTBOX, (destination, position), message)
        self.actions.append(Send(destination, position, message))

    def post_local(self, message: Message) -> None:
        """Have a message applied here, behind the command that is being applied."""
        if self.local is None:
            self.local = deque()
        self.local.append(message)
