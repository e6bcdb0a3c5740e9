"""What type checkers see of the decorators. Read by mypy, never run: `assert_type` pins, unused ignores are errors."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, assert_type

from perdure.model.services import RetryPolicy, ServiceInfo
from perdure.sdk.app import App
from perdure.sdk.serde import Serde, serde_for
from perdure.sdk.service import HandlerReference, Service, VirtualObject, Workflow, resolve_handler


class Ctx:
    """Stands for any context."""


class Upper:
    content_type = "text/plain"

    def serialize(self, value: str) -> bytes:
        return value.upper().encode()

    def deserialize(self, data: bytes) -> str:
        return data.decode()

    def schema(self) -> None:
        return None


service = Service(
    "S",
    description="d",
    metadata={"team": "a"},
    private=True,
    retry_policy=RetryPolicy(max_attempts=3),
    inactivity_timeout=1,
    abort_timeout=1.5,
    journal_retention=timedelta(days=1),
    idempotency_retention=None,
    input_serde=Upper(),
    output_serde=serde_for(str),
    concurrency=5,
)
counter = VirtualObject("O", journal_retention=0)
signup = Workflow("W", workflow_retention=timedelta(days=30))


@service.handler()
async def with_parentheses(ctx: Ctx, n: int) -> str:
    return str(n)


@service.handler
async def bare(ctx: Ctx, n: int) -> str:
    return str(n)


@service.handler(name="other", concurrency=1, output_serde=Upper())
def plain(ctx: Ctx) -> str:
    return ""


@counter.handler()
async def exclusive(ctx: Ctx, n: int = 1) -> None: ...


@counter.shared
async def shared(ctx: Ctx) -> list[int]:
    return []


@signup.main(workflow_retention=60)
async def main(ctx: Ctx, email: str) -> bool:
    return True


@signup.handler(idempotency_retention=60)
async def look(ctx: Ctx) -> bool:
    return True


async def calls(ctx: Ctx) -> None:
    assert_type(await with_parentheses(ctx, 1), str)
    assert_type(await with_parentheses(ctx, n=1), str)
    assert_type(await bare(ctx, 1), str)
    assert_type(plain(ctx), str)
    assert_type(await exclusive(ctx), None)
    assert_type(await shared(ctx), list[int])
    assert_type(await main(ctx, "a"), bool)
    assert_type(await look(ctx), bool)
    await with_parentheses(ctx, "1")  # type: ignore[arg-type]
    await bare(ctx)  # type: ignore[call-arg]
    as_callable: Callable[[Ctx], str] = plain
    as_async: Callable[[Ctx, int], Coroutine[Any, Any, str]] = bare
    assert_type(as_callable(ctx), str)
    assert_type(await as_async(ctx, 1), str)


def mistakes() -> None:
    Service("S", concurency=1)  # type: ignore[call-arg]
    Service("S", workflow_retention=1)  # type: ignore[call-arg]
    Service("S", retry_policy=3)  # type: ignore[arg-type]
    Service("S", input_serde=int)  # type: ignore[arg-type]
    service.handler(workflow_retention=1)  # type: ignore[call-overload]
    service.handler(private="yes")  # type: ignore[call-overload]
    App("S")  # type: ignore[arg-type]


serde: Serde[str] = Upper()
assert_type(service.info, ServiceInfo)
assert_type(resolve_handler(bare), HandlerReference)
assert_type(resolve_handler("S/bare"), HandlerReference)
assert_type(App(service, counter, signup).services["S"], Service | VirtualObject | Workflow)
