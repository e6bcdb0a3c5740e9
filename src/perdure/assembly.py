"""Puts a node together from apps and stores; the composition that server, engine and tests share."""

import asyncio
import random
import sys
from collections.abc import Callable, Sequence

from perdure.errors import Invalid
from perdure.model.ids import format_invocation_id
from perdure.runtime.clock import Clock, SystemClock
from perdure.runtime.host import ProcessHost
from perdure.runtime.node import Node
from perdure.runtime.registry import Registry
from perdure.runtime.watchdog import Watchdog
from perdure.sdk import driver
from perdure.sdk.app import App
from perdure.sdk.service import AnyService
from perdure.sdk.serving import serve
from perdure.sdk.steps import Step
from perdure.storage.base import Storage
from perdure.transports.inprocess import InProcess

__all__ = ["LAG_SECONDS", "LocalNode", "assemble"]


SWITCH_SECONDS = 0.001
LAG_SECONDS = 1.0  # an event loop held up for longer is worth a word in the log


class LocalNode(Node):
    """A node that runs handlers of this process."""

    host: ProcessHost
    watchdog: Watchdog | None = None

    def close(self) -> None:
        super().close()
        self.host.close()
        if self.watchdog is not None:
            self.watchdog.stop()


def _who_runs(loop: asyncio.AbstractEventLoop) -> str | None:
    """What the loop's thread is busy with; asked from another thread, so it may be a moment old."""
    run = driver.running
    if run is not None:
        return f"handler {run.start.target} ({run.invocation_id})"
    task = asyncio.current_task(loop)
    if task is None:
        return None
    frame = getattr(task.get_coro(), "cr_frame", None)
    step = None if frame is None else frame.f_locals.get("self")
    if isinstance(step, Step):
        return f"step {step.name!r} of {step.start.target} ({format_invocation_id(step.start.id)})"
    return task.get_name()


def assemble(
    apps: Sequence[App],
    storages: Sequence[Storage],
    *,
    clock: Clock | None = None,
    replay_always: bool = False,
    attempt_limit: int = 1000,
    chance: Callable[[], float] = random.random,
    entropy: Callable[[int], int] | None = None,
    failed: Callable[[BaseException], None] | None = None,
    lag_threshold: float | None = None,
) -> LocalNode:
    """A node for the services of `apps`, over one store per partition. To be called in a running event loop.

    With `lag_threshold` (seconds), whoever holds up the event loop for longer is named in the log.

    Raises `Invalid` if two apps have services of one name.
    """
    services: dict[str, AnyService] = {}
    for app in apps:
        for name, service in app.services.items():
            if name in services and services[name] is not service:
                raise Invalid(f"two apps have a service {name!r}; give one of them another name")
            services[name] = service
    handlers = {
        (name, handler.name): handler for name, service in services.items() for handler in service.handlers.values()
    }
    # A commit is a dozen short turns of the writer's thread; at the default of 5 ms each would wait for a busy loop.
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
    clock = clock or SystemClock(asyncio.get_running_loop())
    host = ProcessHost(clock, chance, replay_always=replay_always)
    options = {} if entropy is None else {"entropy": entropy}
    node = LocalNode(
        Registry(service.info for service in services.values()),
        storages,
        InProcess(serve(handlers, host)),
        clock=clock,
        attempt_limit=attempt_limit,
        chance=chance,
        failed=failed,
        **options,
    )
    node.host = host
    if lag_threshold is not None:
        loop = host.loop
        node.watchdog = Watchdog(loop, lambda: _who_runs(loop), lag_threshold)
        node.watchdog.start()
    return node
