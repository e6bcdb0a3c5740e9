"""Messages between partitions: carried at once, and again until they are acknowledged."""

from typing import TypeAlias

from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import Send
from perdure.runtime.clock import VirtualClock
from perdure.runtime.courier import RESEND_MS, Courier

Carried: TypeAlias = list[tuple[int, c.Deliver | c.Delivered]]
AT = 1000


def message(name: str) -> c.SendSignalTo:
    return c.SendSignalTo(AT, b"i" * 24, e.Signal(name, e.VOID))


def courier() -> tuple[Courier, VirtualClock, Carried]:
    carried: Carried = []
    clock = VirtualClock(AT)
    return Courier(clock, lambda partition, command: carried.append((partition, command))), clock, carried


def wait(clock: VirtualClock, ms: int = RESEND_MS) -> None:
    clock.move_to(clock.now_ms() + ms)
    clock.run_due()


def test_a_message_is_carried_at_once() -> None:
    it, _, carried = courier()
    it.send(0, Send(1, 7, message("a")))
    assert carried == [(1, c.Deliver(AT, 0, 7, message("a")))]


def test_a_message_is_carried_again_until_it_is_acknowledged() -> None:
    it, clock, carried = courier()
    it.send(0, Send(1, 1, message("a")))
    wait(clock, RESEND_MS - 1)
    assert len(carried) == 1
    wait(clock, 1)
    wait(clock)
    assert [command.at for _, command in carried] == [AT, AT + RESEND_MS, AT + 2 * RESEND_MS]
    it.acknowledge(1, 0, 1)
    assert carried[-1] == (0, c.Delivered(clock.now_ms(), 1, 1))
    carried.clear()
    wait(clock)
    assert carried == [] and clock.next_ms() is None


def test_what_is_carried_again_is_in_order_and_only_what_is_missing() -> None:
    it, clock, carried = courier()
    for position in (2, 3, 1):
        it.send(0, Send(1, position, message(str(position))))
    it.send(2, Send(1, 1, message("other")))
    it.send(0, Send(2, 1, message("elsewhere")))
    it.acknowledge(1, 0, 1)
    carried.clear()
    wait(clock)
    again = [(to, x.source, x.position) for to, x in carried if isinstance(x, c.Deliver)]
    assert again == [(1, 0, 2), (1, 0, 3), (1, 2, 1), (2, 0, 1)]


def test_an_acknowledgement_of_what_is_not_known_is_passed_on() -> None:
    """After a restart the sender has messages in its outbox that this courier has never seen."""
    it, _, carried = courier()
    it.acknowledge(1, 0, 5)
    assert carried == [(0, c.Delivered(AT, 1, 5))]
    it.send(0, Send(1, 6, message("a")))
    it.acknowledge(1, 0, 6)
    it.acknowledge(1, 0, 6)
    assert carried[-1] == (0, c.Delivered(AT, 1, 6))


def test_one_timer_is_enough() -> None:
    it, clock, _ = courier()
    for position in range(100):
        it.send(0, Send(1, position, message("a")))
    clock.move_to(clock.now_ms() + RESEND_MS)
    assert clock.run_due() == 1


def test_a_closed_courier_carries_nothing_again() -> None:
    it, clock, carried = courier()
    it.send(0, Send(1, 1, message("a")))
    it.close()
    carried.clear()
    wait(clock)
    assert carried == [] and clock.next_ms() is None
