"""A history in chunks behaves as a list whose items have numbers that never change."""

import asyncio
from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from perdure.protocol.sessions import Window
from perdure.sdk import history as module
from perdure.sdk.context import ObjectContext
from perdure.sdk.history import Head, History


class State:
    """An object's state, as far as a history uses it; values are bytes, as they are when they are stored."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}

    async def get(self, name: str, type: Any) -> Any:
        row = self.rows.get(name)
        return None if row is None else msgspec.json.decode(row, type=type)

    def set(self, name: str, value: Any) -> None:
        self.rows[name] = msgspec.json.encode(value)

    async def clear(self, name: str) -> None:
        self.rows.pop(name, None)


ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.lists(st.integers(0, 40), max_size=200)),
    st.tuples(st.just("pop"), st.just(None)),
    st.tuples(st.just("clear"), st.just(None)),
    st.tuples(st.just("replace"), st.tuples(st.floats(0, 1), st.integers(0, 3))),
    st.tuples(st.just("window"), st.tuples(st.none() | st.integers(0, 300), st.none() | st.integers(0, 2000))),
)


@given(st.lists(ACTIONS, max_size=25))
def test_a_history_is_a_list(actions: list[tuple[str, Any]]) -> None:
    asyncio.run(compare(actions))


async def compare(actions: list[tuple[str, Any]]) -> None:
    state = State()
    history = History(cast(ObjectContext, state), "h")
    items: list[str] = []
    for what, how in actions:
        head = await history.head()
        if what == "add":
            added = ["x" * 100 * size for size in how]
            await history.append(head, [msgspec.Raw(msgspec.json.encode(each)) for each in added])
            items += added
        elif what == "pop":
            last = await history.pop(head)
            assert (None if last is None else msgspec.json.decode(last)) == (items.pop() if items else None)
        elif what == "clear":
            await history.clear(head)
            items = []
        elif what == "replace":
            cut, count = round(how[0] * len(items)), how[1]
            done = await history.replace(head, head.end - len(items) + cut, [msgspec.Raw(b'"s"')] * count)
            assert done == (bool(items) and count <= cut)
            items = ["s"] * count + items[cut:] if done else items
        else:
            await check_window(history, head, items, *how)
        await check(state, history, items)


async def check_window(history: History, head: Head, items: list[str], limit: int | None, tokens: int | None) -> None:
    wanted: list[str] = []
    left = 10**9 if tokens is None else tokens
    for each in reversed(items):
        left -= -(-(len(each) + 2) // module.TOKEN_BYTES)
        if left < 0 or len(wanted) == limit:
            break
        wanted.insert(0, each)
    page = await history.window(head, Window(limit, tokens, 2))
    oldest = items[: min(2, len(items) - len(wanted))]
    assert [msgspec.json.decode(each) for each in page.items] == oldest + wanted
    assert page.first == page.end - len(wanted)


async def check(state: State, history: History, items: list[str]) -> None:
    head = await history.head()
    page = await history.window(head, Window())
    assert [msgspec.json.decode(each) for each in page.items] == items
    assert (page.end, page.end - page.first) == (head.end, len(items))
    assert len(state.rows) == len(head.chunks) + bool(state.rows), "a chunk that nobody reads is left"
    for name, row in state.rows.items():
        assert name == "h" or 0 < len(msgspec.json.decode(row)) <= module.CHUNK_ITEMS
