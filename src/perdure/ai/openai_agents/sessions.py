"""Conversations in a handler: kept in the object's own state, or by another session whose every use is a step."""

import inspect
from datetime import timedelta
from typing import Any

from agents import SessionSettings
from agents.items import TResponseInputItem

from perdure.ai.base import durable_context, tool_call
from perdure.ai.sessions import Session
from perdure.sdk.caller import Caller
from perdure.sdk.context import ObjectContext

__all__ = ["DurableSession", "PerdureSession", "in_steps"]


class DurableSession:
    """A conversation in the state of the virtual object (or workflow) whose handler runs: one state key for each.

        @chat.handler()
        async def say(ctx: ObjectContext, message: str) -> str:
            result = await DurableRunner.run(agent, message, session=DurableSession())
            return result.final_output

    Every turn, and only a turn that is journaled, is in it once. `limit` keeps the newest so many items.
    """

    def __init__(
        self,
        session_id: str = "conversation",
        *,
        limit: int | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = session_settings
        self._limit = limit

    @property
    def _key(self) -> str:
        return f"openai_agents.session.{self.session_id}"

    def _context(self) -> ObjectContext:
        context = durable_context()
        if not isinstance(context, ObjectContext):
            raise TypeError(
                "a DurableSession lives in the state of a virtual object: use it in an exclusive, async handler of one"
            )
        return context

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The conversation, oldest item first; the newest `limit` ones."""
        items: list[TResponseInputItem] = await self._context().get(self._key, type=list[Any], default=[])
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        return items if limit is None else items[max(0, len(items) - limit) :]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append to the conversation."""
        context = self._context()
        kept = [*await context.get(self._key, type=list[Any], default=[]), *items]
        context.set(self._key, kept if self._limit is None else kept[max(0, len(kept) - self._limit) :])

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the newest item out of it."""
        context = self._context()
        kept = await context.get(self._key, type=list[Any], default=[])
        if not kept:
            return None
        last: TResponseInputItem = kept.pop()
        context.set(self._key, kept)
        return last

    async def clear_session(self) -> None:
        """Forget the conversation."""
        await self._context().clear(self._key)


class PerdureSession:
    """A conversation that perdure keeps under its id, for every handler that asks for it (`perdure.ai.sessions`).

        session = PerdureSession(f"chat-{user}", tokens=8000, keep_first=1, ttl=timedelta(days=30))
        result = await DurableRunner.run(agent, message, session=session)

    The agent is given what the window says: the newest `limit` items, as many as `tokens` allow, in any case the oldest
    `keep_first`. `ttl`: it is forgotten when it was not used for so long. `session.history` is the `Session` below it:
    to compact it, or to branch it. Outside of handlers it needs a `client`.
    """

    def __init__(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        tokens: int | None = None,
        keep_first: int = 0,
        ttl: float | timedelta | None = None,
        client: Caller | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = session_settings
        self.history = Session(session_id, client=client, ttl=ttl)
        self._limit = limit
        self._tokens = tokens
        self._keep_first = keep_first

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The conversation, oldest item first, as the window has it; the newest `limit` ones."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is None:
            return await self.history.items(self._limit, tokens=self._tokens, keep_first=self._keep_first)
        return await self.history.items(limit)

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append to the conversation."""
        if items:
            await self.history.add(items)

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the newest item out of it."""
        last: TResponseInputItem | None = await self.history.pop()
        return last

    async def clear_session(self) -> None:
        """Forget the conversation."""
        await self.history.clear()


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
    if session is None or isinstance(session, DurableSession | PerdureSession | _InSteps) or type(session) is _InSteps:
        return session
    return _InSteps(session)
