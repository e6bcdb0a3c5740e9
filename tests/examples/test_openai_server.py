"""The loopback provider, judged by the real `openai` client."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall, ChatCompletionMessageParam, ChatCompletionToolParam

from perdure.testing.openai_server import Fault, OpenAIServer, Reply, ToolCall, script

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello there, world"}]
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
]
CALLS = (ToolCall("search", {"query": "write-ahead logging at l'écluse"}), ToolCall("search", {"query": "sagas"}))
TWO_TURNS = script(Reply(tool_calls=CALLS), Reply("the end"))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(models=["small", "large"]) as server:
        yield server


@pytest.fixture
def client(server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="loopback", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: list[ChatCompletionMessageParam] = HELLO, key: str = "k") -> str | None:
    headers = {"Idempotency-Key": key}
    answer = client.chat.completions.create(model="m", messages=messages, extra_headers=headers)
    return answer.choices[0].message.content


def read_json(url: str, method: str = "GET", document: object = None) -> Any:
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def conversation(call_ids: list[str], answered: list[str]) -> list[ChatCompletionMessageParam]:
    messages: list[ChatCompletionMessageParam] = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": id, "type": "function", "function": {"name": "search", "arguments": "{}"}} for id in call_ids
            ],
        },
    ]
    messages += [{"role": "tool", "tool_call_id": id, "content": "found"} for id in answered]
    return messages


def test_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "hello there, world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "m"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6


def test_content_in_parts(client: openai.OpenAI) -> None:
    parts: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}
    ]
    assert ask(client, parts) == "one two"


def test_tool_calls_and_their_results(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.app.policy = TWO_TURNS
    first = client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS).choices[0]
    assert first.finish_reason == "tool_calls"
    calls = first.message.tool_calls or []
    assert len({call.id for call in calls}) == 2
    assert isinstance(calls[0], ChatCompletionMessageFunctionToolCall)
    assert json.loads(calls[0].function.arguments) == CALLS[0].arguments
    ids = [call.id for call in calls]
    assert ask(client, conversation(ids, ids)) == "the end"


def test_the_same_request_gets_the_same_answer(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.app.policy = TWO_TURNS
    answers = [client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS) for _ in range(2)]
    assert answers[0].id == answers[1].id
    assert answers[0].choices == answers[1].choices


@pytest.mark.parametrize("answered", [[], ["a"], ["a", "b", "c"]])
def test_lost_tool_results_are_refused(client: openai.OpenAI, answered: list[str]) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(client, conversation(["a", "b"], answered))


def test_streamed_text(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options=options)
    chunks = list(stream)
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == "hello there, world"
    assert sum(bool(piece) for piece in pieces) == 3
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_streamed_tool_calls(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.app.policy = TWO_TURNS
    arguments = ["", ""]
    with client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS, stream=True) as stream:
        for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or []:
                assert call.function is not None
                arguments[call.index] += call.function.arguments or ""
    assert [json.loads(text) for text in arguments] == [call.arguments for call in CALLS]


def test_streaming_helper_of_the_client(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.app.policy = script(Reply("some text", CALLS))
    with client.chat.completions.stream(model="m", messages=HELLO) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == "some text"
    assert [call.function.name for call in message.tool_calls or []] == ["search", "search"]


def test_async_client_many_at_once() -> None:
    async def main() -> None:
        async with (
            OpenAIServer(latency=(0.1, 0.2)) as server,
            openai.AsyncOpenAI(base_url=server.base_url, api_key="loopback") as client,
        ):
            started = time.monotonic()
            questions: list[list[ChatCompletionMessageParam]] = [
                [{"role": "user", "content": f"question {n}"}] for n in range(20)
            ]
            answers = await asyncio.gather(
                *(client.chat.completions.create(model="m", messages=question) for question in questions)
            )
            assert 0.1 <= time.monotonic() - started < 1.5
            assert [answer.choices[0].message.content for answer in answers] == [f"question {n}" for n in range(20)]
            assert server.count() == 20
            assert len({seen.body_hash for seen in server.requests}) == 20

    asyncio.run(main())


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small", "large"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("medium")


def test_requests_are_counted_by_key_and_by_body(server: OpenAIServer, client: openai.OpenAI) -> None:
    ask(client, key="a")
    ask(client, key="a")
    ask(client, key="b")
    client.chat.completions.create(model="m", messages=HELLO)
    assert (server.count(), server.count(key="a"), server.count(key="b"), server.count(key="c")) == (4, 2, 1, 0)
    assert server.count(body_hash=server.requests[0].body_hash) == 4
    report = read_json(f"{server.url}/_requests")
    assert report["total"] == 4
    assert report["by_key"] == {"a": 2, "b": 1}
    assert list(report["by_body"].values()) == [4]
    assert [seen["outcome"] for seen in report["requests"]] == ["answered"] * 4
    assert read_json(f"{server.url}/_requests", "DELETE")["total"] == 0


def test_rate_limit_fault(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.inject(Fault(status=429, retry_after=7))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.type == "rate_limit_error"
    assert ask(client) == "hello there, world"
    assert [seen.outcome for seen in server.requests] == ["429", "answered"]


def test_the_client_retries_a_server_error(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.inject(Fault(status=500, retry_after=0.01, times=2))
    patient = client.with_options(max_retries=2)
    assert ask(patient, key="step") == "hello there, world"
    assert [seen.outcome for seen in server.requests] == ["500", "500", "answered"]
    assert server.count(key="step") == 3


def test_faults_strike_where_they_are_told_to(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.inject(Fault(at=3, status=500))
    server.inject(Fault(containing="poison", status=503))
    outcomes = []
    for word in ("one", "poison", "three", "poison", "five"):
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": word}]
        try:
            outcomes.append(ask(client, messages))
        except openai.InternalServerError as error:
            outcomes.append(str(error.status_code))
    assert outcomes == ["one", "503", "500", "poison", "five"]


def test_delay(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.inject(Fault(delay=0.3))
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.1))
    server.inject(Fault(delay=0.2))
    started = time.monotonic()
    ask(client)
    assert time.monotonic() - started >= 0.2
    while server.requests[0].outcome == "in progress":
        time.sleep(0.01)
    assert [seen.outcome for seen in server.requests] == ["abandoned", "answered"]


@pytest.mark.parametrize("cut_after", [0, 40])
def test_cut_answer(server: OpenAIServer, client: openai.OpenAI, cut_after: int) -> None:
    server.inject(Fault(cut_after=cut_after))
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert [seen.outcome for seen in server.requests] == ["cut"]
    assert ask(client) == "hello there, world"


def test_cut_stream(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.inject(Fault(cut_after=3))
    words: list[str] = []
    stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    # Not narrower: in the middle of a stream the client lets the error of its HTTP library through.
    with pytest.raises(Exception, match=r"(?i)peer closed|incomplete|read|connection"):
        words.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(words) == "hello there,"
    assert server.requests[0].outcome == "cut"


def test_faults_over_http(server: OpenAIServer, client: openai.OpenAI) -> None:
    assert read_json(f"{server.url}/_faults", "POST", {"status": 429, "times": 2}) == {"armed": 2}
    with pytest.raises(openai.RateLimitError):
        ask(client)
    with pytest.raises(urllib.request.HTTPError) as caught:
        read_json(f"{server.url}/_faults", "POST", {"colour": "red"})
    assert caught.value.code == 400
    caught.value.close()


def test_bad_requests(server: OpenAIServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(client, [])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(urllib.request.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{server.base_url}/chat/completions", data=b"{", method="POST"))
    assert caught.value.code == 400
    caught.value.close()
    assert server.count() == 0


def test_a_policy_that_fails_is_a_server_error(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.app.policy = lambda request: Reply(request.tool_names[0])
    with pytest.raises(openai.InternalServerError, match="IndexError"):
        ask(client)


def test_raw_http(server: OpenAIServer) -> None:
    async def exchange(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    body = json.dumps({"model": "m", "messages": HELLO}).encode()
    halves = b"%x\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\nTrailer: 1\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked = asyncio.run(exchange(head + b"Transfer-Encoding: chunked\r\n\r\n" + halves))
    assert b"200 OK" in chunked and b"hello there, world" in chunked
    expected = head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert asyncio.run(exchange(expected)).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"400 Bad Request" in asyncio.run(exchange(b"nonsense\r\n\r\n"))
    assert b"400 Bad Request" in asyncio.run(exchange(b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"))
    assert asyncio.run(exchange(b"GET /v1/models HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


def test_leaving_with_a_client_in_the_middle() -> None:
    async def main() -> None:
        async with OpenAIServer(latency=(30, 30)) as server:
            client = openai.AsyncOpenAI(base_url=server.base_url, api_key="loopback", max_retries=0)
            question = asyncio.ensure_future(client.chat.completions.create(model="m", messages=HELLO))
            while not server.requests:  # noqa: ASYNC110 - the server is not asked to tell its tests
                await asyncio.sleep(0.01)
        with pytest.raises(openai.APIConnectionError):
            await question
        await client.close()
        assert server.requests[0].outcome == "abandoned"

    asyncio.run(main())


def test_a_port_that_is_taken() -> None:
    with OpenAIServer() as first, pytest.raises(OSError), OpenAIServer(port=first.port):
        pass


def test_as_a_process() -> None:
    command = [sys.executable, "-m", "perdure.testing.openai_server", "--model", "tiny", "--latency", "0.01", "0.02"]
    command += ["--fault", '{"status": 500}', "--policy", "perdure.testing.openai_server:echo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        with openai.OpenAI(base_url=base_url, api_key="loopback", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError):
                ask(client)
            assert ask(client) == "hello there, world"
            assert [model.id for model in client.models.list()] == ["tiny"]
    finally:
        process.kill()
        process.communicate()


def test_as_a_process_with_wrong_arguments() -> None:
    for wrong in (["--policy", "nowhere"], ["--policy", "perdure:nothing_of_the_kind"], ["--fault", "{"]):
        command = [sys.executable, "-m", "perdure.testing.openai_server", *wrong]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "usage:" in done.stderr
