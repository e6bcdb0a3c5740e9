"""Conversations: kept by the engine, in an object's state, or by another session in steps."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from agents import Agent, OpenAIResponsesCompactionSession, Session, SessionSettings, SQLiteSession, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from perdure import App, Context, ObjectContext, Service, SyncContext, VirtualObject
from perdure.ai.openai_agents import Approvals, DurableRunner, DurableSession, PerdureSession
from perdure.testing import TestEngine
from tests.ai.harness import FAST, run
from tests.ai.openai_agents.test_replay import event_loop

pytestmark = pytest.mark.pattern("session memory")


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def answers(count: int) -> ScriptedModel:
    return ScriptedModel([[assistant_message(f"answer {n}")] for n in range(count)])


def shown(model: ScriptedModel) -> list[list[str]]:
    """What the model was shown at each call: texts, or the types of items."""
    return [[_text(item) for item in call.input] for call in model.calls if isinstance(call.input, list)]


def _text(item: Any) -> str:
    content = item.get("content")
    if isinstance(content, list):
        return str(content[0]["text"])
    return str(content or item["type"])


@function_tool
def look(where: str) -> str:
    """Looks."""
    return f"nothing in {where}"


@pytest.mark.parametrize("crash", [False, True])
def test_a_session_that_the_engine_keeps_is_the_same_inside_and_outside(crash: bool) -> None:
    model = ScriptedModel(
        [
            [function_call("look", {"where": "a box"}, call_id="l")],
            [assistant_message("nothing")],
            [assistant_message("still nothing")],
            [assistant_message("outside")],
        ]
    )
    agent = Agent[Any](name="A", model=model, tools=[look])
    service = Service("S", retry_policy=FAST)

    @service.handler()
    async def say(ctx: Context, text: str) -> str:
        session = PerdureSession("ada", ttl=timedelta(days=30))
        return str((await DurableRunner.run(agent, text, session=session)).final_output)

    async def main() -> list[Any]:
        async with TestEngine(App(service), replay=True, crash=crash) as engine:
            said = [await engine.call(say, "what is in it?"), await engine.call(say, "sure?")]
            session = PerdureSession("ada", client=engine)
            assert isinstance(session, Session)
            assert len(await session.get_items()) == 6
            said.append((await DurableRunner.run(agent, "and now?", session=session)).final_output)
            assert [_text(item) for item in await session.get_items(limit=2)] == ["and now?", "outside"]
            branch = await session.history.branch("other", at=2)
            assert len(await branch.items()) == 2
            last: Any = await session.pop_item()
            assert last["content"][0]["text"] == "outside"
            await session.clear_session()
            assert [await session.get_items(), await session.pop_item()] == [[], None]
            return said

    assert asyncio.run(main()) == ["nothing", "still nothing", "outside"]
    assert shown(model)[2] == ["what is in it?", "function_call", "function_call_output", "nothing", "sure?"]


def test_a_session_in_an_objects_state() -> None:
    model = answers(3)
    agent = Agent[Any](name="A", model=model)
    chat = VirtualObject("Chat", retry_policy=FAST)

    @chat.handler()
    async def say(ctx: ObjectContext, text: str) -> str:
        return str((await DurableRunner.run(agent, text, session=DurableSession(limit=4))).final_output)

    @chat.handler()
    async def history(ctx: ObjectContext) -> list[Any]:
        session = DurableSession()
        last = await session.pop_item()
        items = await session.get_items()
        assert len(await session.get_items(limit=2)) == 2
        await session.clear_session()
        assert await session.get_items() == []
        assert await session.pop_item() is None
        return [len(items), last]

    async def main() -> None:
        async with TestEngine(App(chat), replay=True) as engine:
            for n in range(3):
                assert await engine.call(say, f"question {n}", key="k") == f"answer {n}"
            count, last = await engine.call(history, key="k")
            assert count == 5
            assert last["content"][0]["text"] == "answer 2"

    asyncio.run(main())
    assert [len(call.input) for call in model.calls] == [1, 3, 5]


def test_where_it_may_be() -> None:
    async def handler(ctx: Context) -> None:
        await DurableSession().get_items()

    with pytest.raises(Exception, match="virtual object"):
        run(handler)
    with pytest.raises(TypeError, match="use PerdureSession"):
        DurableSession(ttl=3)
    with pytest.raises(LookupError, match="needs a client"):
        asyncio.run(PerdureSession("ada").get_items())


def test_a_window_begins_where_a_user_speaks() -> None:
    call: Any = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    result: Any = {"type": "function_call_output", "call_id": "c", "output": "x"}
    said: Any = {"role": "assistant", "content": "nothing"}
    history = [user("rules"), user("one"), call, result, said, user("two"), said]

    async def handler(ctx: Context) -> Any:
        await PerdureSession("w").add_items(history)
        await PerdureSession("w").add_items([])
        await PerdureSession("one turn").add_items([user("one"), call, result, said])
        settings = SessionSettings(limit=1)
        return [
            [len(await PerdureSession("w", limit=limit).get_items()) for limit in (7, 6, 5, 4, 3, 2)],
            [_text(item) for item in await PerdureSession("w", limit=4, keep_first=1).get_items()],
            len(await PerdureSession("w", tokens=40).get_items()),
            [_text(item) for item in await PerdureSession("one turn", limit=2).get_items()],
            [_text(item) for item in await PerdureSession("one turn", limit=3).get_items()],
            [_text(item) for item in await PerdureSession("w", limit=5, session_settings=settings).get_items()],
        ]

    assert run(handler) == [
        [7, 6, 2, 2, 2, 2],
        ["rules", "two", "nothing"],
        2,
        ["nothing"],
        ["function_call", "function_call_output", "nothing"],
        ["nothing"],
    ]


@pytest.mark.parametrize("kept_by_engine", [True, False])
def test_a_long_conversation_is_summarised_in_a_step(kept_by_engine: bool) -> None:
    model = answers(4)
    agent = Agent[Any](name="A", model=model)
    summarised: list[list[str]] = []
    chat = VirtualObject("Chat", retry_policy=FAST)

    async def summarise(items: list[Any]) -> str:
        summarised.append([_text(item) for item in items])
        return f"before: {len(items)}"

    @chat.handler()
    async def say(ctx: ObjectContext, text: str) -> list[str]:
        options: dict[str, Any] = {"summarise": summarise, "keep_last": 3, "over_tokens": 10}
        session = PerdureSession(ctx.key, **options) if kept_by_engine else DurableSession(**options)
        await DurableRunner.run(agent, text, session=session)
        return [_text(item) for item in await session.get_items()]

    async def main() -> Any:
        async with TestEngine(App(chat), replay=True) as engine:
            return [await engine.call(say, f"question {n}", key="k") for n in range(4)]

    turns = asyncio.run(main())
    assert turns[2] == ["before: 2", "question 1", "answer 1", "question 2", "answer 2"]
    assert turns[3] == ["before: 3", "question 2", "answer 2", "question 3", "answer 3"]
    assert summarised == [["question 0", "answer 0"], ["before: 2", "question 1", "answer 1"]]
    assert shown(model)[3] == [*turns[2], "question 3"]


def test_a_plain_handler_has_sessions_too() -> None:
    agent = Agent[Any](name="A", model=answers(3))

    def handler(ctx: SyncContext) -> Any:
        session = PerdureSession("ada", summarise=lambda items: "before", keep_last=1, over_tokens=1)
        with pytest.raises(TypeError, match="SyncSession"):
            _ = session.history
        with event_loop():
            for n in range(3):
                DurableRunner.run_sync(agent, f"question {n}", session=session)
        return [_text(item) for item in asyncio.run(session.get_items())]

    assert run(handler) == ["before", "question 2", "answer 2"]


@pytest.mark.pattern("human approval")
def test_a_session_through_an_approval() -> None:
    @function_tool(needs_approval=True)
    def send(to: str) -> str:
        """Sends."""
        return f"sent to {to}"

    model = ScriptedModel([[function_call("send", {"to": "ann"}, call_id="s")], [assistant_message("done")]])
    agent = Agent[Any](name="A", model=model, tools=[send])

    async def handler(ctx: Context) -> Any:
        session = PerdureSession("ada")
        await DurableRunner.run(agent, "send", session=session, approvals=Approvals(timeout=60))
        return [_text(item) for item in await session.get_items()]

    assert run(handler) == ["send", "function_call", "function_call_output", "done"]


def test_another_session_is_used_in_steps() -> None:
    session = SQLiteSession("s")
    agent = Agent[Any](name="A", model=answers(2))
    steps: list[str] = []

    async def handler(ctx: Context) -> Any:
        await DurableRunner.run(agent, "x", session=session)
        result = await DurableRunner.run(agent, "y", session=session)
        return len(result.to_input_list())

    assert run(handler, steps=steps) == 4
    assert "tool session.add_items" in steps
    assert len(asyncio.run(session.get_items())) == 4
    session.close()


def test_one_inside_of_another_session_says_what_is_wrong() -> None:
    agent = Agent[Any](name="A", model=answers(1))

    async def handler(ctx: Context) -> Any:
        session = OpenAIResponsesCompactionSession("ada", PerdureSession("ada"))
        await DurableRunner.run(agent, "x", session=session)

    with pytest.raises(Exception, match="needs a client"):
        run(handler)
