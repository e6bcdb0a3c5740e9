"""Deployments: found out about, registered, changed, removed; and what is stored of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Context, Service
from perdure.assembly import LocalNode, assemble
from perdure.errors import NotFound
from perdure.model.deployments import AsgiEndpoint, Deployment, HttpEndpoint, LambdaEndpoint, ProtocolMode, Revision
from perdure.model.entries import Signal, Value
from perdure.model.ids import InvocationId
from perdure.model.services import HandlerKind, ServiceInfo, ServiceKind
from perdure.runtime import deployments as module
from perdure.runtime.deployments import DeploymentError, Deployments, Registration, Update
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import SqliteStorage
from perdure.transports.remote import NO_HTTP2, Answer
from tests.runtime.elsewhere import World, answer, at, manifest, running, service
from tests.transports.in_loop import in_loop

ONE, TWO, THREE = "http://one:9080", "http://two:9080", "http://three:9080"
FUNCTION = "arn:aws:lambda:eu-central-1:123456789012:function:greeter:1"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    yield


def says(*services: dict[str, Any], **options: Any) -> list[Answer | Exception]:
    return [answer(json.dumps(manifest(*services, **options)).encode())]


def revisions(deployment: Deployment) -> dict[str, int]:
    return {name: revision.number for name, revision in deployment.revisions.items()}


def latest(node: LocalNode, name: str = "Greeter") -> tuple[str, int]:
    found = node.registry.latest(name)
    assert found is not None
    return found[0].endpoint.address, found[1].number


async def register(deployments: Deployments, address: str, **options: Any) -> Deployment:
    return (await deployments.register(Registration(at(address), **options)))[0]


# ---- registration


@in_loop
async def test_a_deployment_is_what_its_endpoint_says() -> None:
    world = World()
    world.answers[ONE] = says(service("Greeter", "SERVICE", "greet", "leave"), service("Counter", "VIRTUAL_OBJECT"))
    async with running(world) as node:
        deployments = Deployments(node)
        wanted = Registration(HttpEndpoint(ONE), {"authorization": "x"}, {"git": "abc"})
        deployment, fresh = await deployments.register(wanted)
        assert fresh and deployment.id.startswith("dp_1") and deployments.all() == [deployment]
        assert deployments.get(deployment.id) == deployment
        assert (deployment.mode, deployment.oldest, deployment.newest) == (ProtocolMode.BIDI_STREAM, 5, 7)
        assert (deployment.headers, deployment.metadata) == ({"authorization": "x"}, {"git": "abc"})
        assert deployment.sdk == "test-sdk/1" and abs(deployment.created_at - node.clock.now_ms()) < 60_000
        assert revisions(deployment) == {"Greeter": 1, "Counter": 1}
        greet = node.registry.handler("Greeter", "greet")
        assert greet is not None and greet.kind is HandlerKind.PLAIN
        address, request = world.asked[0]
        assert (address, request.method, request.path) == (ONE, "GET", "/discover")
        fields = dict(request.headers)
        assert fields["authorization"] == "x" and "endpointmanifest.v4+json" in fields["accept"]


@in_loop
async def test_the_same_address_again_changes_nothing() -> None:
    world = World()
    world.answers[ONE] = says(service("Greeter"))
    async with running(world) as node:
        deployments = Deployments(node)
        first, _ = await deployments.register(Registration(HttpEndpoint(ONE)))
        world.answers[ONE] = says(service("Greeter"), service("Other"))
        again, fresh = await deployments.register(Registration(HttpEndpoint(ONE), {"a": "b"}))
        assert again == first and not fresh and deployments.all() == [first]


@in_loop
async def test_force_takes_what_the_endpoint_says_now() -> None:
    world = World()
    world.answers[ONE] = says(service("Greeter"), service("Gone"))
    async with running(world) as node:
        deployments = Deployments(node)
        first = await register(deployments, ONE)
        world.answers[ONE] = says(service("Greeter", "VIRTUAL_OBJECT", "other"))
        second, fresh = await deployments.register(Registration(HttpEndpoint(ONE), {"a": "b"}, force=True))
        assert not fresh and second.id == first.id and deployments.all() == [second]
        assert revisions(second) == {"Greeter": 2} and second.headers == {"a": "b"}
        assert node.registry.service("Gone") is None and node.registry.handler("Greeter", "greet") is None


@in_loop
async def test_a_dry_run_stores_nothing() -> None:
    world = World()
    world.answers[ONE] = says(service("Greeter"))
    async with running(world) as node:
        deployments = Deployments(node)
        deployment, fresh = await deployments.register(Registration(HttpEndpoint(ONE), dry_run=True))
        assert fresh and revisions(deployment) == {"Greeter": 1}
        assert deployments.all() == [] and node.registry.service("Greeter") is None


@in_loop
async def test_another_type_is_a_breaking_change() -> None:
    world = World()
    world.answers[ONE] = says(service("Greeter"))
    world.answers[TWO] = says(service("Greeter", "VIRTUAL_OBJECT"))
    async with running(world) as node:
        deployments = Deployments(node)
        await register(deployments, ONE)
        for dry_run in (True, False):
            with pytest.raises(DeploymentError, match="is a SERVICE and would become a VIRTUAL_OBJECT") as caught:
                await register(deployments, TWO, dry_run=dry_run)
            assert (caught.value.restate_code, caught.value.status) == ("META0006", 409)
        assert len(deployments.all()) == 1
        await register(deployments, TWO, breaking=True)
        assert latest(node) == (TWO, 2)


@in_loop
async def test_the_highest_revision_is_the_latest_and_falls_back() -> None:
    world = World()
    for address in (ONE, TWO, THREE):
        world.answers[address] = says(service("Greeter"), service(f"Only{address[7:-5].title()}"))
    async with running(world) as node:
        deployments = Deployments(node)
        one, two, three = [await register(deployments, address) for address in (ONE, TWO, THREE)]
        assert [revisions(each)["Greeter"] for each in (one, two, three)] == [1, 2, 3]
        assert latest(node) == (THREE, 3) and deployments.all() == [one, two, three]
        await deployments.remove(three.id)
        assert latest(node) == (TWO, 2) and node.registry.service("OnlyThree") is None
        await register(deployments, ONE, force=True)
        assert latest(node) == (ONE, 3)
        await deployments.remove(one.id)
        assert latest(node) == (TWO, 2)
        await deployments.remove(two.id)
        assert node.registry.latest("Greeter") is None and node.registry.service("Greeter") is None
        for unknown in (one.id, "dp_1nothing", ""):
            for change in (deployments.remove(unknown), deployments.update(unknown, Update(overwrite=True))):
                with pytest.raises(NotFound):
                    await change


@in_loop
async def test_revisions_are_counted_where_they_are_stored() -> None:
    """An ASGI app of this process comes first, but is not what a new deployment follows."""
    info = ServiceInfo("Greeter", ServiceKind.SERVICE, {})
    world = World()
    for address in (ONE, TWO, THREE):
        world.answers[address] = says(service("Greeter"))
    async with running(world) as node:
        deployments = Deployments(node)
        await register(deployments, ONE)
        await register(deployments, TWO)
        mode = ProtocolMode.BIDI_STREAM
        node.registry.deploy(Deployment("asgi", AsgiEndpoint("mine"), mode, 5, 7, 0, {"Greeter": Revision(1, info)}))
        assert latest(node)[0] == "asgi:mine"
        assert revisions(await register(deployments, THREE)) == {"Greeter": 3}
        with pytest.raises(NotFound):
            deployments.get("asgi")
        assert len(deployments.all()) == 3
        node.registry.undeploy("asgi")
        assert latest(node) == (THREE, 3)


# ---- discovery that fails


BAD: list[tuple[str, list[Answer | Exception], str, str]] = [
    (ONE, [ConnectionError("refused")], "META0003", "http://one:9080 can't be reached: refused"),
    (ONE, [Answer(404, {}, b"")], "META0003", "status 404: is this the path"),
    (ONE, [Answer(401, {}, b"")], "META0003", "status 401: does it know this server's identity key"),
    (ONE, [Answer(503, {}, b"")], "META0003", "answered with status 503"),
    (ONE, [Answer(302, {}, b"")], "META0003", "answered with status 302"),
    (ONE, [answer(b"{}", content_type="application/json")], "META0013", "content type application/json"),
    (ONE, [Answer(200, {}, b"<html>")], "META0013", "content type None"),
    (ONE, [answer(b"{")], "META0013", "http://one:9080/discover: "),
    (ONE, [answer(b'{"protocolMode": "BIDI_STREAM"}')], "META0013", "/discover: "),
    (ONE, says(service("Greeter"), oldest=1, newest=4), "META0012", "1 to 4"),
    (ONE, says(service("Greeter"), oldest=8, newest=9), "META0012", "8 to 9"),
    (ONE, says(service("restateful")), "META0005", "reserved name"),
    (ONE, says(service("no name")), "META0013", "is no name"),
    (ONE, [ConnectionError(f"{NO_HTTP2}: b'HTTP/1.1'")], "META0014", "use_http_11"),
    ("http://frames:9080", [ConnectionError("http://frames:9080/discover: refused")], "META0003", "refused"),
    (FUNCTION, says(service("Greeter")), "META0015", "can't hold a conversation"),
]


@pytest.mark.parametrize(("address", "answers", "code", "text"), BAD)
@in_loop
async def test_discovery_that_fails(address: str, answers: list[Answer | Exception], code: str, text: str) -> None:
    world = World()
    world.answers[address] = answers
    async with running(world) as node:
        deployments = Deployments(node)
        with pytest.raises(DeploymentError) as caught:
            await register(deployments, address)
        assert caught.value.restate_code == code and text in caught.value.message
        assert caught.value.status == (400 if code == "META0005" else 500)
        assert deployments.all() == []


@pytest.mark.parametrize(
    "passing", [ConnectionError("reset"), *[Answer(status, {}, b"") for status in (408, 429, 502)]]
)
@in_loop
async def test_what_may_pass_is_tried_again(passing: Answer | Exception) -> None:
    world = World()
    world.answers[ONE] = [passing, passing, *says(service("Greeter"))]
    async with running(world) as node:
        await register(Deployments(node), ONE)
        assert len(world.asked) == module.TRIES
        world.asked.clear()
        world.answers[TWO] = [Answer(404, {}, b"")]
        with pytest.raises(DeploymentError):
            await register(Deployments(node), TWO)
        assert len(world.asked) == 1


@in_loop
async def test_what_is_found_out_about_the_way_is_kept() -> None:
    world = World()
    (found,) = says(service("Greeter"), mode="REQUEST_RESPONSE", lambdaCompression="zstd")
    assert isinstance(found, Answer)
    world.answers[ONE], world.answers[FUNCTION] = [found._replace(http_version="1.1")], [found]
    async with running(world) as node:
        deployments = Deployments(node)
        assert (await register(deployments, ONE)).endpoint == HttpEndpoint(ONE, "1.1")
        assert (await register(deployments, FUNCTION)).endpoint == LambdaEndpoint(FUNCTION, None, "zstd")


@in_loop
async def test_a_node_that_reaches_nothing() -> None:
    node = assemble([], [MemoryStorage()])
    await node.start()
    with pytest.raises(DeploymentError) as caught:
        await register(Deployments(node), ONE)
    assert caught.value.restate_code == "META0003"
    await node.stop(0)


# ---- changes


@in_loop
async def test_an_update_moves_a_deployment_and_keeps_its_services() -> None:
    world = World()
    world.answers[ONE] = says(service("Greeter"))
    world.answers[TWO] = says(service("Greeter", "SERVICE", "greet", "more"), service("New"))
    async with running(world) as node:
        deployments = Deployments(node)
        known = await register(deployments, ONE, headers={"a": "b"})
        assert await deployments.update(known.id, Update()) == known and len(world.asked) == 1
        dry = await deployments.update(known.id, Update(HttpEndpoint(TWO), dry_run=True))
        assert dry.endpoint == HttpEndpoint(TWO) and deployments.get(known.id) == known
        moved = await deployments.update(known.id, Update(HttpEndpoint(TWO)))
        assert moved == deployments.get(known.id)
        assert (moved.endpoint, moved.headers, moved.revisions) == (HttpEndpoint(TWO), {"a": "b"}, known.revisions)
        secret = await deployments.update(known.id, Update(headers={"c": "d"}))
        assert secret.headers == {"c": "d"} and world.asked[-1][0] == TWO
        assert dict(world.asked[-1][1].headers)["c"] == "d"
        whole = await deployments.update(known.id, Update(overwrite=True))
        assert revisions(whole) == {"Greeter": 1, "New": 1} and node.registry.handler("Greeter", "more") is not None


@in_loop
async def test_an_update_keeps_the_versions_of_the_protocol() -> None:
    world = World()
    world.answers[ONE] = says(service("Greeter"))
    world.answers[TWO] = says(service("Greeter"), newest=6)
    async with running(world) as node:
        deployments = Deployments(node)
        known = await register(deployments, ONE)
        with pytest.raises(DeploymentError, match="5 to 6 of the protocol, deployment dp_1") as caught:
            await deployments.update(known.id, Update(HttpEndpoint(TWO), overwrite=True))
        assert (caught.value.restate_code, caught.value.status) == ("META0016", 400)
        assert deployments.get(known.id) == known


@in_loop
async def test_options_of_a_service_are_those_of_its_latest_revision() -> None:
    world = World()
    for address in (ONE, TWO):
        world.answers[address] = says(service("Greeter", "SERVICE", "greet", "leave"))
    async with running(world) as node:
        deployments = Deployments(node)
        await register(deployments, ONE)
        await register(deployments, TWO)
        info = await deployments.change_service("Greeter", {"private": True, "inactivity_timeout_ms": 5})
        assert node.registry.service("Greeter") == info and latest(node) == (TWO, 2)
        assert {(each.private, each.inactivity_timeout_ms) for each in info.handlers.values()} == {(True, 5)}
        one, two = deployments.all()
        assert not one.revisions["Greeter"].info.handlers["greet"].private
        assert two.revisions["Greeter"].info == info
        await register(deployments, TWO, force=True)
        greet = node.registry.handler("Greeter", "greet")
        assert greet is not None and not greet.private
        with pytest.raises(NotFound):
            await deployments.change_service("Nobody", {})


# ---- stored


greeter = Service("Greeter")


@greeter.handler()
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


@greeter.handler()
async def wait(ctx: Context) -> str:
    word: str = await ctx.signal("go", type=str)
    return word


@pytest.mark.parametrize("partitions", [1, 3])
@in_loop
async def test_deployments_outlive_the_process(partitions: int, tmp_path: Path) -> None:
    world = World()
    world.apps[ONE] = App(greeter)

    def stores() -> list[SqliteStorage]:
        return [SqliteStorage(tmp_path / f"{index}.db") for index in range(partitions)]

    async with running(world, stores()) as node:
        deployment = await register(Deployments(node), ONE)
        target = node.registry.target("Greeter", "wait", None)
        sent = [InvocationId((await node.send(target, b"")).id) for _ in range(10)]
    asked = len(world.asked)
    world.began.clear()
    async with running(world, stores()) as node:
        assert Deployments(node).all() == [deployment] and len(world.asked) == asked
        for id in sent:
            described: Any = await node.describe(id)
            assert described.invocation.status.failure is None, "no attempt was made before its deployment was known"
            await node.signal(id, Signal("go", Value(b'"now"')))
        answers = [await node.attach(id) for id in sent]
        assert {getattr(each, "result", None) for each in answers} == {Value(b'"now"')}
        assert {address for address, _ in world.began} == {ONE}
        await Deployments(node).remove(deployment.id)
    async with running(world, stores()) as node:
        assert Deployments(node).all() == []
