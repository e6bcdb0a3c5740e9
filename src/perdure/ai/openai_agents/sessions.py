"""Conversations: kept by the engine, in an object's own state, or by another session whose every use is a step."""

import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from agents import SessionSettings
from agents.items import TResponseInputItem

from perdure.ai.base import durable_context, tool_call
from perdure.ai.sessions import Session, SyncSession
from perdure.sdk.caller import Caller
from perdure.sdk.context import ObjectContext
from perdure.sdk.threads import SyncContext

__all__ = ["DurableSession", "PerdureSession", "Summarise", "in_steps"]

Item = TResponseInputItem
Summarise = Callable[[list[Item]], Any] | Callable[[list[Item]], Awaitable[Any]]

_BEGINNINGS: Final = ("user", "system", "developer")


class PerdureSession:
    """A conversation that the engine keeps, by its id, as the framework's `Session` (`perdure.ai.sessions`).

        @assistant.handler()
        async def say(ctx: Context, message: str) -> str:
            session = PerdureSession("ada", tokens=8000, ttl=timedelta(days=30))
            result = await DurableRunner.run(agent, message, session=session)
            return result.final_output

    In a handler each use is a durable call: what a turn adds is in it once. Outside, and in steps, give a `client`
    (`Client`, `Engine`, `TestEngine`). Unused for `ttl` (seconds or timedelta) it is forgotten.

    The model is shown a window of it: the newest `limit` items, as many as `tokens` allow, always the oldest
    `keep_first` (with `summarise` 1, which is the summary, else 0). A window begins where a user or the system speaks,
    never between a tool's call and its result.

    `history` is the session below it: to branch it, or to read all of it.

    With `summarise`, what is older than the last `keep_last` items becomes what `summarise(items)` returns (a text, an
    item, or a list of items), whenever a turn ends with more than `over_tokens` in it. In a handler that is a step.
    """

    def __init__(
        self,
        session_id: str,
        *,
        client: Caller | None = None,
        ttl: float | timedelta | None = None,
        limit: int | None = None,
        tokens: int | None = None,
        keep_first: int | None = None,
        summarise: Summarise | None = None,
        keep_last: int = 20,
        over_tokens: int = 8000,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = session_settings
        self._client = client
        self._ttl = ttl
        self._limit = limit
        self._tokens = tokens
        self._keep_first = (0 if summarise is None else 1) if keep_first is None else keep_first
        self._summarise = summarise
        self._keep_last = keep_last
        self._over_tokens = over_tokens

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.session_id!r})"

    @property
    def history(self) -> Session:
        """The session of `perdure.ai.sessions` below it. In plain handlers use `SyncSession(session_id)`."""
        session = self._session()
        if isinstance(session, SyncSession):
            raise TypeError(f"in a plain handler it is SyncSession({self.session_id!r}), not {self!r}.history")
        return session

    def _session(self) -> Session | SyncSession:
        context = durable_context()
        if isinstance(context, SyncContext):
            return SyncSession(self.session_id, ttl=self._ttl)
        if context is None and self._client is None:
            raise LookupError(
                f"{self!r} is used outside of a handler, or in a step: there it needs a client=... to ask the engine"
            )
        return Session(self.session_id, client=self._client if context is None else None, ttl=self._ttl)

    async def get_items(self, limit: int | None = None) -> list[Item]:
        """The conversation, oldest item first: its window, or the newest `limit` items."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        session, first = self._session(), self._keep_first
        items: list[Item]
        if limit is not None or (self._limit is None and self._tokens is None):
            items = await _now(session.items(limit))
            return items
        items = await _now(session.items(self._limit, tokens=self._tokens, keep_first=first))
        return _from_a_beginning(items, first)

    async def add_items(self, items: list[Item]) -> None:
        """Append to the conversation."""
        if not items:
            return
        await _now(self._session().add(items))
        if self._summarise is not None and _role(items[-1]) == "assistant":
            await self.compact()

    async def pop_item(self) -> Item | None:
        """Take the newest item out of it; None if there is none."""
        item: Item | None = await _now(self._session().pop())
        return item

    async def clear_session(self) -> None:
        """Forget the conversation."""
        await _now(self._session().clear())

    async def compact(self) -> bool:
        """Summarise now, if there is more than `over_tokens`; whole turns only. Returns whether it was done."""
        summarise = self._summarise
        if summarise is None:
            raise ValueError(f"{self!r} has no summarise=...")

        async def summary(items: list[Item]) -> Any:
            made = summarise(items)
            made = await made if inspect.isawaitable(made) else made
            return {"role": "system", "content": made} if isinstance(made, str) else made

        def plain(items: list[Item]) -> Any:
            made = summarise(items)
            return {"role": "system", "content": made} if isinstance(made, str) else made

        session = self._session()
        keep = self._whole_turns
        if isinstance(session, SyncSession):
            return session.compact(plain, keep_last=keep, over_tokens=self._over_tokens)
        return await session.compact(summary, keep_last=keep, over_tokens=self._over_tokens)

    def _whole_turns(self, items: list[Item]) -> int:
        """How many items at least `keep_last` are, so that they begin with what a user says; all if none does."""
        first = max(0, len(items) - self._keep_last)
        while first and _role(items[first] if first < len(items) else {}) != "user":
            first -= 1
        return len(items) - first


class DurableSession(PerdureSession):
    """A conversation in the state of the virtual object (or workflow) whose handler runs, below a key of its own.

        @chat.handler()
        async def say(ctx: ObjectContext, message: str) -> str:
            result = await DurableRunner.run(agent, message, session=DurableSession())
            return result.final_output

    As `PerdureSession`, which it spares the calls; only in exclusive, async handlers, and without a time to live.
    """

    def __init__(self, session_id: str = "conversation", **options: Any) -> None:
        for name in ("client", "ttl"):
            if name in options:
                raise TypeError(f"a DurableSession has no {name}: it is state of the object; use PerdureSession")
        super().__init__(session_id, **options)

    def _session(self) -> Session:
        context = durable_context()
        if not isinstance(context, ObjectContext):
            raise TypeError(
                "a DurableSession lives in the state of a virtual object: use it in an exclusive, async handler of one"
            )
        return Session.of(context, f"openai_agents.session.{self.session_id}")


async def _now(asked: Any) -> Any:
    """What a session gives: an awaitable, or of a `SyncSession` the result."""
    return await asked if inspect.isawaitable(asked) else asked


def _role(item: Any) -> str | None:
    return item.get("role") if isinstance(item, dict) else None


def _from_a_beginning(items: list[Item], keep_first: int) -> list[Item]:
    """The window without the rest of a turn that it begins in."""
    for first in range(keep_first, len(items)):
        if _role(items[first]) in _BEGINNINGS:
            return items[:keep_first] + items[first:]
    return items[:keep_first] + _without_strays(items[keep_first:])


def _without_strays(items: list[Item]) -> list[Item]:
    """A window within one turn: results whose calls are not in it are of no use to a model."""
    calls = {_field(item, "call_id") for item in items if not _is_result(item)}
    return [item for item in items if not _is_result(item) or _field(item, "call_id") in calls]


def _is_result(item: Item) -> bool:
    return str(_field(item, "type") or "").endswith("_output")


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else None


class _InSteps:
    """Another session, each of its coroutines a step. It says that it is of that session's class, for who asks."""

    def __init__(self, session: Any) -> None:
        self._wrapped = session

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if name.startswith("_") or not inspect.iscoroutinefunction(value):
            return value

        async def step(*args: Any, **kwargs: Any) -> Any:
            return await tool_call(f"session.{name}", lambda: value(*args, **kwargs))

        return step


def in_steps(session: Any) -> Any:
    """The session as it may be used in a handler."""
    if session is None or isinstance(session, PerdureSession | _InSteps) or type(session) is _InSteps:
        return session
    return _InSteps(session)
