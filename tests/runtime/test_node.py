"""A node of real partitions, invoker and handlers, over stores in memory: what may be asked of it, and its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Context, ObjectContext, Service, SharedContext, VirtualObject, Workflow, WorkflowContext
from perdure.assembly import LocalNode, assemble
from perdure.core.tables import OUTBOX
from perdure.errors import Invalid, NotFound, Overloaded, Unavailable
from perdure.model import entries as e
from perdure.model.actions import Accepted, AlreadyInvoked, Answer, Description, Done, Refused
from perdure.model.ids import InvocationId, awakeable_id, partition_of
from perdure.model.invocation import Completed, Invoked, Paused, Scheduled, Suspended, Target
from perdure.model.services import RetryPolicy
from perdure.runtime import node as node_module
from perdure.runtime.clock import VirtualClock
from perdure.storage.base import Batch, Storage
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import SqliteStorage

greeter = Service("greeter")
counter = VirtualObject("counter")
flow = Workflow("flow")
ran: list[str] = []  # the steps, as they began


@greeter.handler()
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


@greeter.handler()
async def wait(ctx: Context) -> str:
    word: str = await ctx.signal("go", type=str)
    return word


@greeter.handler()
async def slow_step(ctx: Context, ms: int) -> str:
    async def step() -> str:
        ran.append("slow")
        await asyncio.sleep(ms / 1000)
        return "done"

    return await ctx.run("slow", step)


@greeter.handler(retry_policy=RetryPolicy(max_attempts=1))
async def failing(ctx: Context) -> str:
    raise RuntimeError("no")


@greeter.handler()
async def sum_of(ctx: Context, keys: list[str]) -> int:
    return sum(await asyncio.gather(*[ctx.call(add, 1, key=key) for key in keys]))


@greeter.handler()
async def greet_the_time(ctx: Context) -> str:
    return await ctx.call(greet, ctx.now().isoformat())


@greeter.handler()
async def greet_a_number(ctx: Context) -> str:
    return await ctx.call(greet, str(ctx.random.random()))


@counter.handler()
async def add(ctx: ObjectContext, by: int) -> int:
    total = (await ctx.get("n", type=int) or 0) + by
    ctx.set("n", total)
    return total


@counter.handler()
async def hold(ctx: ObjectContext) -> None:
    await ctx.signal("go", type=str)


@counter.shared()
async def total(ctx: SharedContext) -> int:
    return await ctx.get("n", type=int) or 0


@flow.main()
async def main(ctx: WorkflowContext) -> str:
    return await ctx.promise("approved", type=str).value()


APP = App(greeter, counter, flow)


def in_loop(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(body)
    def test(*args: Any, **kwargs: Any) -> None:
        async def run() -> None:
            ran.clear()
            await asyncio.wait_for(body(*args, **kwargs), 20)

        asyncio.run(run())

    return test


@asynccontextmanager
async def running(storages: Sequence[Storage] | None = None, **options: Any) -> AsyncIterator[LocalNode]:
    node = assemble([APP], [MemoryStorage()] if storages is None else storages, **options)
    await node.start()
    try:
        yield node
    finally:
        await node.stop(0)


def target(node: LocalNode, path: str) -> Target:
    service, *key, handler = path.split("/")
    return node.registry.target(service, handler, key[0] if key else None)


async def call(node: LocalNode, path: str, body: bytes = b"", **options: Any) -> Answer | AlreadyInvoked:
    return await node.call(target(node, path), body, **options)


async def send(node: LocalNode, path: str, body: bytes = b"", **options: Any) -> InvocationId:
    accepted = await node.send(target(node, path), body, **options)
    return InvocationId(accepted.id)


async def description(node: LocalNode, id: InvocationId) -> Description:
    outcome = await node.describe(id)
    assert isinstance(outcome, Description)
    return outcome


async def begun() -> None:
    """A step has begun."""
    while not ran:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def known(node: LocalNode, id: InvocationId) -> None:
    while not isinstance(await node.describe(id), Description):  # noqa: ASYNC110
        await asyncio.sleep(0)


async def until(node: LocalNode, id: InvocationId, *kinds: type) -> Any:
    """The status of an invocation when it is of one of these kinds."""
    while not isinstance(status := (await description(node, id)).invocation.status, kinds):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return status


def go(name: str = "go") -> e.Signal:
    return e.Signal("go", e.Value(f'"{name}"'.encode()))


# ---- calls -----------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_call_is_answered_with_the_result_and_a_send_with_an_id() -> None:
    async with running() as node:
        seen: list[InvocationId] = []
        answer = await call(node, "greeter/greet", b'"you"', on_accepted=seen.append)
        assert answer == Answer(seen[0], e.Value(b'"hello you"'))
        accepted = await node.send(target(node, "greeter/greet"), b'"me"')
        assert accepted.fresh and accepted.execute_at is None
        outcome = await node.attach(InvocationId(accepted.id))
        assert isinstance(outcome, Answer) and outcome.result == e.Value(b'"hello me"')
        again = await node.attach(InvocationId(accepted.id))
        assert isinstance(again, Answer) and again.result == outcome.result and again.expires_at is not None


@in_loop
async def test_the_same_idempotency_key_is_the_same_invocation() -> None:
    async with running() as node:
        waiting = [asyncio.create_task(call(node, "greeter/wait", idempotency_key="once")) for _ in range(3)]
        id = node.invocation_id(target(node, "greeter/wait"), "once")
        await known(node, id)
        assert await node.send(target(node, "greeter/wait"), b"", idempotency_key="once") == Accepted(id, False)
        await node.signal(id, go("now"))
        for answer in await asyncio.gather(*waiting):
            assert answer == Answer(id, e.Value(b'"now"'))
        late = await call(node, "greeter/wait", idempotency_key="once")
        assert isinstance(late, Answer) and late.result == e.Value(b'"now"') and late.expires_at is not None


@in_loop
async def test_a_workflow_runs_once_per_key() -> None:
    async with running() as node:
        id = await send(node, "flow/k/main")
        assert await call(node, "flow/k/main") == AlreadyInvoked(id)
        assert id == node.invocation_id(target(node, "flow/k/main"), None)
        assert await send(node, "flow/other/main") != id


@in_loop
async def test_who_stops_waiting_stops_nothing_and_leaves_nothing_behind() -> None:
    async with running() as node:
        impatient = asyncio.create_task(call(node, "greeter/wait", idempotency_key="once"))
        patient = asyncio.create_task(call(node, "greeter/wait", idempotency_key="once"))
        id = node.invocation_id(target(node, "greeter/wait"), "once")
        attached = asyncio.create_task(node.attach(id))
        await known(node, id)
        impatient.cancel()
        attached.cancel()
        await asyncio.gather(impatient, attached, return_exceptions=True)
        await node.signal(id, go("still"))
        assert (await patient) == Answer(id, e.Value(b'"still"'))
        assert not node._asked and not node._attached


@in_loop
async def test_calls_between_partitions_leave_nothing_in_the_outbox() -> None:
    storages = [MemoryStorage() for _ in range(3)]
    async with running(storages) as node:
        keys = [str(number) for number in range(9)]
        answer = await call(node, "greeter/sum_of", str(keys).replace("'", '"').encode())
        assert isinstance(answer, Answer) and answer.result == e.Value(b"9")
        owners = set()
        for key in keys:
            assert await node.state("counter", key) == {"n": b"1"}
            owners |= {index for index, it in enumerate(storages) if ("counter", key, "n") in it.snapshot()["state"]}
        assert len(owners) > 1
        for partition in node.partitions:
            await partition.quiet()
        assert all(not storage.snapshot()[OUTBOX.name] for storage in storages)
        id = await send(node, "greeter/greet", b'"x"')
        assert partition_of(id, 3) in range(3)


# ---- what may not be asked -------------------------------------------------------------------------------------------


@in_loop
async def test_what_is_malformed_is_refused_before_it_is_accepted() -> None:
    async with running() as node:
        malformed: list[tuple[str, dict[str, Any], str]] = [
            ("counter/add", {}, "counter/add: the key is missing"),
            ("counter//add", {}, "counter/add: the key is missing"),
            ("greeter/key/greet", {}, "greeter is a service and has no keys, but one was given: 'key'"),
            ("greeter/greet", {"idempotency_key": ""}, "the idempotency key must not be empty"),
            ("flow/k/main", {"idempotency_key": "x"}, "a workflow's main takes no idempotency key"),
        ]
        for path, options, words in malformed:
            for ask in (call, send):
                with pytest.raises(Invalid, match=words):
                    await ask(node, path, **options)
        for path in ("nobody/greet", "greeter/nothing"):
            with pytest.raises(NotFound, match=r"registered: greeter, counter, flow|it has: greet, wait"):
                await call(node, path)
        with pytest.raises(Invalid, match="without an idempotency key there is no id"):
            node.invocation_id(target(node, "greeter/greet"), None)
        with pytest.raises(Invalid, match="it has to begin with 'sign_1'"):
            await node.complete_awakeable("nonsense", e.Value(b""))


LONE = "\ud800"


@pytest.mark.parametrize(
    "ask",
    [
        lambda node: call(node, f"counter/{LONE}/add", b"1"),
        lambda node: send(node, f"counter/{LONE}/add", b"1"),
        lambda node: send(node, "greeter/greet", idempotency_key=LONE),
        lambda node: call(node, "greeter/greet", b'"x"', headers=((LONE, "x"),)),
        lambda node: send(node, "greeter/greet", b'"x"', headers=(("x", LONE),)),
        lambda node: send(node, "greeter/greet", b'"x"', delay_ms=1 << 63),
        lambda node: node.signal(bytes(24), e.Signal(LONE, e.VOID)),
        lambda node: node.signal(bytes(24), e.Signal(1 << 32, e.VOID)),
        lambda node: node.complete_awakeable(awakeable_id(bytes(24), 17), e.Failure(1, LONE)),
        lambda node: node.complete_awakeable(awakeable_id(bytes(24), 17), e.Failure(-1, "x")),
        lambda node: node.state("counter", LONE),
        lambda node: node.change_state("counter", LONE, {}),
        lambda node: node.change_state(LONE, "k", {"n": b"1"}),
        lambda node: node.change_state("counter", "k", {LONE: b"1"}),
    ],
)
def test_what_no_store_can_hold_is_refused(tmp_path: Path, ask: Callable[[LocalNode], Awaitable[Any]]) -> None:
    """Accepted, it would stop the partition, and everybody's invocations with it."""

    @in_loop
    async def body() -> None:
        async with running([SqliteStorage(tmp_path / "store.db")]) as node:
            with pytest.raises(Invalid, match=r"not valid Unicode|out of range"):
                await ask(node)
            assert node.failure is None
            assert isinstance(await call(node, "greeter/greet", b'"x"'), Answer)

    body()


@in_loop
async def test_who_asks_for_what_there_is_not_is_told() -> None:
    async with running() as node:
        nobody = InvocationId(b"\x00" * 23 + b"\x01")
        for outcome in (
            await node.attach(nobody),
            await node.output(nobody),
            await node.cancel(nobody),
            await node.kill(nobody),
            await node.pause(nobody),
            await node.resume(nobody),
            await node.purge(nobody),
            await node.restart(nobody),
            await node.describe(nobody),
        ):
            assert isinstance(outcome, Refused) and outcome.status == 404
        await node.signal(nobody, go())
        await node.complete_awakeable(awakeable_id(nobody, 17), e.Value(b""))
        assert await node.state("counter", "nothing") == {}


@in_loop
async def test_before_it_is_ready_and_after_its_end_nothing_is_accepted() -> None:
    node = assemble([APP], [MemoryStorage()])
    for _ in range(2):
        for ask in (call(node, "greeter/greet"), send(node, "greeter/greet"), node.attach(InvocationId(bytes(24)))):
            with pytest.raises(Unavailable, match="not ready; nothing was accepted"):
                await ask
        with pytest.raises(Unavailable):
            await node.output(InvocationId(bytes(24)))
        if not node.ready and node.failure is None:
            await node.start()
            await node.stop()


def test_with_too_much_waiting_nothing_more_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "QUEUE_LIMIT", 5)

    @in_loop
    async def body() -> None:
        async with running() as node:
            accepted = [asyncio.create_task(send(node, "greeter/greet", b'"x"')) for _ in range(10)]
            outcomes = await asyncio.gather(*accepted, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
            assert len(refused) == 4 and "nothing was accepted" in str(refused[0])
            await send(node, "greeter/greet", b'"x"')

    body()


# ---- orders ----------------------------------------------------------------------------------------------------------


@in_loop
async def test_orders_reach_the_invocation() -> None:
    async with running() as node:
        id = await send(node, "greeter/wait")
        assert await node.output(id) == Refused(470, "the invocation is not completed")
        assert await node.pause(id) == Done(pending=True)
        assert isinstance(await until(node, id, Paused), Paused)
        assert await node.resume(id) == Done()
        assert await node.cancel(id) == Done(pending=True)
        outcome = await node.attach(id)
        assert isinstance(outcome, Answer) and outcome.result == e.Failure(409, "cancelled")
        restarted = await node.restart(id)
        assert isinstance(restarted, Done) and restarted.new_id is not None
        new = InvocationId(restarted.new_id)
        assert partition_of(new, 7) == partition_of(id, 7)
        assert await node.kill(new) == Done()
        assert await node.purge(new, journal_only=True) == Done()
        assert (await description(node, new)).entries == ()
        assert await node.purge(new) == Done()
        assert isinstance(await node.describe(new), Refused)


@in_loop
async def test_state_is_changed_in_turn() -> None:
    async with running() as node:
        assert await node.change_state("counter", "k", {"n": b"5"}) == Done()
        holder = await send(node, "counter/k/hold")
        assert await node.change_state("counter", "k", {"n": b"7"}) == Done(pending=True)
        assert await node.state("counter", "k") == {"n": b"5"}
        queued = asyncio.create_task(call(node, "counter/k/add", b"1"))
        await node.signal(holder, go())
        answer = await queued
        assert isinstance(answer, Answer) and answer.result == e.Value(b"8")
        assert await node.change_state("counter", "k", {}, replace=True) == Done()
        assert await node.state("counter", "k") == {}


@in_loop
async def test_the_last_attempt_fails_and_it_is_paused() -> None:
    async with running() as node:
        id = await send(node, "greeter/failing")
        status = await until(node, id, Paused)
        assert status.failure is not None and status.failure.message == "RuntimeError: no"


@pytest.mark.parametrize("handler", ["greet_the_time", "greet_a_number"])
def test_what_a_restart_keeps_it_replays(handler: str) -> None:
    @in_loop
    async def body() -> None:
        clock = VirtualClock()
        async with running(clock=clock) as node:
            id = await send(node, f"greeter/{handler}")
            first = await node.attach(id)
            clock.move_to(clock.now_ms() + 1000)
            restarted = await node.restart(id, keep=2)
            assert isinstance(first, Answer) and isinstance(restarted, Done) and restarted.new_id is not None
            status = await until(node, InvocationId(restarted.new_id), Completed, Paused)
            assert isinstance(status, Completed) and status.result == first.result

    body()


# ---- time ------------------------------------------------------------------------------------------------------------


@in_loop
async def test_timers_are_set_for_the_first_that_is_due() -> None:
    clock = VirtualClock()
    async with running(clock=clock) as node:
        began = clock.now_ms()
        late = await send(node, "greeter/greet", b'"late"', delay_ms=5000)
        soon = await send(node, "greeter/greet", b'"soon"', delay_ms=1000)
        assert (await description(node, soon)).invocation.status == Scheduled(began + 1000)
        assert clock.next_ms() == began + 1000
        clock.move_to(began + 1000)
        clock.run_due()
        await until(node, soon, Completed)
        assert clock.next_ms() == began + 5000
        assert isinstance((await description(node, late)).invocation.status, Scheduled)
        clock.jump(-2000)  # somebody sets the clock back
        await send(node, "greeter/greet", b'"x"', delay_ms=100)
        assert clock.next_ms() == began - 900
        clock.move_to(began + 5000)
        clock.run_due()
        await until(node, late, Completed)


@in_loop
async def test_who_waits_long_is_dropped_and_woken() -> None:
    clock = VirtualClock()
    async with running(clock=clock) as node:
        id = await send(node, "greeter/wait")
        await until(node, id, Invoked)
        assert node.invoker.live == 1
        clock.move_to(clock.now_ms() + 60_000)
        clock.run_due()
        await until(node, id, Suspended)
        assert node.invoker.live == 0
        await node.signal(id, go("morning"))
        outcome = await node.attach(id)
        assert isinstance(outcome, Answer) and outcome.result == e.Value(b'"morning"')


# ---- the end ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_stop_waits_for_the_step_that_is_under_way() -> None:
    storage = MemoryStorage()
    node = assemble([APP], [storage])
    await node.start()
    caller = asyncio.create_task(call(node, "greeter/slow_step", b"50"))
    idle = asyncio.create_task(call(node, "greeter/wait", idempotency_key="once"))
    await begun()
    await node.stop(grace=10)
    assert ran == ["slow"]
    with pytest.raises(Unavailable, match="what was accepted goes on when it starts again"):
        await idle
    outcome = (await asyncio.gather(caller, return_exceptions=True))[0]
    assert isinstance(outcome, Answer | Unavailable)  # its result is stored; whether it still got to return is chance
    async with running([MemoryStorage(storage.snapshot())]) as again:
        again_idle = asyncio.create_task(call(again, "greeter/wait", idempotency_key="once"))
        for row in storage.snapshot()["invocation"].values():
            if row.target.handler == "slow_step":
                done = await again.attach(row.id)
                assert isinstance(done, Answer) and done.result == e.Value(b'"done"')
            else:
                await again.signal(row.id, go())
        assert isinstance(await again_idle, Answer)
    assert ran == ["slow"]


@in_loop
async def test_a_stop_does_not_wait_longer_than_its_grace() -> None:
    storage = MemoryStorage()
    node = assemble([APP], [storage])
    await node.start()
    id = await send(node, "greeter/slow_step", b"300")
    await begun()
    await node.stop(grace=0.02)
    assert node.invoker.live == 0
    async with running([MemoryStorage(storage.snapshot())]) as again:
        outcome = await again.attach(id)
        assert isinstance(outcome, Answer) and outcome.result == e.Value(b'"done"')
    assert ran == ["slow", "slow"]  # cut off, and run again


@in_loop
async def test_after_the_end_no_timer_and_no_message_is_left() -> None:
    clock = VirtualClock()
    node = assemble([APP], [MemoryStorage(), MemoryStorage()], clock=clock)
    await node.start()
    await send(node, "greeter/greet", b'"x"', delay_ms=1000)
    await send(node, "greeter/wait")
    await call(node, "greeter/sum_of", b'["a", "b", "c", "d"]')
    await node.stop(0)
    assert clock.next_ms() is None


class Full(MemoryStorage):
    """A disk that fills up when the test says so."""

    full = False

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        if self.full:
            done(OSError("disk full"))
        else:
            super().commit(batch, done)


@in_loop
async def test_when_a_partition_fails_everybody_who_waits_is_told() -> None:
    storage = Full()
    failures: list[BaseException] = []
    node = assemble([APP], [storage, MemoryStorage()], failed=failures.append)
    await node.start()
    waiting = [asyncio.create_task(call(node, "greeter/wait")) for _ in range(8)]
    await asyncio.sleep(0.01)
    storage.full = True
    asked = [asyncio.create_task(send(node, "greeter/greet", b'"x"')) for _ in range(8)]
    outcomes = await asyncio.gather(*waiting, *asked, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable | Accepted | bytes) for outcome in outcomes)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes[:8])
    assert "the engine has stopped: partition 0 cannot commit: disk full" in str(outcomes[0])
    assert failures == [node.failure] and not node.ready
    with pytest.raises(Unavailable):
        await call(node, "greeter/greet")
    await node.stop(0)


@in_loop
async def test_a_recovery_that_fails_is_no_start() -> None:
    storage = MemoryStorage()
    async with running([storage]) as node:
        await send(node, "greeter/wait")
    broken = Full(storage.snapshot())
    broken.full = True
    node = assemble([APP], [broken])
    with pytest.raises(Unavailable, match="recovery failed: partition 0 cannot commit: disk full"):
        await node.start()
    assert not node.ready
    node.close()


@in_loop
async def test_a_crash_at_any_moment_loses_nothing_that_was_accepted() -> None:
    storage = MemoryStorage()
    node = assemble([APP], [storage])
    await node.start()
    id = await send(node, "greeter/wait")
    later = await send(node, "greeter/greet", b'"x"', delay_ms=30)
    node.close()
    async with running([MemoryStorage(storage.snapshot())]) as again:
        await again.signal(id, go("after"))
        for number, expected in ((id, b'"after"'), (later, b'"hello x"')):
            outcome = await again.attach(number)
            assert isinstance(outcome, Answer) and outcome.result == e.Value(expected)
