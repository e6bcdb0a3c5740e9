"""A chat message history in a session: in handlers and outside of them, windowed."""

import asyncio
import warnings
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from perdure import App, Context, Engine, SyncClient, SyncContext
from perdure.ai.langchain import PerdureChatMessageHistory
from perdure.testing import InvocationPaused
from tests.ai.harness import run
from tests.ai.langchain.fakes import call, fake, says
from tests.cli.processes import serving


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
    async def handler(ctx: Context) -> Any:
        history = PerdureChatMessageHistory("chat")
        await history.aadd_messages([HumanMessage("x", additional_kwargs={"raw": b"\xff"})])
        (message,) = await history.aget_messages()
        return message.additional_kwargs["raw"] == b"\xff"

    assert run(handler) is True


@pytest.mark.parametrize("plain", [False, True])
def test_a_runnable_with_message_history(plain: bool) -> None:
    """What the interface is for. The framework means to drop it, and warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_core.runnables.history import RunnableWithMessageHistory

        model = fake(says("one"), says("two"))
        subject: Any = RunnableWithMessageHistory(model, PerdureChatMessageHistory)
    config: Any = {"configurable": {"session_id": "chat"}}

    async def handler(ctx: Context) -> Any:
        for text in ("x", "y"):
            await subject.ainvoke([HumanMessage(text)], config)
        return [message.text for message in await PerdureChatMessageHistory("chat").aget_messages()]

    def blocking(ctx: SyncContext) -> Any:
        for text in ("x", "y"):
            subject.invoke([HumanMessage(text)], config)
        return [message.text for message in PerdureChatMessageHistory("chat").messages]

    assert run(blocking if plain else handler) == ["x", "one", "y", "two"]
    assert [len(messages) for messages in model.asked] == [1, 3]


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


def test_with_a_blocking_client(tmp_path: Path) -> None:
    with (
        serving(tmp_path, app="tests.durability.services:app") as server,
        SyncClient(server.ingress, admin_url=server.admin) as client,
    ):
        history = PerdureChatMessageHistory("chat", client=client)
        history.add_user_message("one")
        assert [message.text for message in history.messages] == ["one"]

        async def main() -> Any:
            await history.aadd_messages([AIMessage("two")])
            texts = [message.text for message in await history.aget_messages()]
            await history.aclear()
            return texts

        assert asyncio.run(main()) == ["one", "two"]
        assert history.messages == []
