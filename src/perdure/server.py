"""The server: stores, node, ingress and admin listeners put together from a `Config`, and taken apart in order."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import perdure
from perdure.ai.ag_ui import AgUiEvents
from perdure.ai.ui_stream import UIMessageStream
from perdure.assembly import LocalNode, Reach, assemble, queries_of
from perdure.config import Config
from perdure.core.tables import API_KEY
from perdure.embedded import open_data_dir
from perdure.errors import Invalid, PerdureError, Unavailable
from perdure.model.deployments import AsgiEndpoint, Deployment, Revision
from perdure.protocol.approvals import Links
from perdure.runtime.clock import wall_clock_ms
from perdure.runtime.deployments import discover
from perdure.runtime.identity import Identity
from perdure.runtime.keys import Keyring
from perdure.sdk.app import App
from perdure.sdk.tracing import provider_from
from perdure.sql.pool import Queries
from perdure.storage.base import Storage
from perdure.storage.census import census
from perdure.telemetry.history import INTERVAL_MS, History
from perdure.transports.asgi import AsgiApp
from perdure.web.admin import Admin
from perdure.web.audit import Audit
from perdure.web.ingress import Ingress
from perdure.web.listener import Listener
from perdure.web.security import Guard, Sources, is_loopback
from perdure.web.tls import Tls, load_tls

if TYPE_CHECKING:
    from perdure.sdk.otel import ReplaySafeTracerProvider

__all__ = ["Server", "keyring_of", "new_event_loop", "run"]

logger = logging.getLogger("perdure.server")

GC_THRESHOLD = 20_000  # objects made before the collector looks: at 700 it cost a third of the 99th percentile
_AFTER_STOP_SECONDS = 1.0  # for the last answers, which say that the engine has stopped, to be sent
_EXPORT_SECONDS = 5.0  # for the last spans, when the server stops


class Server:
    """Serves `apps` as `config` says, from `start` until `stop`."""

    def __init__(self, config: Config, apps: Sequence[App], asgi_apps: Mapping[str, AsgiApp] | None = None) -> None:
        self._config = config
        self._apps = apps
        self._asgi_apps = dict(asgi_apps or {})
        self._identity = Identity(config.identity_path)
        self._links = Links(lambda: self._identity.secret("approvals"), self._public_url)
        self._node: LocalNode | None = None
        self.failure: BaseException | None = None
        """Why it had to stop by itself, if it had to."""
        self.stopping = asyncio.Event()
        """Set when it has been asked to stop, or has to."""
        self._queries: Queries | None = None
        self._audit: Audit | None = None
        self._calls: Ingress | None = None
        self._tracer_provider: ReplaySafeTracerProvider | None = None
        self._counting: asyncio.Task[None] | None = None
        self._history = History()
        self._remembering: asyncio.Task[None] | None = None
        self.ingress: Listener | None = None
        self.admin: Listener | None = None

    async def start(self) -> None:
        """Returns when requests are served. Raises `StorageError`, `PortInUse` and (no API key, bad TLS) `Invalid`."""
        config = self._config
        tls = None if config.tls_certificate is None else load_tls(config.tls_certificate, config.tls_key or "")
        self._tracer_provider = _tracer_provider(config)
        stores = open_data_dir(Path(config.data_dir), config.partitions)
        try:
            keyring = keyring_of(config, stores)
            node = assemble(
                self._apps,
                stores,
                attempt_limit=config.attempt_limit,
                failed=self._failed,
                lag_threshold=config.lag_threshold_seconds,
                reach=self._reach(),
                usual=config.usual,
                tracer_provider=self._tracer_provider,
                links=self._links,
            )
            node.keyring = keyring
        except BaseException:
            for store in stores:
                store.close()
            raise
        node.streams.limit(config.stream_memory_limit, config.stream_reader_limit)
        try:
            self._listen(node, stores, tls)
            await self._serve_asgi_apps(node)
            counts = [census(store) for store in stores]
            self._counting = asyncio.create_task(self._count(node, counts), name="counts invocations")
            self._remembering = asyncio.create_task(self._remember(node), name="keeps the last hour's numbers")
            await node.start()
        except BaseException:
            self._close_listeners()
            node.close()
            raise
        self._node = node

    async def _count(self, node: LocalNode, counts: list[Callable[[], dict[str, int]]]) -> None:
        """A million invocations take a second to count, in a thread; nobody waits for it."""
        total: Counter[str] = Counter()
        for count in counts:
            total.update(await asyncio.to_thread(count))
        node.metrics.statuses = dict(total)

    async def _remember(self, node: LocalNode) -> None:
        """What is counted becomes the history that the console shows."""
        while True:
            invoker = node.invoker
            self._history.take(node.clock.now_ms(), node.metrics, invoker.live, invoker.waiting)
            await asyncio.sleep(INTERVAL_MS / 1000)

    def _reach(self) -> Reach:
        config = self._config
        return Reach(
            self._asgi_apps,
            self._identity,
            config.remote_attempt_limit,
            config.message_size_limit,
            config.protocol_version,
            config.connect_timeout_seconds,
        )

    def _public_url(self) -> str | None:
        return self._config.public_url or (None if self.ingress is None else self.ingress.url)

    async def _serve_asgi_apps(self, node: LocalNode) -> None:
        """Ask the SDKs' applications what they serve; it is not stored, for it goes with the process."""
        for name in self._asgi_apps:
            found = await discover(node, AsgiEndpoint(name), {})
            for info in found.manifest.services:
                if node.registry.service(info.name) is not None:
                    raise Invalid(f"{name} has a service {info.name!r}, and so has another app; rename one of them")
            revisions = {info.name: Revision(1, info) for info in found.manifest.services}
            manifest, now = found.manifest, node.clock.now_ms()
            node.registry.deploy(
                Deployment(
                    f"asgi:{name}",
                    found.endpoint,
                    manifest.mode,
                    manifest.oldest,
                    manifest.newest,
                    now,
                    revisions,
                    sdk=found.sdk,
                )
            )

    def _listen(self, node: LocalNode, stores: "Sequence[Storage]", tls: Tls | None) -> None:
        """From here on `/health` answers, with 503 until the node is ready."""
        config = self._config
        self._audit = Audit(node.clock, config.audit_log)
        keyring = None if config.authentication == "off" else node.keyring
        self._calls = ingress = Ingress(
            node,
            request_size_limit=config.request_size_limit,
            concurrency_limit=config.concurrency_limit,
            metrics=node.metrics,
            renderings={"vercel": UIMessageStream, "ag-ui": AgUiEvents},
            links=self._links,
            guard=Guard("ingress", keyring, node.clock, self._audit),
        )
        self.ingress = Listener(ingress, config.host, config.ingress_port, tls, config.http2_stream_limit)
        self._queries = queries_of(
            node,
            stores,
            concurrency=config.sql_concurrency_limit,
            time_limit=config.sql_timeout_seconds,
            memory_limit=config.sql_memory_limit,
        )
        admin = Admin(
            node,
            version=perdure.__version__,
            ingress_endpoint=lambda: self.ingress.url if self.ingress is not None else None,
            request_size_limit=config.request_size_limit,
            concurrency_limit=config.admin_concurrency_limit,
            queries=self._queries,
            guard=Guard("admin", keyring, node.clock, self._audit),
            sources=Sources(config.admin_allowed_hosts, loopback=is_loopback(config.host)),
            history=self._history,
            ingress=ingress,
        )
        self.admin = Listener(admin, config.host, config.admin_port, tls, config.http2_stream_limit)
        sockets = [self.ingress.bind()]
        try:
            sockets.append(self.admin.bind())
        except BaseException:
            sockets[0].close()
            raise
        for listener, bound in zip((self.ingress, self.admin), sockets, strict=True):
            listener.start(bound)

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        self.stopping.set()

    async def stop(self) -> None:
        """Takes no more requests, lets those that are open end, lets handlers come to rest, lets go of the stores.

        Whoever still waits for a result is answered 503 and told that the invocation goes on.
        """
        self.stopping.set()
        if self._calls is not None:
            self._calls.close()  # a connection that is open may bring another request before it is told to end
        self._close_listeners()
        if self._node is not None:
            self._node.streams.hang_up(Unavailable("the server stops"))
        drain = self._config.drain_seconds if self.failure is None else 0.0
        await self._drained(drain)
        if self._remembering is not None:
            self._remembering.cancel()
        if self._counting is not None:
            await asyncio.wait([self._counting])
        if self._queries is not None:
            await self._queries.close()  # they read the stores
        if self._node is not None:
            await self._node.stop(self._config.stop_grace_seconds)
        if self._tracer_provider is not None:
            await asyncio.to_thread(self._tracer_provider.close, _EXPORT_SECONDS)
        await self._drained(_AFTER_STOP_SECONDS)
        if self._audit is not None:
            self._audit.close()

    def _close_listeners(self) -> None:
        for listener in (self.ingress, self.admin):
            if listener is not None:
                listener.close()

    async def _drained(self, seconds: float) -> None:
        listeners = [listener for listener in (self.ingress, self.admin) if listener is not None]
        await asyncio.gather(*(listener.closed(seconds) for listener in listeners))

    def describe(self) -> str:
        """One line: where it listens, where it stores, what it serves."""
        assert self.ingress is not None and self.admin is not None
        names = [] if self._node is None else [info.name for info in self._node.registry.services()]
        serving = f"serving {', '.join(names)}" if names else "no services yet (perdure deployments register URL)"
        return f"ingress {self.ingress.url}, admin {self.admin.url}, data {self._config.data_dir}, {serving}"


def keyring_of(config: Config, stores: Sequence[Storage]) -> Keyring:
    """The keys there are, before anything listens. Raises `Invalid` where keys are needed and none is good."""
    loopback = is_loopback(config.host)
    keyring = Keyring(
        (key for _, key in stores[0].scan(API_KEY, ())), required=config.authentication == "required" or not loopback
    )
    if config.authentication == "off":
        if not loopback:
            logger.warning(
                "authentication is off and %s is not loopback: whoever reaches the ports may do anything", config.host
            )
        return keyring
    now = wall_clock_ms()
    if keyring.required and not any(key.ended_at(now) is None for key in keyring.all()):
        why = "authentication is required" if loopback else f"host {config.host} is not loopback"
        if config.authentication == "auto" and loopback:
            why = "there were API keys"
        raise Invalid(
            f"{why}, and there is no API key that is good; make one: "
            f"perdure keys create --data-dir {config.data_dir} --role admin --name NAME. "
            "Or let everybody in: --authentication off"
        )
    if not loopback and config.tls_certificate is None:
        logger.warning(
            "API keys travel in clear text: set tls_certificate and tls_key, unless a proxy in front speaks TLS"
        )
    return keyring


def _tracer_provider(config: Config) -> "ReplaySafeTracerProvider | None":
    """Where traces go, if anywhere; spans that handlers make go there too, unless their module has said otherwise."""
    provider = provider_from(config.tracing_endpoint)
    if provider is not None:
        from opentelemetry import trace

        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(provider)
    return provider


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(
    config: Config,
    apps: Sequence[App],
    announce: Callable[[str], None],
    since: float | None = None,
    asgi_apps: Mapping[str, AsgiApp] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then stops in order; a second signal ends the process at once.

    `announce` is given one line when the server is ready. Raises `PerdureError` if it cannot start, or had to stop.
    """
    began = time.monotonic() if since is None else since
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(config, apps, asgi_apps, announce, began))


async def _serve(
    config: Config,
    apps: Sequence[App],
    asgi_apps: Mapping[str, AsgiApp] | None,
    announce: Callable[[str], None],
    began: float,
) -> None:
    server = Server(config, apps, asgi_apps)
    with _signals(server.stopping):
        await server.start()
        # What has been made so far lives as long as the process: the collector need not look at it again and again.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 20)
        announce(f"perdure {perdure.__version__} ready in {time.monotonic() - began:.2f} s: {server.describe()}")
        await server.stopping.wait()
        if server.failure is None:
            announce("perdure stopping: waiting for open requests and running handlers; once more to stop at once")
        await server.stop()
    if server.failure is not None:
        raise PerdureError(f"the engine has stopped: {server.failure}") from server.failure
    announce("perdure stopped")


@contextlib.contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stopping`, the second one ends the process."""
    loop = asyncio.get_running_loop()

    def told(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    handled = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.getsignal(number) for number in handled}
    for number in handled:
        if sys.platform == "win32":
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(told, number))
        else:
            loop.add_signal_handler(number, told, number)
    try:
        yield
    finally:
        for number in handled:
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, previous[number])
