"""Ports for servers that tests start, and start again."""

import random
import socket

__all__ = ["free_port", "free_ports"]

RANGE = (15_000, 32_000)
"""Below those that systems give to outgoing connections, so that none of these takes the port of a server that is dead
for a moment."""

_given: set[int] = set()
_dice = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at, and that was not given to anybody before."""
    while True:
        port = _dice.randrange(*RANGE)
        if port in _given:
            continue
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
