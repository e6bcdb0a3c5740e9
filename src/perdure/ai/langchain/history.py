"""LangChain's chat message history, kept by a session."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from perdure.ai.base import durable_context
from perdure.ai.langchain.messages import read_message, write_message
from perdure.ai.sessions import Session, SyncSession
from perdure.errors import NonDurableOperation
from perdure.sdk.client import SyncClient
from perdure.sdk.context import Context

__all__ = ["PerdureChatMessageHistory"]


class PerdureChatMessageHistory(BaseChatMessageHistory):
    """A `BaseChatMessageHistory` that perdure keeps under the session's id (`perdure.ai.sessions`).

        history = PerdureChatMessageHistory(f"chat-{user}", tokens=8000, keep_first=1, ttl=timedelta(days=30))
        await history.aadd_messages([HumanMessage(question)])
        answer = await model.ainvoke(await history.aget_messages())
        await history.aadd_messages([answer])

    The messages that are read are those of the window: the newest `limit`, as many as `tokens` allow, in any case the
    oldest `keep_first`. A window begins with a message of the user or the system, so that no tool's result is in it
    without its call: providers refuse that. `ttl`: the history is forgotten when it was not used for so long.

    The `a...` methods are for async handlers, the others for plain ones; each is a durable call. Outside of handlers
    give a `client`: a `SyncClient` for both, another (`Client`, `Engine`) for the `a...` methods. `session` is the
    `Session` below it, to compact or to branch it; its items are the messages as JSON.
    """

    def __init__(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        tokens: int | None = None,
        keep_first: int = 0,
        ttl: float | timedelta | None = None,
        client: Any = None,
    ) -> None:
        self.session_id = session_id
        self._blocking = isinstance(client, SyncClient)
        self._client = client
        self._ttl = ttl
        self.session = Session(session_id, client=None if self._blocking else client, ttl=ttl)
        self._window: dict[str, Any] = {"limit": limit, "tokens": tokens, "keep_first": keep_first}

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # the framework allows a property too
        """The messages of the window, in order."""
        return self._read(self._sync().items(**self._window))

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages."""
        if messages:
            self._sync().add([write_message(each) for each in messages])

    def clear(self) -> None:
        """Forget them all."""
        self._sync().clear()

    async def aget_messages(self) -> list[BaseMessage]:
        """The messages of the window, in order."""
        if self._in_thread():
            return await asyncio.to_thread(lambda: self.messages)
        return self._read(await self.session.items(**self._window))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages."""
        if self._in_thread():
            await asyncio.to_thread(self.add_messages, messages)
        elif messages:
            await self.session.add([write_message(each) for each in messages])

    async def aclear(self) -> None:
        """Forget them all."""
        if self._in_thread():
            await asyncio.to_thread(self.clear)
        else:
            await self.session.clear()

    def _in_thread(self) -> bool:
        return self._blocking and durable_context() is None

    def _sync(self) -> SyncSession:
        context = durable_context()
        if isinstance(context, Context):
            raise NonDurableOperation("a blocking use of a message history in an async handler (aget_messages, ...)")
        if context is None and not self._blocking:
            raise TypeError("outside of handlers this needs a SyncClient; with another client use aget_messages, ...")
        return SyncSession(self.session_id, client=self._client if context is None else None, ttl=self._ttl)

    def _read(self, items: list[Any]) -> list[BaseMessage]:
        messages = [read_message(each) for each in items]
        if self._window["limit"] is None and self._window["tokens"] is None:
            return messages
        first = min(self._window["keep_first"], len(messages))
        begin = next((at for at in range(first, len(messages)) if _begins_a_turn(messages[at])), len(messages))
        return [*messages[:first], *messages[begin:]]


def _begins_a_turn(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage | SystemMessage)
