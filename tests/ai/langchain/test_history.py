"""A chat message history in a session: in handlers and outside of them, windowed."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from perdure import App, Context, Engine, SyncContext
from perdure.ai.langchain import PerdureChatMessageHistory
from perdure.errors import NonDurableOperation
from perdure.testing import InvocationPaused
from tests.ai.harness import run
from tests.ai.langchain.fakes import call, fake, says


def turn(number: int) -> list[Any]:
    asked = says("", call("look", f"c{number}", n=number))
    return [HumanMessage(f"q{number}"), asked, ToolMessage("seen", tool_call_id=f"c{number}"), says(f"a{number}")]


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.pattern("session memory")
def test_in_a_handler(crash: bool) -> None:
    async def handler(ctx: Context) -> Any:
        history = PerdureChatMessageHistory("chat")
        for text in ("one", "two"):
            await history.aadd_messages([HumanMessage(text)])
            seen = len(await history.aget_messages())
            await history.aadd_messages([await fake(says(f"{text} {seen}")).ainvoke(await history.aget_messages())])
        messages = await history.aget_messages()
        assert isinstance(messages[-1], AIMessage) and messages[-1].usage_metadata is not None
        texts = [message.text for message in messages]
        await history.aclear()
        await history.aadd_messages([])
        return [texts, await history.aget_messages()]

    assert run(handler, crash=crash) == [["one", "one 1", "two", "two 3"], []]


def test_a_plain_handler() -> None:
    def handler(ctx: SyncContext) -> Any:
        history = PerdureChatMessageHistory("chat", limit=4)
        history.add_user_message("one")
        history.add_messages([*turn(1), *turn(2)])
        texts = [message.text for message in history.messages]
        history.clear()
        return [texts, history.messages]

    assert run(handler) == [["q2", "", "seen", "a2"], []]


def test_a_window_begins_with_a_turn() -> None:
    async def handler(ctx: Context) -> Any:
        await PerdureChatMessageHistory("chat").aadd_messages([SystemMessage("be brief"), *turn(1), *turn(2)])

        async def texts(**window: Any) -> Any:
            return " ".join(m.text for m in await PerdureChatMessageHistory("chat", **window).aget_messages())

        return [await texts(limit=6), await texts(limit=2), await texts(limit=6, keep_first=1), await texts(tokens=0)]

    assert run(handler) == ["q2  seen a2", "", "be brief q2  seen a2", ""]


def test_messages_that_json_would_change() -> None:
    class Kept:
        def __eq__(self, other: Any) -> bool:
            return isinstance(other, tuple)

    async def handler(ctx: Context) -> Any:
        history = PerdureChatMessageHistory("chat")
        await history.aadd_messages([ToolMessage("x", tool_call_id="c", artifact=(1, {2: b"\xff"}))])
        (message,) = await history.aget_messages()
        assert isinstance(message, ToolMessage)
        return message.artifact == (1, {2: b"\xff"})

    assert run(handler) is True


def test_with_a_client_and_without() -> None:
    async def main() -> None:
        async with Engine(App()) as engine:
            history = PerdureChatMessageHistory("chat", client=engine)
            await history.aadd_messages(turn(1))
            assert [message.text for message in await history.aget_messages()] == ["q1", "", "seen", "a1"]
            assert len(await history.session.items()) == 4
            with pytest.raises(TypeError, match="SyncClient"):
                history.add_user_message("x")

    asyncio.run(main())
    with pytest.raises(LookupError):
        asyncio.run(PerdureChatMessageHistory("chat").aget_messages())

    async def blocks(ctx: Context) -> Any:
        return PerdureChatMessageHistory("chat").messages

    with pytest.raises(InvocationPaused, match="aget_messages"):
        run(blocks)
    assert NonDurableOperation is not None
