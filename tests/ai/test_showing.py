"""What an integration shows to a handler's stream."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import Context, TerminalError
from perdure.ai import in_handler
from perdure.ai.base import model_call, tool_call
from perdure.ai.showing import showing
from tests.ai.harness import run


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("crash", [False, True])
def test_parts_reach_the_stream_once_whatever_is_replayed(crash: bool) -> None:
    async def ask() -> str:
        shown = showing()
        assert shown is not None
        shown.reasoning("hm")
        shown.text("It ")
        shown.text("")
        shown.text("is")
        shown.tool_call_delta("c1", "weather", '{"city":')
        shown.tool_call_delta("c1", "weather", '"Rome"}')
        shown.tool_call("c1", "weather", {"city": "Rome"})
        return "It is"

    @in_handler
    async def nearby() -> list[str]:
        return ["Ostia"]

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            await model_call("m", ask)
            found = await tool_call("weather", lambda: Weather(city="Rome", degrees=30), call_id="c1", type=Weather)
            await tool_call("nearby", nearby, function=nearby, call_id="c2")
        await tool_call("weather", lambda: 1, call_id="c3")
        return found.degrees

    chunks: list[Any] = []
    assert run(handler, shown=chunks, crash=crash) == 30
    assert chunks == [
        {"type": "reasoning", "text": "hm"},
        "It ",
        "is",
        {"type": "tool-call-delta", "id": "c1", "name": "weather", "delta": '{"city":'},
        {"type": "tool-call-delta", "id": "c1", "name": "weather", "delta": '"Rome"}'},
        {"type": "tool-call", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool-result", "id": "c1", "output": {"city": "Rome", "degrees": 30}},
        {"type": "tool-result", "id": "c2", "output": ["Ostia"]},
    ]


def test_a_tool_that_fails_says_so_and_what_is_no_json_is_shown_as_text() -> None:
    def fail() -> None:
        raise TerminalError("no such city", 404)

    async def handler(ctx: Context) -> Any:
        with ctx.stream("answer").default():
            with pytest.raises(TerminalError):
                await tool_call("weather", fail, call_id="c1")
            shown = showing()
            assert shown is not None
            shown.tool_result("c2", {"of": object})
            shown.tool_result("c3", Decimal("1.5"))

    chunks: list[Any] = []
    run(handler, shown=chunks)
    assert chunks == [
        {"type": "tool-result", "id": "c1", "error": "no such city"},
        {"type": "tool-result", "id": "c2", "output": "{'of': <class 'object'>}"},
        {"type": "tool-result", "id": "c3", "output": "1.5"},
    ]


def test_without_a_stream_nothing_is_shown() -> None:
    async def handler(ctx: Context) -> Any:
        return await model_call("m", lambda: showing() is None)

    assert run(handler) is True
    assert showing() is None
