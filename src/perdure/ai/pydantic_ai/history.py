"""pydantic-ai's message history, kept by a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelRequest, SystemPromptPart, UserPromptPart

from perdure.ai.base import durable_call
from perdure.ai.sessions import Session

__all__ = ["MessageHistory"]


class MessageHistory:
    """The messages of a chat in a `Session`, of whose methods they are the items.

        history = MessageHistory(Session("chat-ada", ttl=timedelta(days=30)))
        result = await agent.run(question, message_history=await history.messages(tokens=8000))
        await history.add(result.new_messages())

    In a handler both are durable calls; outside of one give the session a `client`. Compact, branch and clear by the
    session: its items are the messages as JSON.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    async def messages(
        self, limit: int | None = None, *, tokens: int | None = None, keep_first: int = 0
    ) -> list[ModelMessage]:
        """The messages in order, those of the window (`Session.items`). A window that would begin with the answer to a
        tool call whose call is not in it begins behind: providers refuse the one without the other."""
        items = await self.session.items(limit, tokens=tokens, keep_first=keep_first)
        messages = ModelMessagesTypeAdapter.validate_python(items)
        first = min(keep_first, len(messages))
        begin = next((at for at in range(first, len(messages)) if _begins_a_turn(messages[at])), len(messages))
        return [*messages[:first], *messages[begin:]]

    async def add(self, messages: Sequence[ModelMessage]) -> None:
        """Append messages: those of a run are `result.new_messages()`."""
        items = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
        if items:
            # Each message says when it was made, by a clock that does not replay: what is said first is kept.
            await self.session.add(cast("list[object]", await durable_call("keep messages", lambda: items)))


def _begins_a_turn(message: ModelMessage) -> bool:
    return isinstance(message, ModelRequest) and any(
        isinstance(part, UserPromptPart | SystemPromptPart) for part in message.parts
    )
