"""Which services there are and where each is served: of this process, of its ASGI apps, and deployed elsewhere."""

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.errors import NotFound
from perdure.model.deployments import AsgiEndpoint, Deployment, Endpoint, HttpEndpoint, ProtocolMode, Revision
from perdure.model.invocation import Retention, Target
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind
from perdure.runtime.registry import Registry, Route, retention_of


def info(name: str, *handlers: str) -> ServiceInfo:
    return ServiceInfo(
        name, ServiceKind.SERVICE, {each: HandlerInfo(name, each, HandlerKind.PLAIN) for each in handlers or ("greet",)}
    )


def deployed(id: str, endpoint: Endpoint | None = None, **revisions: Revision) -> Deployment:
    return Deployment(id, endpoint or HttpEndpoint(f"http://{id}"), ProtocolMode.BIDI_STREAM, 5, 7, 0, revisions)


def target(service: str = "Greeter", handler: str = "greet") -> Target:
    return Target(service, handler, HandlerKind.PLAIN)


def test_a_new_invocation_goes_to_the_highest_revision() -> None:
    registry = Registry()
    one, two = [deployed(f"dp_{n}", Greeter=Revision(n, info("Greeter"))) for n in (1, 2)]
    for deployment in (two, one):
        registry.deploy(deployment)
    assert registry.latest("Greeter") == (two, two.revisions["Greeter"])
    assert registry.route(target(), None) == Route(info("Greeter").handlers["greet"], two)
    assert registry.whereabouts("Greeter") == ("dp_2", 2)
    registry.undeploy("dp_2")
    registry.undeploy("dp_2")
    assert registry.route(target(), None) == Route(info("Greeter").handlers["greet"], one)
    registry.undeploy("dp_1")
    assert registry.route(target(), None) is None and registry.services() == [] and registry.latest("Greeter") is None


def test_a_pinned_invocation_finds_its_own_revision() -> None:
    registry = Registry()
    old, new = info("Greeter", "greet", "gone"), info("Greeter", "greet", "fresh")
    one, two = deployed("dp_1", Greeter=Revision(1, old)), deployed("dp_2", Greeter=Revision(2, new))
    registry.deploy(one)
    registry.deploy(two)
    assert registry.route(target(handler="gone"), "dp_1") == Route(old.handlers["gone"], one)
    assert registry.route(target(handler="gone"), None) is None
    assert registry.route(target(handler="fresh"), "dp_1") is None
    assert registry.route(target("Other"), "dp_1") is None and registry.route(target(), "dp_3") is None


def test_what_this_process_serves_comes_first() -> None:
    local = info("Greeter", "greet", "here")
    registry = Registry([local])
    registry.deploy(deployed("dp_1", Greeter=Revision(9, info("Greeter", "greet", "there"))))
    assert registry.service("Greeter") == local and registry.route(target(), None) == Route(
        local.handlers["greet"], None
    )
    assert registry.route(target(handler="there"), None) is None
    pinned = registry.route(target(handler="there"), "dp_1")
    assert pinned is not None and pinned.deployment is not None and pinned.deployment.id == "dp_1"


def test_an_app_of_this_process_comes_before_what_is_deployed_elsewhere() -> None:
    registry = Registry()
    app = deployed("asgi:mine", AsgiEndpoint("mine"), Greeter=Revision(1, info("Greeter")))
    stored = deployed("dp_1", Greeter=Revision(5, info("Greeter")))
    for order in ((app, stored), (stored, app)):
        for deployment in order:
            registry.deploy(deployment)
        route = registry.route(target(), None)
        assert route is not None and route.deployment == app
        assert registry.deployments() == [stored] and registry.deployment("asgi:mine") == app
        assert registry.here() == [info("Greeter")]
        for deployment in order:
            registry.undeploy(deployment.id)


def test_a_deployment_that_changes_takes_its_services_along() -> None:
    registry = Registry()
    before = deployed("dp_1", Greeter=Revision(1, info("Greeter")), Gone=Revision(1, info("Gone")))
    registry.deploy(before)
    registry.deploy(replace(before, revisions={"Greeter": Revision(2, info("Greeter", "other"))}))
    assert [each.name for each in registry.services()] == ["Greeter"]
    assert registry.handler("Greeter", "greet") is None and registry.handler("Greeter", "other") is not None
    assert registry.handler("Gone", "greet") is None


def test_targets_that_are_none_say_what_there_is() -> None:
    registry = Registry([info("Greeter", "greet", "leave")])
    assert registry.target("Greeter", "greet", "k") == Target("Greeter", "greet", HandlerKind.PLAIN, "k")
    with pytest.raises(NotFound, match="service 'Nobody' not found; registered: Greeter"):
        registry.target("Nobody", "greet", None)
    with pytest.raises(NotFound, match="it has: greet, leave"):
        registry.target("Greeter", "nothing", None)
    with pytest.raises(NotFound, match="registered: none"):
        Registry().target("Nobody", "greet", None)


@pytest.mark.parametrize(
    ("kind", "key", "kept"),
    [
        (HandlerKind.WORKFLOW, None, Retention(3, 1)),
        (HandlerKind.PLAIN, "k", Retention(2, 1)),
        (HandlerKind.PLAIN, None, Retention(1, 1)),
    ],
)
def test_how_long_results_are_kept(kind: HandlerKind, key: str | None, kept: Retention) -> None:
    times: dict[str, Any] = {"journal_retention_ms": 1, "idempotency_retention_ms": 2, "workflow_retention_ms": 3}
    assert retention_of(HandlerInfo("S", "h", kind, **times), key) == kept
    longer = HandlerInfo("S", "h", kind, **(times | {"journal_retention_ms": 9}))
    completion = 9 if kind is HandlerKind.PLAIN and key is None else kept.completion_ms
    assert retention_of(longer, key) == Retention(completion, min(9, completion))
