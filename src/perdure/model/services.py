"""What can be called: services, their handlers, and the policies under which they run. Durations are ms."""

import enum

import msgspec
from msgspec.structs import replace

__all__ = ["HandlerInfo", "HandlerKind", "RetryPolicy", "ServiceInfo", "ServiceKind", "Usual"]

DAY_MS = 24 * 60 * 60 * 1000


class ServiceKind(enum.StrEnum):
    SERVICE = "SERVICE"
    VIRTUAL_OBJECT = "VIRTUAL_OBJECT"
    WORKFLOW = "WORKFLOW"


class HandlerKind(enum.StrEnum):
    """PLAIN belongs to services, EXCLUSIVE to objects, WORKFLOW is a workflow's `main`, SHARED to both of the last."""

    PLAIN = "PLAIN"
    EXCLUSIVE = "EXCLUSIVE"
    SHARED = "SHARED"
    WORKFLOW = "WORKFLOW"


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often, and how soon, a failed attempt is made again.

    Delays in seconds: the n-th is `min(initial_interval * factor ** (n - 1), max_interval)`, plus up to a third of
    itself by chance. `max_attempts` counts the first attempt; None is without end. Afterwards the invocation is
    paused, or fails (`on_exhausted="fail"`). On a step, exhaustion makes the step fail with a `TerminalError`,
    and `max_duration` (seconds since its first attempt) may end it earlier.

    The defaults are those of restate-server 1.7.
    """

    initial_interval: float = 0.5
    factor: float = 2.0
    max_interval: float = 60.0
    max_attempts: int | None = 70
    max_duration: float | None = None
    on_exhausted: str = "pause"

    def __post_init__(self) -> None:
        if self.initial_interval < 0:
            raise ValueError("RetryPolicy.initial_interval must not be negative")
        if self.factor < 1:
            raise ValueError("RetryPolicy.factor must be at least 1")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError("RetryPolicy.max_attempts must be at least 1, or None for no limit")
        if self.on_exhausted not in ("pause", "fail"):
            raise ValueError(f"RetryPolicy.on_exhausted must be 'pause' or 'fail', not {self.on_exhausted!r}")

    def exhausted(self, failures: int) -> bool:
        """Whether, after so many failed attempts in a row, no other may follow."""
        return self.max_attempts is not None and failures >= self.max_attempts

    def delay_ms(self, failures: int, chance: float) -> int:
        """How long to wait after the `failures`-th failure in a row (1, 2, ...); `chance` is in [0, 1)."""
        exponent = min(failures - 1, 64)  # beyond it every sane policy is at its maximum, and floats overflow
        delay = min(self.initial_interval * self.factor**exponent, self.max_interval)
        return int(delay * (1 + chance / 3) * 1000)


class HandlerInfo(msgspec.Struct, frozen=True):
    """One handler with the options that hold for it, those of its service filled in."""

    service: str
    name: str
    kind: HandlerKind
    description: str | None = None
    metadata: dict[str, str] = {}
    private: bool = False
    retry_policy: RetryPolicy = RetryPolicy()
    inactivity_timeout_ms: int = 60_000
    abort_timeout_ms: int = 600_000
    journal_retention_ms: int = DAY_MS
    idempotency_retention_ms: int = DAY_MS
    workflow_retention_ms: int = DAY_MS
    concurrency: int | None = None
    input_required: bool = False
    input_content_type: str | None = None
    output_content_type: str | None = "application/json"
    input_schema: dict[str, object] | bool | None = None
    output_schema: dict[str, object] | bool | None = None
    lazy_state: bool = False  # True: the state is read key by key, none of it comes with the start of an attempt
    eager_state_keys: tuple[str, ...] = ()  # with `lazy_state`: the keys that come all the same
    output_content_type_if_empty: bool = False  # whether an empty result is answered with a content type too


class ServiceInfo(msgspec.Struct, frozen=True):
    name: str
    kind: ServiceKind
    handlers: dict[str, HandlerInfo]
    description: str | None = None
    metadata: dict[str, str] = {}
    concurrency: int | None = None

    @property
    def keyed(self) -> bool:
        return self.kind is not ServiceKind.SERVICE


class Usual(msgspec.Struct, frozen=True):
    """What holds for handlers that do not say otherwise. Not to say, and to say what these classes have as defaults, is
    the same: an endpoint's manifest leaves out both."""

    retry_policy: RetryPolicy = RetryPolicy()
    inactivity_timeout_ms: int = 60_000
    abort_timeout_ms: int = 600_000
    journal_retention_ms: int = DAY_MS
    idempotency_retention_ms: int = DAY_MS
    workflow_retention_ms: int = DAY_MS

    def filled_in(self, service: ServiceInfo) -> ServiceInfo:
        """The same service, with what its handlers leave unsaid."""
        changed = {
            name: value for name in self.__struct_fields__ if (value := getattr(self, name)) != getattr(_UNSAID, name)
        }
        handlers = {
            name: replace(
                info,
                **{each: value for each, value in changed.items() if getattr(info, each) == getattr(_UNSAID, each)},
            )
            for name, info in service.handlers.items()
        }
        return replace(service, handlers=handlers)


_UNSAID = Usual()
