"""Invocations on deployments: where each runs and stays, in which version of the protocol, and how many at once."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import App, Context, RetryPolicy, Service
from perdure.assembly import LocalNode
from perdure.model.actions import Answer as Result
from perdure.model.entries import Signal, Value
from perdure.model.ids import InvocationId
from perdure.model.invocation import Completed, Invoked, Suspended
from perdure.runtime.clock import VirtualClock
from perdure.runtime.deployments import Deployments, Registration
from perdure.transports import remote as remote_module
from tests.runtime.elsewhere import World, answer, at, manifest, running, service
from tests.transports.in_loop import in_loop, until

ONE, TWO = "http://one:9080", "http://two:9080"
AT = 1_700_000_000_000
GO = Signal("go", Value(b'"now"'))
V5, V6, V7 = [f"application/vnd.restate.invocation.v{version}" for version in (5, 6, 7)]


def app(word: str) -> App:
    """Each deployment's says another word."""
    greeter = Service("Greeter")

    @greeter.handler()
    async def greet(ctx: Context) -> str:
        return word

    @greeter.handler()
    async def step_then_wait(ctx: Context) -> list[str]:
        return [await ctx.run("step", lambda: word), await ctx.signal("go", type=str), word]

    @greeter.handler()
    async def wait_first(ctx: Context) -> list[str]:
        return [await ctx.signal("go", type=str), await ctx.run("step", lambda: word), word]

    @greeter.handler(retry_policy=RetryPolicy(initial_interval=0.5, max_attempts=None))
    async def stubborn(ctx: Context) -> str:
        raise RuntimeError(f"no, says {word}")

    @greeter.handler()
    async def busy(ctx: Context) -> str:
        async def step() -> str:
            await asyncio.sleep(0.05)
            return word

        return await ctx.run("step", step)

    return App(greeter, protocol="bidi")


class Place:
    """A node over a world with a virtual clock."""

    def __init__(self, world: World, node: LocalNode, clock: VirtualClock) -> None:
        self.world, self.node, self.clock = world, node, clock
        self.deployments = Deployments(node)

    async def register(self, address: str, **options: Any) -> str:
        return (await self.deployments.register(Registration(at(address), **options)))[0].id

    async def send(self, handler: str) -> InvocationId:
        return InvocationId((await self.node.send(self.node.registry.target("Greeter", handler, None), b"")).id)

    async def status(self, id: InvocationId) -> Any:
        described: Any = await self.node.describe(id)
        return described.invocation.status

    async def pinned(self, id: InvocationId) -> tuple[str | None, int]:
        described: Any = await self.node.describe(id)
        return described.invocation.deployment, described.invocation.protocol_version

    async def journaled(self, id: InvocationId, entries: int) -> None:
        """Wait until the journal has so many entries."""
        async with asyncio.timeout(5):
            while True:
                described: Any = await self.node.describe(id)
                if len(described.entries) >= entries:
                    return
                await asyncio.sleep(0.002)

    async def suspended(self, id: InvocationId) -> None:
        """Wait until it is."""
        async with asyncio.timeout(5):
            while not isinstance(await self.status(id), Suspended):  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def result(self, id: InvocationId) -> Any:
        found = await self.node.attach(id)
        assert isinstance(found, Result) and isinstance(found.result, Value), found
        return json.loads(found.result.content)

    async def failure(self, id: InvocationId, code: str) -> str:
        """Wait until an attempt has failed with that code; its message."""
        async with asyncio.timeout(5):
            while True:
                status = await self.status(id)
                if isinstance(status, Invoked) and status.failure is not None:
                    assert status.failure.restate_code == code, status.failure
                    return str(status.failure.message)
                await asyncio.sleep(0.002)

    def pass_time(self, ms: int) -> None:
        until_ms = self.clock.now_ms() + ms
        while (due := self.clock.next_ms()) is not None and due <= until_ms:
            self.clock.move_to(due)
            self.clock.run_due()
        self.clock.move_to(until_ms)


Body = Callable[[Place], Awaitable[None]]


def placed(**reach: Any) -> Callable[[Body], Callable[[], None]]:
    """Give a test a `Place`."""

    def decorate(body: Body) -> Callable[[], None]:
        async def test() -> None:
            world, clock = World(), VirtualClock(AT)
            world.apps |= {ONE: app("one"), TWO: app("two")}
            async with running(world, clock=clock, reach=reach) as node:
                await body(Place(world, node, clock))

        test.__name__ = body.__name__
        return in_loop(test)

    return decorate


# ---- where


@placed()
async def test_new_invocations_run_on_the_latest(place: Place) -> None:
    one = await place.register(ONE)
    first = await place.send("greet")
    assert await place.result(first) == "one"
    two = await place.register(TWO)
    second = await place.send("greet")
    assert await place.result(second) == "two"
    assert await place.pinned(first) == (one, 6) and await place.pinned(second) == (two, 6)
    await place.deployments.remove(two)
    assert await place.result(await place.send("greet")) == "one"


@placed()
async def test_what_has_journaled_something_stays(place: Place) -> None:
    one = await place.register(ONE)
    id = await place.send("step_then_wait")
    await until(lambda: place.world.began)
    await place.journaled(id, 3)
    assert await place.pinned(id) == (one, 6)
    await place.register(TWO)
    place.pass_time(remote_module.QUIET_MS + 60_000)  # it is idle, and suspends
    await place.suspended(id)
    await place.node.signal(id, GO)
    assert await place.result(id) == ["one", "now", "one"]
    assert [address for address, _ in place.world.began] == [ONE, ONE]
    assert await place.pinned(id) == (one, 6)


@placed()
async def test_what_has_not_moves(place: Place) -> None:
    await place.register(ONE)
    id = await place.send("wait_first")
    await until(lambda: place.world.began)
    place.pass_time(61_000)
    await place.suspended(id)
    assert await place.pinned(id) == (None, 0)
    two = await place.register(TWO)
    await place.node.signal(id, GO)
    assert await place.result(id) == ["now", "two", "two"]
    assert await place.pinned(id) == (two, 6)


@placed()
async def test_a_handler_that_fails_without_a_trace_is_tried_on_the_next_deployment(place: Place) -> None:
    await place.register(ONE)
    id = await place.send("stubborn")
    assert "no, says one" in await place.failure(id, "RT0007")
    await place.register(TWO)
    place.pass_time(10_000)
    await until(lambda: len(place.world.began) == 2)
    assert place.world.began[1][0] == TWO
    await place.node.kill(id)


# ---- in which version


@placed()
async def test_the_usual_version_is_six(place: Place) -> None:
    await place.register(ONE)
    await place.result(await place.send("greet"))
    assert place.world.began == [(ONE, V6)]


@placed(newest_version=7)
async def test_seven_is_spoken_where_it_is_wanted_and_known(place: Place) -> None:
    await place.register(ONE)
    assert await place.result(await place.send("greet")) == "one"
    await place.result(await place.send("busy"))
    assert place.world.began == [(ONE, V7)] * 2


@pytest.mark.parametrize(("newest", "content_type"), [(5, V5), (6, V6)])
def test_an_older_endpoint_is_spoken_to_as_it_knows(newest: int, content_type: str) -> None:
    @placed(newest_version=7)
    async def run(place: Place) -> None:
        greeter = service("Greeter", "SERVICE", "greet")
        place.world.answers[ONE] = [answer(json.dumps(manifest(greeter, newest=newest)).encode())]
        await place.register(ONE)
        id = await place.send("greet")
        assert await place.result(id) == "one"
        assert place.world.began == [(ONE, content_type)]
        assert (await place.pinned(id))[1] == newest

    run()


@placed()
async def test_an_invocation_keeps_its_version(place: Place) -> None:
    """A deployment that was registered anew, by force, and does not know it any more."""
    one = await place.register(ONE)
    id = await place.send("step_then_wait")
    await place.journaled(id, 3)
    place.pass_time(61_000)
    await place.suspended(id)
    greeter = service("Greeter", "SERVICE", "greet", "step_then_wait")
    place.world.answers[ONE] = [answer(json.dumps(manifest(greeter, oldest=5, newest=5)).encode())]
    assert await place.register(ONE, force=True) == one
    await place.node.signal(id, GO)
    assert "began with version 6" in await place.failure(id, "RT0014")
    del place.world.answers[ONE]
    await place.register(ONE, force=True)
    place.pass_time(10_000)
    assert await place.result(id) == ["one", "now", "one"]


@placed(newest_version=5)
async def test_a_deployment_without_a_common_version(place: Place) -> None:
    """As a server that was set back to an older version finds them."""
    greeter = service("Greeter", "SERVICE", "greet")
    place.world.answers[ONE] = [answer(json.dumps(manifest(greeter, oldest=6, newest=7)).encode())]
    await place.register(ONE)
    id = await place.send("greet")
    assert "speaks versions 6 to 7" in await place.failure(id, "RT0013")
    assert place.world.began == []


# ---- removed


@placed()
async def test_what_was_pinned_to_a_removed_deployment_waits_until_it_is_back(place: Place) -> None:
    one = await place.register(ONE)
    id = await place.send("step_then_wait")
    await place.journaled(id, 3)
    place.pass_time(61_000)
    await place.suspended(id)
    known = place.deployments.get(one)
    await place.register(TWO)
    await place.deployments.remove(one)
    await place.node.signal(id, GO)
    assert one in await place.failure(id, "RT0011")
    for _ in range(200):  # far more often than handlers are tried
        place.pass_time(60_000)
        await asyncio.sleep(0)
    assert isinstance(await place.status(id), Invoked)
    await place.node.put_deployment(known)
    place.pass_time(100_000)
    assert await place.result(id) == ["one", "now", "one"]
    assert {address for address, _ in place.world.began} == {ONE}


@placed()
async def test_an_invocation_of_a_service_that_is_gone_waits_for_it(place: Place) -> None:
    one = await place.register(ONE)
    id = await place.send("wait_first")
    await until(lambda: place.world.began)
    await place.deployments.remove(one)
    place.pass_time(61_000)
    await place.suspended(id)
    await place.node.signal(id, GO)
    assert "no such handler" in await place.failure(id, "RT0011")
    await place.register(TWO)
    place.pass_time(100_000)
    assert await place.result(id) == ["now", "two", "two"]


# ---- how many at once


@placed(attempt_limit=2)
async def test_those_over_the_limit_wait_and_idle_ones_make_room(place: Place) -> None:
    await place.register(ONE)
    waiting = [await place.send("wait_first") for _ in range(2)]
    await until(lambda: len(place.world.began) == 2)
    third = await place.send("greet")
    await asyncio.sleep(0.01)
    assert place.node.invoker.waiting == 1 and len(place.world.began) == 2, "nobody is known to be idle"
    place.pass_time(remote_module.QUIET_MS)
    assert await place.result(third) == "one"
    more = [await place.send("wait_first") for _ in range(10)]
    for _ in range(40):
        place.pass_time(remote_module.QUIET_MS)
        await asyncio.sleep(0.005)
    assert place.node.invoker.waiting == 0 and place.node.invoker.live <= 2
    for id in [*waiting, *more]:
        await place.node.signal(id, GO)
    results = await asyncio.gather(*[place.result(id) for id in [*waiting, *more]], _pulse(place))
    assert results[:-1] == [["now", "one", "one"]] * 12


async def _pulse(place: Place) -> None:
    for _ in range(100):
        place.pass_time(100)
        await asyncio.sleep(0.005)


@placed(attempt_limit=1)
async def test_an_attempt_that_speaks_again_is_not_idle(place: Place) -> None:
    gate = asyncio.Event()
    slow = Service("Greeter")

    @slow.handler()
    async def greet(ctx: Context) -> str:
        return "quick"

    @slow.handler()
    async def think(ctx: Context) -> str:
        await gate.wait()  # says nothing, and is no step

        async def step() -> str:
            await asyncio.sleep(0.05)
            return "done"

        return await ctx.run("step", step)

    place.world.apps[ONE] = App(slow, protocol="bidi")
    await place.register(ONE)
    first = await place.send("think")
    await until(lambda: place.world.began)
    place.pass_time(remote_module.QUIET_MS)
    assert not place.node.invoker.busy
    gate.set()
    await place.journaled(first, 2)
    assert place.node.invoker.busy
    second = await place.send("greet")
    assert await place.result(first) == "done" and await place.result(second) == "quick"
    assert len(place.world.began) == 2, "the first one ran through"
    assert isinstance(await place.status(first), Completed)
