"""Durable chat histories: appended to at each turn, windowed, compacted, branched, forgotten when unused.

::

    session = Session(f"chat-{user}", ttl=timedelta(days=30))
    await session.add([{"role": "user", "content": question}])
    history = await session.items(tokens=8000, keep_first=1)

An item is any JSON value, and comes back as it was. The engine keeps sessions in a built-in virtual object; in handlers
each operation is a durable call of it. What is said at once from several places has an order, and nothing is lost.
"""

import inspect
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol, Self, TypeVar, cast

import msgspec

from perdure.errors import Invalid
from perdure.protocol.sessions import SESSIONS, Add, Page, Replace, Verb, Window
from perdure.sdk.caller import Caller
from perdure.sdk.client import SyncClient
from perdure.sdk.context import ObjectContext, current_context
from perdure.sdk.history import TOKEN_BYTES, History
from perdure.sdk.inbox import AskSession
from perdure.sdk.serde import serde_for
from perdure.sdk.threads import SyncContext

__all__ = ["Session", "SyncSession"]

T = TypeVar("T")
KeepLast = int | Callable[[list[Any]], int]
Summarise = Callable[[list[Any]], Any] | Callable[[list[Any]], Awaitable[Any]]
_ANY: Final = serde_for(None)
_STEP: Final = "compact session"


class _Way(Protocol):
    """How a session's object is asked, and how a summary is made."""

    async def ask(self, verb: Verb, arg: Any, type: type[T]) -> T: ...

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any: ...


class _InHandler:
    def __init__(self, id: str) -> None:
        self._id = id

    async def ask(self, verb: Verb, arg: Any, type: type[T]) -> T:
        return cast(T, await current_context().call(f"{SESSIONS}/{verb}", arg, key=self._id, type=type))

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await current_context().run(_STEP, fn, *args)


class _InThread:
    """In a plain handler: nothing of it waits."""

    def __init__(self, id: str) -> None:
        self._id = id

    async def ask(self, verb: Verb, arg: Any, type: type[T]) -> T:
        return cast(T, self._context().call(f"{SESSIONS}/{verb}", arg, key=self._id, type=type))

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._context().run(_STEP, fn, *args)

    def _context(self) -> SyncContext:
        return cast(SyncContext, current_context())


class _Outside:
    def __init__(self, id: str, client: Caller) -> None:
        self._id = id
        self._client = client

    async def ask(self, verb: Verb, arg: Any, type: type[T]) -> T:
        body = b"" if arg is None else msgspec.json.encode(arg)
        answer = await self._client.execute(AskSession(self._id, verb, body, secrets.token_hex(16)))
        return cast(T, serde_for(type).deserialize(answer))

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        made = fn(*args)
        return await made if inspect.isawaitable(made) else made


class _Own:
    """In the state of the object whose handler this is."""

    def __init__(self, ctx: ObjectContext, prefix: str) -> None:
        self._ctx = ctx
        self._prefix = prefix

    async def ask(self, verb: Verb, arg: Any, type: type[T]) -> T:
        history = History(self._ctx, self._prefix)
        head = await history.head()
        answer: Any = None
        if verb == "items":
            answer = await history.window(head, arg)
        elif verb == "add":
            await history.append(head, arg.items)
        elif verb == "pop":
            last = await history.pop(head)
            answer = [] if last is None else [last]
        elif verb == "clear":
            await history.clear(head)
        else:
            answer = arg.revision == head.revision and await history.replace(head, arg.upto, arg.items)
        return cast(T, answer)

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await self._ctx.run(_STEP, fn, *args)


class Session:
    """The history of one chat, by its id.

    In a handler it needs nothing else; outside give a `client` (`Client`, `Engine`, `TestEngine`). With a `ttl`
    (seconds or timedelta) it is forgotten when it was not used for so long; 0 takes that back. `Session.of(ctx)` keeps
    the history in the state of the handler's own object instead, which spares the calls.
    """

    _way: _Way

    def __init__(self, id: str, *, client: Caller | None = None, ttl: float | timedelta | None = None) -> None:
        if not isinstance(id, str) or not id:
            raise TypeError(f"a session's id is a str that is not empty, not {id!r}")
        self.id = id
        self._client = client
        self._ttl = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
        if self._ttl is not None and self._ttl < 0:
            raise ValueError(f"ttl must not be negative: {ttl!r}")
        self._way = _InHandler(id) if client is None else _Outside(id, client)

    @classmethod
    def of(cls, ctx: ObjectContext, name: str = "session") -> Self:
        """The history in the state of this handler's object, below the key `name`; it has no time to live."""
        session = cls(ctx.key)
        session._way = _Own(ctx, name)
        return session

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def items(self, limit: int | None = None, *, tokens: int | None = None, keep_first: int = 0) -> list[Any]:
        """The items in order: the newest `limit`, as many as `tokens` allow (a token is taken to be four bytes of
        JSON), and in any case the oldest `keep_first`, where instructions or a summary are."""
        return [_ANY.deserialize(bytes(each)) for each in (await self._page(limit, tokens, keep_first)).items]

    async def _page(self, limit: int | None = None, tokens: int | None = None, keep_first: int = 0) -> Page:
        for name, value in (("limit", limit), ("tokens", tokens), ("keep_first", keep_first)):
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative: {value}")
        return await self._way.ask("items", Window(limit, tokens, keep_first), Page)

    async def add(self, items: Sequence[Any]) -> None:
        """Append items: any JSON values, and what is written as such."""
        if isinstance(items, str | bytes | dict):
            raise TypeError(f"items is a list of items, not one {type(items).__name__}")
        await self._way.ask("add", Add(_raw(items), self._ttl), object)

    async def pop(self) -> Any:
        """Take the last item away, and return it; None if there is none."""
        taken = await self._way.ask("pop", None, list[msgspec.Raw])
        return _ANY.deserialize(bytes(taken[0])) if taken else None

    async def clear(self) -> None:
        """Drop all items."""
        await self._way.ask("clear", None, object)

    async def branch(self, id: str, *, at: int | None = None) -> "Session":
        """A new session that begins with the first `at` items of this one (None: all). Changing one leaves the other.

        Raises `Conflict` if there are items under that id; in a handler that is a `TerminalError` (409).
        """
        if id == self.id:
            raise Invalid("a session can't be a branch of itself; give it another id")
        page = await self._page()
        branch = type(self)(id, client=self._client, ttl=self._ttl if self._ttl is not None else page.ttl)
        if isinstance(self._way, _InThread):
            branch._way = _InThread(id)
        await branch._way.ask("add", Add(page.items[:at], branch._ttl, True), object)
        return branch

    async def compact(self, summarise: Summarise, *, keep_last: KeepLast = 20, over_tokens: int = 0) -> bool:
        """Put what `summarise(items)` returns (an item, or a list of them) in the place of all but the newest items.

        `keep_last` is how many those are, or a function of all items that says it. Nothing happens unless there are
        more items, of more than `over_tokens` together. In a handler
        `summarise` is a step. Items that are added meanwhile stay; if the session was changed otherwise, or the summary
        has more items than it replaces, all stays as it was. Returns whether it was compacted.
        """
        page = await self._page()
        if sum(len(bytes(each)) for each in page.items) <= over_tokens * TOKEN_BYTES:
            return False
        if not isinstance(keep_last, int):
            keep_last = keep_last([_ANY.deserialize(bytes(each)) for each in page.items])
        cut = len(page.items) - keep_last
        if cut < 1:
            return False
        old = [_ANY.deserialize(bytes(each)) for each in page.items[:cut]]
        summary = await self._way.run(summarise, old)
        items = _raw(summary if isinstance(summary, list) else [summary])
        return await self._way.ask("replace", Replace(page.first + cut, items, page.revision), bool)


def _raw(items: Sequence[Any]) -> list[msgspec.Raw]:
    return [msgspec.Raw(_ANY.serialize(each) or b"null") for each in items]


class SyncSession:
    """`Session` without `await`: in plain handlers, or with a `SyncClient`."""

    def __init__(self, id: str, *, client: SyncClient | None = None, ttl: float | timedelta | None = None) -> None:
        self._inner = Session(id, client=None if client is None else client._inner, ttl=ttl)
        if client is None:
            self._inner._way = _InThread(id)
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def items(self, limit: int | None = None, *, tokens: int | None = None, keep_first: int = 0) -> list[Any]:
        """As `Session.items`."""
        return _now(self._inner.items(limit, tokens=tokens, keep_first=keep_first))

    def add(self, items: Sequence[Any]) -> None:
        """As `Session.add`."""
        _now(self._inner.add(items))

    def pop(self) -> Any:
        """As `Session.pop`."""
        return _now(self._inner.pop())

    def clear(self) -> None:
        """As `Session.clear`."""
        _now(self._inner.clear())

    def branch(self, id: str, *, at: int | None = None) -> "SyncSession":
        """As `Session.branch`."""
        branch = SyncSession(id)
        branch._inner = _now(self._inner.branch(id, at=at))
        return branch

    def compact(self, summarise: Callable[[list[Any]], Any], *, keep_last: KeepLast = 20, over_tokens: int = 0) -> bool:
        """As `Session.compact`."""
        return _now(self._inner.compact(summarise, keep_last=keep_last, over_tokens=over_tokens))


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("a blocking session has waited")
