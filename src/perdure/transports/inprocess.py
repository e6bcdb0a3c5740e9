"""Handlers in this process: the messages are handed over as they are, and nothing is copied."""

from collections.abc import Callable

from perdure.protocol.control import Start
from perdure.transports.base import Duplex, Receive

__all__ = ["InProcess"]


class InProcess:
    """A transport around `serve`, which makes the handler's side of an attempt."""

    def __init__(self, serve: Callable[[Start, Receive], Duplex]) -> None:
        self._serve = serve

    def open(self, start: Start, receive: Receive) -> Duplex:
        return self._serve(start, receive)
