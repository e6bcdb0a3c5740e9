"""Echo, Hidden, Steps and Failing."""

import asyncio
import time
from typing import Any

from perdure import Context, RetryableError, RetryPolicy, Service, TerminalError
from tests.conformance.services_perdure.witness import PREFIX, VERSION, is_open, note, opened

__all__ = ["QUICKLY", "echo", "echo_service", "failing", "hidden", "one", "opened", "steps"]

SHORT = 0.02
QUICKLY = RetryPolicy(initial_interval=SHORT, factor=2.0, max_interval=0.2, max_attempts=10_000)


def steady(**options: Any) -> RetryPolicy:
    return RetryPolicy(initial_interval=SHORT, factor=1.0, max_interval=SHORT, **options)


class TextSerde:
    content_type = "text/plain"

    def serialize(self, value: str) -> bytes:
        return value.encode()

    def deserialize(self, data: bytes) -> str:
        return data.decode()

    def schema(self) -> None:
        return None


echo_service = Service(
    PREFIX + "Echo",
    description="Says back what it is told.",
    metadata={"suite": "conformance"},
    retry_policy=QUICKLY,
)


@echo_service.handler(metadata={"kind": "plain"})
async def echo(ctx: Context, value: Any) -> Any:
    return value


@echo_service.handler()
async def raw(ctx: Context, body: bytes) -> bytes:
    return body


@echo_service.handler(input_serde=TextSerde(), output_serde=TextSerde())
async def text(ctx: Context, value: str) -> str:
    return value.upper()


@echo_service.handler()
async def nothing(ctx: Context) -> None:
    return None


@echo_service.handler()
async def headers(ctx: Context) -> dict[str, str]:
    return dict(ctx.headers)


@echo_service.handler()
async def version(ctx: Context) -> str:
    return VERSION


@echo_service.handler()
async def identity(ctx: Context) -> str:
    return ctx.invocation_id


@echo_service.handler(private=True)
async def private(ctx: Context, value: Any) -> Any:
    return value


hidden = Service(PREFIX + "Hidden", private=True, retry_policy=QUICKLY)


@hidden.handler(name="echo")
async def hidden_echo(ctx: Context, value: Any) -> Any:
    return value


steps = Service(PREFIX + "Steps", retry_policy=QUICKLY)


@steps.handler()
async def one(ctx: Context, command: dict[str, Any]) -> Any:
    def step() -> Any:
        note(command["witness"])
        return command["value"]

    return await ctx.run("one", step)


@steps.handler()
async def many(ctx: Context, command: dict[str, Any]) -> int:
    async def step(i: int) -> int:
        note(command["witness"], i)
        await asyncio.sleep(command.get("ms", 0) / 1000)
        return i

    total = 0
    for i in range(command["count"]):
        total += await ctx.run(f"step {i}", step, i)
    return total


@steps.handler()
async def parallel(ctx: Context, command: dict[str, Any]) -> list[int]:
    async def step(i: int) -> int:
        note(command["witness"], i)
        return i * i

    return await asyncio.gather(*(ctx.run(f"step {i}", step, i) for i in range(command["count"])))


@steps.handler()
async def flaky(ctx: Context, command: dict[str, Any]) -> int:
    async def step() -> int:
        count = note(command["witness"])
        if count <= command["failures"]:
            raise ValueError("not yet")
        return count

    return await ctx.run("flaky", step, retry=steady())


@steps.handler()
async def exhausted(ctx: Context, command: dict[str, Any]) -> Any:
    async def step() -> None:
        note(command["witness"])
        raise ValueError("never")

    try:
        await ctx.run("exhausted", step, retry=steady(max_attempts=command["attempts"]))
    except TerminalError as error:
        if not command["catch"]:
            raise
        return {"code": error.code}


@steps.handler()
async def terminal(ctx: Context, command: dict[str, Any]) -> Any:
    async def step() -> None:
        note(command["witness"])
        raise TerminalError(command["message"], command["code"])

    try:
        await ctx.run("terminal", step)
    except TerminalError as error:
        if not command["catch"]:
            raise
        return {"code": error.code, "message": error.message}


@steps.handler()
async def large(ctx: Context, command: dict[str, Any]) -> str:
    def step() -> str:
        note(command["witness"])
        return "x" * int(command["size"])

    made = await ctx.run("large", step)
    await ctx.sleep(SHORT)
    return made


@steps.handler()
async def then_fail(ctx: Context, command: dict[str, Any]) -> list[int]:
    made = await ctx.run("first", note, command["first"])
    attempts = note(command["second"])
    if attempts <= command["failures"]:
        raise ValueError("not yet")
    return [made, attempts]


@steps.handler()
async def unique(ctx: Context, command: dict[str, Any]) -> str:
    made = str(ctx.uuid())
    if note(command["witness"], made) <= command["failures"]:
        raise ValueError("not yet")
    return made


failing = Service(PREFIX + "Failing", retry_policy=QUICKLY)


@failing.handler(name="terminal")
async def fail(ctx: Context, command: dict[str, Any]) -> None:
    note(command["witness"])
    raise TerminalError(command["message"], command["code"], command.get("metadata"))


@failing.handler(name="flaky")
async def fail_first(ctx: Context, command: dict[str, Any]) -> int:
    attempts = note(command["witness"])
    if attempts <= command["failures"]:
        raise ValueError("not yet")
    return attempts


@failing.handler(retry_policy=RetryPolicy(initial_interval=0.1, factor=2.0, max_interval=10.0))
async def backoff(ctx: Context, command: dict[str, Any]) -> int:
    attempts = note(command["witness"], time.time_ns() // 1_000_000)
    if attempts <= command["failures"]:
        raise ValueError("not yet")
    return attempts


@failing.handler()
async def retry_after(ctx: Context, command: dict[str, Any]) -> int:
    attempts = note(command["witness"], time.time_ns() // 1_000_000)
    if attempts == 1:
        raise RetryableError("later", retry_after=command["ms"] / 1000)
    return attempts


@failing.handler(retry_policy=steady(max_attempts=2, on_exhausted="pause"))
async def paused(ctx: Context, command: dict[str, Any]) -> int:
    attempts = note(command["witness"])
    if not is_open(command["gate"]):
        raise ValueError("not yet")
    return attempts


@failing.handler(retry_policy=steady(max_attempts=3, on_exhausted="fail"))
async def killed(ctx: Context, command: dict[str, Any]) -> None:
    note(command["witness"])
    raise ValueError("never")
