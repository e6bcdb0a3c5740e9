"""Plain `def` handlers: in a thread, with the same operations, and as durable."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from perdure import (
    NotReady,
    RetryPolicy,
    Service,
    SyncContext,
    SyncObjectContext,
    SyncSharedContext,
    SyncWorkflowContext,
    TerminalError,
    VirtualObject,
    Workflow,
    current_context,
)
from tests.programming_model.ways import Start, fails, until


async def test_all_that_a_plain_handler_can_do(start: Start) -> None:
    service = Service("Plain")
    told: list[str] = []
    main = threading.get_ident()

    @service.handler()
    def helper(ctx: SyncContext, n: int) -> int:
        assert threading.get_ident() != main
        ctx.sleep(1)
        return ctx.run("helper", lambda: n + 1)

    @service.handler()
    def resolver(ctx: SyncContext, id: str) -> None:
        ctx.resolve_awakeable(id, "resolved")

    @service.handler()
    def rejecter(ctx: SyncContext, id: str) -> None:
        ctx.reject_awakeable(id, "rejected", code=410)

    @service.handler()
    def sleeper(ctx: SyncContext) -> str:
        try:
            ctx.sleep(1000)
        except asyncio.CancelledError:
            return "cancelled: " + ctx.run("tidy", lambda: "tidied")
        return "slept"

    @service.handler()
    def work(ctx: SyncContext, n: int) -> list[Any]:
        seen: list[Any] = [ctx.run("add", lambda: n + 1), ctx.call(helper, 5), ctx.headers.get("x-a")]
        awakeable = ctx.awakeable(str)
        sent = ctx.send(resolver, awakeable.id)
        seen.append(awakeable.wait())
        sent.attach()
        bad = ctx.awakeable()
        ctx.send(rejecter, bad.id, delay=1)
        try:
            bad.wait()
        except TerminalError as error:
            seen.append(error.code)
        running = ctx.send(sleeper)
        try:
            running.output()
        except NotReady:
            seen.append("not ready")
        ctx.sleep(1)
        running.cancel()
        seen.append(running.attach())
        seen.append(ctx.invocation(running.id, str).output())
        listener = ctx.send(listens)
        listener.signal("word", "spoken")
        seen.append(listener.attach())
        before = ctx.now()
        ctx.sleep(3)
        assert (ctx.now() - before).total_seconds() >= 3
        assert ctx.random.random() < 1 and ctx.uuid() != ctx.uuid() and ctx.attempt >= 1
        told.append(ctx.invocation_id)
        return seen

    @service.handler()
    def listens(ctx: SyncContext) -> str:
        return ctx.signal("word", str)

    async with start(service) as engine:
        assert await engine.call(work, 1, headers={"x-a": "b"}) == [
            2, 6, "b", "resolved", 410, "not ready", "cancelled: tidied", "cancelled: tidied", "spoken",
        ]  # fmt: skip
        assert len(set(told)) == 1
        engine.once("add", "helper", "tidy")


async def test_plain_objects_and_workflows(start: Start) -> None:
    thing = VirtualObject("PlainObject")
    workflow = Workflow("PlainWorkflow")

    @thing.handler()
    def add(ctx: SyncObjectContext, n: int) -> list[Any]:
        total = ctx.get("total", int, default=0) + n
        ctx.set("total", total)
        ctx.set("gone", 1)
        ctx.clear("gone")
        keys = ctx.keys()
        if total > 5:
            ctx.clear_all()
        return [ctx.key, total, keys, ctx.keys()]

    @thing.shared()
    def write(ctx: SyncSharedContext) -> None:
        ctx.set("total", 1)  # type: ignore[attr-defined]

    @workflow.main()
    def run(ctx: SyncWorkflowContext) -> str:
        promise = ctx.promise("p", str)
        assert promise.peek() is None
        return promise.value()

    @workflow.handler()
    def resolve(ctx: SyncSharedContext, value: str) -> None:
        ctx.promise("p", str).resolve(value)

    @workflow.handler()
    def reject(ctx: SyncSharedContext, value: str) -> None:
        ctx.promise("p", str).reject(value, 404)

    async with start(thing, workflow) as engine:
        assert await engine.call(add, 3, key="k") == ["k", 3, ["total"], ["total"]]
        assert await engine.call(add, 3, key="k") == ["k", 6, ["total"], []]
        with fails(500, "a shared handler may read state"):
            await engine.call(write, key="k")
        for key, handler in (("a", resolve), ("b", reject)):
            handle = await engine.workflow(workflow, key).submit()
            await engine.settle()
            await engine.call(handler, "value", key=key)
            if handler is resolve:
                assert await handle.attach() == "value"
            else:
                with fails(404, "value"):
                    await handle.attach()


async def test_a_plain_handler_is_retried_and_fails_as_others_do(start: Start) -> None:
    service = Service("PlainErrors", retry_policy=RetryPolicy(0.1, max_attempts=5))
    left = [2]

    @service.handler()
    def flaky(ctx: SyncContext) -> str:
        ctx.run("kept", lambda: None)
        if left[0]:
            left[0] -= 1
            raise ValueError("not yet")
        return "done"

    @service.handler()
    def refuses(ctx: SyncContext) -> None:
        ctx.run("before", lambda: None)
        raise TerminalError("refused", code=403)

    @service.handler()
    def step_refuses(ctx: SyncContext) -> str:
        def refuse() -> None:
            raise TerminalError("no", code=418)

        try:
            ctx.run("refuse", refuse)
        except TerminalError as error:
            return str(error.code)
        return ""

    async with start(service) as engine:
        assert await engine.call(flaky) == "done"
        with fails(403, "refused"):
            await engine.call(refuses)
        assert await engine.call(step_refuses) == "418"
        engine.once("kept", "before", "refuse")


async def test_a_plain_handler_is_suspended_and_goes_on(start: Start) -> None:
    service = Service("PlainSuspended")
    told: list[str] = []

    @service.handler()
    def work(ctx: SyncContext) -> list[str]:
        awakeable = ctx.awakeable(str)
        ctx.run("tell", told.append, awakeable.id)
        ctx.sleep(86400)
        return [awakeable.wait(), ctx.run("after", lambda: "after")]

    async with start(service, skip=False) as engine:
        handle = await engine.send(work)
        await engine.settle()
        await engine.advance(3600)
        assert (await handle.describe()).status == "suspended"
        await engine.resolve_awakeable(told[0], "answer")
        await engine.advance(86400)
        assert await handle.attach() == ["answer", "after"]
        engine.once("tell", "after")


async def test_cancelling_a_plain_handler(start: Start) -> None:
    service = Service("PlainCancelled")

    @service.handler()
    def work(ctx: SyncContext) -> None:
        try:
            ctx.sleep(1000)
        finally:
            ctx.run("tidy", lambda: None)

    @service.handler()
    def calls(ctx: SyncContext) -> None:
        ctx.call(work)

    async with start(service, skip=False) as engine:
        handle = await engine.send(calls)
        await engine.settle()
        await handle.cancel()
        with fails(409, "cancelled"):
            await handle.attach()
        await engine.settle()
        engine.once("tidy")


async def test_an_answer_and_a_cancellation_while_the_thread_computes(start: Start) -> None:
    service = Service("PlainBusy")
    told: dict[str, str] = {}
    gate = threading.Event()
    computing = threading.Event()

    def compute() -> None:
        computing.set()
        gate.wait(0.2)

    @service.handler()
    def answered(ctx: SyncContext) -> list[str]:
        first, second = ctx.awakeable(str), ctx.awakeable(str)
        ctx.run("tell", told.update, {"first": first.id, "second": second.id})
        compute()
        ctx.sleep(1)
        return [second.wait(), first.wait(), ctx.run("after", lambda: "after")]

    @service.handler()
    def cancelled(ctx: SyncContext) -> str:
        ctx.run("started", told.update, {"started": ctx.invocation_id})
        compute()
        try:
            ctx.sleep(100)
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    async with start(service) as engine:
        handle = await engine.send(answered)
        await until(lambda: "first" in told)
        await engine.resolve_awakeable(told["first"], "one")
        await engine.resolve_awakeable(told["second"], "two")
        assert await handle.attach() == ["two", "one", "after"]
        computing.clear()
        other = await engine.send(cancelled)
        await until(computing.is_set)
        await other.cancel()
        gate.set()
        assert await other.attach() == "cancelled"
        engine.once("tell", "after")


async def test_many_plain_handlers_at_once_calling_each_other(start: Start) -> None:
    service = Service("PlainMany")

    @service.handler()
    def leaf(ctx: SyncContext, n: int) -> int:
        time.sleep(0.001)
        return ctx.run("leaf", lambda: n)

    @service.handler()
    def root(ctx: SyncContext, n: int) -> int:
        return sum(ctx.call(leaf, n) for _ in range(3))

    async with start(service) as engine:
        handles = [await engine.send(root, n) for n in range(8)]
        assert [await handle.attach() for handle in handles] == [3 * n for n in range(8)]
        engine.once(leaf=24)


async def test_current_context_in_a_plain_handler(start: Start) -> None:
    service = Service("PlainCurrent")

    def deep() -> str:
        context: Any = current_context()
        assert isinstance(context, SyncContext)
        return context.run("deep", lambda: "deep")

    @service.handler()
    def work(ctx: SyncContext) -> str:
        assert current_context() is ctx  # type: ignore[comparison-overlap]
        return deep()

    async with start(service) as engine:
        assert await engine.call(work) == "deep"


async def test_an_event_loop_of_ones_own_in_a_plain_handler(start: Start) -> None:
    service = Service("PlainLoop")

    async def inner() -> int:
        await asyncio.sleep(0.001)
        return 7

    @service.handler()
    def work(ctx: SyncContext) -> int:
        return asyncio.run(inner()) + ctx.run("one", lambda: 1)

    async with start(service) as engine:
        assert await engine.call(work) == 8


async def test_the_context_is_for_the_handlers_own_thread(start: Start) -> None:
    service = Service("PlainThreads")

    @service.handler()
    def work(ctx: SyncContext) -> list[str]:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(lambda: ctx.run("other", lambda: "other"))
            try:
                other.result()
            except TerminalError as error:
                assert "in a thread of its handler's making" in error.message
        return [ctx.run("own", lambda: "own")]

    async with start(service) as engine:
        assert await engine.call(work) == ["own"]
        assert engine.ran("other") == 0
