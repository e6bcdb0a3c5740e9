"""An object does one thing at a time, in the order in which it was asked."""

import pytest

from perdure.core.tables import INBOX, LOCK, STATE
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import Done, StartAttempt
from tests.core.invariants import check
from tests.core.world import TOKEN, World


def change(world: World, changes: dict[str, bytes | None], replace: bool = False) -> bool:
    """Change the state of the object; whether that was done at once."""
    world.apply(c.ChangeState(world.at, "counter", "k", changes, replace, TOKEN))
    outcome = world.reply()
    assert isinstance(outcome, Done)
    return not outcome.pending


def state(world: World) -> dict[str, bytes]:
    return {key[2]: content for key, content in world.rows(STATE).items()}


def test_first_come_first_served() -> None:
    world = World()
    first, *others = (world.invoke("counter/k/add") for _ in range(5))
    assert [world.kind(id) for id in others] == ["Inboxed"] * 4
    served = [first]
    for _ in others:
        world.end(served[-1])
        served += world.started()
        assert not check([world.snapshot()])
    assert served == [first, *others]
    world.end(served[-1])
    assert not world.rows(LOCK) and not world.rows(INBOX)


def test_other_keys_other_services_and_shared_handlers_wait_for_nobody() -> None:
    world = World()
    world.invoke("counter/k/add")
    for path in ("counter/other/add", "counter/k/get", "greeter/greet", "flow/k/main"):
        world.invoke(path)
        assert world.all(StartAttempt), path


def test_who_waits_starts_with_the_state_that_those_before_left() -> None:
    world = World()
    first, second = world.invoke("counter/k/add"), world.invoke("counter/k/add")
    world.append(first, e.SetState("n", b"1"), e.SetState("m", b"2"), e.ClearState("m"))
    world.end(first)
    (start,) = world.all(StartAttempt)
    assert start.invocation.id == second and start.journal is not None
    assert start.journal.state == {"n": b"1"}


@pytest.mark.parametrize("leaver", [0, 1, 2])
@pytest.mark.parametrize("order", [c.Cancel, c.Kill])
def test_whoever_leaves_the_queue_does_not_disturb_it(leaver: int, order: type) -> None:
    world = World()
    holder = world.invoke("counter/k/add")
    waiting = [world.invoke("counter/k/add") for _ in range(3)]
    gone = waiting.pop(leaver)
    world.order(order, gone)
    assert not check([world.snapshot()])
    served = [holder]
    for _ in range(2):
        world.end(served[-1])
        served += world.started()
    assert served == [holder, *waiting]


@pytest.mark.parametrize("how", ["end", "kill", "fail"])
def test_however_the_holder_ends_the_lock_goes_on(how: str) -> None:
    world = World()
    holder, following = world.invoke("counter/k/add"), world.invoke("counter/k/add")
    if how == "end":
        world.end(holder)
    elif how == "kill":
        world.order(c.Kill, holder)
    else:
        world.fail(holder, behavior="fail")
    assert world.started() == [following]


@pytest.mark.parametrize("how", ["suspend", "back off", "pause"])
def test_a_holder_that_rests_keeps_the_lock(how: str) -> None:
    world = World()
    holder, following = world.invoke("counter/k/add"), world.invoke("counter/k/add")
    if how == "suspend":
        world.suspend(holder, signals=(17,))
    elif how == "back off":
        world.fail(holder)
    else:
        world.order(c.Pause, holder)
    assert world.started() == [] and world.kind(following) == "Inboxed"
    assert world.rows(LOCK)[("counter", "k")].holder == world[holder].number


def test_state_of_a_free_object_changes_at_once_and_of_a_held_one_in_its_turn() -> None:
    world = World()
    assert change(world, {"n": b"0"})
    first = world.invoke("counter/k/add")
    assert not change(world, {"n": b"1"})
    second = world.invoke("counter/k/add")
    assert not change(world, {"m": b"2"}, replace=True)
    assert not change(world, {"n": None, "l": b"3"})
    assert state(world) == {"n": b"0"}
    world.end(first)
    (start,) = world.all(StartAttempt)
    assert start.invocation.id == second and start.journal is not None and start.journal.state == {"n": b"1"}
    assert not check([world.snapshot()])
    world.append(second, e.SetState("n", b"9"))
    world.end(second)
    assert state(world) == {"m": b"2", "l": b"3"}  # nobody waits: the rest of the queue is done at once
    assert not world.rows(LOCK) and not world.rows(INBOX)


def test_several_changes_before_the_next_invocation_are_done_in_order() -> None:
    world = World()
    holder = world.invoke("counter/k/add")
    for number in range(4):
        change(world, {"n": str(number).encode(), f"k{number}": b""})
    following = world.invoke("counter/k/add")
    world.end(holder)
    assert world.started() == [following]
    assert state(world) == {"n": b"3", "k0": b"", "k1": b"", "k2": b"", "k3": b""}


def test_a_lock_that_is_not_held_cannot_be_given_back() -> None:
    """The partition stops rather than let two run at once."""
    world = World()
    id = world.invoke("counter/k/add")
    world.tables[0].delete(LOCK, ("counter", "k"))
    with pytest.raises(AssertionError, match="counter/k/add is held by None"):
        world.end(id)
