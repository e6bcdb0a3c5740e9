"""A history of JSON values in an object's state: appended to, never rewritten.

`{prefix}` holds where it begins and ends; the items lie in chunks, one key of the state each, so a turn of a long chat
writes the last chunk and no other. An item's number never changes; what is dropped from the front leaves a gap.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from perdure.protocol.sessions import Page, Window
from perdure.sdk.context import ObjectContext

__all__ = ["CHUNK_BYTES", "CHUNK_ITEMS", "TOKEN_BYTES", "Head", "History"]

CHUNK_ITEMS: Final = 64
CHUNK_BYTES: Final = 16 * 1024
TOKEN_BYTES: Final = 4
"""Of JSON, that are taken for one token where nobody counts them."""


class Head(msgspec.Struct, omit_defaults=True):
    """`chunks`: for each the number of its first item and its size in bytes, in order. `end` is the next number."""

    chunks: list[tuple[int, int]] = []
    end: int = 0
    revision: int = 0
    ttl: float | None = None
    """Seconds that it lives unused."""
    used_at: int = 0
    """When it was used last, ms."""
    timed: bool = False
    """Whether there is a timer that looks whether it is used."""


class History:
    """The history under `prefix` in the state of the object whose exclusive handler this is."""

    def __init__(self, ctx: ObjectContext, prefix: str) -> None:
        self._ctx = ctx
        self._prefix = prefix

    async def head(self) -> Head:
        return await self._ctx.get(self._prefix, Head) or Head()

    def keep(self, head: Head) -> None:
        """Store where it begins and ends."""
        self._ctx.set(self._prefix, head)

    async def append(self, head: Head, items: Sequence[msgspec.Raw]) -> None:
        """Append items, and store the head."""
        if not items:
            self.keep(head)
            return
        pending: list[msgspec.Raw] = []
        first, size = head.end, 0
        if head.chunks:
            last_first, last_size = head.chunks[-1]
            if head.end - last_first < CHUNK_ITEMS and last_size < CHUNK_BYTES:
                head.chunks.pop()
                pending, first, size = await self._chunk(last_first), last_first, last_size
        for item in items:
            if pending and (len(pending) >= CHUNK_ITEMS or size >= CHUNK_BYTES):
                self._put(head, first, pending, size)
                first, pending, size = head.end, [], 0
            pending.append(item)
            size += len(bytes(item))
            head.end += 1
        self._put(head, first, pending, size)
        self.keep(head)

    async def window(self, head: Head, wanted: Window) -> Page:
        """The items that are wanted, read from the end; chunks that are not needed are not read."""
        newest: list[msgspec.Raw] = []
        first, size = head.end, 0
        for chunk_first, _ in reversed(head.chunks):
            if wanted.limit is not None and len(newest) >= wanted.limit:
                break
            over = False
            for item in reversed(await self._chunk(chunk_first)):
                size += -(-len(bytes(item)) // TOKEN_BYTES)
                over = (wanted.limit is not None and len(newest) >= wanted.limit) or (
                    wanted.tokens is not None and size > wanted.tokens
                )
                if over:
                    break
                newest.append(item)
                first -= 1
            if over:
                break
        newest.reverse()
        oldest = await self._oldest(head, wanted.keep_first, first) if wanted.keep_first else []
        return Page(oldest + newest, first, head.end, head.revision, head.ttl)

    async def _oldest(self, head: Head, count: int, before: int) -> list[msgspec.Raw]:
        found: list[msgspec.Raw] = []
        for chunk_first, _ in head.chunks:
            if len(found) >= count or chunk_first >= before:
                break
            found += (await self._chunk(chunk_first))[: before - chunk_first]
        return found[:count]

    async def pop(self, head: Head) -> msgspec.Raw | None:
        """Take the last item away; None if there is none."""
        if not head.chunks:
            return None
        first, size = head.chunks.pop()
        items = await self._chunk(first)
        last = items.pop()
        head.end -= 1
        head.revision += 1
        if items:
            self._put(head, first, items, size - len(bytes(last)))
        else:
            await self._ctx.clear(self._name(first))
        self.keep(head)
        return last

    async def replace(self, head: Head, upto: int, items: Sequence[msgspec.Raw]) -> bool:
        """The items before number `upto` become these, of which there may not be more; False if that can't be."""
        if not head.chunks or upto > head.end or len(items) > upto - head.chunks[0][0]:
            return False
        rest: list[tuple[int, int]] = []
        kept: list[msgspec.Raw] = []
        for first, size in head.chunks:
            if first >= upto:
                rest.append((first, size))
                continue
            chunk = await self._chunk(first)
            if len(chunk) > upto - first:
                kept = chunk[upto - first :]
            await self._ctx.clear(self._name(first))
        begin = upto - len(items)
        head.chunks = []
        whole = [*items, *kept]
        for start in range(0, len(whole), CHUNK_ITEMS):
            part = whole[start : start + CHUNK_ITEMS]
            self._put(head, begin + start, part, sum(len(bytes(each)) for each in part))
        head.chunks += rest
        head.revision += 1
        self.keep(head)
        return True

    async def clear(self, head: Head) -> None:
        """Drop all items. Numbers go on, so what was read before does not fit what comes."""
        for first, _ in head.chunks:
            await self._ctx.clear(self._name(first))
        head.chunks = []
        head.revision += 1
        self.keep(head)

    async def forget(self, head: Head) -> None:
        """Drop everything, the head too."""
        await self.clear(head)
        await self._ctx.clear(self._prefix)

    def _name(self, first: int) -> str:
        return f"{self._prefix}/{first:010}"

    def _put(self, head: Head, first: int, items: list[msgspec.Raw], size: int) -> None:
        self._ctx.set(self._name(first), items)
        head.chunks.append((first, size))

    async def _chunk(self, first: int) -> list[msgspec.Raw]:
        return await self._ctx.get(self._name(first), list[msgspec.Raw]) or []
