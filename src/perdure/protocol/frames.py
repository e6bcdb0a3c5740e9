"""Frames: what messages travel in. Eight bytes of header (type, flags, length; big-endian), then the payload.

The reader takes bytes in whatever pieces they come. A frame longer than the limit is refused when its header is read,
so nobody is made to hold it.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from perdure.errors import RemoteProtocolError

__all__ = ["FRAME_LIMIT", "MESSAGE_TOO_LARGE", "Frame", "FrameReader", "encode_frame"]

FRAME_LIMIT = 32 * 1024 * 1024  # bytes of payload; restate-server's default
MESSAGE_TOO_LARGE = 413  # the code of the error that says so
_HEADER = struct.Struct(">HHI")
_REQUESTED_ACK = 0x8000


class Frame(NamedTuple):
    """One message, undecoded. `ack` is whether its sender wants to be told that it is stored."""

    type: int
    payload: bytes
    ack: bool = False


def encode_frame(type: int, payload: bytes, ack: bool = False) -> bytes:
    """Header and payload."""
    return _HEADER.pack(type, _REQUESTED_ACK if ack else 0, len(payload)) + payload


class FrameReader:
    """Bytes in, frames out. `limit` is the longest payload (bytes) that is taken."""

    __slots__ = ("_buffer", "_limit", "_wanted")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._wanted = 0  # bytes of buffer below which there is nothing to look at: no byte is moved twice for nothing

    @property
    def pending(self) -> int:
        """How many bytes of a frame that is not whole yet are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises `RemoteProtocolError` (413) at a header that announces too much.

        To be read to its end: what follows a frame is kept for the next call then.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        self._wanted = 8
        position, size = 0, len(data)
        while size - position >= 8:
            type_, flags, length = _HEADER.unpack_from(data, position)
            if length > self._limit:
                raise RemoteProtocolError(
                    f"a message of type {type_:#06x} has {length} bytes; the limit is {self._limit}", MESSAGE_TOO_LARGE
                )
            end = position + 8 + length
            if end > size:
                self._wanted = end - position
                break
            yield Frame(type_, data[position + 8 : end], bool(flags & _REQUESTED_ACK))
            position = end
        if position < size:
            self._buffer += data[position:]
