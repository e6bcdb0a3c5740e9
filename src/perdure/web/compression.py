"""Answers made smaller for callers that can read gzip: the standard library has it, so no dependency is needed.

Brotli and zstd, which restate-server has too, are packages of their own; every client that reads those reads gzip.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator
from typing import Final

from perdure.web.http import Request, Response

__all__ = ["compressed"]

_SMALLEST: Final = 256  # bytes; below, the head of the format eats what is won
_IN_A_THREAD: Final = 64 * 1024  # bytes from which on compressing would hold up the engine's event loop
_LEVEL: Final = 1
_GZIP: Final = 31  # zlib's window bits for the gzip format
_VARY: Final = (b"vary", b"accept-encoding")
_ENCODING: Final = (b"content-encoding", b"gzip")


def accepts_gzip(request: Request) -> bool:
    """Whether the caller names gzip, or `*`, among what it reads."""
    quality: dict[bytes, bool] = {}
    for part in request.fields.get(b"accept-encoding", b"").lower().split(b","):
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        refused = any(each.replace(b" ", b"") in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000") for each in parameters)
        quality[name] = not refused
    return quality.get(b"gzip", quality.get(b"*", False))


async def compressed(request: Request, response: Response) -> Response:
    """The response as the caller wants it. A body that comes in pieces stays one; what is compressed stays as it is."""
    body = response.body
    if (isinstance(body, bytes) and not body) or any(name == b"content-encoding" for name, _ in response.headers):
        return response
    headers = [*response.headers, _VARY]
    if not accepts_gzip(request) or (isinstance(body, bytes) and len(body) < _SMALLEST):
        return Response(response.status, headers, body)
    headers.append(_ENCODING)
    if not isinstance(body, bytes):
        return Response(response.status, headers, _pieces(body))
    smaller = await asyncio.to_thread(_whole, body) if len(body) >= _IN_A_THREAD else _whole(body)
    return Response(response.status, headers, smaller)


def _whole(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL, _GZIP)


def _piece(packer: "zlib._Compress", piece: bytes) -> bytes:
    return packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)


async def _pieces(body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Each piece is sent on when it comes: whoever reads a long answer sees rows early."""
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    async with contextlib.aclosing(body):
        async for piece in body:
            large = len(piece) >= _IN_A_THREAD
            yield await asyncio.to_thread(_piece, packer, piece) if large else _piece(packer, piece)
    yield packer.flush()
