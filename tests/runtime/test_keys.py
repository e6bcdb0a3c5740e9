"""The keyring: which header opens, and what is said of one that does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.errors import Conflict, Invalid, Unauthorized
from perdure.model import commands as c
from perdure.model.actions import Done, ForgetKey, LearnKey, Refused
from perdure.model.keys import ENTROPY_BYTES, ApiKey, Role, make_key
from perdure.runtime.keys import Keyring, shows_key
from tests.core.world import World as Core
from tests.runtime.elsewhere import World, running
from tests.transports.in_loop import in_loop

KEY, TEXT = make_key(bytes(range(ENTROPY_BYTES)), "ci", Role.OPERATOR, 100, 900)
ID, SECRET = TEXT.removeprefix("perdure_").split("_")


def test_keys_are_needed_from_the_first_one_on() -> None:
    keyring = Keyring()
    assert not keyring.required
    keyring.learn(KEY)
    assert keyring.required
    keyring.forget(KEY.id)
    assert keyring.required and keyring.all() == [], "what has asked for keys goes on asking"
    assert Keyring(required=True).required and Keyring([KEY]).required


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_opens(scheme: str) -> None:
    assert Keyring([KEY]).find(f"{scheme} {TEXT}".encode(), 899) is KEY


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        TEXT,
        f"Basic {TEXT}",
        f"Bearer  {TEXT}",
        f"Bearer {TEXT}a",
        f"Bearer {TEXT[:-1]}",
        f"Bearer {TEXT[:-1]}{'a' if TEXT[-1] != 'a' else 'b'}",
        f"Bearer perdure_{ID}_",
        f"Bearer perdure_{ID}-{SECRET}",
        f"Bearer perdurE_{ID}_{SECRET}",
        f"Bearer perdure_{'a' * 16}_{SECRET}",
        f"Bearer {TEXT.upper()}",
        f"Bearer {KEY.digest.hex()}",
        "Bearer perdure_\xff",
        "Bearer " + "x" * 100_000,
    ],
)
def test_what_opens_nothing(header: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        Keyring([KEY]).find(header.encode("latin-1"), 500)
    assert caught.value.message == "the API key is not known here: send the header authorization: Bearer KEY"


@given(st.binary() | st.binary().map(lambda raw: b"Bearer perdure_" + ID.encode() + raw))
def test_nothing_else_opens(header: bytes) -> None:
    with pytest.raises(Unauthorized):
        Keyring([KEY]).find(header, 500)


def test_no_key_at_all_and_keys_that_are_over() -> None:
    keyring = Keyring([KEY])
    with pytest.raises(Unauthorized, match="an API key is needed: send the header"):
        keyring.find(None, 500)
    header = f"Bearer {TEXT}".encode()
    with pytest.raises(Unauthorized, match=rf"the API key {ID} \(ci\) is expired"):
        keyring.find(header, 900)
    keyring.learn(replace(KEY, revoked_at=700))
    with pytest.raises(Unauthorized, match=rf"the API key {ID} \(ci\) is revoked"):
        keyring.find(header, 800)


def test_only_who_knows_the_secret_is_told_that_a_key_is_over() -> None:
    keyring = Keyring([replace(KEY, revoked_at=700)])
    with pytest.raises(Unauthorized, match="not known here"):
        keyring.find(f"Bearer perdure_{ID}_{'a' * 52}".encode(), 800)


def test_what_looks_like_a_key_of_ours() -> None:
    assert shows_key(b"bearer perdure_x") and not shows_key(b"Bearer eyJ") and not shows_key(b"Basic perdure_x")


@given(st.lists(st.tuples(st.sampled_from(["create", "revoke", "recover"]), st.integers(0, 3)), max_size=30))
def test_what_a_process_was_told_is_what_is_stored(commands: list[tuple[str, int]]) -> None:
    world, keyring, stored = Core(), Keyring(), dict[str, ApiKey]()

    def tell() -> None:
        for action in world.actions:
            if isinstance(action, LearnKey):
                keyring.learn(action.key)
            elif isinstance(action, ForgetKey):
                keyring.forget(action.id)

    for at, (command, number) in enumerate(commands, start=world.at):
        id = str(number)
        if command == "create":
            stored[id] = ApiKey(id, "n", Role.READ, b"d", at)
            world.apply(c.CreateKey(at, stored[id]))
        elif command == "revoke":
            world.apply(c.RevokeKey(at, id))
            if id in stored and stored[id].revoked_at is None:
                stored[id] = replace(stored[id], revoked_at=at)
        else:
            keyring = Keyring()
            world.recover()
        tell()
        assert {key.id: key for key in keyring.all()} == stored and keyring.required == bool(stored)


@in_loop
async def test_a_node_makes_and_revokes_keys() -> None:
    async with running(World(), None) as node:
        assert not node.keyring.required
        key, text = await node.create_key("ci", Role.ADMIN, 60_000)
        assert node.keyring.all() == [key] and key.expires_at == key.created_at + 60_000
        header = f"Bearer {text}".encode()
        assert node.keyring.find(header, node.clock.now_ms()) == key
        assert await node.revoke_key(key.id) == Done()
        with pytest.raises(Unauthorized, match="revoked"):
            node.keyring.find(header, node.clock.now_ms())
        assert isinstance(await node.revoke_key("nothing"), Refused)
        with pytest.raises(Invalid, match="expires_in"):
            await node.create_key("ci", Role.ADMIN, 0)


@in_loop
async def test_a_node_makes_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.core.keys.KEY_LIMIT", 1)
    async with running(World(), None) as node:
        await node.create_key("ci", Role.ADMIN)
        with pytest.raises(Conflict, match="there are 1 API keys"):
            await node.create_key("ci", Role.ADMIN)
