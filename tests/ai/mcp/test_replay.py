"""An MCP server in a handler that is dropped and replayed at every await, and that crashes after every commit."""

import asyncio
import base64
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from mcp import Client, types

from perdure import App, Context, Service, SyncContext, TerminalError
from perdure.ai.mcp import durable, text_of
from perdure.testing import TestEngine
from tests.ai.harness import run
from tests.ai.mcp.server import PIXEL, lines, make_server


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what it waits for is in a file
        await asyncio.sleep(0.001)


@pytest.fixture
def ledger(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "ledger"


@pytest.mark.parametrize("options", [{}, {"crash": True}], ids=["replayed", "crashed"])
def test_lists_and_calls_are_steps(ledger: pathlib.Path, options: dict[str, Any]) -> None:
    world = durable(make_server(ledger))

    async def handler(ctx: Context) -> Any:
        tools = (await world.list_tools()).tools
        assert (await world.list_tools()).tools == tools
        one, two = await asyncio.gather(
            world.call_tool("add", {"numbers": [1, 2]}, call_id="a"),
            world.call_tool("add", {"numbers": [3, 4]}, call_id="b"),
        )
        await world.close()
        return [[tool.name for tool in tools][:2], one.structured_content, two.structured_content]

    steps: list[str] = []
    answer = run(handler, steps=steps, **options)
    assert answer == [["add", "picture"], {"total": 3, "of": [1, 2]}, {"total": 7, "of": [3, 4]}]
    if not options:
        assert steps == ["list tools", "tool add a", "tool add b"]
    calls = lines(ledger)
    keys = {line.split()[1] for line in calls}
    assert len(keys) == 2 and "-" not in keys
    assert len(calls) <= (3 if options else 2)  # of a call whose result was not on disk yet


def test_the_list_stays_for_the_invocation_and_can_be_asked_for_anew(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger))

    async def handler(ctx: Context) -> Any:
        async def names() -> set[str]:
            return {tool.name for tool in (await world.list_tools()).tools}

        both = await asyncio.gather(names(), names())
        await world.call_tool("add_tool")
        kept = await names()
        fresh = {tool.name for tool in (await world.list_tools(refresh=True)).tools}
        return [both[0] == both[1] == kept, sorted(fresh - kept), sorted(await names() - kept)]

    steps: list[str] = []
    assert run(handler, steps=steps) == [True, ["newcomer"], ["newcomer"]]
    assert steps == ["list tools", "tool add_tool", "list tools"]


def test_images_resources_and_prompts_survive_the_journal(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger), name="world")

    async def handler(ctx: Context) -> Any:
        picture = (await world.call_tool("picture")).content[0]
        assert isinstance(picture, types.ImageContent)
        templates = (await world.list_resource_templates()).resource_templates
        memo = (await world.read_resource("memo://x")).contents[0]
        assert isinstance(memo, types.TextResourceContents)
        prompts = (await world.list_prompts()).prompts
        prompt = (await world.get_prompt("greet", {"name": "Ada"})).messages[0]
        assert isinstance(prompt.content, types.TextContent)
        return [picture.data, templates[0].uri_template, memo.text, prompts[0].name, prompt.content.text]

    steps: list[str] = []
    data, *others = run(handler, steps=steps)
    assert base64.b64decode(data) == PIXEL
    assert others == ["memo://{name}", "memo of x", "greet", "Say hello to Ada."]
    assert steps[0] == "tool world.picture"
    assert lines(ledger)[1:] == ["memo x"]


def test_a_result_with_an_error_is_a_value_and_an_error_of_the_protocol_is_terminal(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger))

    async def handler(ctx: Context) -> Any:
        result = await world.call_tool("broken")
        assert result.is_error
        try:
            await world.get_prompt("nobody")
        except TerminalError as error:
            return [text_of(result), "mcp_code" in error.metadata]

    words, coded = run(handler)
    assert "broken" in words and coded
    assert len(lines(ledger)) == 1


def test_progress_is_told_while_the_step_runs(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger))
    told: list[tuple[float, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    async def handler(ctx: Context) -> Any:
        return text_of(await world.call_tool("count", {"to": 3}, progress_callback=heard))

    assert run(handler) == "done"
    assert told == [(1, "at 1"), (2, "at 2"), (3, "at 3")]


def test_a_cancelled_handler_cancels_the_request(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger))
    service = Service("S")

    @service.handler()
    async def handler(ctx: Context) -> str:
        return text_of(await world.call_tool("slow"))

    async def main() -> None:
        async with TestEngine(App(service)) as engine:
            sent = await engine.send(handler)
            await until(lambda: len(lines(ledger)) == 1)
            await sent.cancel()
            with pytest.raises(TerminalError) as caught:
                await sent.attach()
            assert caught.value.code == 409
            await until(lambda: len(lines(ledger)) == 2)
            await world.close()

    asyncio.run(main())
    assert [line.split()[0] for line in lines(ledger)] == ["slow", "slow-cancelled"]


@pytest.mark.parametrize("approved", [True, False])
def test_what_the_server_asks_is_an_approval(ledger: pathlib.Path, approved: bool) -> None:
    world = durable(make_server(ledger), approval={"to": ["ann"]})
    service = Service("S")

    @service.handler()
    async def handler(ctx: Context) -> str:
        return text_of(await world.call_tool("order", {"what": "tea"}))

    async def main() -> Any:
        async with TestEngine(App(service), replay=True, skip=False) as engine:
            sent = await engine.send(handler)
            found: list[Any] = []
            while not found:
                found = list(await engine.approvals().list())
            (asked,) = found
            assert (asked.title, asked.to) == ("How much may it cost?", ["ann"])
            assert asked.context == {"tool": "order", "arguments": {"what": "tea"}}
            if approved:
                await engine.approvals().approve(asked.id, {"amount": 5})
            else:
                await engine.approvals().reject(asked.id)
            answer = await sent.attach()
            await world.close()
            return answer

    assert asyncio.run(main()) == ("tea for 5" if approved else "no tea")
    assert len(lines(ledger)) == (1 if approved else 0)


def test_a_server_that_asks_over_the_open_connection_is_refused_aloud(
    ledger: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = durable(Client(make_server(ledger), mode="legacy"))

    async def handler(ctx: Context) -> Any:
        await world.call_tool("ask_now")

    with caplog.at_level(logging.WARNING, "perdure.mcp"), pytest.raises(TerminalError, match="2026-07-28"):
        run(handler)
    assert "was refused" in caplog.text


def test_as_tools_of_langchain(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger))

    async def handler(ctx: Context) -> Any:
        tools = {tool.name: tool for tool in await world.tools_for_langchain()}
        total = await tools["add"].ainvoke({"numbers": [1, 2]})
        failed = await tools["broken"].ainvoke(
            {"type": "tool_call", "id": "call", "name": "broken", "args": {}},
        )
        return [json.loads(total), failed.status, failed.content]

    steps: list[str] = []
    total, status, words = run(handler, steps=steps)
    assert total == {"total": 3, "of": [1, 2]} and status == "error" and "broken" in words
    assert steps == ["list tools", "tool add", "tool broken"]


def test_in_a_plain_handler(ledger: pathlib.Path) -> None:
    world = durable(make_server(ledger))

    def handler(ctx: SyncContext) -> Any:
        async def ask() -> Any:
            names = [tool.name for tool in (await world.list_tools()).tools]
            again = [tool.name for tool in (await world.list_tools()).tools]
            return [names == again, (await world.call_tool("add", {"numbers": [1, 2]})).structured_content]

        return asyncio.run(ask())

    steps: list[str] = []
    assert run(handler, steps=steps) == [True, {"total": 3, "of": [1, 2]}]
    assert steps == ["list tools", "tool add"]


def test_outside_of_handlers_it_is_a_client(ledger: pathlib.Path) -> None:
    async def main() -> None:
        async with durable(make_server(ledger)) as world:
            assert text_of(await world.call_tool("count", {"to": 1})) == "done"
            (tool, *_) = await world.tools_for_openai()
            assert tool["function"]["name"] == "add" and tool["function"]["parameters"]["type"] == "object"
            assert (await world.tools_for_anthropic())[0]["input_schema"] == tool["function"]["parameters"]
            assert (await world.tools_for_openai_responses())[0]["name"] == "add"

    asyncio.run(main())
    assert lines(ledger) == ["count -"]


def test_a_client_that_is_connected_is_used_as_it_is(ledger: pathlib.Path) -> None:
    service = Service("S")
    made: list[Any] = []

    @service.handler()
    async def handler(ctx: Context) -> Any:
        return (await made[0].call_tool("add", {"numbers": [1]})).structured_content

    async def main() -> Any:
        async with Client(make_server(ledger)) as client, TestEngine(App(service), replay=True) as engine:
            made.append(durable(client.session))
            return await engine.call(handler)

    assert asyncio.run(main()) == {"total": 1, "of": [1]}


def test_what_is_no_server_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a URL"):
        durable("weather")
    with pytest.raises(TypeError, match="takes an MCP server"):
        durable(5)
