"""One scenario, three callers: `Engine` in process, `Client` and `SyncClient` over HTTP against a real server."""

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type, cast

import msgspec
import pytest

from perdure import Client, Engine, SyncClient
from perdure.config import Config
from perdure.errors import (
    Conflict,
    Invalid,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    StorageError,
    TerminalError,
    Unavailable,
)
from perdure.model.entries import Failure, Value
from perdure.sdk import operations as op
from perdure.sdk.caller import Caller, ClientInvocation
from perdure.sdk.operations import HttpReply, Operation, Retries
from perdure.server import Server
from tests.cli import served
from tests.cli.served import Person, add, ask, broken, click, counter, fail, greet, signup, slow

Scenario = Callable[[Caller], Coroutine[Any, Any, None]]
ID = "inv_1" + "0" * 33


class InThread:
    """A blocking client, with `await`: what is not a coroutine of `Client` stays a plain call."""

    PLAIN = frozenset({"invocation", "workflow", "state"})

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value
        if name in self.PLAIN:
            return lambda *args, **kwargs: InThread(value(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await asyncio.to_thread(functools.partial(value, *args, **kwargs))
            return InThread(result) if type(result).__name__.startswith("SyncClient") else result

        return call


@contextlib.asynccontextmanager
async def serving(where: Path, **options: Any) -> AsyncIterator[Server]:
    config = Config(data_dir=str(where), ingress_port=0, admin_port=0, drain_seconds=0.2, **options)
    server = Server(config, [served.app])
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def caller(kind: str, where: Path) -> AsyncIterator[Caller]:
    if kind == "engine":
        async with Engine(served.app) as engine:
            yield engine
        return
    async with serving(where) as server:
        assert server.ingress is not None and server.admin is not None
        if kind == "client":
            async with Client(server.ingress.url, admin_url=server.admin.url) as client:
                yield client
        else:
            with SyncClient(server.ingress.url, admin_url=server.admin.url) as blocking:
                yield cast(Caller, InThread(blocking))


@pytest.fixture(params=["engine", "client", "sync"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    async def with_caller(scenario: Scenario) -> None:
        async with asyncio.timeout(20), caller(request.param, tmp_path) as it:
            await scenario(it)

    return lambda scenario: asyncio.run(with_caller(scenario))


Play = Callable[[Scenario], None]


def test_call(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        assert await it.call(greet, Person("ada", 2)) == ["hello ada"] * 2
        assert await it.call("Greeter/greet", {"name": "bob"}) == ["hello bob"]
        assert await it.call("Greeter/greet", {"name": "bob"}, type=tuple[str, ...]) == ("hello bob",)
        assert await it.call("Greeter/noop") is None
        assert await it.call(served.plain, 1) == 2
        assert await it.call(served.plain) == 8
        assert await it.call(served.raw, b"abc") == b"cba"
        assert await it.call("Greeter/raw", b"abc", type=bytes) == b"cba"
        assert await it.call(add, 5, key="a/b %é") == 5
        assert await it.call("Counter/total", key="a/b %é") == 5
        assert (await it.call(served.headers, headers={"X-Tenant": "t1"}))["x-tenant"] == "t1"

    play(scenario)


def test_calls_that_fail(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        for code in (418, 404, 500, 1000):
            with pytest.raises(TerminalError, match="no") as caught:
                await it.call(fail, code)
            assert (caught.value.code, caught.value.metadata) == (code, {"why": "so"})
        with pytest.raises(NotFound, match="Nobody"):
            await it.call("Nobody/greet")
        with pytest.raises(NotFound, match="nothing"):
            await it.call("Greeter/nothing")
        with pytest.raises(Invalid):
            await it.call("Counter/add", 1)
        with pytest.raises(Invalid, match="key="):
            await it.call(add, 1)
        with pytest.raises(Invalid, match="key"):
            await it.call(greet, Person("x"), key="k")
        with pytest.raises(TypeError, match="not a handler"):
            await it.call(cast(Any, print))
        with pytest.raises(TimeoutError):
            await it.call(slow, 30, timeout=timedelta(seconds=0.2))

    play(scenario)


def test_idempotency_keys(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        assert await it.call(add, 5, key="k", idempotency_key="once") == 5
        assert await it.call(add, 5, key="k", idempotency_key="once") == 5
        assert await it.call(served.total, key="k") == 5
        first = await it.send(add, 1, key="k", idempotency_key="twice")
        again = await it.send(add, 1, key="k", idempotency_key="twice")
        assert (first.fresh, again.fresh) == (True, False)
        assert first.id == again.id
        assert await again.attach() == 6

    play(scenario)


def test_send(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        sent = await it.send(greet, Person("ada"))
        assert sent.id.startswith("inv_1")
        assert await sent.attach() == ["hello ada"]
        assert await sent.output() == ["hello ada"]
        assert await it.invocation(sent.id).attach(timeout=5) == ["hello ada"]
        assert await it.invocation(sent.id, tuple[str, ...]).output() == ("hello ada",)
        later = await it.send(add, 2, key="k", delay=timedelta(minutes=5))
        assert (await later.describe()).status == "scheduled"
        with pytest.raises(NotReady):
            await later.output()
        soon = await it.send(add, 2, key="k", delay=0.05)
        assert await soon.attach() == 2
        failing = await it.send(fail, 418)
        with pytest.raises(TerminalError) as caught:
            await failing.attach()
        assert caught.value.code == 418

    play(scenario)


def test_invocations_that_are_not_there(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        unknown = it.invocation(ID)
        with pytest.raises(NotFound):
            await unknown.attach()
        with pytest.raises(NotFound):
            await unknown.output()
        with pytest.raises(NotFound):
            await unknown.cancel()
        with pytest.raises(NotFound):
            await unknown.describe()
        with pytest.raises(Invalid):
            await it.invocation("nonsense").attach()
        with pytest.raises(Invalid):
            await it.invocation("nonsense").kill()

    play(scenario)


async def reached(invocation: ClientInvocation[Any], *statuses: str) -> Any:
    """What is known of it as soon as it has one of these statuses."""
    while True:
        it = await invocation.describe()
        if it.status in statuses:
            return it
        await asyncio.sleep(0.01)


def test_control(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        cancelled = await it.send(slow, 600)
        await reached(cancelled, "running", "suspended")
        await cancelled.cancel()
        with pytest.raises(TerminalError) as caught:
            await cancelled.attach()
        assert caught.value.code == 409
        killed = await it.send(slow, 600)
        await killed.kill()
        with pytest.raises(TerminalError, match="killed"):
            await killed.attach()
        with pytest.raises(Conflict):
            await killed.kill()
        paused = await it.send(slow, 0.2)
        await reached(paused, "running", "suspended")
        await paused.pause()
        assert (await reached(paused, "paused")).key is None
        with pytest.raises(Conflict):
            await paused.purge()
        await paused.resume()
        assert await paused.attach() == "done"
        again = await paused.restart()
        assert again.id != paused.id
        assert await again.attach() == "done"
        assert (await again.describe()).restarted_from == paused.id
        await paused.purge(journal_only=True)
        assert (await paused.describe()).journal == []
        await paused.purge()
        with pytest.raises(NotFound):
            await paused.output()

    play(scenario)


def test_describe(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        failing = await it.send(broken)
        described = await reached(failing, "paused")
        assert described.attempts >= 2
        assert described.last_failure["message"].endswith("boom")
        assert (described.target, described.service, described.handler) == ("Greeter/broken", "Greeter", "broken")
        assert [each["kind"] for each in described.journal] == ["Input"]
        done = await it.send(add, 1, key="k")
        await done.attach()
        described = await done.describe()
        assert (described.status, described.key, described.result) == ("completed", "k", {"content": "MQ=="})
        await failing.kill()

    play(scenario)


async def asked(it: Caller, key: str) -> str:
    """The awakeable that `ask` waits for, as soon as it does."""
    while True:
        if text := await it.state(counter, key).get("text", str):
            return cast(str, text)
        await asyncio.sleep(0.01)


def test_awakeables_and_signals(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        asking = await it.send(ask, "one")
        await it.resolve_awakeable(await asked(it, "one"), "granted")
        assert await asking.attach() == "granted"
        asking = await it.send(ask, "two")
        await it.reject_awakeable(await asked(it, "two"), "denied", code=403)
        with pytest.raises(TerminalError, match="denied") as caught:
            await asking.attach()
        assert caught.value.code == 403
        with pytest.raises(Invalid):
            await it.resolve_awakeable("nonsense", 1)
        listening = await it.send(served.listen)
        await listening.signal("go", 1)
        await listening.signal("go", 2)
        assert await listening.attach() == [1, 2]

    play(scenario)


def test_workflows(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        workflow = it.workflow(signup, "ada")
        with pytest.raises(NotFound):
            await workflow.output()
        submitted = await workflow.submit("ada@example.org")
        assert submitted.fresh
        assert not (await workflow.submit("other@example.org")).fresh
        with pytest.raises(NotReady):
            await workflow.output()
        with pytest.raises(TerminalError) as caught:
            await it.call(served.run, "x", key="ada")
        assert caught.value.code == 409
        await it.call(click, "s3cret", key="ada")
        assert await workflow.attach() == "ada@example.org s3cret"
        for same in (
            it.workflow("Signup", "ada", str),
            it.workflow("Signup/run", "ada"),
            it.workflow(served.run, "ada"),
        ):
            assert await same.output() == "ada@example.org s3cret"
        assert await submitted.attach() == "ada@example.org s3cret"
        with pytest.raises((Invalid, NotFound)):  # at the ingress there just is no such run, as with restate-server
            await it.workflow("Counter", "k").attach()

    play(scenario)


def test_state(play: Play) -> None:
    async def scenario(it: Caller) -> None:
        state = it.state(counter, "k/1")
        assert await state.get("total") is None
        assert await state.get("total", int, 3) == 3
        await it.call(add, 5, key="k/1")
        assert await state.get("total", int) == 5
        await state.set("total", 40)
        await state.set("when", timedelta(hours=1))
        assert await it.call(add, 2, key="k/1") == 42
        assert await state.keys() == ["total", "when"]
        assert await state.get("when", timedelta) == timedelta(hours=1)
        await state.clear("total")
        assert await it.call(add, 2, key="k/1") == 2
        await it.state("Counter", "k/1").clear_all()
        assert await state.keys() == []
        with pytest.raises(Invalid):
            await it.state("Greeter", "k").get("total")
        with pytest.raises(NotFound):
            await it.state("Nobody", "k").set("total", 1)

    play(scenario)


async def what_type_checkers_see(it: Client, blocking: SyncClient) -> None:
    """Read by mypy, never run."""
    assert_type(await it.call(greet, Person("x")), list[str])
    assert_type(await it.call(served.plain, 1), int)
    assert_type(await it.call(served.plain), int)
    assert_type(await it.call(add, 1, key="k", idempotency_key="i", timeout=5), int)
    assert_type(await it.call("Greeter/greet", 1, type=str), str)
    assert_type(await it.call("Greeter/greet", 1), Any)
    assert_type(await it.send(add, 1, key="k", delay=5), ClientInvocation[int])
    assert_type(await (await it.send(greet, Person("x"))).attach(), list[str])
    assert_type(it.invocation(ID, int), ClientInvocation[int])
    assert_type(blocking.call(greet, Person("x")), list[str])
    assert_type(blocking.call(served.plain), int)
    assert_type(blocking.send(add, 1, key="k").attach(), int)
    assert_type(blocking.invocation(ID, int).output(), int)
    await it.call(greet, "x")  # type: ignore[arg-type]
    await it.call(greet)  # type: ignore[arg-type]
    await it.call(add, 1, kye="k")  # type: ignore[call-overload]


# Engine


def test_engine_keeps_its_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "agent.db"
        async with Engine(served.app, path) as engine:
            assert await engine.call(add, 5, key="k") == 5
            waiting = await engine.send(ask, "q")
            question = await asked(engine, "q")
        async with Engine([served.app], str(path)) as engine:
            assert await engine.call(add, 5, key="k") == 10
            await engine.resolve_awakeable(question, "yes")
            assert await engine.invocation(waiting.id, str).attach() == "yes"
            with pytest.raises(StorageError, match="in use"):
                await Engine(served.app, path).start()
        with pytest.raises(Unavailable, match="async with"):
            await engine.call(add, 5, key="k")

    asyncio.run(scenario())


@pytest.mark.parametrize("partitions", [1, 3])
def test_engine_with_partitions(tmp_path: Path, partitions: int) -> None:
    async def scenario() -> None:
        path = tmp_path / "data"
        path.mkdir()
        async with Engine(served.app, path, partitions=partitions) as engine:
            assert await asyncio.gather(*(engine.call(add, n, key=f"k{n}") for n in range(20))) == list(range(20))
        async with Engine(served.app, path) as engine:
            assert await asyncio.gather(*(engine.call(served.total, key=f"k{n}") for n in range(20))) == list(range(20))
        with pytest.raises(StorageError, match=f"has {partitions} partitions, not 2"):
            await Engine(served.app, path, partitions=2).start()
        assert len(list(path.glob("partition-*.db"))) == partitions

    asyncio.run(scenario())


def test_engine_refuses_what_is_no_app(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="App"):
        Engine(cast(Any, [counter]))
    with pytest.raises(Invalid):
        Engine(served.app, partitions=0)

    async def scenario() -> None:
        with pytest.raises(StorageError):
            await Engine(served.app, tmp_path / "nowhere" / "agent.db").start()
        (tmp_path / "layout.json").write_text("{")
        with pytest.raises(StorageError, match=r"layout\.json"):
            await Engine(served.app, tmp_path).start()

    asyncio.run(scenario())


# Over HTTP: what is sent, what answers mean, what is sent again


def test_private_handlers_are_for_handlers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with caller("client", tmp_path) as client:
            with pytest.raises(Invalid, match="private"):
                await client.call(served.hidden)

    asyncio.run(scenario())


CALL = op.Invoke("Counter", "add", "a/b", b"5", "application/json", (("x-a", "b"),), "once")


@pytest.mark.parametrize(
    ("operation", "method", "path"),
    [
        (CALL, "POST", "/Counter/a%2Fb/add"),
        (op.Invoke("Greeter", "greet", None), "POST", "/Greeter/greet"),
        (op.Send(CALL), "POST", "/Counter/a%2Fb/add/send"),
        (op.Send(CALL, 1500), "POST", "/Counter/a%2Fb/add/send?delay=1500ms"),
        (op.Attach(ID), "GET", f"/restate/invocation/{ID}/attach"),
        (op.Output(ID), "GET", f"/restate/invocation/{ID}/output"),
        (op.WorkflowResult("Signup", "a b", True), "GET", "/restate/workflow/Signup/a%20b/attach"),
        (op.WorkflowResult("Signup", "a b", False), "GET", "/restate/workflow/Signup/a%20b/output"),
        (op.SendSignal(ID, "go on", b""), "POST", f"/restate/signals/{ID}/go%20on"),
        (op.CompleteAwakeable("sign_1", Value(b"1")), "POST", "/restate/awakeables/sign_1/resolve"),
        (op.CompleteAwakeable("sign_1", Failure(500, "x")), "POST", "/restate/awakeables/sign_1/reject"),
        (op.CompleteAwakeable("sign_1", Failure(409, "x")), "POST", "/restate/awakeables/sign_1/reject?code=409"),
        (op.Control(ID, "kill"), "PATCH", f"/invocations/{ID}/kill"),
        (op.Control(ID, "restart-as-new", 3), "PATCH", f"/invocations/{ID}/restart-as-new?from=2"),
        (op.Describe(ID), "GET", f"/invocations/{ID}"),
        (op.ReadState("Counter", "k?"), "GET", "/services/Counter/state/k%3F"),
        (op.ChangeState("Counter", "k", {"a": b"1", "b": None}), "PATCH", "/services/Counter/state/k"),
    ],
)
def test_requests(operation: Operation[Any], method: str, path: str) -> None:
    request = operation.to_http()
    assert (request.method, request.path) == (method, path)
    assert request.admin == path.startswith(("/invocations", "/services"))


def test_what_a_call_carries() -> None:
    request = CALL.to_http()
    assert request.headers == (("x-a", "b"), ("content-type", "application/json"), ("idempotency-key", "once"))
    assert request.body == b"5"
    empty = op.Invoke("Greeter", "greet", None, b"", "application/json").to_http()
    assert empty.headers == ()
    with pytest.raises(Invalid):
        op.Invoke("Counter", "add", "..").to_http()


def reply(status: int, body: Any = None, **headers: str) -> HttpReply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpReply(status, fields, b"" if body is None else msgspec.json.encode(body))


def error(status: int, source: str = "ingress", **more: Any) -> HttpReply:
    body = {"code": status, "message": "so", "source": source, **more}
    return reply(status, body, x_restate_error_source=source)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Invalid), (404, NotFound), (409, Conflict), (429, Overloaded), (503, Unavailable), (470, NotReady)],
)
def test_errors_of_the_ingress(status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="so"):
        CALL.from_http(error(status))


def test_errors_of_other_kinds() -> None:
    with pytest.raises(RequestError, match="so") as refused:
        CALL.from_http(error(405))
    assert refused.value.status == 405
    with pytest.raises(RequestError, match="length limit") as refused:
        CALL.from_http(HttpReply(413, {}, b"length limit exceeded"))
    assert refused.value.status == 413
    with pytest.raises(TerminalError) as terminal:
        CALL.from_http(error(404, "invocation", metadata={"a": "b"}))
    assert (terminal.value.code, terminal.value.metadata) == (404, {"a": "b"})
    with pytest.raises(TerminalError):
        CALL.from_http(error(200, "invocation"))
    with pytest.raises(NotFound):
        op.Attach(ID).from_http(error(404, "invocation", accepted=False))
    with pytest.raises(Unavailable, match=ID):
        accepted = error(503, accepted=True)
        CALL.from_http(accepted._replace(headers={**accepted.headers, "x-restate-id": ID}))


PLAIN = op.Invoke("Greeter", "greet", None)


@pytest.mark.parametrize(
    ("operation", "answer", "again"),
    [
        (PLAIN, error(503, accepted=False, retryable=True), True),
        (PLAIN, error(503, accepted=True, retryable=False), False),
        (PLAIN, error(503), False),
        (PLAIN, error(429), True),
        (PLAIN, error(429, retryable=True), True),
        (PLAIN, error(500), False),
        (PLAIN, error(404), False),
        (PLAIN, error(503, "invocation"), False),
        (CALL, error(503, accepted=True, retryable=True), True),
        (CALL, error(503), True),
        (CALL, error(500), True),
        (CALL, HttpReply(502, {}, b"<html>bad gateway"), True),
        (PLAIN, HttpReply(502, {}, b"<html>bad gateway"), False),
        (CALL, error(500, "invocation"), False),
        (CALL, error(400), False),
        (op.Attach(ID), error(503), True),
        (op.Control(ID, "kill"), HttpReply(503, {}, b""), False),
    ],
)
def test_what_is_sent_again(operation: Operation[Any], answer: HttpReply, again: bool) -> None:
    assert (Retries(operation, 3).after_reply(answer) is not None) == again


def test_how_often_it_is_sent_again() -> None:
    assert Retries(PLAIN, 3).after_failure(sent=True) is None
    retries = Retries(PLAIN, 3)
    delays = list(
        itertools.takewhile(lambda delay: delay is not None, iter(lambda: retries.after_failure(sent=False), 0))
    )
    assert len(delays) == 3
    assert all(0.07 < cast(float, delay) < 0.6 for delay in delays)
    assert Retries(CALL, 1).after_failure(sent=True) is not None


def test_nobody_is_there() -> None:
    async def scenario() -> None:
        async with Client("http://127.0.0.1:1", retries=1) as client:
            with pytest.raises(Unavailable, match=r"cannot connect to http://127\.0\.0\.1:1"):
                await client.call(served.noop)
        with SyncClient("http://127.0.0.1:1", retries=50, timeout=0.3) as blocking, pytest.raises(TimeoutError):
            blocking.call(served.noop)

    asyncio.run(scenario())
    with pytest.raises(Invalid, match="http://"):
        Client("127.0.0.1:8080")
    with pytest.raises(Invalid, match="negative"):
        Client(timeout=-1)


def test_a_server_that_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as server:
            assert server.ingress is not None
            url, port = server.ingress.url, server.ingress.port
        async with Client(url) as client:
            call = asyncio.ensure_future(client.call(add, 5, key="k", idempotency_key="once"))
            await asyncio.sleep(0.2)
            config = Config(data_dir=str(tmp_path), ingress_port=port, admin_port=0, drain_seconds=0.2)
            server = Server(config, [served.app])
            await server.start()
            assert await call == 5
            await server.stop()

    asyncio.run(scenario())


def test_a_call_that_outlives_its_server(tmp_path: Path) -> None:
    """Who waits is told that it was accepted; with an idempotency key the client comes back for the result."""

    async def scenario() -> None:
        async with serving(tmp_path, stop_grace_seconds=0.1) as server:
            assert server.ingress is not None
            port = server.ingress.port
            async with Client(server.ingress.url, retries=0) as client:
                plain = asyncio.ensure_future(client.call(slow, 1))
                async with Client(server.ingress.url) as patient:
                    keyed = asyncio.ensure_future(patient.call(slow, 1, idempotency_key="once"))
                    await asyncio.sleep(0.2)
                    await server.stop()
                    with pytest.raises(Unavailable, match="accepted as inv_1"):
                        await plain
                    config = Config(data_dir=str(tmp_path), ingress_port=port, admin_port=0, drain_seconds=0.2)
                    second = Server(config, [served.app])
                    await second.start()
                    assert await keyed == "done"
                    await second.stop()

    asyncio.run(scenario())


def test_a_token_goes_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as server:
            assert server.ingress is not None
            async with Client(server.ingress.url, token="s3cret") as client:
                assert (await client.call(served.headers))["authorization"] == "Bearer s3cret"

    asyncio.run(scenario())
