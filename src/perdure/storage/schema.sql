-- The tables of one partition, as `perdure.core.tables` names them. Everything that belongs to an invocation is kept
-- under its number, which grows with time: new rows go to the end of a tree, whose pages are in the cache.
--
-- All of it runs in a new file, and once more in one of an earlier version, which gets the tables that it lacks.
--
-- Text is UTF-8 compared by its bytes, which is the order in which Python compares str.

-- `body` is the whole invocation; the columns beside it repeat what is asked for in SQL, and come before it, so that a
-- scan of them reads none of it. `status` is scheduled, inboxed, invoked, suspended, paused, completed, or failed:
-- completed with a failure.
CREATE TABLE IF NOT EXISTS invocation (
    number       INTEGER PRIMARY KEY,
    id           BLOB NOT NULL,
    service      TEXT NOT NULL,
    key          TEXT,
    handler      TEXT NOT NULL,
    kind         TEXT NOT NULL,
    status       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    completed_at INTEGER,
    body         BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS invocation_id (
    id     BLOB PRIMARY KEY,
    number INTEGER NOT NULL
) WITHOUT ROWID;

-- `position` is number << 24 | index. A rowid of one integer takes a quarter more rows per second than a primary
-- key (number, index) WITHOUT ROWID, and keeps payloads of up to a page out of overflow pages.
CREATE TABLE IF NOT EXISTS journal (
    position    INTEGER PRIMARY KEY,
    appended_at INTEGER NOT NULL,
    type        INTEGER NOT NULL,
    payload     BLOB NOT NULL
);

-- The model calls: steps (0x8011) whose result begins with `{"usage":`. An entry of another kind costs a comparison.
CREATE INDEX IF NOT EXISTS journal_usage ON journal (position >> 24)
WHERE type = 32785 AND instr(substr(payload, 1, 40), X'7B227573616765223A');

CREATE TABLE IF NOT EXISTS state (
    service TEXT NOT NULL,
    key     TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (service, key, name)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS lock (
    service TEXT NOT NULL,
    key     TEXT NOT NULL,
    body    BLOB NOT NULL,
    PRIMARY KEY (service, key)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS inbox (
    service  TEXT NOT NULL,
    key      TEXT NOT NULL,
    position INTEGER NOT NULL,
    body     BLOB NOT NULL,
    PRIMARY KEY (service, key, position)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS promise (
    service TEXT NOT NULL,
    key     TEXT NOT NULL,
    name    TEXT NOT NULL,
    body    BLOB NOT NULL,
    PRIMARY KEY (service, key, name)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS timer (
    due    INTEGER NOT NULL,
    number INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    id     INTEGER NOT NULL,
    PRIMARY KEY (due, number, kind, id)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS outbox (
    destination INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    body        BLOB NOT NULL,
    PRIMARY KEY (destination, position)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS active (
    number INTEGER PRIMARY KEY
);

CREATE TABLE IF NOT EXISTS meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS deployment (
    id   TEXT PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS api_key (
    id   TEXT PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS stream (
    number INTEGER NOT NULL,
    name   TEXT NOT NULL,
    body   BLOB NOT NULL,
    PRIMARY KEY (number, name)
) WITHOUT ROWID;

-- What one step has put into a stream is one row, which may be long: with a rowid, so that its pages are its own.
CREATE TABLE IF NOT EXISTS stream_part (
    number INTEGER NOT NULL,
    name   TEXT NOT NULL,
    part   INTEGER NOT NULL,
    body   BLOB NOT NULL,
    PRIMARY KEY (number, name, part)
);
