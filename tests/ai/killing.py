"""Rung 3, inside the served process: it kills itself at a journal position, and tells what its tools did.

A module that is served imports this and calls `arm()`. The test writes a number into the file named by
PERDURE_TEST_KILL_AT: once so many entries of an invocation's journal are on disk, and before anybody is told,
the process gets a SIGKILL. The file is gone then, so the next process lives.
"""

import os
import pathlib
import signal
from collections.abc import Callable

from perdure import current_step
from perdure.core.tables import JOURNAL
from perdure.storage.base import Batch
from perdure.storage.sqlite import SqliteStorage

__all__ = ["arm", "effect"]


def effect(name: str) -> None:
    """What a tool does to the world: one line, with the token that makes it countable. A small append is atomic."""
    with open(os.environ["PERDURE_TEST_LEDGER"], "a") as ledger:
        ledger.write(f"{name} {current_step().token}\n")


def arm() -> None:
    """Be ready to be killed. Nothing happens where the module is imported by a test."""
    if "PERDURE_TEST_KILL_AT" not in os.environ:
        return
    order = pathlib.Path(os.environ["PERDURE_TEST_KILL_AT"])
    commit = SqliteStorage.commit

    def watched(self: SqliteStorage, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        length = max((key[-1] + 1 for group in batch.groups.get(JOURNAL, {}).values() for key in group.rows), default=0)

        def told(error: BaseException | None) -> None:
            if error is None and length and order.exists() and length >= int(order.read_text()):
                order.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            done(error)

        commit(self, batch, told)

    SqliteStorage.commit = watched  # type: ignore[method-assign]
