"""`ctx.saga`: undo what was done, if the whole can't be done.

A saga is a list of compensations that the handler's code fills; replay fills it again, so a crash loses none. They run
only when it is certain that the invocation will not go on: a failure for good, or a cancellation. What is to be tried
again, and a crash or a suspension, undo nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from perdure.errors import TerminalError
from perdure.model.services import RetryPolicy

if TYPE_CHECKING:
    from perdure.sdk.context import Context

__all__ = ["Saga", "SagaError"]


class SagaError(TerminalError):
    """Some compensations failed for good; all others were made. Its cause is what the saga failed with.

    `code` is the cause's; `failures` has, by name, what the compensations failed with.
    """

    def __init__(
        self,
        message: str = "",
        code: int = 500,
        metadata: Mapping[str, str] | None = None,
        failures: Mapping[str, TerminalError] | None = None,
    ) -> None:
        super().__init__(message, code, metadata)
        self.failures = dict(failures or {})


class _Compensation(NamedTuple):
    name: str
    make: Callable[[], Awaitable[Any]]


class Saga:
    """Compensations, made in reverse order if the block ends with a failure for good or a cancellation.

    ::

        async with ctx.saga() as saga:
            saga.compensate(cancel_flight, trip.id)
            await ctx.run("book flight", book_flight, trip.id)
            saga.compensate(cancel_hotel, trip.id)
            await ctx.run("book hotel", book_hotel, trip.id)

    Register a compensation before its action: an action that failed, or was cut off, may have been done all the same.
    So a compensation has to bear that there is nothing to undo. Each is a step, tried again until it is done, and is
    not disturbed by cancellations, which go on afterwards. Those that fail for good (`TerminalError`) are told together
    by a `SagaError` when the others are done.
    """

    def __init__(self, ctx: "Context", *, parallel: bool = False) -> None:
        self._ctx = ctx
        self._parallel = parallel
        self._registered: list[_Compensation] = []

    def compensate(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        """If it comes to that, call `fn(*args, **kwargs)` as a step called `name`. Not a coroutine.

        Without `retry` it is tried again under the invocation's policy.
        """
        ctx = self._ctx
        name = name or f"undo: {getattr(fn, '__name__', None) or getattr(fn, 'func', fn).__name__}"
        self._registered.append(_Compensation(name, lambda: ctx.run(name, fn, *args, retry=retry, **kwargs)))

    def compensate_call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        /,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """If it comes to that, call a handler exactly once and wait for it. Not a coroutine."""
        ctx = self._ctx
        token = f"undo {ctx.invocation_id} {len(self._registered)}"

        async def call() -> None:
            # A cancellation would be passed on to a call, and not to what was sent.
            handle = await ctx.send(handler, arg, key=key, headers=headers, idempotency_key=token)
            await ctx.invocation(handle.id, bytes).attach()

        said = handler if isinstance(handler, str) else getattr(handler, "__name__", str(handler))
        self._registered.append(_Compensation(f"undo: {said}", call))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, asyncio.CancelledError) or self._ctx._run.final(error):
            await self._undo(error)

    async def _undo(self, error: BaseException) -> None:
        """Make all compensations, whatever happens meanwhile; then tell."""
        undoing = asyncio.ensure_future(self._compensate())
        cancelled: asyncio.CancelledError | None = None
        while not undoing.done():
            try:
                await asyncio.wait((undoing,))
            except asyncio.CancelledError as again:
                cancelled = again
        failures = undoing.result()
        if failures:
            raise _saga_error(failures, len(self._registered), error) from error
        if cancelled is not None and not isinstance(error, asyncio.CancelledError):
            raise cancelled

    async def _compensate(self) -> dict[str, TerminalError]:
        backwards = self._registered[::-1]
        if self._parallel:
            outcomes = await asyncio.gather(*(_outcome(each) for each in backwards))
        else:
            outcomes = [await _outcome(each) for each in backwards]
        failures: dict[str, TerminalError] = {}
        for each, failure in zip(backwards, outcomes, strict=True):
            if failure is not None:
                failures[each.name if each.name not in failures else f"{each.name} ({len(failures)})"] = failure
        return failures


async def _outcome(compensation: _Compensation) -> TerminalError | None:
    try:
        await compensation.make()
    except TerminalError as error:
        return error
    return None


def _saga_error(failures: Mapping[str, TerminalError], count: int, error: BaseException) -> SagaError:
    said = "cancelled" if isinstance(error, asyncio.CancelledError) else str(error)
    parts = "; ".join(f"{name}: {failure.message}" for name, failure in failures.items())
    code = 409 if isinstance(error, asyncio.CancelledError) else getattr(error, "code", 500)
    return SagaError(f"{said}; and {len(failures)} of {count} compensations failed: {parts}", code, failures=failures)
