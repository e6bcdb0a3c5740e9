"""Puts a node together from apps and stores; the composition that server, engine and tests share."""

import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import perdure
from perdure.builtin import builtin_services
from perdure.errors import Invalid
from perdure.model.deployments import AsgiEndpoint, HttpEndpoint, LambdaEndpoint
from perdure.model.ids import format_invocation_id
from perdure.model.services import Usual
from perdure.protocol.approvals import Links
from perdure.protocol.frames import FRAME_LIMIT
from perdure.protocol.versions import USUAL
from perdure.runtime.clock import Clock, SystemClock
from perdure.runtime.host import ProcessHost
from perdure.runtime.identity import Identity
from perdure.runtime.invoker import REMOTE_LIMIT
from perdure.runtime.node import Node
from perdure.runtime.registry import Registry
from perdure.runtime.watchdog import Watchdog
from perdure.sdk import driver
from perdure.sdk.app import App
from perdure.sdk.logs import quiet_replays
from perdure.sdk.service import AnyService, HandlerDefinition
from perdure.sdk.serving import serve
from perdure.sdk.steps import Step
from perdure.storage.base import Storage
from perdure.transports.asgi import AsgiApp, AsgiConnector
from perdure.transports.inprocess import InProcess
from perdure.transports.remote import Connector, Remote

if TYPE_CHECKING:
    from perdure.sdk.otel import ReplaySafeTracerProvider
    from perdure.sql.pool import Queries

__all__ = ["LAG_SECONDS", "LocalNode", "Reach", "assemble", "queries_of"]


SWITCH_SECONDS = 0.001
LAG_SECONDS = 1.0  # an event loop held up for longer is worth a word in the log


class Reach(NamedTuple):
    """How a node gets to handlers that are not in this process' apps: over HTTP, as Lambda functions, as ASGI apps."""

    asgi_apps: Mapping[str, AsgiApp] = MappingProxyType({})
    identity: Identity | None = None
    """Signs the requests."""
    attempt_limit: int = REMOTE_LIMIT
    message_limit: int = FRAME_LIMIT
    """The longest message taken from an endpoint, bytes."""
    newest_version: int = USUAL
    """Of the service protocol, that is spoken with endpoints which know it too."""
    connect_timeout: float = 10.0
    """Seconds."""

    def remote(self, clock: Clock) -> Remote:
        """The ways themselves."""
        identity = self.identity

        def sign(path: str, key: str | None) -> Mapping[str, str]:
            return {} if identity is None else identity.sign(path, key, clock.now_ms())

        connectors: dict[type, Callable[[], Connector]] = {
            HttpEndpoint: self._http,
            LambdaEndpoint: self._lambda,
            AsgiEndpoint: lambda: AsgiConnector(self.asgi_apps),
        }
        return Remote(clock, connectors, sign=sign, limit=self.message_limit)

    def _http(self) -> Connector:
        from perdure.transports.http import HttpConnector

        return HttpConnector(self.connect_timeout)

    def _lambda(self) -> Connector:
        from perdure.transports.lambda_ import LambdaConnector

        return LambdaConnector()


class LocalNode(Node):
    """A node that runs handlers of this process."""

    host: ProcessHost
    handlers: Mapping[tuple[str, str], HandlerDefinition]
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
    reach: Reach | None = None,
    usual: Usual | None = None,
    tracer_provider: "ReplaySafeTracerProvider | None" = None,
    links: Links | None = None,
) -> LocalNode:
    """A node for the services of `apps`, over one store per partition. To be called in a running event loop.

    `reach` says how it gets to handlers elsewhere; without it there are none. `usual` holds for handlers that do not
    say otherwise. `links` signs the links to approvals.

    With `lag_threshold` (seconds), whoever holds up the event loop for longer is named in the log.

    With a `tracer_provider`, spans are made of what happens.

    Raises `Invalid` if two apps have services of one name.
    """
    quiet_replays()
    services = _services_of(apps)
    builtin = {each.name: each for each in builtin_services(links) if each.name not in services}
    handlers = {
        (each.name, handler.name): handler
        for each in (*services.values(), *builtin.values())
        for handler in each.handlers.values()
    }
    # A commit is a dozen short turns of the writer's thread; at the default of 5 ms each would wait for a busy loop.
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
    clock = clock or SystemClock(asyncio.get_running_loop())
    host = ProcessHost(clock, chance, replay_always=replay_always)
    options: dict[str, Any] = {} if entropy is None else {"entropy": entropy}
    if reach is not None:
        options |= {"remote": reach.remote(clock), "remote_attempt_limit": reach.attempt_limit}
        options |= {"newest_version": reach.newest_version}
    node = LocalNode(
        Registry((each.info for each in services.values()), usual, (each.info for each in builtin.values())),
        storages,
        InProcess(serve(handlers, host)),
        clock=clock,
        attempt_limit=attempt_limit,
        chance=chance,
        failed=failed,
        **options,
    )
    node.host = host
    if tracer_provider is not None:
        from perdure.telemetry.tracing import Tracing

        node.trace(Tracing(tracer_provider, node.metrics.spans, perdure.__version__))
    node.handlers = handlers
    if node.remote is not None:
        node.remote.congested = lambda: node.congested
    if lag_threshold is not None:
        loop = host.loop
        node.watchdog = Watchdog(loop, lambda: _who_runs(loop), lag_threshold, node.metrics.loop_lag.observe)
        node.watchdog.start()
    return node


def _services_of(apps: Sequence[App]) -> dict[str, AnyService]:
    services: dict[str, AnyService] = {}
    for app in apps:
        for name, service in app.services.items():
            if name in services and services[name] is not service:
                raise Invalid(f"two apps have a service {name!r}; give one of them another name")
            services[name] = service
    return services


def queries_of(node: Node, storages: Sequence[Storage], **options: Any) -> "Queries":
    """SQL over the stores of a node, and over what it is doing; `options` are those of `Queries`.

    Stores in memory, which tests have, are copied to files for each query.
    """
    from perdure.sql.pool import Queries
    from perdure.storage.memory import MemoryStorage
    from perdure.storage.sqlite import SqliteStorage, copy_to
    from perdure.web.sql import facts_of

    @contextlib.asynccontextmanager
    async def files() -> AsyncIterator[list[str]]:
        if all(isinstance(store, SqliteStorage) for store in storages):
            yield [str(store.path) for store in storages if isinstance(store, SqliteStorage)]
            return
        with tempfile.TemporaryDirectory(prefix="perdure-sql-") as folder:
            paths = [Path(folder, f"partition-{index}.db") for index in range(len(storages))]
            for store, path in zip(storages, paths, strict=True):
                assert isinstance(store, MemoryStorage)
                await asyncio.to_thread(copy_to, store.snapshot(), path)
            yield [str(path) for path in paths]

    return Queries(files, lambda: facts_of(node), **options)
