"""Deployments are rows of the first partition; an invocation's pin is its own."""

from msgspec.structs import replace

from perdure.core.tables import DEPLOYMENT
from perdure.model import commands as c
from perdure.model import entries as e
from perdure.model.actions import Deploy, Done, Reply, Undeploy
from perdure.model.deployments import AsgiEndpoint, Deployment, HttpEndpoint, ProtocolMode, Revision
from perdure.model.invocation import Invoked
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind
from tests.core.invariants import check
from tests.core.world import AT, TOKEN, World

INFO = ServiceInfo("greeter", ServiceKind.SERVICE, {"greet": HandlerInfo("greeter", "greet", HandlerKind.PLAIN)})
ONE = Deployment(
    "dp_1", HttpEndpoint("http://one"), ProtocolMode.BIDI_STREAM, 5, 7, AT, {"greeter": Revision(1, INFO)}, {"a": "b"}
)
TWO = replace(ONE, id="dp_2", endpoint=HttpEndpoint("http://two", "1.1"))


def test_a_deployment_is_stored_and_told_of() -> None:
    world = World()
    world.apply(c.PutDeployment(AT, ONE, TOKEN))
    assert world.actions == [Deploy(ONE), Reply(TOKEN, Done())]
    world.apply(c.PutDeployment(AT, TWO))
    assert world.actions == [Deploy(TWO)]
    assert world.rows(DEPLOYMENT) == {("dp_1",): ONE, ("dp_2",): TWO}
    changed = replace(ONE, headers={})
    world.apply(c.PutDeployment(AT, changed))
    assert world.rows(DEPLOYMENT)[("dp_1",)] == changed


def test_a_process_that_starts_is_told_of_all_there_are() -> None:
    world = World()
    world.apply(c.Recover(AT))
    assert not world.all(Deploy)
    for deployment in (ONE, TWO):
        world.apply(c.PutDeployment(AT, deployment))
    world.apply(c.Recover(AT))
    assert world.all(Deploy) == [Deploy(ONE), Deploy(TWO)]


def test_it_is_told_of_them_before_any_attempt_begins() -> None:
    world = World()
    world.invoke()
    world.apply(c.PutDeployment(AT, ONE))
    world.apply(c.Recover(AT))
    kinds = [type(action).__name__ for action in world.actions]
    assert kinds.index("Deploy") < kinds.index("StartAttempt")


def test_a_deployment_that_is_removed_is_forgotten() -> None:
    world = World()
    world.apply(c.PutDeployment(AT, ONE))
    world.apply(c.RemoveDeployment(AT, "dp_1", TOKEN))
    assert world.actions == [Undeploy("dp_1"), Reply(TOKEN, Done())] and world.rows(DEPLOYMENT) == {}
    world.apply(c.RemoveDeployment(AT, "dp_1"))
    assert world.actions == [Undeploy("dp_1")]


def test_an_invocation_is_pinned_by_the_attempt_that_runs() -> None:
    world = World()
    id = world.invoke()
    number, attempts = world[id].number, world[id].attempts
    world.apply(c.Pin(AT, number, attempts - 1, "dp_9", 5))
    world.apply(c.Pin(AT, number, attempts + 1, "dp_9", 5))
    world.apply(c.Pin(AT, number + 1, attempts, "dp_9", 5))
    assert (world[id].deployment, world[id].protocol_version) == (None, 0)
    world.apply(c.Pin(AT, number, attempts, "dp_1", 6))
    assert (world[id].deployment, world[id].protocol_version) == ("dp_1", 6)
    assert type(world[id].status) is Invoked and world.actions == []
    world.apply(c.Append(AT, number, attempts, e.Run(1, "step")))
    assert world[id].deployment == "dp_1"
    check([world.snapshot()])


def test_only_what_outlives_the_process_is_pinned_to() -> None:
    assert ONE.stored and not replace(ONE, endpoint=AsgiEndpoint("mine")).stored
