"""Handlers in other processes use the built-in objects: approvals, sagas and sessions are calls like others."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import App, ApprovalRequest, Context, Service
from perdure.ai.sessions import Session
from perdure.assembly import LocalNode
from perdure.model.actions import Answer as Result
from perdure.model.entries import Failure, Value
from perdure.model.ids import InvocationId
from perdure.protocol.approvals import Answer, Links
from perdure.runtime.approvals import Wanted, answer, list_approvals
from perdure.runtime.deployments import Deployments, Registration
from tests.runtime.elsewhere import World, at, running
from tests.transports.in_loop import in_loop, until

ADDRESS = "http://one:9080"


def app(told: list[ApprovalRequest], mode: Any) -> App:
    desk = Service("Desk", inactivity_timeout=0.05)

    async def tell(request: ApprovalRequest) -> None:
        told.append(request)

    @desk.handler()
    async def refund(ctx: Context) -> str:
        async with ctx.saga() as saga:
            saga.compensate(lambda: told.clear(), name="undo")
            decision = await ctx.approval("Refund?", int, notify=tell, timeout=3600)
            await Session("s").add([decision.value])
        return f"{await Session('s').items()}"

    return App(desk, protocol=mode)


@pytest.mark.parametrize("mode", ["bidi", "request-response"])
@pytest.mark.parametrize("approved", [True, False])
def test_a_handler_elsewhere_asks(mode: str, approved: bool) -> None:
    told: list[ApprovalRequest] = []

    async def scenario(node: LocalNode) -> None:
        await Deployments(node).register(Registration(at(ADDRESS)))
        id = InvocationId((await node.send(node.registry.target("Desk", "refund", None), b"")).id)
        await until(lambda: bool(told))
        (found,) = await list_approvals(node, Wanted(service="Desk"))
        assert told[0].id == found.id and told[0].link is not None and told[0].link.startswith("https://ops/")
        await answer(node, found.id, Answer(approved=approved, value=5 if approved else None, comment="hm"))
        outcome = await node.attach(id)
        assert isinstance(outcome, Result)
        if approved:
            assert outcome.result == Value(b'"[5]"')
        else:
            assert outcome.result == Failure(403, "rejected: hm") and told == []
        assert await list_approvals(node, Wanted()) == []

    run(World(), app(told, mode), scenario)


def run(world: World, served: App, scenario: Callable[[LocalNode], Awaitable[None]]) -> None:
    async def whole() -> None:
        world.apps[ADDRESS] = served
        links = Links(lambda: b"secret", lambda: "https://ops")
        async with running(world, links=links) as node:
            await scenario(node)

    in_loop(whole)()
