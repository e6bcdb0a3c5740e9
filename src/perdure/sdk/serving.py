"""From a handler's definition to the coroutine of one attempt."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from perdure.errors import TerminalError
from perdure.model.entries import Input
from perdure.protocol.control import Said, Start
from perdure.sdk import tracing
from perdure.sdk.context import context_for
from perdure.sdk.driver import HandlerRun
from perdure.sdk.serde import SerdeError
from perdure.sdk.service import HandlerDefinition
from perdure.sdk.steps import Host
from perdure.sdk.threads import run_in_thread

__all__ = ["Serve", "run_main", "serve"]

Serve = Callable[[Start, Callable[[Said], None]], HandlerRun]


async def run_main(run: HandlerRun) -> Any:
    """The handler's main task. Tasks it leaves behind are cancelled and waited for, as `asyncio.run` does."""
    definition = run.definition
    context = context_for(run)
    if run.start.trace:
        tracing.enter_handler(run)
    entry = run.start.entries[0]
    assert isinstance(entry, Input)
    try:
        arguments = definition.arguments(entry.value)
    except SerdeError as error:
        raise TerminalError(f"the input of {run.start.target}: {error}", 400) from error
    try:
        if definition.is_async:
            result = await definition.fn(context, *arguments)
        else:
            result = await run_in_thread(run, context, definition.fn, arguments)
    except BaseException as error:
        if run.final(error):
            await _finish_others(run)
        else:  # it runs again: what its other tasks would do from here on, the next attempt does not find
            run.close_journal()
        raise
    await _finish_others(run)
    return result


async def _finish_others(run: HandlerRun) -> None:
    others = [] if run.closed else run.loop.others(run.main)
    if others:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def serve(handlers: Mapping[tuple[str, str], HandlerDefinition], host: Host) -> Serve:
    """What an in-process transport opens: the handler's side of an attempt, for (service, handler) in `handlers`."""

    def open_run(start: Start, receive: Callable[[Said], None]) -> HandlerRun:
        definition = handlers[start.target.service, start.target.handler]
        return HandlerRun(definition, start, receive, host, run_main)

    return open_run
