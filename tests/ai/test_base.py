"""The parts that integrations are made of, on an engine that replays at every await."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import (
    Context,
    NonDurableOperation,
    SyncContext,
    TerminalError,
    current_context,
    current_step,
)
from perdure.ai import Usage, in_handler
from perdure.ai.base import (
    collect,
    count_model_steps,
    durable_context,
    model_call,
    model_call_sync,
    refuse_in_handler,
    runs_in_handler,
    tool_call,
    tool_call_sync,
)
from perdure.ai.records import ControlFlow
from perdure.testing import InvocationPaused
from tests.ai.harness import run


class Answer(BaseModel):
    text: str
    tokens: int = 0


class HttpError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status_code = status


class Interrupt(Exception):
    """A framework's way to say that a human is asked."""


INTERRUPT = ControlFlow(Interrupt, dump=lambda error: list(error.args), load=lambda data: Interrupt(*data))


def usage_of(answer: Answer) -> Usage:
    return Usage(provider="fake", model="m", output_tokens=answer.tokens)


def test_a_model_call_is_a_step_and_keeps_its_type() -> None:
    asked: list[str] = []
    steps: list[str] = []

    async def ask() -> Answer:
        asked.append(current_step().token)
        return Answer(text="hi", tokens=3)

    async def handler(ctx: Context) -> Any:
        first = await model_call("m", ask, type=Answer, usage=usage_of)
        second = await model_call("m", lambda: Answer(text=first.text * 2), type=Answer, in_thread=True)
        return [type(first).__name__, first.tokens, second.text]

    assert run(handler, steps=steps) == ["Answer", 3, "hihi"]
    assert len(asked) == 1
    assert steps == ["model m", "model m"]


def test_outside_of_a_handler_and_in_a_step_it_is_the_call_alone() -> None:
    marker = object()

    async def ask() -> object:
        return marker

    async def outside() -> bool:
        return (await model_call("m", ask) is marker) and (await tool_call("t", ask) is marker)

    assert durable_context() is None
    assert asyncio.run(outside())
    assert model_call_sync("m", lambda: marker) is marker
    assert tool_call_sync("t", lambda: marker) is marker
    refuse_in_handler("nothing")
    steps: list[str] = []

    async def handler(ctx: Context) -> bool:
        return await ctx.run("outer", outside)

    assert run(handler, steps=steps) is True
    assert steps == ["outer"]


def test_parallel_tools_are_parallel_and_know_their_token() -> None:
    together = threading.Barrier(2)
    tokens: set[str] = set()

    def work(n: int) -> int:
        together.wait(10)
        tokens.add(current_step().token)
        return n

    async def handler(ctx: Context) -> Any:
        calls = (tool_call("work", partial(work, n), call_id=f"c{n}", in_thread=True) for n in range(2))
        return await asyncio.gather(*calls)

    steps: list[str] = []
    assert run(handler, steps=steps) == [0, 1]
    assert sorted(steps) == ["tool work c0", "tool work c1"]
    assert len(tokens) == 2


@dataclass
class Weather:
    place: str
    degrees: float


def test_a_tool_result_is_written_as_annotated_or_as_json() -> None:
    async def typed() -> Weather:
        return Weather("Paris", 21.5)

    async def lies() -> str:
        return {"not": "a str"}  # type: ignore[return-value]

    async def raw() -> bytes:
        return b"\x00\xff"

    async def nothing() -> None:
        return None

    async def handler(ctx: Context) -> Any:
        weather = await tool_call("typed", typed, function=typed)
        assert isinstance(weather, Weather)
        assert await tool_call("raw", raw, function=raw) == b"\x00\xff"
        assert await tool_call("nothing", nothing, function=nothing) is None
        return await tool_call("lies", lies, function=lies)

    assert run(handler) == {"not": "a str"}


def test_control_flow_is_a_value_and_raised_again() -> None:
    ran: list[int] = []

    async def interrupts() -> None:
        ran.append(1)
        raise Interrupt("why", 3)

    async def handler(ctx: Context) -> Any:
        try:
            await tool_call("t", interrupts, control_flow=[INTERRUPT])
        except Interrupt as error:
            await asyncio.sleep(60)  # replayed after it
            return list(error.args)
        return None

    assert run(handler) == ["why", 3]
    assert len(ran) == 1


def test_an_error_of_the_provider_ends_or_is_tried_again() -> None:
    attempts: list[int] = []

    async def flaky() -> str:
        attempts.append(current_step().attempt)
        raise HttpError(503 if len(attempts) < 3 else 401)

    async def handler(ctx: Context) -> Any:
        return await model_call("m", flaky, provider="fake")

    with pytest.raises(TerminalError, match="fake: 401: status 401") as caught:
        run(handler)
    assert caught.value.code == 401
    assert caught.value.metadata == {"provider": "fake", "status": "401"}
    assert attempts == [1, 2, 3]


def test_a_tool_in_the_handler_uses_its_context() -> None:
    @in_handler
    async def sleeps(n: int) -> int:
        await asyncio.sleep(3600)
        return await current_context().run("inside", lambda: n + 1, type=int)

    async def handler(ctx: Context) -> Any:
        return await tool_call("sleeps", lambda: sleeps(1), function=sleeps)

    steps: list[str] = []
    assert run(handler, steps=steps) == 2
    assert steps == ["inside"]


def test_the_mark_is_found_through_wrappers() -> None:
    @in_handler
    def marked() -> None: ...

    @wraps(marked)
    def wrapper() -> None: ...

    class Tools:
        @in_handler
        def method(self) -> None: ...

        def plain(self) -> None: ...

    assert all(map(runs_in_handler, [marked, wrapper, partial(wrapper), Tools().method]))
    assert not any(map(runs_in_handler, [Tools().plain, None, object(), partial(Tools().plain)]))


def test_plain_handlers_have_the_same_without_await() -> None:
    def handler(ctx: SyncContext) -> Any:
        answer = model_call_sync("m", lambda: Answer(text="sync"), type=Answer, usage=usage_of)
        used = tool_call_sync("t", lambda: current_step().name, call_id="c")

        async def framework() -> str:  # as `agent.run_sync()`: its own loop, in the handler's thread
            return str((await model_call("m", answer_again, type=Answer)).text)

        async def answer_again() -> Answer:
            return Answer(text="again")

        return [answer.text, used, asyncio.run(framework())]

    assert run(handler) == ["sync", "tool t c", "again"]


def test_a_blocking_call_in_an_async_handler_is_refused() -> None:
    async def handler(ctx: Context) -> Any:
        return model_call_sync("m", lambda: "never")

    with pytest.raises(InvocationPaused, match=r"a blocking call \(model m\) in an async handler is not durable"):
        run(handler)


def test_a_run_that_goes_around_the_journal_is_noticed() -> None:
    async def ask() -> str:
        return "x"

    async def handler(ctx: Context, calls: int) -> int:
        with count_model_steps() as outer:
            with count_model_steps() as counted:
                await asyncio.gather(model_call("m", ask), model_call("m", ask))
            counted.require(calls, "agent.run()")
        return outer.total

    assert run(handler, 2) == 2
    with pytest.raises(InvocationPaused, match=r"agent\.run\(\): 1 of its 3 model calls went around the journal"):
        run(handler, 3)


def test_a_stream_is_seen_live_and_kept_whole() -> None:
    live: list[int] = []

    async def stream() -> AsyncIterator[int]:
        for n in range(3):
            yield n

    async def handler(ctx: Context) -> Any:
        items = await model_call("m", lambda: collect(stream(), live.append), type=list[int])
        await asyncio.sleep(1)
        return items

    assert run(handler) == [0, 1, 2]
    assert live == [0, 1, 2]


def test_refused_operations_pause() -> None:
    async def handler(ctx: Context) -> None:
        refuse_in_handler("client.beta.realtime")

    with pytest.raises(InvocationPaused, match=r"client\.beta\.realtime is not durable"):
        run(handler)
    assert issubclass(NonDurableOperation, Exception)
