"""Carries messages between partitions until they are acknowledged."""

from collections.abc import Callable

from perdure.model.actions import Send
from perdure.model.commands import Deliver, Delivered
from perdure.runtime.clock import Clock, TimerHandle

__all__ = ["RESEND_MS", "Courier"]

RESEND_MS = 5_000  # in one process nothing is lost, so this only ever matters where something was


class Courier:
    """One for a node. A message is sent at once and again every `RESEND_MS` until the other side has stored it."""

    def __init__(self, clock: Clock, carry: Callable[[int, Deliver | Delivered], None]) -> None:
        self._clock = clock
        self._carry = carry
        self._unacknowledged: dict[tuple[int, int], dict[int, Send]] = {}
        self._timer: TimerHandle | None = None

    def send(self, source: int, action: Send) -> None:
        """Deliver a message of partition `source`."""
        self._unacknowledged.setdefault((source, action.destination), {})[action.position] = action
        self._carry(action.destination, Deliver(self._clock.now_ms(), source, action.position, action.message))
        self._arm()

    def acknowledge(self, receiver: int, source: int, position: int) -> None:
        """Partition `receiver` has stored everything of `source` up to `position`."""
        pending = self._unacknowledged.get((source, receiver))
        if pending:
            for known in [known for known in pending if known <= position]:
                del pending[known]
        self._carry(source, Delivered(self._clock.now_ms(), receiver, position))

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self._clock.call_at(self._clock.now_ms() + RESEND_MS, self._resend)

    def _resend(self) -> None:
        self._timer = None
        now = self._clock.now_ms()
        for (source, destination), pending in self._unacknowledged.items():
            for position in sorted(pending):
                self._carry(destination, Deliver(now, source, position, pending[position].message))
        if any(self._unacknowledged.values()):
            self._arm()

    def close(self) -> None:
        """Carry nothing again: what is not acknowledged is in its sender's outbox."""
        self._unacknowledged.clear()
        if self._timer is not None:
            self._timer.cancel()
