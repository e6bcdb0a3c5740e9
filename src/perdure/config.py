"""The settings of a server.

A field is all that a setting needs: `perdure.settings` makes its flag, its variable, its key in the TOML file and its
line in docs/configuration.md (`make settings`) from the name, the type, the default and the text below it.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from perdure.errors import Invalid
from perdure.model.services import RetryPolicy, Usual
from perdure.settings import read

__all__ = ["Config"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data_dir: str = "perdure-data"
    """Where everything is stored. One process at a time."""
    host: str = "127.0.0.1"
    """The address both ports listen at. Anything but loopback needs API keys (`authentication`)."""
    ingress_port: int = 8080
    """Where handlers are called. 0: a free port."""
    admin_port: int = 9070
    """Where invocations and state are looked after, and health is asked. 0: a free port."""
    partitions: int | None = None
    """How many parts the work is cut into, each with a file of its own; for the life of the data directory. A new one
    has 1."""
    request_size_limit: int = 32 * 1024 * 1024
    """Bytes of a request's body above which it is refused (413)."""
    concurrency_limit: int | None = None
    """Requests at once above which more are refused (429), those that wait for a result counted."""
    admin_concurrency_limit: int | None = None
    """The same for the admin port; `/health` always answers."""
    http2_stream_limit: int = 200
    """Requests at once on one HTTP/2 connection to either port; a client has to wait with more, or open another."""
    attempt_limit: int = 1000
    """Handlers that run at once; the others wait."""
    remote_attempt_limit: int = 4000
    """Attempts at once on deployments elsewhere; the others wait."""
    message_size_limit: int = 32 * 1024 * 1024
    """Bytes of a message from an endpoint above which the attempt fails (RT0003)."""
    stream_memory_limit: int = 256 * 1024 * 1024
    """Bytes of streams in memory, being written or read, above which a step that writes is tried again later and new
    readers are refused (429)."""
    stream_reader_limit: int = 10_000
    """Readers of streams at once, above which more are refused (429)."""
    protocol_version: int = 6
    """The newest version of the service protocol (5 to 7) that is spoken with endpoints elsewhere. 7 has more messages
    for the same work, and restate-server does not speak it by default either."""
    connect_timeout_seconds: float = 10.0
    """How long connecting to an endpoint may take."""
    identity_key: str | None = None
    """The private key (a file, PEM, Ed25519) that signs requests to endpoints. Default: identity.pem beside the data,
    made when it is first needed."""
    authentication: Literal["auto", "required", "off"] = "auto"
    """Whether requests need an API key. auto: if `host` is not loopback, and everywhere once there is a key."""
    tls_certificate: str | None = None
    """The certificate of both ports with its chain (a file, PEM): they speak TLS. With `tls_key`."""
    tls_key: str | None = None
    """The private key of `tls_certificate` (a file, PEM, not encrypted)."""
    admin_allowed_hosts: tuple[str, ...] = ()
    """The names, with commas between them, by which browsers and proxies may call the admin port beside its own."""
    audit_log: str | None = None
    """The file to which a line is added for each change through the admin port, and each request that is refused."""
    public_url: str | None = None
    """The address at which people reach the ingress, for links to approvals. Default: where it listens. Links are
    signed with a secret made of `identity_key`, so servers that share it accept each other's."""
    prices: str | None = None
    """What models cost: a file (TOML) whose prices are added to the packaged ones, or replace them."""
    drain_seconds: float = 5.0
    """How long open requests may take to end when the server stops."""
    stop_grace_seconds: float = 10.0
    """How long after that handlers may take to come to rest; what is cut off goes on at the next start."""
    lag_threshold_seconds: float = 0.5
    """Whoever holds up the event loop for longer is named in the log."""
    sql_concurrency_limit: int = 2
    """Queries at once, each in a process of its own; the others wait."""
    sql_timeout_seconds: float = 60.0
    """How long a query may take, its waiting included; then it is ended."""
    sql_memory_limit: int = 256 * 1024 * 1024
    """Bytes that a query may use to sort, join and group; what needs more fails."""
    default_inactivity_timeout_seconds: float = 60.0
    """How long a handler may wait for something before it is suspended. This and the other default_ settings are for
    handlers that do not say otherwise, from when they are registered."""
    default_abort_timeout_seconds: float = 600.0
    """How long after that its attempt may take to end before it is cut off, and made again."""
    default_journal_retention_seconds: float = 86400.0
    """How long the journal of a completed invocation is kept."""
    default_idempotency_retention_seconds: float = 86400.0
    """How long the result of an invocation with an idempotency key is kept."""
    default_workflow_retention_seconds: float = 86400.0
    """How long a completed workflow is kept, with its state and its promises."""
    default_retry_initial_interval_seconds: float = 0.5
    """How long after the first failure the next attempt is made. This and the other default_retry_ settings are for
    handlers without any retry policy."""
    default_retry_factor: float = 2.0
    """How many times longer each wait is than the one before."""
    default_retry_max_interval_seconds: float = 60.0
    """The longest wait between attempts."""
    default_retry_max_attempts: int = 70
    """Attempts, the first included, after which an invocation is paused or fails. 0: without end."""
    default_retry_on_exhausted: Literal["pause", "fail"] = "pause"
    """What becomes of it then."""
    log_format: Literal["text", "json"] = "text"
    """How the log is written to stderr: lines for people, or of JSON."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "warning"
    """From which level on something is logged."""
    log_replays: bool = False
    """Also log what a handler's code logs while it repeats what an earlier attempt did."""
    tracing_endpoint: str | None = None
    """Where traces go: an OTLP/HTTP collector (http://localhost:4318). Without it the OTEL_* variables say; without
    those there are no traces. Needs perdure[otel]."""

    def __post_init__(self) -> None:
        for name in ("ingress_port", "admin_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise Invalid(f"{name} must be from 0 to 65535, not {getattr(self, name)}")
        if self.ingress_port == self.admin_port != 0:
            raise Invalid(f"ingress_port and admin_port are both {self.ingress_port}: they must differ")
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_certificate"
            raise Invalid(f"{missing} is missing: TLS needs tls_certificate and tls_key")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise Invalid(f"public_url {self.public_url!r} has to begin with http:// or https://")
        if not 5 <= self.protocol_version <= 7:
            raise Invalid(f"protocol_version must be from 5 to 7, not {self.protocol_version}")
        limits = ("attempt_limit", "remote_attempt_limit", "request_size_limit", "message_size_limit")
        more = ("http2_stream_limit", "sql_concurrency_limit", "sql_memory_limit", "default_retry_factor")
        streams = ("stream_memory_limit", "stream_reader_limit")
        for name in ("partitions", "concurrency_limit", "admin_concurrency_limit", *limits, *more, *streams):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Invalid(f"{name} must be at least 1, not {value}")
        retentions = [f"default_{each}_retention_seconds" for each in ("journal", "idempotency", "workflow")]
        timeouts = [f"default_{each}_seconds" for each in ("inactivity_timeout", "abort_timeout")]
        waits = [f"default_retry_{each}_interval_seconds" for each in ("initial", "max")]
        for name in (
            "drain_seconds",
            "stop_grace_seconds",
            "default_retry_max_attempts",
            *retentions,
            *timeouts,
            *waits,
        ):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} must not be negative")
        for name in ("lag_threshold_seconds", "connect_timeout_seconds", "sql_timeout_seconds"):
            if getattr(self, name) <= 0:
                raise Invalid(f"{name} must be more than 0")

    @property
    def identity_path(self) -> Path:
        """Where the private key that signs requests is."""
        return Path(self.identity_key or Path(self.data_dir, "identity.pem"))

    @property
    def usual(self) -> Usual:
        """The default_ settings, as handlers are described."""
        policy = RetryPolicy(
            self.default_retry_initial_interval_seconds,
            self.default_retry_factor,
            self.default_retry_max_interval_seconds,
            self.default_retry_max_attempts or None,
            on_exhausted=self.default_retry_on_exhausted,
        )
        return Usual(
            policy,
            math.ceil(self.default_inactivity_timeout_seconds * 1000),
            math.ceil(self.default_abort_timeout_seconds * 1000),
            math.ceil(self.default_journal_retention_seconds * 1000),
            math.ceil(self.default_idempotency_retention_seconds * 1000),
            math.ceil(self.default_workflow_retention_seconds * 1000),
        )

    @classmethod
    def load(
        cls,
        given: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        file: str | Path | None = None,
    ) -> "Config":
        """What is `given` and not None, then the environment, then the file, then defaults (`perdure.settings.read`).

        Raises `Invalid` naming the setting and where it is from.
        """
        return read(cls, given, environ, file).config
