"""API keys are rows of the first partition: stored, told of at start, revoked, and forgotten long after."""

from msgspec.structs import replace

from perdure.core import keys
from perdure.core.tables import API_KEY
from perdure.model import commands as c
from perdure.model.actions import Done, ForgetKey, LearnKey, Refused, Reply
from perdure.model.keys import ApiKey, Role
from tests.core.world import AT, TOKEN, World

ONE = ApiKey("one", "ci", Role.ADMIN, b"d" * 32, AT)
TWO = ApiKey("two", "cd", Role.READ, b"e" * 32, AT, expires_at=AT + 1000)


def test_a_key_is_stored_and_told_of() -> None:
    world = World()
    world.apply(c.CreateKey(AT, ONE, TOKEN))
    assert world.actions == [LearnKey(ONE), Reply(TOKEN, Done())]
    world.apply(c.CreateKey(AT, TWO))
    assert world.actions == [LearnKey(TWO)]
    assert world.rows(API_KEY) == {("one",): ONE, ("two",): TWO}


def test_a_process_that_starts_is_told_of_all_there_are_before_any_attempt_begins() -> None:
    world = World()
    world.invoke()
    for key in (ONE, TWO):
        world.apply(c.CreateKey(AT, key))
    world.recover()
    assert world.all(LearnKey) == [LearnKey(ONE), LearnKey(TWO)]
    assert [type(action).__name__ for action in world.actions] == ["LearnKey", "LearnKey", "StartAttempt"]


def test_a_key_that_is_revoked_stays_as_revoked() -> None:
    world = World()
    world.apply(c.CreateKey(AT, ONE))
    world.apply(c.RevokeKey(AT + 5, "one", TOKEN))
    revoked = replace(ONE, revoked_at=AT + 5)
    assert world.actions == [LearnKey(revoked), Reply(TOKEN, Done())] and world.rows(API_KEY) == {("one",): revoked}
    world.apply(c.RevokeKey(AT + 9, "one", TOKEN))
    assert world.actions == [Reply(TOKEN, Done())] and not world.changed()
    world.apply(c.RevokeKey(AT, "three", TOKEN))
    assert world.actions == [Reply(TOKEN, Refused(404, "API key 'three' not found"))] and not world.changed()


def test_what_opens_nothing_any_more_is_forgotten_long_after_when_another_is_made() -> None:
    world = World()
    for key in (ONE, TWO):
        world.apply(c.CreateKey(AT, key))
    world.apply(c.RevokeKey(AT + 5, "one"))
    just_before, then = AT + 5 + keys.KEPT_MS - 1, AT + 1000 + keys.KEPT_MS
    world.apply(c.CreateKey(just_before, replace(ONE, id="three")))
    assert world.rows(API_KEY).keys() == {("one",), ("two",), ("three",)}
    world.recover()
    assert len(world.all(LearnKey)) == 3, "time alone takes none away"
    world.apply(c.CreateKey(then, replace(ONE, id="four")))
    assert set(world.all(ForgetKey)) == {ForgetKey("one"), ForgetKey("two")}
    assert world.rows(API_KEY).keys() == {("three",), ("four",)}


def test_there_may_not_be_ever_more() -> None:
    world = World()
    for number in range(keys.KEY_LIMIT):
        world.tables[0].put(API_KEY, (str(number),), replace(ONE, id=str(number)))
    world.apply(c.CreateKey(AT, ONE, TOKEN))
    outcome = world.reply()
    assert isinstance(outcome, Refused) and outcome.status == 409 and len(world.rows(API_KEY)) == keys.KEY_LIMIT
