"""The durable `anthropic` client against the loopback provider, replayed at every await."""

import asyncio
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from perdure import Context, SyncContext, TerminalError
from perdure.ai.anthropic import durable
from perdure.testing import InvocationPaused
from perdure.testing.model_server import ChatRequest, Fault, ModelServer, Reply, ToolCall
from tests.ai.harness import closed_by_run, run

httpx: Any = vars(importlib.import_module("anthropic._base_client")).get("httpx2") or importlib.import_module("httpx")
MESSAGES: Any = [{"role": "user", "content": "what is a log?"}]


def policy(request: ChatRequest) -> Reply:
    if "tools" in request.text("user"):
        return Reply("let me see", (ToolCall("search", {"query": "log"}),))
    return Reply("a log is a list")


def ask(**options: Any) -> Any:
    return {"model": "loopback", "max_tokens": 100, "messages": MESSAGES, **options}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(policy) as server:
        yield server


@pytest.fixture
def client(server: ModelServer) -> AsyncAnthropic:
    return closed_by_run(durable(AsyncAnthropic(api_key="k", base_url=server.url)))


def test_messages_and_streams_are_steps(server: ModelServer, client: AsyncAnthropic) -> None:
    async def handler(ctx: Context) -> Any:
        message = await client.messages.create(**ask())
        async with client.messages.stream(**ask()) as stream:
            text = "".join([part async for part in stream.text_stream])
        await asyncio.sleep(60)
        events = [event.type async for event in await client.messages.create(**ask(), stream=True)]
        async with client.messages.stream(**ask(messages=[{"role": "user", "content": "tools"}])) as stream:
            final = await stream.get_final_message()
        raw = await client.messages.with_raw_response.create(**ask())
        message_too: Any = raw.parse()
        if inspect.isawaitable(message_too):  # from anthropic 1 on
            message_too = await message_too
        used = final.content[1]
        assert used.type == "tool_use"
        return [message.content[0].text, text, events[0], events[-1], used.input, message_too.usage.output_tokens]

    steps: list[str] = []
    texts = ["a log is a list"] * 2
    assert run(handler, steps=steps) == [*texts, "message_start", "message_stop", {"query": "log"}, 5]
    assert steps == ["model loopback"] * 5
    assert len({request.key for request in server.requests}) == server.count() == 5


@pytest.mark.parametrize(
    ("fault", "requests"),
    [(Fault(status=429, retry_after=30, times=2), 3), (Fault(status=529), 2), (Fault(cut_after=3), 2)],
)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.pattern("provider errors")
def test_errors_of_the_moment_are_tried_again(
    server: ModelServer, client: AsyncAnthropic, fault: Fault, requests: int, streamed: bool
) -> None:
    server.inject(fault)

    async def handler(ctx: Context) -> Any:
        started = ctx.now()
        if streamed:
            async with client.messages.stream(**ask()) as stream:
                text = await stream.get_final_text()
        else:
            text = (await client.messages.create(**ask())).content[0].text
        return [text, (ctx.now() - started).total_seconds()]

    text, waited = run(handler)
    assert text == "a log is a list"
    assert server.count() == requests
    assert waited >= 60 if fault.retry_after else waited < 30


def test_an_error_in_the_middle_of_a_stream_is_tried_again(server: ModelServer) -> None:
    """Anthropic says that it is overloaded in a stream that began with 200."""
    tries: list[int] = []

    def overloaded(request: Any) -> Any:
        tries.append(1)
        error = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
        body = b"event: error\ndata: " + error + b"\n\n"
        if len(tries) > 2:
            body = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    http = httpx.AsyncClient(transport=httpx.MockTransport(overloaded))
    client = closed_by_run(durable(AsyncAnthropic(api_key="k", http_client=http)))

    async def handler(ctx: Context) -> Any:
        response = await client.messages.with_raw_response.create(**ask(), stream=True)
        return response.http_response.text.count("message_stop")

    assert run(handler) == 2
    assert len(tries) == 3


def test_other_errors_end_the_invocation(server: ModelServer, client: AsyncAnthropic) -> None:
    server.inject(Fault(status=400))

    async def handler(ctx: Context) -> None:
        await client.with_options(timeout=9).messages.create(**ask())

    with pytest.raises(TerminalError, match="anthropic: 400: This fault was injected") as caught:
        run(handler)
    assert caught.value.code == 400
    assert server.count() == 1


def test_it_survives_a_crash_after_every_commit(server: ModelServer, client: AsyncAnthropic) -> None:
    async def handler(ctx: Context) -> Any:
        return [(await client.messages.create(**ask())).content[0].text for _ in range(2)]

    assert run(handler, crash=True) == ["a log is a list"] * 2
    assert len({request.key for request in server.requests}) == 2


def test_the_blocking_client(server: ModelServer) -> None:
    with Anthropic(api_key="k", base_url=server.url) as plain:
        client = durable(plain)

        def handler(ctx: SyncContext) -> Any:
            with client.messages.stream(**ask()) as stream:
                return stream.get_final_text()

        async def blocks(ctx: Context) -> Any:
            return client.messages.create(**ask())

        steps: list[str] = []
        assert run(handler, steps=steps) == "a log is a list"
        assert steps == ["model loopback"]
        with pytest.raises(InvocationPaused, match="blocking call"):
            run(blocks)
        assert server.count() == 1


def test_outside_of_a_handler_it_is_the_client(server: ModelServer) -> None:
    server.inject(Fault(status=400))
    with Anthropic(api_key="k", base_url=server.url) as plain:
        with pytest.raises(anthropic.BadRequestError):
            durable(plain).messages.create(**ask())
        assert durable(plain).messages.create(**ask()).content[0].text == "a log is a list"
    assert all(request.key is None for request in server.requests)


def test_it_takes_clients_only() -> None:
    with pytest.raises(TypeError, match="takes an AsyncAnthropic or Anthropic, not str"):
        durable("client")  # type: ignore[type-var]
