"""Workflows: once per id, with promises between their handlers."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from perdure import Context, NotFound, NotReady, Service, SharedContext, Workflow, WorkflowContext
from tests.programming_model.ways import Start, fails


@dataclass
class Approval:
    by: str
    granted: bool


def signup() -> tuple[Workflow, Any, Any]:
    workflow = Workflow("Signup")

    @workflow.main()
    async def run(ctx: WorkflowContext, email: str) -> str:
        await ctx.run("mail", lambda: None)
        secret = await ctx.promise("clicked", str).value()
        ctx.set("secret", secret)
        return f"{email} clicked {secret}"

    @workflow.handler()
    async def click(ctx: SharedContext, secret: str) -> None:
        await ctx.promise("clicked", str).resolve(secret)

    @workflow.handler()
    async def status(ctx: SharedContext) -> str | None:
        return await ctx.promise("clicked", str).peek()

    @workflow.handler()
    async def refuse(ctx: SharedContext, why: str) -> None:
        await ctx.promise("clicked", str).reject(why, code=403)

    @workflow.handler()
    async def wait(ctx: SharedContext) -> str:
        return await ctx.promise("clicked", str)

    return workflow, run, {"click": click, "status": status, "refuse": refuse, "wait": wait}


async def test_a_promise_is_awaited_and_resolved(start: Start) -> None:
    workflow, _, handlers = signup()
    async with start(workflow) as engine:
        handle = await engine.workflow(workflow, "ada").submit("ada@example.com")
        await engine.settle()
        assert await engine.call(handlers["status"], key="ada") is None
        waiting = [await engine.send(handlers["wait"], key="ada") for _ in range(3)]
        await engine.settle()
        await engine.call(handlers["click"], "s3cret", key="ada")
        assert await handle.attach() == "ada@example.com clicked s3cret"
        assert [await each.attach() for each in waiting] == ["s3cret"] * 3
        assert await engine.call(handlers["status"], key="ada") == "s3cret"
        assert await engine.state(workflow, "ada").get("secret") == "s3cret"
        engine.once("mail")


async def test_a_promise_is_resolved_before_anyone_awaits_it(start: Start) -> None:
    workflow, run, handlers = signup()
    async with start(workflow) as engine:
        await engine.call(handlers["click"], "early", key="eve")
        assert await engine.call(run, "eve@example.com", key="eve") == "eve@example.com clicked early"


async def test_a_promise_is_rejected(start: Start) -> None:
    workflow, _, handlers = signup()
    async with start(workflow) as engine:
        handle = await engine.workflow(workflow, "mallory").submit("m@example.com")
        await engine.settle()
        await engine.call(handlers["refuse"], "a robot", key="mallory")
        with fails(403, "a robot"):
            await handle.attach()
        with fails(403, "a robot"):
            await engine.call(handlers["status"], key="mallory")


async def test_a_promise_is_completed_once(start: Start) -> None:
    workflow, _, handlers = signup()
    async with start(workflow) as engine:
        await engine.call(handlers["click"], "first", key="k")
        with fails(409, "already completed"):
            await engine.call(handlers["click"], "second", key="k")
        with fails(409, "already completed"):
            await engine.call(handlers["refuse"], "third", key="k")
        assert await engine.call(handlers["wait"], key="k") == "first"


async def test_main_runs_once_per_id(start: Start) -> None:
    workflow, run, handlers = signup()
    async with start(workflow) as engine:
        await engine.call(handlers["click"], "x", key="k")
        assert await engine.call(run, "a@b.c", key="k") == "a@b.c clicked x"
        with fails(409, "a workflow runs once"):
            await engine.call(run, "other@b.c", key="k")
        again = await engine.workflow(workflow, "k").submit("other@b.c")
        assert not again.fresh
        assert await again.attach() == "a@b.c clicked x"
        assert await engine.workflow(workflow, "k").attach() == "a@b.c clicked x"
        assert await engine.workflow(workflow, "k").output() == "a@b.c clicked x"
        engine.once("mail")


async def test_a_handler_that_calls_main_a_second_time_is_refused(start: Start) -> None:
    workflow, run, handlers = signup()
    service = Service("Caller")

    @service.handler()
    async def twice(ctx: Context) -> str:
        await ctx.call(handlers["click"], "x", key="k")
        first: str = await ctx.call(run, "a@b.c", key="k")
        with fails(409, "already invoked"):
            await ctx.call(run, "a@b.c", key="k")
        sent = await ctx.send(run, "a@b.c", key="k")
        assert await ctx.invocation(sent.id).attach() == first
        return first

    async with start(workflow, service) as engine:
        assert await engine.call(twice) == "a@b.c clicked x"
        engine.once("mail")


async def test_a_workflow_that_was_not_started_has_no_result(start: Start) -> None:
    workflow, _, handlers = signup()
    async with start(workflow) as engine:
        with pytest.raises(NotFound):
            await engine.workflow(workflow, "nobody").attach()
        with pytest.raises(NotFound):
            await engine.workflow(workflow, "nobody").output()
        await engine.workflow(workflow, "ada").submit("ada@example.com")
        with pytest.raises(NotReady):
            await engine.workflow(workflow, "ada").output()
        await engine.call(handlers["click"], "x", key="ada")
        await engine.workflow(workflow, "ada").attach()


async def test_a_finished_workflow_is_kept_for_its_retention(start: Start) -> None:
    workflow = Workflow("Kept", workflow_retention=timedelta(hours=2))

    @workflow.main()
    async def run(ctx: WorkflowContext, n: int) -> int:
        ctx.set("n", n)
        await ctx.promise("p", int).resolve(n)
        return n

    @workflow.handler()
    async def look(ctx: SharedContext) -> list[Any]:
        return [await ctx.get("n"), await ctx.promise("p", int).peek()]

    async with start(workflow, skip=False) as engine:
        assert await engine.call(run, 1, key="k") == 1
        await engine.advance(timedelta(hours=1, minutes=59))
        assert await engine.call(look, key="k") == [1, 1]
        assert await engine.workflow(workflow, "k").output() == 1
        await engine.advance(timedelta(minutes=2))
        with pytest.raises(NotFound):
            await engine.workflow(workflow, "k").output()
        assert await engine.call(look, key="k") == [None, None]
        assert await engine.call(run, 2, key="k") == 2  # forgotten, so this is another workflow


async def test_promises_of_many_types_and_a_race_between_two(start: Start) -> None:
    workflow = Workflow("Race")

    @workflow.main()
    async def run(ctx: WorkflowContext) -> str:
        approval = asyncio.create_task(ctx.promise("approval", Approval).value())
        veto = asyncio.create_task(ctx.promise("veto", list[int]).value())
        done, pending = await asyncio.wait({approval, veto}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return repr(done.pop().result())

    @workflow.handler()
    async def approve(ctx: SharedContext, approval: Approval) -> None:
        await ctx.promise("approval", Approval).resolve(approval)

    @workflow.handler()
    async def veto(ctx: SharedContext, reasons: list[int]) -> None:
        await ctx.promise("veto", list[int]).resolve(reasons)

    async with start(workflow) as engine:
        for key, handler, argument in (("a", approve, Approval("ada", True)), ("b", veto, [1, 2])):
            handle = await engine.workflow(workflow, key).submit()
            await engine.settle()
            await engine.call(handler, argument, key=key)  # type: ignore[arg-type]
            assert await handle.attach() == repr(argument)
