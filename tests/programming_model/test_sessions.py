"""Sessions: what is said keeps its order and its values, whoever says it; windows, compaction, branches, an end."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from perdure import (
    Conflict,
    Context,
    Invalid,
    ObjectContext,
    Service,
    SyncContext,
    VirtualObject,
)
from perdure.ai.sessions import Session, SyncSession
from perdure.sdk.history import CHUNK_ITEMS
from perdure.sdk.operations import ReadState
from tests.programming_model.ways import Start, fails

ODD: list[Any] = [None, True, 1, -0.5, 1.0, 1e300, "", "ü\n\u2028", [], {}, {"a": [1, {"b": None}]}, 2**63 - 1]


def message(number: int, size: int = 0) -> dict[str, Any]:
    return {"role": "user", "content": f"{number}" + "x" * size}


async def test_in_a_handler(start: Start) -> None:
    service = Service("Chat")

    @service.handler()
    async def turn(ctx: Context, text: str) -> list[Any]:
        session = Session("ada")
        await session.add([{"role": "user", "content": text}])
        answer = await ctx.run("model", str.upper, text)
        await session.add([{"role": "assistant", "content": answer}])
        return await session.items()

    async with start(service) as engine:
        assert len(await engine.call(turn, "one")) == 2
        history = await engine.call(turn, "two")
        assert [each["content"] for each in history] == ["one", "ONE", "two", "TWO"]
        assert await Session("ada", client=engine).items() == history
        assert await Session("bob", client=engine).items() == []


async def test_values_come_back_as_they_were(start: Start) -> None:
    async with start() as engine:
        session = Session("odd", client=engine)
        await session.add(ODD)
        found = await session.items()
        assert msgspec.json.encode(found) == msgspec.json.encode(ODD)
        assert [type(each) for each in found] == [type(each) for each in ODD]


async def test_plain_handlers_and_the_objects_own_state(start: Start) -> None:
    service, room = Service("Plain"), VirtualObject("Room")

    @service.handler()
    def work(ctx: SyncContext) -> list[Any]:
        session = SyncSession("plain")
        session.add([1, 2, 3])
        assert session.pop() == 3
        branch = session.branch("other", at=1)
        branch.add(["b"])
        assert session.compact(lambda items: f"{len(items)} items", keep_last=1)
        return [session.items(), branch.items(), SyncSession("other").items(limit=1)]

    @room.handler()
    async def say(ctx: ObjectContext, count: int) -> list[Any]:
        session = Session.of(ctx)
        await session.add(list(range(count)))
        last = await session.pop()
        await session.compact(lambda items: ["summary"], keep_last=2)
        return [last, await session.items(), await session.items(2, keep_first=1)]

    async with start(service, room) as engine:
        assert await engine.call(work) == [["1 items", 2], [1, "b"], ["b"]]
        assert await engine.call(say, 5, key="r") == [4, ["summary", 2, 3], ["summary", 2, 3]]
        assert await engine.call(say, 1, key="r") == [0, ["summary", 2, 3], ["summary", 2, 3]]


async def test_a_long_history_is_not_written_again(start: Start) -> None:
    async with start() as engine:
        session, count = Session("long", client=engine), 2 * CHUNK_ITEMS + 7
        await session.add([message(number) for number in range(count)])
        before = await engine.execute(ReadState("PerdureSessions", "long"))
        await session.add([message(count)])
        after = await engine.execute(ReadState("PerdureSessions", "long"))
        changed = {name for name in after if after[name] != before.get(name)}
        assert len(after) == 4 and len(changed) == 2  # the head and the last chunk
        assert [each["content"] for each in await session.items()] == [str(n) for n in range(count + 1)]


async def test_windows() -> None:
    async with Start("live")() as engine:
        session = Session("w", client=engine)
        await session.add([message(number, 1000 if number == 5 else 0) for number in range(200)])
        assert [each["content"] for each in await session.items(3)] == ["197", "198", "199"]
        assert [each["content"] for each in await session.items(2, keep_first=2)] == ["0", "1", "198", "199"]
        assert len(await session.items(keep_first=2)) == 200
        each = len(msgspec.json.encode(message(199)))
        assert len(await session.items(tokens=(-(-each // 4)) * 10)) == 10
        assert len(await session.items(tokens=10**6)) == 200
        assert await session.items(0) == [] and await session.items(tokens=0) == []
        with pytest.raises(ValueError, match="limit"):
            await session.items(-1)


async def test_those_who_speak_at_once_lose_nothing(start: Start) -> None:
    service = Service("Many")

    @service.handler()
    async def speak(ctx: Context, who: int) -> None:
        for number in range(4):
            await Session("room").add([[who, number, 0], [who, number, 1]])

    async with start(service) as engine:
        await asyncio.gather(*(engine.call(speak, who) for who in range(5)))
        items = await Session("room", client=engine).items()
    assert len(items) == 40
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert first[:2] == second[:2] and (first[2], second[2]) == (0, 1)
    for who in range(5):
        assert [each[1] for each in items if each[0] == who] == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_compaction_is_a_step_and_loses_nothing(start: Start) -> None:
    service = Service("Compacts")

    async def summarise(items: list[Any]) -> dict[str, Any]:
        return {"role": "system", "content": f"{len(items)} before"}

    @service.handler()
    async def compact(ctx: Context) -> list[bool]:
        session = Session("c")
        return [
            await session.compact(summarise, keep_last=500),
            await session.compact(summarise, keep_last=10, over_tokens=10**6),
            await session.compact(summarise, keep_last=10),
        ]

    async with start(service) as engine:
        session = Session("c", client=engine)
        await session.add([message(number) for number in range(150)])
        assert await engine.call(compact) == [False, False, True]
        engine.once("compact session")
        items = await session.items()
        assert [each["content"] for each in items] == ["140 before", *map(str, range(140, 150))]
        await session.add([message(150)])
        assert await session.compact(summarise, keep_last=2)
        assert [each["content"] for each in await session.items()] == ["10 before", "149", "150"]


async def test_compaction_beside_others() -> None:
    """What is added meanwhile stays; what is changed otherwise makes it nothing."""
    async with Start("live")() as engine:
        session = Session("b", client=engine)
        await session.add([1, 2, 3, 4])

        async def meanwhile(items: list[Any]) -> str:
            await session.add([5])
            return "sum"

        assert await session.compact(meanwhile, keep_last=1)
        assert await session.items() == ["sum", 4, 5]

        async def rudely(items: list[Any]) -> str:
            await session.pop()
            return "sum"

        assert not await session.compact(rudely, keep_last=1)
        assert await session.items() == ["sum", 4]
        assert not await session.compact(lambda items: [0, 0, 0], keep_last=1)
        assert await session.items() == ["sum", 4]


async def test_pop_clear_and_branch(start: Start) -> None:
    async with start() as engine:
        session = Session("p", client=engine)
        assert await session.pop() is None
        await session.add(list(range(CHUNK_ITEMS + 1)))
        assert [await session.pop(), await session.pop()] == [CHUNK_ITEMS, CHUNK_ITEMS - 1]
        await session.add(["after"])
        assert await session.items(2) == [CHUNK_ITEMS - 2, "after"]
        branch = await session.branch("q", at=3)
        await branch.add(["other"])
        assert await branch.items() == [0, 1, 2, "other"]
        assert await session.items(1) == ["after"]
        with pytest.raises(Conflict, match="give the branch another id"):
            await session.branch("q")
        with pytest.raises(Invalid):
            await session.branch("p")
        await session.clear()
        assert await session.items() == []
        await session.add(["new"])
        assert await session.items() == ["new"]
        assert await (await session.branch("r")).items() == ["new"]


async def test_branching_into_what_is_there_fails_a_handler_for_good(start: Start) -> None:
    service = Service("Brancher")

    @service.handler()
    async def branch(ctx: Context) -> None:
        await Session("from").add([1])
        await Session("into").add([2])
        await Session("from").branch("into")

    async with start(service) as engine:
        with fails(409):
            await engine.call(branch)


async def test_one_that_is_not_used_is_forgotten(start: Start) -> None:
    async with start(skip=False) as engine:
        session = Session("t", client=engine, ttl=timedelta(days=2))
        await session.add([1])
        await engine.advance(timedelta(days=1))
        assert await session.items() == [1]  # which is a use
        await engine.advance(timedelta(days=1.5))
        assert await session.items() == [1]
        await engine.advance(timedelta(days=2, seconds=1))
        assert await engine.execute(ReadState("PerdureSessions", "t")) == {}
        assert await session.items() == []
        await session.add([2])
        await Session("t", client=engine, ttl=0).add([3])
        await engine.advance(timedelta(days=30))
        assert await Session("t", client=engine).items() == [2, 3]


def test_what_cannot_be() -> None:
    for wrong in ("", 5):
        with pytest.raises(TypeError, match="id"):
            Session(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl"):
        Session("a", ttl=-1)
    with pytest.raises(LookupError):
        asyncio.run(Session("a").items())
