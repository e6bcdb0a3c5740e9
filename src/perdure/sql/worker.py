"""The process that answers queries, one after another: `python -m perdure.sql.worker`, started by `sql.pool`.

A frame is a length (4 bytes, big-endian, of what follows) and that many bytes. A query comes as one frame on stdin;
the answer on stdout is frames that begin with a letter: `d` and a piece of the answer, `e` and a `Refusal`, at last
`z`. A process of its own keeps handlers from waiting for the interpreter's lock, and can be ended at any moment.
"""

import contextlib
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from perdure.sql.facts import Query, Refusal

__all__ = ["serve"]

_PARENT_EVERY_SECONDS = 1.0
_NICENESS = 19

_decode = msgspec.msgpack.Decoder(Query).decode
_encode = msgspec.msgpack.Encoder().encode


def serve(queries: BinaryIO, answers: BinaryIO) -> None:
    """Answer until `queries` ends."""

    def send(kind: bytes, data: bytes = b"") -> None:
        answers.write(struct.pack(">I", 1 + len(data)) + kind)
        answers.write(data)
        answers.flush()

    while len(head := queries.read(4)) == 4:
        query = _decode(queries.read(struct.unpack(">I", head)[0]))
        _answer(query, send)
        send(b"z")


def _answer(query: Query, send: "Callable[[bytes, bytes], None]") -> None:
    from perdure.sql.render import arrow_stream, json_rows
    from perdure.sql.session import QueryError, execute

    try:
        result = execute(query.sql, query.files, query.facts, query.memory_limit)
        for piece in json_rows(result) if query.format == "json" else arrow_stream(result):
            send(b"d", piece)
    except QueryError as error:
        send(b"e", _encode(Refusal(error.status, error.message)))
    except BrokenPipeError:
        raise
    except Exception as error:
        send(b"e", _encode(Refusal(500, f"the query failed: {error!r}")))


def _leave_with_parent() -> None:
    """A parent that was killed closes stdin, but who is in the middle of a query doesn't read it."""
    parent = os.getppid()

    def watch() -> None:
        wait = threading.Event()
        while os.getppid() == parent:
            wait.wait(_PARENT_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _give_way() -> None:
    """Handlers come first, with the processor; and queries, when memory runs out."""
    if sys.platform != "win32":
        os.nice(_NICENESS)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")


def main() -> None:
    """Serve on stdin and stdout; whatever else is printed goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _give_way()
    if sys.platform != "win32":
        _leave_with_parent()
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)
    os._exit(0)  # threads of the query engine are not waited for


if __name__ == "__main__":
    main()
