"""The durable `openai` client against the loopback provider, replayed at every await; and against the plain client."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from perdure import App, Context, Service, SyncContext, TerminalError
from perdure.ai.openai import durable
from perdure.testing import InvocationPaused, TestEngine
from perdure.testing.model_server import ChatRequest, Fault, ModelServer, Reply, ToolCall
from tests.ai.harness import closed_by_run, run

MESSAGES: Any = [{"role": "user", "content": "what is a log?"}]


def policy(request: ChatRequest) -> Reply:
    if "json" in request.text("user"):
        return Reply('{"city": "Paris", "people": 2100000}')
    if "tools" in request.text("user"):
        return Reply("let me see", (ToolCall("search", {"query": "log"}), ToolCall("search", {"query": "journal"})))
    return Reply("a log is a list")


class City(BaseModel):
    city: str
    people: int


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(policy) as server:
        yield server


@pytest.fixture
def client(server: ModelServer) -> AsyncOpenAI:
    return closed_by_run(durable(AsyncOpenAI(api_key="k", base_url=server.base_url, max_retries=5)))


@pytest.fixture
def blocking(server: ModelServer) -> Iterator[OpenAI]:
    with OpenAI(api_key="k", base_url=server.base_url, max_retries=5) as client:
        yield durable(client)


def test_every_kind_of_request_is_a_step_and_comes_back_whole(server: ModelServer, client: AsyncOpenAI) -> None:
    async def handler(ctx: Context) -> Any:
        chat = await client.chat.completions.create(model="loopback", messages=MESSAGES)
        parsed = await client.chat.completions.parse(
            model="loopback", messages=[{"role": "user", "content": "json"}], response_format=City
        )
        response = await client.responses.create(model="loopback", input="what is a log?")
        city = await client.responses.parse(model="loopback", input="json", text_format=City)
        vectors = await client.embeddings.create(model="embed", input=["a", "b"], encoding_format="float")
        models = [model.id async for model in client.models.list()]
        raw = await client.chat.completions.with_raw_response.create(model="loopback", messages=MESSAGES)
        other = await client.with_options(timeout=3).chat.completions.create(model="loopback", messages=MESSAGES)
        assert isinstance(parsed.choices[0].message.parsed, City)
        assert isinstance(city.output_parsed, City)
        assert chat.usage is not None
        assert raw.headers["content-type"] == "application/json"
        return [
            chat.choices[0].message.content,
            chat.usage.total_tokens,
            parsed.choices[0].message.parsed.people,
            response.output_text,
            city.output_parsed.city,
            len(vectors.data),
            models,
            raw.parse().id == chat.id == other.id,
        ]

    steps: list[str] = []
    texts = ["a log is a list", 9, 2100000, "a log is a list", "Paris", 2, ["loopback"], True]
    assert run(handler, steps=steps) == texts
    assert steps == [
        *(["model loopback"] * 4),
        "openai POST /v1/embeddings embed",
        "openai GET /v1/models",
        *(["model loopback"] * 2),
    ]
    assert server.count() == 7  # the list of models is not counted
    assert len({request.key for request in server.requests}) == 7  # and each has the token of its step


def test_streams_are_durable(server: ModelServer) -> None:
    seen: list[str] = []
    plain = closed_by_run(AsyncOpenAI(api_key="k", base_url=server.base_url))
    client = durable(plain, on_event=lambda event: seen.append(event.get("object")))

    async def handler(ctx: Context) -> Any:
        stream = await client.chat.completions.create(model="loopback", messages=MESSAGES, stream=True)
        words = [chunk.choices[0].delta.content or "" async for chunk in stream]
        await asyncio.sleep(60)
        wanted: Any = [{"role": "user", "content": "tools"}]
        async with client.chat.completions.stream(model="loopback", messages=wanted) as events:
            final = await events.get_final_completion()
        async with client.responses.stream(model="loopback", input="what is a log?") as events_too:
            kinds = [event.type async for event in events_too]
            response = await events_too.get_final_response()
        calls = [call.function.arguments for call in final.choices[0].message.tool_calls or []]
        return ["".join(words), calls, kinds[0], kinds[-1], response.output_text]

    result = run(handler)
    calls = ['{"query": "log"}', '{"query": "journal"}']
    assert result == ["a log is a list", calls, "response.created", "response.completed", "a log is a list"]
    assert server.count() == 3
    assert seen.count("chat.completion.chunk") > 10


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (Fault(status=429, retry_after=30, times=2), 3),
        (Fault(status=500, times=3), 4),
        (Fault(status=503), 2),
        (Fault(cut_after=0), 2),
        (Fault(cut_after=40), 2),
    ],
)
@pytest.mark.pattern("provider errors")
def test_errors_of_the_moment_are_tried_again(
    server: ModelServer, client: AsyncOpenAI, fault: Fault, requests: int
) -> None:
    server.inject(fault)

    async def handler(ctx: Context) -> Any:
        started = ctx.now()
        answer = await client.chat.completions.create(model="loopback", messages=MESSAGES)
        return [answer.choices[0].message.content, (ctx.now() - started).total_seconds()]

    text, waited = run(handler)
    assert text == "a log is a list"
    assert server.count() == requests
    assert len({request.key for request in server.requests}) == 1, "every attempt has the same idempotency key"
    assert waited >= 30 * fault.times if fault.retry_after else waited < 30


@pytest.mark.parametrize("cut_after", [0, 1, 3])
def test_streams_that_are_cut_are_tried_again(server: ModelServer, client: AsyncOpenAI, cut_after: int) -> None:
    server.inject(Fault(cut_after=cut_after))

    async def handler(ctx: Context) -> Any:
        async with client.responses.stream(model="loopback", input="what is a log?") as events:
            return (await events.get_final_response()).output_text

    assert run(handler) == "a log is a list"
    assert server.count() == 2


def test_a_time_out_is_tried_again(server: ModelServer, client: AsyncOpenAI) -> None:
    server.inject(Fault(delay=1.0))

    async def handler(ctx: Context) -> Any:
        answer = await client.chat.completions.create(model="loopback", messages=MESSAGES, timeout=0.2)
        return answer.choices[0].message.content

    assert run(handler) == "a log is a list"
    assert server.count() == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_other_errors_end_the_invocation(server: ModelServer, client: AsyncOpenAI, status: int) -> None:
    server.inject(Fault(status=status, times=9))

    async def handler(ctx: Context) -> None:
        await client.responses.create(model="loopback", input="x")

    with pytest.raises(TerminalError, match="injected by the test") as caught:
        run(handler)
    assert caught.value.code == status
    assert caught.value.metadata["provider"] == "openai"
    assert server.count() == 1


def test_a_handler_can_catch_the_terminal_error(server: ModelServer, client: AsyncOpenAI) -> None:
    server.inject(Fault(status=400))

    async def handler(ctx: Context) -> Any:
        try:
            await client.chat.completions.create(model="loopback", messages=MESSAGES)
        except TerminalError as error:
            await asyncio.sleep(1)
            return error.code

    assert run(handler) == 400


def test_parallel_requests_are_parallel(server: ModelServer, client: AsyncOpenAI) -> None:
    async def handler(ctx: Context) -> int:
        answers = await asyncio.gather(
            *(client.responses.create(model="loopback", input=f"{n}") for n in range(5)),
        )
        return len(answers)

    server.app.latency = (0.2, 0.2)
    assert run(handler) == 5
    times = [request.at for request in server.requests]
    assert len(times) == 5
    assert max(times) - min(times) < 0.2


def test_it_survives_a_crash_after_every_commit(server: ModelServer, client: AsyncOpenAI) -> None:
    async def handler(ctx: Context) -> Any:
        first = await client.responses.create(model="loopback", input="first")
        second = await client.chat.completions.create(model="loopback", messages=MESSAGES)
        return [first.output_text, second.choices[0].message.content]

    assert run(handler, crash=True) == ["a log is a list"] * 2
    assert len({request.key for request in server.requests}) == 2


def test_the_blocking_client_in_a_plain_handler(server: ModelServer, blocking: OpenAI) -> None:
    server.inject(Fault(status=500))

    def handler(ctx: SyncContext) -> Any:
        answer = blocking.chat.completions.create(model="loopback", messages=MESSAGES)
        with blocking.responses.stream(model="loopback", input="what is a log?") as events:
            response = events.get_final_response()
        return [answer.choices[0].message.content, response.output_text, [model.id for model in blocking.models.list()]]

    steps: list[str] = []
    assert run(handler, steps=steps) == ["a log is a list", "a log is a list", ["loopback"]]
    assert steps == ["model loopback", "model loopback", "model loopback", "openai GET /v1/models"]


def test_the_blocking_client_in_an_async_handler_is_refused(server: ModelServer, blocking: OpenAI) -> None:
    async def handler(ctx: Context) -> Any:
        return blocking.chat.completions.create(model="loopback", messages=MESSAGES)

    with pytest.raises(InvocationPaused, match="blocking call"):
        run(handler)
    assert server.count() == 0


def test_what_is_not_wrapped_fails_loudly(server: ModelServer) -> None:
    client = closed_by_run(AsyncOpenAI(api_key="k", base_url=server.base_url))

    async def handler(ctx: Context) -> Any:
        return await client.chat.completions.create(model="loopback", messages=MESSAGES)

    with pytest.raises(InvocationPaused):
        run(handler)
    assert server.count() == 0


def test_websockets_are_refused_in_a_plain_handler(blocking: OpenAI) -> None:
    if not hasattr(blocking.responses, "connect"):
        pytest.skip("this version has no WebSockets")

    def handler(ctx: SyncContext) -> Any:
        blocking.responses.connect()

    with pytest.raises(InvocationPaused, match=r"responses\.connect is not durable"):
        run(handler)


def test_outside_of_a_handler_it_is_the_client(server: ModelServer, client: AsyncOpenAI, blocking: OpenAI) -> None:
    assert isinstance(client, AsyncOpenAI)
    assert durable(client) is client
    server.inject(Fault(status=500))

    async def outside() -> Any:
        async with client:
            return await client.chat.completions.create(model="loopback", messages=MESSAGES)

    assert asyncio.run(outside()).choices[0].message.content == "a log is a list"
    assert server.count() == 2  # the client's own retry
    server.inject(Fault(status=400))
    with pytest.raises(openai.BadRequestError):
        blocking.chat.completions.create(model="loopback", messages=MESSAGES)
    assert all(request.key is None for request in server.requests)


def test_it_takes_clients_only() -> None:
    with pytest.raises(TypeError, match="takes an AsyncOpenAI or OpenAI, not str"):
        durable("client")  # type: ignore[type-var]


def test_the_journal_has_the_answer_as_json_and_its_tokens(server: ModelServer, client: AsyncOpenAI) -> None:
    service = Service("S")

    @service.handler()
    async def ask(ctx: Context) -> None:
        await client.chat.completions.create(model="loopback", messages=MESSAGES)
        async with client.responses.stream(model="loopback", input="what is a log?") as events:
            await events.get_final_response()

    async def main() -> list[Any]:
        from perdure.core.tables import JOURNAL
        from perdure.model.entries import RUN_COMPLETION, Completion, Value

        async with TestEngine(App(service)) as engine:
            await engine.call(ask)
            store = engine._stores[0]
            entries = [entry for _, (_, entry) in store.scan(JOURNAL, (1,))]
            await client.close()
        runs = [entry for entry in entries if isinstance(entry, Completion) and entry.type == RUN_COMPLETION]
        return [json.loads(run.result.content) for run in runs if isinstance(run.result, Value)]

    whole, streamed = asyncio.run(main())
    counts = {"provider": "openai", "model": "loopback", "input_tokens": 4, "output_tokens": 5}
    assert whole["usage"] == counts | {"finish_reason": "stop"} and streamed["usage"] == counts
    assert whole["value"]["json"]["choices"][0]["message"]["content"] == "a log is a list"
    assert "set-cookie" not in json.dumps(whole)
    assert streamed["value"]["text"].startswith("event: response.created\n")
