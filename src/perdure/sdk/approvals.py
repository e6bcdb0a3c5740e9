"""`ctx.approval`: have a person decide, for as long as it takes.

The question is a virtual object's (`perdure.builtin.approvals`), the answer completes an awakeable of the handler:
while a person thinks, nothing of the handler is in memory. All of it is journaled operations, so it replays.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from perdure.errors import TerminalError
from perdure.model.services import RetryPolicy
from perdure.protocol.approvals import (
    APPROVALS,
    Approval,
    Closing,
    Escalated,
    Opened,
    Question,
    Verdict,
    approval_id,
)
from perdure.sdk.serde import Serde, SerdeError, serde_for

if TYPE_CHECKING:
    from perdure.sdk.context import Awakeable, Context, InvocationHandle

__all__ = [
    "ApprovalOptions",
    "ApprovalRequest",
    "ApprovalTimeout",
    "Decision",
    "Escalation",
    "Notify",
    "Seconds",
    "ask",
]

T = TypeVar("T")
Seconds = float | timedelta
_FORBIDDEN: Final = 403
_UNTIL_TOLD: Final = RetryPolicy(max_interval=300, max_attempts=None)  # an answer ends it


class ApprovalTimeout(TerminalError, TimeoutError):
    """Nobody answered in time (408). Uncaught it ends the invocation; `except TimeoutError` catches it."""


class Decision(Generic[T]):
    """What a person decided. It is true if they approved, so `if decision:` does what it says.

    `comment` and `by` are what they said and who they are, as far as is known; `at` is when (aware, UTC).
    """

    def __init__(self, approved: bool, value: T, comment: str | None, by: str | None, at: datetime) -> None:
        self.approved = approved
        self.comment = comment
        self.by = by
        self.at = at
        self._value = value

    @property
    def value(self) -> T:
        """What they approved, of the type that was asked for. Raises `TerminalError` (403) if they rejected."""
        if not self.approved:
            reason = "" if self.comment is None else f": {self.comment}"
            raise TerminalError(f"rejected{'' if self.by is None else f' by {self.by}'}{reason}", _FORBIDDEN)
        return self._value

    def __bool__(self) -> bool:
        return self.approved

    def __repr__(self) -> str:
        said = "approved" if self.approved else "rejected"
        return f"Decision({said}, value={self._value!r}, comment={self.comment!r}, by={self.by!r})"


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a notifier is given: it is to tell a person.

    The links lead to a page that shows the question and takes the answer; opening one changes nothing. They are None
    where no server has an address (`Engine`). Whoever has a link can answer with it.
    """

    id: str
    title: str
    context: Any = None
    schema: dict[str, Any] | None = None
    to: list[str] = []
    expires_at: datetime | None = None
    escalation: int = 0
    """0: the first notice; n: the n-th escalation."""
    link: str | None = None
    """To approve or reject."""
    approve_link: str | None = None
    """To approve only."""
    reject_link: str | None = None
    """To reject only."""


Notify: TypeAlias = Callable[[ApprovalRequest], Awaitable[Any]] | Callable[[ApprovalRequest], Any]


class Escalation(msgspec.Struct, frozen=True):
    """If there is no answer `after` so long (seconds or timedelta, from when it was asked): who is asked too, and how
    they are told. `notify` is run as a step, beside the wait."""

    after: Seconds
    to: Sequence[str] = ()
    notify: Notify | None = None


class ApprovalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `ctx.approval`, described there."""

    schema: Any = None
    context: Any = None
    timeout: Seconds | None = None
    escalate: Escalation | Sequence[Escalation] = ()
    notify: Notify | None = None
    to: Sequence[str] = ()
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("to", "tags"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(each, str) for each in value):
                raise TypeError(f"{name} must be a list of str, not {value!r}")
        if self.timeout is not None and _seconds(self.timeout) <= 0:
            raise ValueError(f"timeout must be more than 0: {self.timeout!r}")
        for stage in self.stages:
            if not isinstance(stage, Escalation):
                raise TypeError(f"escalate must be an Escalation or several, not {stage!r}")

    @property
    def stages(self) -> list[Escalation]:
        """In order of time."""
        given = [self.escalate] if isinstance(self.escalate, Escalation) else list(self.escalate)
        return sorted(given, key=lambda stage: _seconds(stage.after)) if len(given) > 1 else given


async def ask(ctx: "Context", title: str, options: ApprovalOptions) -> Decision[Any]:
    """What `ctx.approval` does. Asks once more if what was approved is no value of its type after all."""
    if not isinstance(title, str) or not title:
        raise TypeError(f"title must be a str that says what is to be approved, not {title!r}")
    serde, schema = _schema_of(options.schema)
    asking = _Asking(ctx, title, options, schema)
    while True:
        verdict = await asking.verdict()
        try:
            return _decision(verdict, serde)
        except SerdeError as error:
            asking.problem = error.reason


class _Asking:
    """One approval, from the handler's side."""

    def __init__(self, ctx: "Context", title: str, options: ApprovalOptions, schema: dict[str, Any] | None) -> None:
        self._ctx = ctx
        self._title = title
        self._options = options
        self._schema = schema
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        timeout = options.timeout
        self._deadline = None if timeout is None else self._began + _seconds(timeout)
        self._expires_at = None if timeout is None else ctx.now() + timedelta(seconds=_seconds(timeout))
        self.problem: str | None = None
        self._id: str | None = None

    async def verdict(self) -> Verdict:
        """Open it and wait for the answer, the end of the time, or a cancellation."""
        ctx = self._ctx
        awakeable: Awakeable[Verdict] = ctx.awakeable(Verdict)
        self._id = self._id or approval_id(awakeable.id)
        opening = await ctx.send(
            f"{APPROVALS}/open", self._question(awakeable.id), key=self._id, idempotency_key=awakeable.id
        )
        deadline = asyncio.timeout_at(self._deadline)
        try:
            async with deadline:
                return await self._wait(awakeable, opening)
        except asyncio.CancelledError:
            await ctx.send(f"{APPROVALS}/close", Closing("withdrawn", awakeable.id), key=self._id)
            raise
        except TimeoutError:
            if not deadline.expired():
                raise
        return await self._expired(awakeable)

    def _question(self, awakeable: str) -> Question:
        options, target = self._options, self._ctx._run.start.target
        expires_at = self._expires_at
        return Question(
            title=self._title,
            awakeable=awakeable,
            invocation=self._ctx.invocation_id,
            service=target.service,
            handler=target.handler,
            key=target.key,
            schema=self._schema,
            context=options.context,
            expires_at=None if expires_at is None else round(expires_at.timestamp() * 1000),
            to=list(options.to),
            tags=list(options.tags),
            problem=self.problem,
        )

    async def _wait(self, awakeable: "Awakeable[Verdict]", opening: "InvocationHandle[Any]") -> Verdict:
        """The answer. People are told meanwhile, and to tell them may fail; it may not hold up the answer."""
        if self._options.notify is None and not self._options.stages:
            return await awakeable
        answer = asyncio.ensure_future(_value(awakeable))
        telling = asyncio.ensure_future(self._tell(opening))
        telling.add_done_callback(_heard)
        try:
            await asyncio.wait((answer, telling), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                telling.result()
            return await answer
        finally:  # without an await: it runs too when the attempt is dropped
            answer.cancel()
            telling.cancel()

    async def _tell(self, opening: "InvocationHandle[Any]") -> None:
        options, ctx = self._options, self._ctx
        links: dict[Any, str] = {}
        if options.notify is not None or any(stage.notify for stage in options.stages):
            handle = ctx.invocation(opening.id, Opened)
            links = (await handle.attach()).links
        to = list(options.to)
        if options.notify is not None and self.problem is None:
            await self._notify("notify", options.notify, to, 0, links)
        for number, stage in enumerate(options.stages, 1):
            wait = self._began + _seconds(stage.after) - self._loop.time()
            if wait < 0 and self.problem is not None:
                continue  # it was asked once more; this one is past
            await asyncio.sleep(max(wait, 0))
            to = list(dict.fromkeys((*to, *stage.to)))
            await ctx.send(f"{APPROVALS}/escalate", Escalated(list(stage.to)), key=self._id)
            if stage.notify is not None:
                await self._notify(f"escalate {number}", stage.notify, list(stage.to) or to, number, links)

    async def _notify(self, step: str, notify: Notify, to: list[str], number: int, links: dict[Any, str]) -> None:
        assert self._id is not None
        request = ApprovalRequest(
            id=self._id,
            title=self._title,
            context=self._options.context,
            schema=self._schema,
            to=to,
            expires_at=self._expires_at,
            escalation=number,
            link=links.get("answer"),
            approve_link=links.get("approve"),
            reject_link=links.get("reject"),
        )
        await self._ctx.run(f"{step}: {self._title}", _call, notify, request, retry=_UNTIL_TOLD)

    async def _expired(self, awakeable: "Awakeable[Verdict]") -> Verdict:
        """The time is over, unless somebody has just answered: the approval has the last word."""
        ctx = self._ctx
        closing = await ctx.send(
            f"{APPROVALS}/close",
            Closing("expired", awakeable.id),
            key=self._id,
            idempotency_key=f"{awakeable.id} expired",
        )
        closed = await ctx.invocation(closing.id, Approval).attach()
        if closed.status not in ("approved", "rejected"):
            raise ApprovalTimeout(f"nobody answered in time: {self._title}", 408)
        return await awakeable


async def _value(awakeable: "Awakeable[T]") -> T:
    return await awakeable


def _heard(telling: "asyncio.Future[None]") -> None:
    """If the answer is there, nobody needs to know what became of telling people."""
    if not telling.cancelled():
        telling.exception()


async def _call(notify: Notify, request: ApprovalRequest) -> None:
    """The step; what the notifier returns is of no use to anybody."""
    if inspect.iscoroutinefunction(notify):
        await notify(request)
        return
    told = await asyncio.to_thread(notify, request)
    if inspect.isawaitable(told):
        await told


def _schema_of(schema: Any) -> tuple[Serde[Any] | None, dict[str, Any] | None]:
    """How the value is read, and the JSON schema that it is checked with."""
    if schema is None or schema is type(None):
        return None, None
    if isinstance(schema, dict):
        import jsonschema_rs

        try:
            jsonschema_rs.meta.validate(schema)
        except ValueError as error:
            raise ValueError(f"schema: this is no JSON schema: {str(error).splitlines()[0]}") from None
        return serde_for(None), cast("dict[str, Any]", schema)
    serde = serde_for(schema)
    return serde, serde.schema() or {}


def _decision(verdict: Verdict, serde: Serde[Any] | None) -> Decision[Any]:
    value = None
    if verdict.approved and serde is not None:
        value = serde.deserialize(msgspec.json.encode(verdict.value))
    at = datetime.fromtimestamp(verdict.at / 1000, UTC)
    return Decision(verdict.approved, value, verdict.comment, verdict.by, at)


def _seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
