"""How many invocations of each status a store has: counted once, when a process begins; from then on it keeps count."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing

from perdure.core.tables import INVOCATION
from perdure.model.invocation import Completed
from perdure.storage.base import Storage
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import SqliteStorage

__all__ = ["census"]

_COUNT = "SELECT status, count(*) FROM invocation WHERE status NOT IN ('completed', 'failed') GROUP BY status"


def census(storage: Storage) -> Callable[[], dict[str, int]]:
    """Look at the store as it is now. What is returned counts, in any thread; meanwhile the store may change.

    Statuses are by their lower-case names; completed invocations are not counted.
    """
    if isinstance(storage, SqliteStorage):
        connection = sqlite3.connect(storage.path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only = TRUE")
        connection.execute("BEGIN")
        connection.execute("SELECT number FROM invocation LIMIT 1").fetchall()  # from here on it sees nothing newer

        def count() -> dict[str, int]:
            with closing(connection):
                return dict(connection.execute(_COUNT).fetchall())

        return count
    assert isinstance(storage, MemoryStorage), "there are no other stores"
    statuses = [type(invocation.status) for invocation in storage.snapshot()[INVOCATION.name].values()]
    counted = Counter(status.__name__.lower() for status in statuses if status is not Completed)
    return lambda: dict(counted)
