"""The handlers of the simulator's workload: a few services whose handlers play the program they are given.

A program is a list of operations, each with a name of its own (`uid`) that is unique in a run of the simulator.
Handlers tell the `Witness` what they saw at each. What a branch has seen so far is in the names of its steps, so a
replay that saw something else also asks for something else than the journal holds.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from perdure.errors import NotReady, RetryableError, TerminalError
from perdure.model.services import RetryPolicy
from perdure.sdk.app import App
from perdure.sdk.context import Context, ObjectContext, SharedContext, WorkflowContext
from perdure.sdk.service import Service, VirtualObject, Workflow
from perdure.sdk.steps import current_step
from perdure.sdk.streams import Stream
from perdure.testing.witness import Run, Witness

__all__ = ["APP", "KINDS", "Op", "Program", "perform_before"]

Op: TypeAlias = list[Any]
"""[kind, uid, argument, ...]; `KINDS` says which kinds there are."""
Program: TypeAlias = dict[str, Any]
"""`uid`, and `ops`: what a handler does, one after the other."""

_witness: Witness | None = None


def perform_before(witness: Witness | None) -> None:
    """Whom the handlers tell what they see, from now on."""
    global _witness
    _witness = witness


def _watching() -> Witness:
    assert _witness is not None, "the workload's handlers run in the simulator only"
    return _witness


# ---- steps: the world outside


async def _step(uid: str, fails: int, takes_us: int, ends: str, most: int | None) -> str:
    """Fails `fails` times, and then returns or raises what nobody else does."""
    info, witness = current_step(), _watching()
    run = witness.step_begins(info, most)
    if takes_us:
        await asyncio.sleep(takes_us / 1_000_000)
    if run <= fails and ends == "later":
        raise RetryableError(f"{uid} is busy", 0.07)
    if run <= fails:
        raise OSError(f"{uid} is flaky")
    outcome = witness.step_ends(info, f"{info.token}#{run}")
    if ends == "terminal":
        raise TerminalError(outcome, 418)
    return outcome


def _plain_step(uid: str, most: int | None) -> str:
    info, witness = current_step(), _watching()
    run = witness.step_begins(info, most)
    return witness.step_ends(info, f"{info.token}#{run}")


async def _shown_step(stream: Stream, uid: str, fails: int, takes_us: int, most: int | None) -> str:
    """Shows what it does before it is known whether that is its result."""
    info, witness = current_step(), _watching()
    run = witness.step_begins(info, most)
    outcome = f"{info.token}#{run}"
    stream.write(f"{outcome}:0")
    if takes_us:
        await asyncio.sleep(takes_us / 1_000_000)
    stream.write(f"{outcome}:1")
    if run <= fails:
        raise OSError(f"{uid} is flaky")
    return witness.step_ends(info, outcome)


async def _publish(id: str) -> None:
    _watching().awakeables[id] = None


async def _find_awakeable(index: int) -> str:
    known = list(_watching().awakeables)
    return known[index % len(known)] if known else ""


# ---- operations


class Player:
    """Plays a program with a handler's context."""

    def __init__(self, ctx: Context, run: Run, policy: RetryPolicy) -> None:
        self.ctx = ctx
        self.run = run
        self.policy = policy
        self.counting = asyncio.Lock()
        self.left: list[asyncio.Task[int]] = []
        # A shared handler reads state as it is when it asks, and what it read counts once it is journaled, which is
        # only certain when a later command has been answered. So of these no two runs need to agree. Nor, in part, in
        # any handler with state that is read now along with the start and now when asked for, as its size will have it.
        self.silent: frozenset[str] = frozenset()
        if isinstance(ctx, SharedContext) and _watching().lazy:
            self.silent = frozenset(KINDS)
        elif type(ctx) is SharedContext:
            self.silent = _SILENT

    async def play(self, ops: list[Op], digest: int = 0) -> int:
        """One operation after the other; what the branch has seen, as a number."""
        for op in ops:
            value = await self.one(op, digest)
            digest = zlib.crc32(f"{op[1]}={value}".encode(), digest)
        return digest

    async def one(self, op: Op, digest: int) -> str:
        kind, uid = op[0], op[1]
        run = self.run if kind not in self.silent else Run.nobody()
        try:
            value = await KINDS[kind](self, uid, digest, *op[2:])
        except TerminalError as error:
            run.saw(uid, f"!{error.code} {error.message}")
            raise
        except asyncio.CancelledError:
            run.saw(uid, "cancelled")
            raise
        # The journal's time is that of the last notification. What is known without one may be known at another
        # time in the next run, if this one ends before the journal has it.
        told = kind in _TOLD or (kind == "sleep" and op[2] > 0)
        now = self.ctx.now().timestamp()
        run.saw(uid, f"{now} {value}" if told and not _watching().elsewhere else value)
        if not self.run.over:
            _watching().count(f"did {kind}")
        return value

    async def branches(self, branches: list[list[Op]], digest: int) -> "list[asyncio.Task[int]]":
        return [asyncio.create_task(self.play(branch, digest)) for branch in branches]


async def _op_step(
    player: Player, uid: str, digest: int, fails: int, takes_us: int, ends: str, attempts: int | None
) -> str:
    policy = player.policy if attempts is None else RetryPolicy(0.02, 2.0, 0.5, max_attempts=attempts)
    retry = None if attempts is None else policy
    try:
        outcome: str = await player.ctx.run(
            f"{uid}:{digest:08x}", _step, uid, fails, takes_us, ends, policy.max_attempts, retry=retry
        )
    except TerminalError as error:
        if error.code == 418:
            _watching().saw_step(error.message)
        raise
    _watching().saw_step(outcome)
    return outcome


async def _op_plain(player: Player, uid: str, digest: int) -> str:
    outcome: str = await player.ctx.run(f"{uid}:{digest:08x}", _plain_step, uid, player.policy.max_attempts)
    _watching().saw_step(outcome)
    return outcome


async def _op_show(player: Player, uid: str, digest: int, name: str, fails: int, takes_us: int) -> str:
    """A step that writes to a stream, behind a line of the handler's own."""
    if _watching().elsewhere:  # the protocol has no streams
        return await _op_step(player, uid, digest, fails, takes_us, "ok", None)
    stream, most = player.ctx.stream(name), player.policy.max_attempts
    stream.write(f"{uid}:{digest:08x}")
    outcome: str = await player.ctx.run(
        f"{uid}:{digest:08x}", _shown_step, stream, uid, fails, takes_us, most, retry=player.policy
    )
    _watching().saw_step(outcome)
    _watching().saw_shown(outcome)
    return outcome


async def _op_sleep(player: Player, uid: str, digest: int, ms: int, durable: bool) -> str:
    if durable:
        await player.ctx.sleep(ms / 1000)
    else:
        await asyncio.sleep(ms / 1000)
    return "slept"


async def _op_call(player: Player, uid: str, digest: int, target: str, key: str | None, program: Program) -> str:
    idempotency_key = program["uid"] if program["uid"].endswith("*") else None
    return str(await player.ctx.call(target, program, key=key, idempotency_key=idempotency_key))


async def _op_send(
    player: Player, uid: str, digest: int, target: str, key: str | None, program: Program, delay_ms: int, then: str
) -> str:
    handle = await player.ctx.send(target, program, key=key, delay=delay_ms / 1000 if delay_ms else None)
    if then == "attach":
        return str(await handle.attach())
    if then == "output":
        try:
            return str(await handle.output())
        except NotReady:
            return "not ready"
    if then == "cancel":
        await handle.cancel()
    elif then == "signal":
        await handle.signal("go", uid)
    return handle.id


async def _op_gather(player: Player, uid: str, digest: int, branches: list[list[Op]], calm: bool) -> str:
    tasks = [player.play(branch, digest) for branch in branches]
    return str(await asyncio.gather(*tasks, return_exceptions=calm))


async def _op_group(player: Player, uid: str, digest: int, branches: list[list[Op]]) -> str:
    failed = 0
    tasks: list[asyncio.Task[int]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(player.play(branch, digest)) for branch in branches]
    except* TerminalError as errors:
        failed = len(errors.exceptions)
    return f"{failed} failed" if failed else str([task.result() for task in tasks])


async def _op_race(player: Player, uid: str, digest: int, branches: list[list[Op]]) -> str:
    tasks = await player.branches(branches, digest)
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:  # a set: its order replays, or the seeds find out
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return f"{len(done)} {[repr(result) for result in results]}"


async def _op_completed(player: Player, uid: str, digest: int, branches: list[list[Op]]) -> str:
    tasks = await player.branches(branches, digest)
    seen: list[str] = []
    for future in asyncio.as_completed(tasks):
        try:
            seen.append(str(await future))
        except TerminalError as error:
            seen.append(error.message)
    return ",".join(seen)


async def _op_timeout(player: Player, uid: str, digest: int, ms: int, ops: list[Op]) -> str:
    try:
        async with asyncio.timeout(ms / 1000):
            return str(await player.play(ops, digest))
    except TimeoutError:
        return "timeout"


async def _op_try(player: Player, uid: str, digest: int, ops: list[Op]) -> str:
    try:
        return str(await player.play(ops, digest))
    except TerminalError as error:
        return f"caught {error.code}"


async def _op_cleanup(player: Player, uid: str, digest: int, ops: list[Op], cleanup: list[Op]) -> str:
    try:
        return str(await player.play(ops, digest))
    except asyncio.CancelledError:
        await player.play(cleanup, digest)
        raise


async def _op_queue(player: Player, uid: str, digest: int, branches: list[list[Op]]) -> str:
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def produce(branch: list[Op]) -> None:
        try:
            await queue.put(await player.play(branch, digest))
        except TerminalError as error:
            await queue.put(-error.code)

    tasks = [asyncio.create_task(produce(branch)) for branch in branches]
    taken = [await queue.get() for _ in branches]
    await asyncio.gather(*tasks)
    return str(taken)


async def _op_lock(player: Player, uid: str, digest: int, branches: list[list[Op]]) -> str:
    lock = asyncio.Lock()
    order: list[int] = []

    async def one(index: int, branch: list[Op]) -> None:
        async with lock:
            order.append(index)
            await player.play(branch, digest)

    await asyncio.gather(*(one(index, branch) for index, branch in enumerate(branches)))
    return str(order)


async def _op_leave(player: Player, uid: str, digest: int, ops: list[Op]) -> str:
    """Nobody waits for it; the handler's end cancels it."""
    player.left.append(asyncio.create_task(player.play(ops, digest)))
    return "left"


async def _op_awakeable(player: Player, uid: str, digest: int) -> str:
    awakeable = player.ctx.awakeable()
    await player.ctx.run(f"{uid}:publish", _publish, awakeable.id)
    value = str(await awakeable)
    _watching().saw_awakeable(awakeable.id, value)
    return value


async def _op_resolve_awakeable(player: Player, uid: str, digest: int, index: int, reject: bool) -> str:
    id: str = await player.ctx.run(f"{uid}:find", _find_awakeable, index)
    if id and reject:
        await player.ctx.reject_awakeable(id, uid)
    elif id:
        await player.ctx.resolve_awakeable(id, uid)
    return id


async def _op_signal(player: Player, uid: str, digest: int, name: str) -> str:
    _watching().expected[player.ctx.invocation_id, name] = None
    value = str(await player.ctx.signal(name))
    _watching().saw_signal(player.run, name, value)
    return value


async def _op_flaky(player: Player, uid: str, digest: int, times: int, retry_after_ms: int | None) -> str:
    if _watching().fails(player.ctx.invocation_id, uid, times):
        player.run.over = True
        if retry_after_ms is None:
            raise ValueError(uid)
        raise RetryableError(uid, retry_after_ms / 1000)
    return "well"


async def _op_terminal(player: Player, uid: str, digest: int) -> str:
    raise TerminalError(uid, 422)


async def _op_chance(player: Player, uid: str, digest: int) -> str:
    return f"{player.ctx.random.random()} {player.ctx.uuid()}"


async def _op_get(player: Player, uid: str, digest: int, name: str) -> str:
    assert isinstance(player.ctx, SharedContext)
    return str(await player.ctx.get(name))


async def _op_keys(player: Player, uid: str, digest: int) -> str:
    assert isinstance(player.ctx, SharedContext)
    return str(await player.ctx.keys())


async def _op_set(player: Player, uid: str, digest: int, name: str) -> str:
    assert isinstance(player.ctx, ObjectContext)
    player.ctx.set(name, uid)
    return "set"


async def _op_incr(player: Player, uid: str, digest: int) -> str:
    assert isinstance(player.ctx, ObjectContext)
    async with player.counting:  # reading may take a while, and another branch may count too
        value = await player.ctx.get("n", int, 0)
        player.ctx.set("n", value + 1)
    return str(value + 1)


async def _op_clear(player: Player, uid: str, digest: int, name: str | None) -> str:
    assert isinstance(player.ctx, ObjectContext)
    async with player.counting:
        if name is None:
            player.ctx.clear_all()
        else:
            await player.ctx.clear(name)
    return "cleared"


async def _op_promise(player: Player, uid: str, digest: int, name: str, how: str) -> str:
    assert isinstance(player.ctx, SharedContext)
    promise = player.ctx.promise(name)
    if how in ("await", "peek"):
        value = await promise if how == "await" else await promise.peek()
        if value is not None:
            _watching().saw_promise(player.ctx.key, name, value)
        return str(value)
    try:
        if how == "resolve":
            await promise.resolve(uid)
        else:
            await promise.reject(uid)
    except TerminalError as error:
        return f"{error.code}"
    return how


KINDS: dict[str, Callable[..., Awaitable[str]]] = {
    "step": _op_step,
    "plain": _op_plain,
    "show": _op_show,
    "sleep": _op_sleep,
    "call": _op_call,
    "send": _op_send,
    "gather": _op_gather,
    "group": _op_group,
    "race": _op_race,
    "completed": _op_completed,
    "timeout": _op_timeout,
    "try": _op_try,
    "cleanup": _op_cleanup,
    "queue": _op_queue,
    "lock": _op_lock,
    "leave": _op_leave,
    "awakeable": _op_awakeable,
    "resolve_awakeable": _op_resolve_awakeable,
    "signal": _op_signal,
    "flaky": _op_flaky,
    "terminal": _op_terminal,
    "chance": _op_chance,
    "get": _op_get,
    "keys": _op_keys,
    "set": _op_set,
    "incr": _op_incr,
    "clear": _op_clear,
    "promise": _op_promise,
}
_TOLD = frozenset(("step", "plain", "show", "call", "send", "resolve_awakeable", "promise"))
_SILENT = frozenset(KINDS) - _TOLD - {"sleep", "plain", "awakeable", "signal", "terminal"}


# ---- handlers

_PATIENT = RetryPolicy(0.05, 2.0, 1.0, max_attempts=5)
_FRAIL = RetryPolicy(0.02, 2.0, 0.2, max_attempts=3, on_exhausted="fail")
_TIRELESS = RetryPolicy(0.1, 1.5, 2.0, max_attempts=None)

Play = Service("Play", retry_policy=_PATIENT, journal_retention=3600)
Eager = Service("Eager", retry_policy=_TIRELESS, inactivity_timeout=0, journal_retention=30)
Brief = Service("Brief", retry_policy=_PATIENT, inactivity_timeout=0.05, journal_retention=0)
Frail = Service("Frail", retry_policy=_FRAIL, inactivity_timeout=0.2)
Narrow = Service("Narrow", retry_policy=_PATIENT)
Counter = VirtualObject("Counter", retry_policy=_PATIENT, inactivity_timeout=0.5)
Box = VirtualObject("Box", retry_policy=_PATIENT)
Flow = Workflow("Flow", retry_policy=_PATIENT, inactivity_timeout=0.1, workflow_retention=7200)


async def _perform(ctx: Context, program: Program, policy: RetryPolicy, owner: str | None = None) -> str:
    run = _watching().enter(ctx.invocation_id, owner)
    try:
        digest = await Player(ctx, run, policy).play(program["ops"])
        result = f"{program['uid']}={digest:08x}"
        _watching().returned(run, result)
        return result
    finally:
        run.leave()


@Play.handler(name="run")
async def play_run(ctx: Context, program: Program) -> Any:
    return await _perform(ctx, program, _PATIENT)


@Eager.handler(name="run")
async def eager_run(ctx: Context, program: Program) -> Any:
    return await _perform(ctx, program, _TIRELESS)


@Brief.handler(name="run")
async def brief_run(ctx: Context, program: Program) -> Any:
    return await _perform(ctx, program, _PATIENT)


@Frail.handler(name="run")
async def frail_run(ctx: Context, program: Program) -> Any:
    return await _perform(ctx, program, _FRAIL)


@Narrow.handler(name="run", concurrency=1, inactivity_timeout=0.1)
async def narrow_run(ctx: Context, program: Program) -> Any:
    return await _perform(ctx, program, _PATIENT)


@Counter.handler(name="add")
async def counter_add(ctx: ObjectContext, program: Program) -> Any:
    run = _watching().enter(ctx.invocation_id, f"Counter/{ctx.key}")
    try:
        value = await ctx.get("n", int, 0) + 1
        ctx.set("n", value)
        run.saw("n", str(value))
        _watching().returned(run, value)  # type: ignore[arg-type]
        return value
    finally:
        run.leave()


@Counter.shared(name="get")
async def counter_get(ctx: SharedContext, program: Program) -> Any:
    value = await ctx.get("n", int, 0)
    _watching().returned(_watching().enter(ctx.invocation_id, None), value)  # type: ignore[arg-type]
    return value


@Box.handler(name="play")
async def box_play(ctx: ObjectContext, program: Program) -> Any:
    return await _perform(ctx, program, _PATIENT, f"Box/{ctx.key}")


@Box.handler(name="hurry", inactivity_timeout=0)
async def box_hurry(ctx: ObjectContext, program: Program) -> Any:
    return await _perform(ctx, program, _PATIENT, f"Box/{ctx.key}")


@Box.shared(name="look")
async def box_look(ctx: SharedContext, program: Program) -> Any:
    return await _perform(ctx, program, _PATIENT)


@Flow.main(name="run")
async def flow_run(ctx: WorkflowContext, program: Program) -> Any:
    _watching().flows[ctx.key] = None
    return await _perform(ctx, program, _PATIENT)


@Flow.handler(name="look")
async def flow_look(ctx: SharedContext, program: Program) -> Any:
    return await _perform(ctx, program, _PATIENT)


APP = App(Play, Eager, Brief, Frail, Narrow, Counter, Box, Flow)
