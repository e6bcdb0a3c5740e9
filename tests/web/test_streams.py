"""Streams over HTTP: routes, events, reconnects, departures, limits."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perdure import (
    App,
    Client,
    Context,
    Engine,
    NotFound,
    Service,
    StreamChunk,
    SyncClient,
    TerminalError,
    Unavailable,
    Workflow,
    WorkflowContext,
)
from perdure.ai.ag_ui import AgUiEvents
from perdure.ai.ui_stream import UIMessageStream
from perdure.config import Config
from perdure.runtime import streams as runtime
from perdure.server import Server as PerdureServer
from perdure.web.ingress import Ingress
from perdure.web.listener import Listener

service = Service("Talk")
workflow = Workflow("Report")


@service.handler()
async def say(ctx: Context, words: list[Any]) -> str:
    """Writes the words in a step."""
    stream = ctx.stream("answer")

    async def step() -> None:
        for word in words:
            stream.write(word)
            await asyncio.sleep(0)

    await ctx.run("step", step)
    return "said"


@service.handler()
async def binary(ctx: Context) -> None:
    ctx.stream("answer").write(b"\x00\xff")
    raise TerminalError("no more", 418, {"k": "v"})


@service.handler()
async def wait(ctx: Context, words: list[Any]) -> None:
    """Writes words, then waits for a signal."""
    for word in words:
        ctx.stream("answer").write(word)
    await ctx.signal("go")


@workflow.main()
async def main(ctx: WorkflowContext) -> None:
    ctx.stream("log of it").write(ctx.key)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def events(self) -> list[dict[str, str]]:
        """The events, by field; comments and `retry` left out."""
        blocks = [block for block in self.body.split("\n\n") if block and not block.startswith((":", "retry"))]
        return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


class Server:
    def __init__(self, engine: Engine, port: int) -> None:
        self.engine = engine
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def connect(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        fields = {"host": "test", "connection": "close", "content-length": str(len(body)), **headers}
        if body:
            fields["content-type"] = "application/json"
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        return reader, writer

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        reader, writer = await self.connect(method, path, body, **headers)
        raw = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        named = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if named.get("transfer-encoding") == "chunked":
            rest = _unchunked(rest)
        return Answer(int(first.split()[1]), named, rest.decode())


def _unchunked(raw: bytes) -> bytes:
    whole = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        whole, raw = whole + raw[:length], raw[length + 2 :]
    return whole


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Server]:
    async with Engine(App(service, workflow), grace=0) as engine:
        renderings = {"vercel": UIMessageStream, "ag-ui": AgUiEvents}
        listener = Listener(Ingress(engine.node, renderings=renderings, **options), "127.0.0.1", 0)
        listener.start(listener.bind())
        try:
            yield Server(engine, listener.port)
        finally:
            listener.close()
            engine.node.streams.hang_up(NotFound("over"))
            await listener.closed(5)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def test_the_events_of_a_stream() -> None:
    async def check() -> None:
        async with serving() as server:
            words = ["Hello\n", {"n": 1}, ""]
            answer = await server.ask("POST", "/restate/stream/Talk/say?stream=answer", json.dumps(words).encode())
            assert answer.status == 200
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["cache-control"] == "no-cache"
            first, *chunks, end = answer.events
            id = json.loads(first["data"])["invocationId"]
            assert first["event"] == "invocation" and answer.headers["x-restate-id"] == id
            assert [json.loads(chunk["data"]) for chunk in chunks] == words
            assert [chunk["id"].rpartition("-")[2] for chunk in chunks] == ["0", "1", "2"]
            assert end["event"] == "end" and json.loads(end["data"]) == {"status": "succeeded"}

            path = f"/restate/streams/{id}/answer"
            again = await server.ask("GET", path)
            assert [event["data"] for event in again.events] == [event["data"] for event in answer.events[1:]]
            rest = await server.ask("GET", path, last_event_id=again.events[1]["id"])
            assert [event.get("event", event["data"]) for event in rest.events] == ['""', "end"]
            assert (await server.ask("GET", f"{path}?from=2")).events[0]["data"] == '""'
            over = await server.ask("GET", path, last_event_id=again.events[-1]["id"])
            assert (over.status, over.body) == (204, "")

    asyncio.run(check())


def test_bytes_and_a_failure() -> None:
    async def check() -> None:
        async with serving() as server:
            events = (await server.ask("POST", "/restate/stream/Talk/binary?stream=answer")).events
            assert (events[1]["event"], events[1]["data"]) == ("bytes", "AP8=")
            failure = {"status": "failed", "code": 418, "message": "no more", "metadata": {"k": "v"}}
            assert json.loads(events[-1]["data"]) == failure

    asyncio.run(check())


def test_a_post_with_an_idempotency_key_finds_its_stream_again() -> None:
    async def check() -> None:
        async with serving() as server:
            path, body = "/restate/stream/Talk/say?stream=answer", b'["a", "b"]'
            first = await server.ask("POST", path, body, idempotency_key="k")
            second = await server.ask("POST", path, body, idempotency_key="k", last_event_id=first.events[1]["id"])
            assert second.headers["x-restate-id"] == first.headers["x-restate-id"]
            assert [event["data"] for event in second.events[1:]] == [event["data"] for event in first.events[2:]]

    asyncio.run(check())


def test_a_workflows_stream() -> None:
    async def check() -> None:
        async with serving() as server:
            await server.engine.workflow(workflow, "k 1").submit()
            answer = await server.ask("GET", "/restate/workflow/Report/k%201/streams/log%20of%20it")
            assert [event["data"] for event in answer.events] == ['"k 1"', '{"status":"succeeded"}']

    asyncio.run(check())


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/restate/streams/inv_1f4izvCePV4i54ZK33ShZkg0WbCijgHaBr/answer", 404, "not found"),
        ("GET", "/restate/streams/nonsense/answer", 400, "nonsense"),
        ("GET", "/restate/streams/{id}", 400, "bad path"),
        ("GET", "/restate/streams/{id}/" + "x" * 201, 400, "at most 200 characters"),
        ("GET", "/restate/streams/{id}/answer?from=-1", 400, "a position is a number"),
        ("GET", "/restate/streams/{id}/answer?protocol=odd", 400, "there is: ag-ui, vercel"),
        ("POST", "/restate/streams/{id}/answer", 405, "GET"),
        ("POST", "/restate/stream/Talk/say", 400, "a stream needs a name"),
        ("POST", "/restate/stream/Nobody/say?stream=answer", 404, "Nobody"),
        ("GET", "/restate/workflow/Report/none/streams/answer", 404, "not found"),
    ],
)
def test_errors(method: str, path: str, status: int, message: str) -> None:
    async def check() -> None:
        async with serving() as server:
            id = (await server.engine.send("Talk/say", [])).id
            body = b"[]" if method == "POST" else b""
            answer = await server.ask(method, path.replace("{id}", id), body)
            assert answer.status == status
            error = json.loads(answer.body)
            assert message in error["message"] and error["source"] == "ingress"

    asyncio.run(check())


def test_a_bad_last_event_id() -> None:
    async def check() -> None:
        async with serving() as server:
            id = (await server.engine.send("Talk/say", [])).id
            answer = await server.ask("GET", f"/restate/streams/{id}/answer", last_event_id="7")
            assert (answer.status, "no id of an event" in answer.body) == (400, True)

    asyncio.run(check())


def test_a_stream_that_nobody_has_written_to_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "HEARTBEAT_SECONDS", 0.01)

    async def check() -> None:
        async with serving() as server:
            invocation = await server.engine.send("Talk/wait", [])
            reader, writer = await server.connect("GET", f"/restate/streams/{invocation.id}/later")
            assert await reader.readuntil(b"\r\n:\n\n\r\n")  # a sign of life
            await invocation.signal("go")
            assert await asyncio.wait_for(reader.readuntil(b"event: end"), 10)
            writer.close()

    asyncio.run(check())


@pytest.mark.parametrize("busy", [False, True])
def test_a_caller_that_leaves_costs_nothing(busy: bool) -> None:
    async def check() -> None:
        async with serving(patience=0.05) as server:
            invocation = await server.engine.send("Talk/wait", ["x" * 1000] * (1000 if busy else 1))
            reader, writer = await server.connect("GET", f"/restate/streams/{invocation.id}/answer")
            await reader.readuntil(b"data: ")
            streams = server.engine.node.streams
            assert (streams.readers, streams.size > 0) == (1, True)
            writer.transport.abort()
            await until(lambda: streams.readers == 0)
            assert (streams.size, streams._logs) == (0, {})

    asyncio.run(check())


def test_a_reader_that_does_not_read_is_not_collected_for() -> None:
    """It holds a position in the log, and as much of the stream as the connection takes."""

    async def check() -> None:
        async with serving() as server:
            streams = server.engine.node.streams
            invocation = await server.engine.send("Talk/wait", ["x" * 1_000_000] * 15)
            path = f"/restate/streams/{invocation.id}/answer"
            slow = [await server.connect("GET", path) for _ in range(4)]
            async with Client(server.url) as client:
                async for event in client.stream(invocation.id, "answer"):
                    if isinstance(event, StreamChunk) and event.position == 14:
                        break
                assert streams.readers >= 4
                assert streams.size < 16_000_000  # one log for all of them
                for reader, writer in slow:
                    await reader.readexactly(14_000_000)  # it goes on where it was
                    writer.transport.abort()
                await invocation.signal("go")

    asyncio.run(check())


def test_too_many_readers() -> None:
    async def check() -> None:
        async with serving() as server:
            streams = server.engine.node.streams
            streams.limit(1000, 1)
            invocation = await server.engine.send("Talk/wait", ["a"])
            reader, writer = await server.connect("GET", f"/restate/streams/{invocation.id}/answer")
            await reader.readuntil(b"data: ")
            answer = await server.ask("GET", f"/restate/streams/{invocation.id}/answer")
            assert (answer.status, json.loads(answer.body)["retryable"]) == (429, True)
            streams.limit(0, 2)
            answer = await server.ask("GET", f"/restate/streams/{invocation.id}/answer")
            assert answer.status == 429
            writer.close()

    asyncio.run(check())


def test_clients_read_along_and_come_back_when_they_are_cut_off() -> None:
    async def check() -> None:
        async with serving() as server, Client(server.url) as client:
            invocation = await server.engine.send("Talk/wait", ["a", "b"])
            seen: list[Any] = []
            async for event in client.stream(invocation.id, "answer"):
                assert isinstance(event, StreamChunk)
                seen.append(event.value)
                if seen == ["a", "b"]:
                    await until(lambda: server.engine.node.streams.readers == 1)
                    server.engine.node.streams.hang_up(Unavailable("cut"))
                    await invocation.signal("go")
            assert seen == ["a", "b"]
            handle = await server.engine.send("Talk/say", ["x", "y"])
            assert await client.stream(handle.id, "answer").text() == "xy"
            with pytest.raises(NotFound):
                await client.workflow(workflow, "nobody").stream("answer").text()
            with SyncClient(server.url) as sync:
                assert await asyncio.to_thread(sync.stream(handle.id, "answer").text) == "xy"
                last = sync.stream(handle.id, "answer", start=1)
                assert await asyncio.to_thread(last.values) == ["y"]
                over = sync.stream(handle.id, "answer", last_event_id=last.last_event_id)
                assert await asyncio.to_thread(over.values) == []

    asyncio.run(check())


def test_other_protocols() -> None:
    async def check() -> None:
        async with serving() as server:
            id = (await server.engine.send("Talk/say", ["a", "b"])).id
            answer = await server.ask("GET", f"/restate/streams/{id}/answer?protocol=vercel", last_event_id="ignored")
            assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
            *events, last = [event["data"] for event in answer.events]
            assert last == "[DONE]"
            assert [json.loads(event)["type"] for event in events] == [
                *("start", "start-step", "text-start", "text-delta", "text-delta", "text-end", "finish-step", "finish")
            ]
            answer = await server.ask("GET", f"/restate/streams/{id}/answer?protocol=ag-ui")
            types = [json.loads(event["data"])["type"] for event in answer.events]
            assert (types[0], types[1], types[-1]) == ("RUN_STARTED", "TEXT_MESSAGE_START", "RUN_FINISHED")

    asyncio.run(check())


def test_a_server_that_stops_sends_its_readers_away(tmp_path: Path) -> None:
    async def check() -> None:
        config = Config(data_dir=str(tmp_path), host="127.0.0.1", ingress_port=0, admin_port=0, drain_seconds=60.0)
        perdure_server = PerdureServer(config, [App(service, workflow)])
        await perdure_server.start()
        assert perdure_server.ingress is not None
        async with Client(perdure_server.ingress.url) as client:
            invocation = await client.send("Talk/wait", ["a"])
        server = Server(None, perdure_server.ingress.port)  # type: ignore[arg-type]
        reader, writer = await server.connect("GET", f"/restate/streams/{invocation.id}/answer")
        await reader.readuntil(b'data: "a"')
        async with asyncio.timeout(20):
            await perdure_server.stop()
        rest = await reader.read()
        assert rest.endswith(b"0\r\n\r\n") and b"event: end" not in rest  # so that it comes back
        writer.close()

    asyncio.run(check())
