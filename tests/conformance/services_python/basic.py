# mypy: ignore-errors
"""Echo, Hidden, Steps and Failing."""

import asyncio
import time
from datetime import timedelta

import restate
from restate.exceptions import RetryableError
from restate.serde import BytesSerde, Serde
from witness import PREFIX, VERSION, is_open, note

SHORT = timedelta(milliseconds=20)
QUICKLY = restate.InvocationRetryPolicy(
    initial_interval=SHORT, exponentiation_factor=2.0, max_interval=timedelta(milliseconds=200), max_attempts=10_000
)


class TextSerde(Serde[str]):
    def deserialize(self, buf: bytes) -> str:
        return bytes(buf).decode()

    def serialize(self, obj: str | None) -> bytes:
        return (obj or "").encode()


echo_service = restate.Service(
    PREFIX + "Echo",
    description="Says back what it is told.",
    metadata={"suite": "conformance"},
    invocation_retry_policy=QUICKLY,
)


@echo_service.handler(metadata={"kind": "plain"})
async def echo(ctx: restate.Context, value: object) -> object:
    return value


@echo_service.handler(
    accept="application/octet-stream",
    content_type="application/octet-stream",
    input_serde=BytesSerde(),
    output_serde=BytesSerde(),
)
async def raw(ctx: restate.Context, body: bytes) -> bytes:
    return bytes(body)


@echo_service.handler(accept="text/plain", content_type="text/plain", input_serde=TextSerde(), output_serde=TextSerde())
async def text(ctx: restate.Context, value: str) -> str:
    return value.upper()


@echo_service.handler()
async def nothing(ctx: restate.Context) -> None:
    return None


@echo_service.handler()
async def headers(ctx: restate.Context) -> dict[str, str]:
    return dict(ctx.request().headers)


@echo_service.handler()
async def version(ctx: restate.Context) -> str:
    return VERSION


@echo_service.handler()
async def identity(ctx: restate.Context) -> str:
    return ctx.request().id


@echo_service.handler(ingress_private=True)
async def private(ctx: restate.Context, value: object) -> object:
    return value


hidden = restate.Service(PREFIX + "Hidden", ingress_private=True, invocation_retry_policy=QUICKLY)


@hidden.handler(name="echo")
async def hidden_echo(ctx: restate.Context, value: object) -> object:
    return value


steps = restate.Service(PREFIX + "Steps", invocation_retry_policy=QUICKLY)


@steps.handler()
async def one(ctx: restate.Context, command: dict) -> object:
    def step() -> object:
        note(command["witness"])
        return command["value"]

    return await ctx.run_typed("one", step)


@steps.handler()
async def many(ctx: restate.Context, command: dict) -> int:
    async def step(i: int) -> int:
        note(command["witness"], i)
        await asyncio.sleep(command.get("ms", 0) / 1000)
        return i

    total = 0
    for i in range(command["count"]):
        total += await ctx.run_typed(f"step {i}", step, restate.RunOptions(), i)
    return total


@steps.handler()
async def parallel(ctx: restate.Context, command: dict) -> list[int]:
    async def step(i: int) -> int:
        note(command["witness"], i)
        return i * i

    started = [ctx.run_typed(f"step {i}", step, restate.RunOptions(), i) for i in range(command["count"])]
    await restate.gather(*started)
    return [await future for future in started]


@steps.handler()
async def flaky(ctx: restate.Context, command: dict) -> int:
    async def step() -> int:
        count = note(command["witness"])
        if count <= command["failures"]:
            raise ValueError("not yet")
        return count

    retry = restate.RunOptions(initial_retry_interval=SHORT, max_retry_interval=SHORT, retry_interval_factor=1.0)
    return await ctx.run_typed("flaky", step, retry)


@steps.handler()
async def exhausted(ctx: restate.Context, command: dict) -> dict:
    async def step() -> None:
        note(command["witness"])
        raise ValueError("never")

    retry = restate.RunOptions(
        max_attempts=command["attempts"],
        initial_retry_interval=SHORT,
        max_retry_interval=SHORT,
        retry_interval_factor=1.0,
    )
    try:
        await ctx.run_typed("exhausted", step, retry)
    except restate.TerminalError as error:
        if not command["catch"]:
            raise
        return {"code": error.status_code}


@steps.handler()
async def terminal(ctx: restate.Context, command: dict) -> dict:
    async def step() -> None:
        note(command["witness"])
        raise restate.TerminalError(command["message"], command["code"])

    try:
        await ctx.run_typed("terminal", step)
    except restate.TerminalError as error:
        if not command["catch"]:
            raise
        return {"code": error.status_code, "message": error.message}


@steps.handler()
async def large(ctx: restate.Context, command: dict) -> str:
    async def step() -> str:
        note(command["witness"])
        return "x" * command["size"]

    made = await ctx.run_typed("large", step)
    await ctx.sleep(SHORT)
    return made


@steps.handler()
async def then_fail(ctx: restate.Context, command: dict) -> list[int]:
    async def step() -> int:
        return note(command["first"])

    made = await ctx.run_typed("first", step)
    attempts = note(command["second"])
    if attempts <= command["failures"]:
        raise ValueError("not yet")
    return [made, attempts]


@steps.handler()
async def unique(ctx: restate.Context, command: dict) -> str:
    made = str(ctx.uuid())
    if note(command["witness"], made) <= command["failures"]:
        raise ValueError("not yet")
    return made


failing = restate.Service(PREFIX + "Failing", invocation_retry_policy=QUICKLY)


@failing.handler(name="terminal")
async def fail(ctx: restate.Context, command: dict) -> None:
    note(command["witness"])
    raise restate.TerminalError(command["message"], command["code"], command.get("metadata"))


@failing.handler(name="flaky")
async def fail_first(ctx: restate.Context, command: dict) -> int:
    attempts = note(command["witness"])
    if attempts <= command["failures"]:
        raise ValueError("not yet")
    return attempts


@failing.handler(
    invocation_retry_policy=restate.InvocationRetryPolicy(
        initial_interval=timedelta(milliseconds=100), exponentiation_factor=2.0, max_interval=timedelta(seconds=10)
    )
)
async def backoff(ctx: restate.Context, command: dict) -> int:
    attempts = note(command["witness"], int(time.time() * 1000))
    if attempts <= command["failures"]:
        raise ValueError("not yet")
    return attempts


@failing.handler()
async def retry_after(ctx: restate.Context, command: dict) -> int:
    attempts = note(command["witness"], int(time.time() * 1000))
    if attempts == 1:
        raise RetryableError("later", retry_after=timedelta(milliseconds=command["ms"]))
    return attempts


@failing.handler(
    invocation_retry_policy=restate.InvocationRetryPolicy(
        initial_interval=SHORT, exponentiation_factor=1.0, max_attempts=2, on_max_attempts="pause"
    )
)
async def paused(ctx: restate.Context, command: dict) -> int:
    attempts = note(command["witness"])
    if not is_open(command["gate"]):
        raise ValueError("not yet")
    return attempts


@failing.handler(
    invocation_retry_policy=restate.InvocationRetryPolicy(
        initial_interval=SHORT, exponentiation_factor=1.0, max_attempts=3, on_max_attempts="kill"
    )
)
async def killed(ctx: restate.Context, command: dict) -> None:
    note(command["witness"])
    raise ValueError("never")
