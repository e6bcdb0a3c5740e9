"""What the SQLite store does beyond the contract: files, locks, errors, plans."""

import os
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure.core import tables as t
from perdure.core.tables import TABLES
from perdure.errors import StorageError
from perdure.model import entries as e
from perdure.storage import sqlite
from perdure.storage.base import Batch
from perdure.storage.sqlite import SqliteStorage

HOLDER = """
import sys, time
from perdure.storage.sqlite import SqliteStorage

store = SqliteStorage(sys.argv[1])
print("open", flush=True)
time.sleep(60)
"""


def state(name: str, value: bytes) -> Batch:
    batch = Batch()
    batch.group(t.STATE, ("s", "k", name)).rows[("s", "k", name)] = value
    return batch


def commit(store: SqliteStorage, batch: Batch) -> BaseException | None:
    outcome: list[BaseException | None] = []
    finished = threading.Event()

    def done(error: BaseException | None) -> None:
        outcome.append(error)
        finished.set()

    store.commit(batch, done)
    assert finished.wait(30)
    return outcome[0]


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    message = f"{re.escape(str(path))} is in use by another process \\(pid {process.pid}\\)"
    for _ in range(2):
        with pytest.raises(StorageError, match=message):
            SqliteStorage(path)
    process.kill()
    process.wait()
    process.stdout.close()
    SqliteStorage(path).close()


def test_a_second_store_of_one_process_is_refused(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "store.db")
    with pytest.raises(StorageError, match=f"in use by another process \\(pid {os.getpid()}\\)"):
        SqliteStorage(tmp_path / "store.db")
    store.close()
    SqliteStorage(tmp_path / "store.db").close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    SqliteStorage(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for _ in range(2):  # the refusal lets go of the lock
        with pytest.raises(StorageError, match=r"written by a newer perdure \(schema 99, this one knows \d+\)"):
            SqliteStorage(path)


def test_an_older_file_gets_the_tables_that_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStorage(path)
    batch = Batch()
    batch.group(t.META, ("number",)).rows[("number",)] = 7
    store.commit(batch, lambda error: None)
    store.close()
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE stream; DROP TABLE stream_part; PRAGMA user_version = 1;")
    connection.close()
    store = SqliteStorage(path)
    assert store.get(t.META, ("number",)) == 7
    assert list(store.scan(t.STREAM, (1,))) == []
    assert list(store.scan(t.STREAM_PART, (1, "answer"))) == []
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] > 1
    connection.close()


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (id)")
    connection.close()
    with pytest.raises(StorageError, match="not one of perdure"):
        SqliteStorage(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("not a database, but long enough to be looked at " * 100)
    with pytest.raises(StorageError, match="can't be opened: file is not a database"):
        SqliteStorage(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"can't be opened: .*No such file or directory"):
        SqliteStorage(tmp_path / "none" / "store.db")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"can't be opened: .*(Not a directory|exists)"):
        SqliteStorage(tmp_path / "file" / "store.db")


def test_a_full_disk_stops_the_store(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "store.db")
    assert commit(store, state("kept", b"1")) is None
    pages = store._write.execute("PRAGMA page_count").fetchone()[0]
    store._write.execute(f"PRAGMA max_page_count = {pages + 2}")
    error = commit(store, state("large", b"x" * 100_000))
    assert isinstance(error, StorageError)
    assert "database or disk is full" in str(error)
    assert isinstance(error.__cause__, sqlite3.Error)
    store._write.execute("PRAGMA max_page_count = 100000")  # there is room again, but nobody trusts it now
    again = commit(store, state("small", b"x"))
    assert isinstance(again, StorageError)
    assert "no more writes since an earlier one failed" in str(again)
    assert commit(store, Batch()) is not None
    assert store.get(t.STATE, ("s", "k", "kept")) == b"1"
    store.close()
    store = SqliteStorage(tmp_path / "store.db")
    assert [key[2] for key, _ in store.scan(t.STATE, ("s", "k"))] == ["kept"]
    store.close()


def test_a_batch_that_cannot_be_encoded_changes_nothing(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "store.db")
    batch = state("first", b"1")
    batch.group(t.JOURNAL, (1, 0)).rows[(1, 0)] = (5, e.Run(1, "\ud800"))
    assert isinstance(commit(store, batch), StorageError)
    assert store.get(t.STATE, ("s", "k", "first")) is None
    store.close()


def test_a_journal_is_limited(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "store.db")
    batch = Batch()
    batch.group(t.JOURNAL, (1, 1 << 24)).rows[(1, 1 << 24)] = (5, e.Run(1, "n"))
    assert "a journal holds at most 16777216 entries" in str(commit(store, batch))
    store.close()


def test_close_waits_for_the_batch_in_flight_and_leaves_one_file(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "store.db")
    outcome: list[BaseException | None] = []
    for index in range(50):
        store.commit(state(str(index), b"x" * 10_000), outcome.append)
    store.close()
    assert outcome == [None] * 50
    store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.db", "store.db.lock"]
    store = SqliteStorage(tmp_path / "store.db")
    assert len(list(store.scan(t.STATE, ("s", "k")))) == 50
    store.close()


def test_the_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1 << 18
    monkeypatch.setattr(sqlite, "_WAL_BYTES", limit)
    store = SqliteStorage(tmp_path / "store.db")
    longest = 0
    for index in range(200):
        assert commit(store, state(str(index % 20), bytes([index]) * 20_000)) is None
        list(store.scan(t.STATE, ("s", "k")))
        longest = max(longest, (tmp_path / "store.db-wal").stat().st_size)
    assert limit < longest < 2 * limit
    store.close()


def test_a_reader_from_outside_holds_up_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 18
    monkeypatch.setattr(sqlite, "_WAL_BYTES", limit)
    store = SqliteStorage(tmp_path / "store.db")
    log = tmp_path / "store.db-wal"
    outside = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    outside.execute("BEGIN")
    outside.execute("SELECT * FROM state").fetchall()
    for index in range(60):
        assert commit(store, state("a", bytes([index]) * 20_000)) is None
    assert log.stat().st_size > 4 * limit
    assert store.get(t.STATE, ("s", "k", "a")) == bytes([59]) * 20_000
    outside.close()
    for index in range(60):
        assert commit(store, state("a", bytes([index]) * 20_000)) is None
    assert log.stat().st_size < 2 * limit
    store.close()


def test_no_read_leaves_a_transaction_open(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "store.db")
    assert commit(store, state("a", b"1")) is None
    store.get(t.STATE, ("s", "k", "a"))
    next(store.scan(t.STATE, ("s", "k")))
    store.last(t.STATE, ("s", "k"))
    busy, log, copied = store._write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, log, copied) == (0, 0, 0)
    store.close()


def plans() -> list[Any]:
    cases = []
    for table in TABLES:
        statements = sqlite._STATEMENTS_OF[table]
        texts = {"get": statements.get, "last": statements.last, "scan": statements.scan}
        texts |= {f"delete-{size}": text for size, text in statements.deletes.items()}
        if table.group:
            texts |= {f"drop-{size}": text for size, text in statements.drops.items()}
        cases += [pytest.param(table, name, text, id=f"{table.name}-{name}") for name, text in texts.items()]
    return cases


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = SqliteStorage(tmp_path_factory.mktemp("plans") / "store.db")
    yield store._read
    store.close()


@pytest.mark.parametrize(("table", "name", "text"), plans())
def test_every_statement_goes_by_its_key(opened: sqlite3.Connection, table: t.Table[Any], name: str, text: str) -> None:
    plan = [row[3] for row in opened.execute("EXPLAIN QUERY PLAN " + text, [0] * text.count("?"))]
    assert not any("TEMP B-TREE" in step for step in plan), plan
    if table.group or name == "get" or name.startswith("delete"):
        assert not any(step.startswith("SCAN") for step in plan), plan


def test_settings_hold_on_both_connections(tmp_path: Path) -> None:
    store = SqliteStorage(tmp_path / "store.db")
    for connection in (store._write, store._read):
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._read.execute("DELETE FROM meta")
    store.close()


def test_an_older_file_gets_the_tables_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    SqliteStorage(path).close()
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE api_key; PRAGMA user_version = 1;")
    connection.close()
    for _ in range(2):
        store = SqliteStorage(path)
        try:
            assert list(store.scan(t.API_KEY, ())) == []
        finally:
            store.close()
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        (old,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'api_key'").fetchone()
    finally:
        connection.close()
    SqliteStorage(tmp_path / "new.db").close()
    connection = sqlite3.connect(tmp_path / "new.db")
    try:
        (new,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'api_key'").fetchone()
    finally:
        connection.close()
    assert "".join(old.split()) == "".join(new.split()), "as in a new file"
