"""One partition in one SQLite file: WAL, `synchronous=FULL`, one commit and one fsync per batch.

Two connections and one thread of our own. The thread takes batches from a queue, encodes them and commits them on the
write connection. The loop's thread reads on the other one, in statements that are finished when they return, so it
sees what is committed and holds up no checkpoint.

What costs is not SQLite but the interpreter's lock: `sqlite3` lets go of it in every call and has to win it back
from a busy loop afterwards. So rows go in many to a statement: with a busy loop beside it that stores twice as many
rows per second as `executemany`, which steps once for each.
"""

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from perdure.core import tables as t
from perdure.core.tables import Key, Table
from perdure.errors import StorageError
from perdure.model.commands import Message
from perdure.model.deployments import Deployment
from perdure.model.entries import Failure
from perdure.model.invocation import Completed, Invocation, Promise, Status
from perdure.model.keys import ApiKey
from perdure.model.streams import StreamHead, StreamPart
from perdure.protocol.messages import decode_entry, encode_entry
from perdure.storage.base import Batch, Group
from perdure.storage.memory import Snapshot
from perdure.telemetry.metrics import TIME_BOUNDS, Histogram

__all__ = ["SqliteStorage", "copy_to"]

V = TypeVar("V")
Row: TypeAlias = tuple[Any, ...]

_SCHEMA_VERSION = 3  # 2: API keys, streams; 3: an index of model calls
_APPLICATION_ID = 0x70726472  # "prdr", so that a file of ours can be told from any other SQLite file

_INDEX_BITS = 24  # of a journal's position: 16 million entries an invocation, 550 thousand million invocations
_INDEX_MASK = (1 << _INDEX_BITS) - 1

# A checkpoint is due when the log has outgrown this. The file is cut back to this size when it is reused, and up to
# it overwritten in place, which syncs faster than a file that grows.
_WAL_BYTES = 16 << 20

# How many rows a statement may take. Each size is a statement to compile and keep, so not all sizes; these are close
# enough that a few statements make up any number.
_PUT_SIZES = (256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
_DELETE_SIZES = (64, 32, 16, 8, 4, 2, 1)
_STATEMENTS = 400  # kept compiled

_encode = msgspec.msgpack.Encoder().encode


class _Layout(NamedTuple, Generic[V]):
    """How a table's rows lie in SQLite: `encode` gives the columns in order, `decode` takes those that are `read`."""

    table: Table[V]
    columns: tuple[str, ...]
    read: tuple[str, ...]
    encode: Callable[[Key, V], Row]
    decode: Callable[[Row], tuple[Key, V]]
    of_key: str
    of_group: str
    order: tuple[str, ...]
    key: Callable[[Key], Row]
    group: Callable[[Key], Row]
    unkey: Callable[[Row], Key]


class _Statements(NamedTuple):
    get: str
    scan: str
    last: str
    puts: dict[int, str]
    deletes: dict[int, str]
    drops: dict[int, str]


def _same(key: Key) -> Row:
    return key


def _keyed(
    table: Table[V], values: tuple[str, ...], encode: Callable[[V], Row], decode: Callable[[Row], V], extra: int = 0
) -> _Layout[V]:
    """A table whose key's fields are columns, then `values`; the last `extra` of these are written only."""
    width = len(table.fields)
    read = table.fields + values[: len(values) - extra]
    return _Layout(
        table,
        columns=table.fields + values,
        read=read,
        encode=lambda key, value: key + encode(value),
        decode=lambda row: (row[:width], decode(row[width:])),
        of_key=" AND ".join(f"{field} = ?" for field in table.fields),
        of_group=" AND ".join(f"{field} = ?" for field in table.fields[: table.group]) or "TRUE",
        order=table.fields,
        key=_same,
        group=_same,
        unkey=_same,
    )


def _plain(table: Table[V]) -> _Layout[V]:
    """The value is a column."""
    return _keyed(table, ("value",), lambda value: (value,), lambda row: row[0])


def _packed(table: Table[V], type: Any) -> _Layout[V]:
    """The value is a struct, kept as msgpack."""
    decode: Callable[[bytes], V] = msgspec.msgpack.Decoder(type).decode
    return _keyed(table, ("body",), lambda value: (_encode(value),), lambda row: decode(row[0]))


def _present(table: Table[bool]) -> _Layout[bool]:
    """The row's being there is the value."""
    return _keyed(table, (), lambda value: (), lambda row: True)


def _invocation() -> _Layout[Invocation]:
    decode = msgspec.msgpack.Decoder(Invocation).decode

    def encode(value: Invocation) -> Row:
        target = value.target
        status = value.status
        return (
            _encode(value),
            value.id,
            target.service,
            target.key,
            target.handler,
            target.kind.value,
            _status_name(status),
            value.created_at,
            status.at if isinstance(status, Completed) else None,
        )

    columns = ("body", "id", "service", "key", "handler", "kind", "status", "created_at", "completed_at")
    return _keyed(t.INVOCATION, columns, encode, lambda row: decode(row[0]), extra=8)


def _status_name(status: Status) -> str:
    """As in `schema.sql`: a completed invocation that failed has a name of its own, so that both can be counted."""
    if type(status) is Completed and type(status.result) is Failure:
        return "failed"
    return type(status).__name__.lower()


def _journal() -> _Layout[Any]:
    """The one table whose key is not its columns: number and index are one integer."""

    def position(key: Key) -> Row:
        number, index = key
        if index > _INDEX_MASK:
            raise StorageError(f"invocation {number}: a journal holds at most {_INDEX_MASK + 1} entries")
        return (number << _INDEX_BITS | index,)

    def encode(key: Key, value: tuple[int, Any]) -> Row:
        at, entry = value
        return (*position(key), at, *encode_entry(entry))

    def decode(row: Row) -> tuple[Key, tuple[int, Any]]:
        place, at, type, payload = row
        return (place >> _INDEX_BITS, place & _INDEX_MASK), (at, decode_entry(type, payload, at))

    columns = ("position", "appended_at", "type", "payload")
    return _Layout(
        t.JOURNAL,
        columns=columns,
        read=columns,
        encode=encode,
        decode=decode,
        of_key="position = ?",
        of_group="position BETWEEN ? AND ?",
        order=("position",),
        key=position,
        group=lambda group: (group[0] << _INDEX_BITS, group[0] << _INDEX_BITS | _INDEX_MASK),
        unkey=lambda row: (row[0] >> _INDEX_BITS, row[0] & _INDEX_MASK),
    )


_LAYOUTS: dict[Table[Any], _Layout[Any]] = {
    layout.table: layout
    for layout in (
        _invocation(),
        _keyed(t.INVOCATION_ID, ("number",), lambda value: (value,), lambda row: row[0]),
        _journal(),
        _plain(t.STATE),
        _packed(t.LOCK, t.Lock),
        _packed(t.INBOX, t.InboxItem),
        _packed(t.PROMISE, Promise),
        _present(t.TIMER),
        _packed(t.OUTBOX, Message),
        _present(t.ACTIVE),
        _plain(t.META),
        _packed(t.DEPLOYMENT, Deployment),
        _packed(t.API_KEY, ApiKey),
        _packed(t.STREAM, StreamHead),
        _packed(t.STREAM_PART, StreamPart),
    )
}


def _statements(layout: _Layout[Any]) -> _Statements:
    name = layout.table.name
    row = "(" + ", ".join("?" * len(layout.columns)) + ")"
    insert = f"INSERT OR REPLACE INTO {name} ({', '.join(layout.columns)}) VALUES "
    select = f"SELECT {', '.join(layout.read)} FROM {name} WHERE "
    backwards = ", ".join(f"{column} DESC" for column in layout.order)
    return _Statements(
        get=select + layout.of_key,
        scan=f"{select}{layout.of_group} ORDER BY {', '.join(layout.order)} LIMIT ?",
        last=f"SELECT {', '.join(layout.order)} FROM {name} WHERE {layout.of_group} ORDER BY {backwards} LIMIT 1",
        puts={size: insert + ", ".join([row] * size) for size in _PUT_SIZES},
        deletes={size: _delete(name, layout.of_key, size) for size in _DELETE_SIZES},
        drops={size: _delete(name, layout.of_group, size) for size in _DELETE_SIZES},
    )


def _delete(name: str, condition: str, size: int) -> str:
    return f"DELETE FROM {name} WHERE " + " OR ".join([f"({condition})"] * size)


_STATEMENTS_OF = {table: _statements(layout) for table, layout in _LAYOUTS.items()}


class SqliteStorage:
    """The contract of `storage.base` in the file `path`, made if it is not there (its folder has to be).

    `<path>.lock` beside it says which process has it open; it stays when the store is closed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._lock = _Lock(self._path)
        self._failure: StorageError | None = None
        self._closed = False
        try:
            self._write = _connect(self._path)
            try:
                _prepare(self._write, self._path)
                self._read = _connect(self._path)
                self._read.execute("PRAGMA query_only = TRUE")
            except BaseException:
                self._write.close()
                raise
        except BaseException as error:
            self._lock.release()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise StorageError(f"{self._path} can't be opened: {error}") from error
            raise
        self._wal = f"{self._path}-wal"
        self.syncs = Histogram(TIME_BOUNDS)
        """How long each COMMIT took, seconds: in WAL mode nearly all of it is the fsync."""
        self._checkpoint_at = _WAL_BYTES
        self._jobs: SimpleQueue[tuple[Batch, Callable[[BaseException | None], None]] | None] = SimpleQueue()
        # A daemon: a process that ends without `close` must not hang. What is cut off there was not promised.
        self._thread = threading.Thread(target=self._run, name=f"perdure-storage {self._path.name}", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The file, which others may read while it is open here."""
        return self._path

    def sizes(self) -> dict[str, int]:
        """Bytes on disk: of the database, and of the log before it."""
        sizes: dict[str, int] = {}
        for name, path in (("db", str(self._path)), ("wal", self._wal)):
            try:
                sizes[name] = os.stat(path).st_size
            except FileNotFoundError:
                sizes[name] = 0
        return sizes

    def get(self, table: Table[V], key: Key) -> V | None:
        layout = _LAYOUTS[table]
        rows = self._select(_STATEMENTS_OF[table].get, layout.key(key))
        return layout.decode(rows[0])[1] if rows else None

    def scan(self, table: Table[V], group: Key, *, limit: int | None = None) -> Iterator[tuple[Key, V]]:
        layout = _LAYOUTS[table]
        rows = self._select(_STATEMENTS_OF[table].scan, (*layout.group(group), -1 if limit is None else limit))
        return map(layout.decode, rows)

    def last(self, table: Table[V], group: Key) -> Key | None:
        layout = _LAYOUTS[table]
        rows = self._select(_STATEMENTS_OF[table].last, layout.group(group))
        return layout.unkey(rows[0]) if rows else None

    def commit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        if self._closed:
            done(StorageError(f"{self._path} is closed"))
        else:
            self._jobs.put((batch, done))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join()
        self._read.close()
        # Whatever goes wrong from here on loses nothing: the log is whole, and read when the file is opened again.
        with contextlib.suppress(sqlite3.Error):
            self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(sqlite3.Error):
            self._write.close()
        self._lock.release()

    def _select(self, sql: str, parameters: Row) -> list[Row]:
        try:
            return self._read.execute(sql, parameters).fetchall()  # to the end: no transaction is left open
        except sqlite3.Error as error:
            raise StorageError(f"{self._path} can't be read: {error}") from error

    def _run(self) -> None:
        """The writer thread."""
        while (job := self._jobs.get()) is not None:
            batch, done = job
            error = self._failure
            if error is None:
                error = self._attempt(self._store, batch)
            done(error)
            if error is None:
                self._attempt(self._checkpoint)  # only now: nobody has to wait for it who is not committing

    def _attempt(self, work: Callable[..., None], *arguments: Any) -> StorageError | None:
        """Do it; the first error is the last thing this store does.

        It is never tried again: after an fsync that failed, the kernel may have dropped the pages that it could
        not write, and the next fsync would report success.
        """
        try:
            work(*arguments)
        except Exception as error:
            failure = StorageError(f"{self._path} can't be written: {error}")
            failure.__cause__ = error
            self._failure = StorageError(f"{self._path} takes no more writes since an earlier one failed: {error}")
            with contextlib.suppress(sqlite3.Error):
                self._write.rollback()
            return failure
        return None

    def _store(self, batch: Batch) -> None:
        work: list[tuple[str, list[Any]]] = []
        for table, groups in batch.groups.items():
            _plan(table, groups, work)
        if not work:
            return
        execute = self._write.execute
        execute("BEGIN IMMEDIATE")
        for sql, parameters in work:
            execute(sql, parameters)
        began = perf_counter()
        execute("COMMIT")  # writes the batch to the log, and has it on disk when it returns
        self.syncs.observe(perf_counter() - began)

    def _checkpoint(self) -> None:
        """Copy the log into the file once it is long.

        SQLite would do it by itself, but within a commit, whose waiters would wait for the copy as well.
        """
        size = os.stat(self._wal).st_size
        if size <= _WAL_BYTES:
            self._checkpoint_at = _WAL_BYTES
        elif size > self._checkpoint_at:
            # Who reads the file from outside can keep the log from being reused. It grows on meanwhile, and a copy
            # (an fsync of the file) after each commit would be of no use.
            self._checkpoint_at = size + _WAL_BYTES // 4
            self._write.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def copy_to(snapshot: Snapshot, path: Path) -> None:
    """Make a file of a store in memory. Raises `StorageError`."""
    batch = Batch()
    for table in t.TABLES:
        for key, value in snapshot.get(table.name, {}).items():
            batch.group(table, key).rows[key] = value
    store = SqliteStorage(path)
    errors: list[BaseException | None] = []
    try:
        store.commit(batch, errors.append)
    finally:
        store.close()  # which waits for the batch
    for error in errors:
        if error is not None:
            raise error


def _plan(table: Table[Any], groups: dict[Key, Group], work: list[tuple[str, list[Any]]]) -> None:
    """Add the statements, with their parameters, that make these changes."""
    layout = _LAYOUTS[table]
    statements = _STATEMENTS_OF[table]
    encode = layout.encode
    puts: list[Any] = []
    deletes: list[Any] = []
    drops: list[Any] = []
    for name, group in groups.items():
        if group.dropped:
            drops += layout.group(name)
            if table.group == 0:  # the one group is the whole table; its condition has no parameter
                work.append((f"DELETE FROM {table.name}", []))
        for key, value in group.rows.items():
            if value is not None:
                puts += encode(key, value)
            elif not group.dropped:
                deletes += layout.key(key)
    _split(statements.drops, _DELETE_SIZES, drops, layout.of_group.count("?"), work)
    _split(statements.deletes, _DELETE_SIZES, deletes, layout.of_key.count("?"), work)
    _split(statements.puts, _PUT_SIZES, puts, len(layout.columns), work)


def _split(
    statements: dict[int, str], sizes: tuple[int, ...], flat: list[Any], width: int, work: list[tuple[str, list[Any]]]
) -> None:
    """Cut `flat`, rows of `width` parameters end to end, into as few statements as the sizes allow."""
    start = 0
    end = len(flat)
    for size in sizes:
        step = size * width
        while end - start >= step > 0:
            work.append((statements[size], flat[start : start + step]))
            start += step


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS)
    try:
        connection.execute("PRAGMA page_size = 4096")
        if (mode := connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
            raise StorageError(f"{path} can't be kept in WAL mode (but in {mode}): is it on a network file system?")
        for setting in (
            "synchronous = FULL",
            "fullfsync = TRUE",  # macOS only: there a plain fsync stops at the drive's cache
            "checkpoint_fullfsync = TRUE",
            "wal_autocheckpoint = 0",
            f"journal_size_limit = {_WAL_BYTES}",
            "cache_size = -8000",
            "temp_store = MEMORY",
            "secure_delete = FAST",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables that a file lacks, new or older; refuse one that this version doesn't know."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == _APPLICATION_ID:
        if version > _SCHEMA_VERSION:
            raise StorageError(
                f"{path} was written by a newer perdure (schema {version}, this one knows {_SCHEMA_VERSION}): "
                "upgrade perdure"
            )
        if version == _SCHEMA_VERSION:
            return
    elif application or version or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise StorageError(f"{path} is a SQLite database, but not one of perdure")
    schema = Path(__file__).with_name("schema.sql").read_text("utf-8")
    connection.executescript(
        f"BEGIN IMMEDIATE;\n{schema}\nPRAGMA application_id = {_APPLICATION_ID};\n"
        f"PRAGMA user_version = {_SCHEMA_VERSION};\nCOMMIT;"
    )


class _Lock:
    """Keeps a second process out of a store, until `release` or this process's death, whichever way it dies."""

    def __init__(self, path: Path) -> None:
        self._path = f"{path}.lock"
        try:
            self._file: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"{path} can't be opened: {error}") from error
        try:
            _lock_file(self._file)
        except OSError:
            os.lseek(self._file, 0, os.SEEK_SET)
            owner = os.read(self._file, 20).decode(errors="replace")
            self.release()
            raise StorageError(f"{path} is in use by another process (pid {owner or 'unknown'})") from None
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, str(os.getpid()).encode())

    def release(self) -> None:
        """The file stays: were it deleted, two processes could each hold the lock of a file of that name."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


if sys.platform == "win32":
    import msvcrt

    def _lock_file(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # a byte past the text, which others must be able to read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock_file(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
