"""What the tables say of a node with invocations in every status, in JSON as clients get it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.core import tables as t
from perdure.model.ids import IN_PROCESS
from perdure.sql.facts import Facts
from perdure.sql.schemas import ALWAYS_EMPTY, SCHEMAS
from perdure.sql.session import QueryError, execute
from perdure.storage.memory import MemoryStorage
from perdure.storage.sqlite import copy_to
from tests.web.sql_world import MEMORY, World, build

DONE = {"good", "bad", "caller"}


@pytest.fixture(scope="module", params=[1, 2], ids=["one partition", "two"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("sql"), request.param)


def one(world: World, name: str, table: str = "sys_invocation", columns: str = "*") -> dict[str, Any]:
    return world.row(f"SELECT {columns} FROM {table} WHERE id = '{world.ids[name]}'")


# Invocations


@pytest.mark.parametrize(
    ("name", "status", "stored"),
    [
        ("good", "completed", "completed"),
        ("bad", "completed", "completed"),
        ("flaky", "backing-off", "invoked"),
        ("hopeless", "paused", "paused"),
        ("busy", "running", "invoked"),
        ("later", "scheduled", "scheduled"),
        ("sleeps", "suspended", "suspended"),
        ("holds", "running", "invoked"),
        ("waits", "pending", "inboxed"),
        ("signup", "running", "invoked"),
        ("caller", "completed", "completed"),
    ],
)
def test_status(world: World, name: str, status: str, stored: str) -> None:
    id = world.ids[name]
    assert one(world, name, columns="status") == {"status": status}
    assert one(world, name, "sys_invocation_status", "status") == {"status": stored}
    for table, value in (("sys_invocation", status), ("sys_invocation_status", stored)):
        assert {"id": id} in world.rows(f"SELECT id FROM {table} WHERE status = '{value}'")
        assert {"id": id} not in world.rows(f"SELECT id FROM {table} WHERE status != '{value}'")
        assert {"id": id} in world.rows(f"SELECT id FROM {table} WHERE status IN ('x', '{value}', 'y', 'z')")
        assert {"id": id} in world.rows(f"SELECT id FROM {table} WHERE status LIKE '{value[:4]}%'")


def test_a_completed_invocation(world: World) -> None:
    row = one(world, "good")
    times = {name: row.pop(name) for name in ("created_at", "modified_at", "running_at", "completed_at")}
    assert times["created_at"] <= times["running_at"] <= times["completed_at"] == times["modified_at"]
    assert row == {
        "id": world.ids["good"],
        "target": "Plain/good",
        "target_service_name": "Plain",
        "target_handler_name": "good",
        "target_service_ty": "service",
        "idempotency_key": "once",
        "invoked_by": "ingress",
        "journal_size": 4,
        "journal_commands_size": 3,
        "completion_retention": "PT86400S",
        "journal_retention": "PT86400S",
        "status": "completed",
        "completion_result": "success",
    }
    failed = one(world, "bad")
    assert (failed["completion_result"], failed["completion_failure"]) == ("failure", "[409] no way")


def test_attempts(world: World) -> None:
    flaky = one(world, "flaky")
    assert flaky["retry_count"] == 1
    assert flaky["next_retry_at"] > flaky["created_at"]
    assert flaky["last_failure"].startswith("[500 Internal] ValueError: boom\nTraceback")
    busy = one(world, "busy")
    assert busy["retry_count"] == 1
    assert busy["last_start_at"] >= busy["created_at"]
    assert "last_failure" not in busy
    assert "bang" in one(world, "hopeless")["last_failure"]
    state = {row["id"]: row for row in world.rows("SELECT * FROM sys_invocation_state")}
    assert {name: state[world.ids[name]]["in_flight"] for name in ("flaky", "busy", "holds", "signup")} == {
        "flaky": False,
        "busy": True,
        "holds": True,
        "signup": True,
    }
    assert len(state) == 4
    assert world.row(f"SELECT * FROM sys_invocation_state WHERE id = '{world.ids['busy']}'")["retry_count"] == 1


def test_times_of_those_that_wait(world: World) -> None:
    later = one(world, "later")
    assert later["scheduled_at"] == later["created_at"] < later["scheduled_start_at"]
    assert "journal_size" not in later and "running_at" not in later
    waits = one(world, "waits")
    assert waits["inboxed_at"] == waits["created_at"]
    sleeps = one(world, "sleeps")
    assert sleeps["suspended_waiting_for_completions"] == [1]
    assert sleeps["suspended_waiting_for_signals"] == [1]
    assert msgspec.json.decode(sleeps["suspended_waiting_future_json"]) == {
        "Unknown": [{"Single": {"CompletionId": 1}}, {"Single": {"SignalIndex": 1}}]
    }


def test_who_called(world: World) -> None:
    row = world.row("SELECT * FROM sys_invocation WHERE target_handler_name = 'total'")
    assert row["invoked_by"] == "service"
    assert row["invoked_by_id"] == world.ids["caller"]
    assert row["invoked_by_service_name"] == "Plain"
    assert row["invoked_by_target"] == "Plain/caller"
    assert row["target_service_ty"] == "virtual_object"
    by_caller = f"SELECT target FROM sys_invocation WHERE invoked_by_id = '{world.ids['caller']}' ORDER BY 1"
    assert world.rows(by_caller) == [{"target": "Counter/a/total"}, {"target": "Plain/good"}]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("target_service_name = 'Counter' AND target_service_key = 'a' AND status = 'pending'", {"waits"}),
        ("target_service_name > 'Plain' AND target_service_name <= 'Signup'", {"signup"}),
        ("target_service_key IS NOT NULL AND target_handler_name IN ('add', 'run')", {"holds", "waits", "signup"}),
        ("target = 'Signup/ada/run'", {"signup"}),
        ("target LIKE 'Signup/%'", {"signup"}),
        ("target_service_ty = 'workflow'", {"signup"}),
        ("idempotency_key = 'once'", {"good"}),
        ("completion_result = 'failure'", {"bad"}),
        ("completion_result IS NULL AND target_service_name = 'Sleepy'", {"sleeps"}),
        ("NOT (completion_result = 'success')", {"bad"}),
        ("id IN ('nonsense', '{good}') OR id = '{bad}'", {"good", "bad"}),
        ("id = 'nonsense'", set()),
        ("id > '{good}' AND id <= '{good}'", set()),
        ("completed_at > now() - INTERVAL '1 hour' AND target_handler_name != 'total'", DONE),
        ("completed_at < now() - INTERVAL '1 hour'", set()),
        ("modified_at < TIMESTAMP '2001-01-01T00:00:00'", set()),
        ("created_at >= (SELECT max(created_at) FROM sys_invocation WHERE id = '{sleeps}') AND target LIKE '%/caller'",
         {"caller"}),
        ("status ILIKE 'PEND%'", {"waits"}),
        ("'Sleepy' = target_service_name", {"sleeps"}),
        ("status IS NULL", set()),
        ("retry_count > 0 AND last_failure LIKE '%boom%'", {"flaky"}),
    ],
)  # fmt: skip
def test_conditions(world: World, condition: str, names: set[str]) -> None:
    where = condition.format(**world.ids)
    found = {row["id"] for row in world.rows(f"SELECT id FROM sys_invocation WHERE {where}")}
    assert found == {world.ids[name] for name in names}


@pytest.mark.parametrize("time", ["created_at", "modified_at", "completed_at"])
@pytest.mark.parametrize("way", ["ASC", "DESC", "ASC NULLS FIRST", "DESC NULLS LAST"])
@pytest.mark.parametrize(
    "of", ["", "WHERE status != 'completed'", "WHERE status = 'completed'", "WHERE target LIKE '%d%'"]
)
def test_the_first_rows_by_time(world: World, time: str, way: str, of: str) -> None:
    """With a limit only these rows are read; they have to be the same as without."""
    everything = [row.get(time) for row in world.rows(f"SELECT {time} FROM sys_invocation {of} ORDER BY 1 {way}")]
    for limit in (1, 3, 100):
        query = f"SELECT id, {time} AS t FROM sys_invocation i {of} ORDER BY t {way}, id LIMIT {limit}"
        assert [row.get("t") for row in world.rows(query)] == everything[:limit]


def test_counts(world: World) -> None:
    """Columns with few values are counted by SQLite; one by one they have to come out the same."""
    columns = "target_service_name, target_handler_name, target_service_ty, status, completion_result"
    counted = world.rows(f"SELECT {columns}, COUNT(*) AS n FROM sys_invocation GROUP BY {columns} ORDER BY {columns}")
    rows = world.rows(f"SELECT id, {columns} FROM sys_invocation ORDER BY {columns}")
    assert sum(row["n"] for row in counted) == len(rows) == len(world.rows("SELECT id FROM sys_invocation"))
    for row in counted:
        n = row.pop("n")
        assert n == sum(row == {key: value for key, value in each.items() if key != "id"} for each in rows)
    assert world.row("SELECT COUNT(*) AS n FROM sys_invocation") == {"n": len(rows)}
    assert world.row("SELECT COUNT(*) AS n FROM sys_invocation WHERE status = 'running'") == {"n": 3}


def test_a_table_twice(world: World) -> None:
    """Conditions of one occurrence must not narrow the other."""
    rows = world.rows(
        "SELECT a.id FROM sys_invocation a JOIN sys_invocation b ON a.target_service_name = b.target_service_name "
        "WHERE a.status = 'pending' AND b.status = 'running'"
    )
    assert rows == [{"id": world.ids["waits"]}]
    rows = world.rows(
        "SELECT id FROM sys_invocation WHERE status = 'scheduled' "
        "AND target_service_name IN (SELECT target_service_name FROM sys_invocation WHERE status = 'paused') "
        "AND idempotency_key IS NULL"
    )
    assert {"id": world.ids["later"]} in rows
    assert world.row("SELECT (SELECT COUNT(*) FROM sys_invocation) AS n FROM sys_invocation WHERE status = 'pending'")[
        "n"
    ] == len(world.rows("SELECT id FROM sys_invocation"))


# Journals


def test_the_journal(world: World) -> None:
    rows = world.rows(f"SELECT * FROM sys_journal WHERE id = '{world.ids['good']}' ORDER BY index")
    assert [(row["index"], row["entry_type"], row.get("name")) for row in rows] == [
        (0, "Command: Input", ""),
        (1, "Command: Run", "add one"),
        (2, "Notification: Run", None),
        (3, "Command: Output", ""),
    ]
    assert all(row["version"] == 2 and row["raw_length"] * 2 == len(row["raw"]) for row in rows)
    full = [msgspec.json.decode(row["entry_json"]) for row in rows]
    lite = [msgspec.json.decode(row["entry_lite_json"]) for row in rows]
    assert full[0] == {"Command": {"Input": {"headers": [], "payload": [53], "name": ""}}}
    assert full[1] == lite[1] == {"Command": {"Run": {"completion_id": 1, "name": "add one"}}}
    assert full[2] == {"Notification": {"Completion": {"Run": {"completion_id": 1, "result": {"Success": [54]}}}}}
    assert lite[2] == {"Notification": {"ty": {"Completion": "Run"}, "id": {"CompletionId": 1}, "result": "Success"}}
    assert lite[3] == {"Command": {"Output": {"result": "Success"}}}


def test_calls_in_the_journal(world: World) -> None:
    callee = world.row("SELECT id FROM sys_invocation WHERE target_handler_name = 'total'")["id"]
    row = world.row(
        f"SELECT entry_json, entry_lite_json FROM sys_journal WHERE id = '{world.ids['caller']}' "
        "AND entry_type = 'Command: Call'"
    )
    call = msgspec.json.decode(row["entry_lite_json"])["Command"]["Call"]
    assert call["invocation_id"] == callee
    assert call["invocation_target"] == {
        "VirtualObject": {"name": "Counter", "key": "a", "handler": "total", "handler_ty": "Shared", "scope": None}
    }
    assert msgspec.json.decode(row["entry_json"])["Command"]["Call"]["request"]["invocation_id"] == callee
    send = world.row(f"SELECT entry_lite_json AS j FROM sys_journal WHERE id = '{world.ids['caller']}' AND index = 1")
    sent = msgspec.json.decode(send["j"])["Command"]["OneWayCall"]
    assert sent["invocation_target"] == {"Service": {"name": "Plain", "handler": "good", "scope": None}}
    assert sent["invoke_time"] > 0


def test_every_entry_has_its_json(world: World) -> None:
    rows = world.rows("SELECT entry_type, entry_json, entry_lite_json FROM sys_journal")
    for row in rows:
        head, _, name = row["entry_type"].partition(": ")
        full, lite = msgspec.json.decode(row["entry_json"]), msgspec.json.decode(row["entry_lite_json"])
        if head == "Command":
            assert [*full["Command"]] == [*lite["Command"]] == [name]
        else:
            assert [*full["Notification"]["Completion"]] == [lite["Notification"]["ty"]["Completion"]] == [name]
    counts = world.rows("SELECT entry_type, COUNT(*) AS n FROM sys_journal GROUP BY 1")
    assert sum(row["n"] for row in counts) == len(rows)


def test_events(world: World) -> None:
    def events(name: str) -> list[tuple[str, Any]]:
        query = f"SELECT * FROM sys_journal_events WHERE id = '{world.ids[name]}' ORDER BY event_type DESC"
        return [(row["event_type"], msgspec.json.decode(row["event_json"])) for row in world.rows(query)]

    ((kind, event),) = events("flaky")
    assert (kind, event["ty"], event["error_code"]) == ("TransientError", "TransientError", 500)
    assert [kind for kind, _ in events("hopeless")] == ["TransientError", "Paused"]
    assert "bang" in events("hopeless")[1][1]["last_failure"]["error_message"]
    assert [kind for kind, _ in events("sleeps")] == ["Suspended"]
    assert events("busy") == events("good") == []
    assert len(world.rows("SELECT id FROM sys_journal_events WHERE event_type = 'Paused'")) == 1


# Objects and the registry


def test_state(world: World) -> None:
    row = world.row("SELECT * FROM state")
    assert row.pop("partition_key") > 0
    assert row == {
        "service_name": "Counter",
        "service_key": "a",
        "key": "total",
        "key_length": 5,
        "value_utf8": '{"sum":5}',
        "value": b'{"sum":5}'.hex(),
        "value_length": 9,
    }
    assert world.rows("SELECT key FROM state WHERE service_name = 'Counter' AND service_key = 'b'") == []
    assert world.row("SELECT SUM(value_length) AS n FROM state WHERE key = 'total'") == {"n": 9}


def test_objects(world: World) -> None:
    lock = world.row("SELECT service_name, service_key, invocation_id FROM sys_keyed_service_status")
    assert lock == {"service_name": "Counter", "service_key": "a", "invocation_id": world.ids["holds"]}
    inbox = world.row("SELECT service_key, id, sequence_number FROM sys_inbox WHERE service_name = 'Counter'")
    assert inbox == {"service_key": "a", "id": world.ids["waits"], "sequence_number": 1}
    row = world.row("SELECT lock_name, acquired_by FROM sys_locks")
    assert row == {"lock_name": "Counter/a", "acquired_by": world.ids["holds"]}


def test_streams(world: World) -> None:
    row = world.row("SELECT * EXCEPT (modified_at, partition_key) FROM sys_stream WHERE name = 'log'")
    assert row == {"id": world.ids["sleeps"], "name": "log", "chunks": 2, "bytes": 7, "closed": False}
    same = f"SELECT chunks FROM sys_stream WHERE id = '{world.ids['sleeps']}' AND name = 'log'"
    assert world.row(same) == {"chunks": 2}
    assert world.rows("SELECT * FROM sys_stream WHERE id = 'inv_no' OR name = 'other'") == []


def test_promises(world: World) -> None:
    rows = world.rows("SELECT * EXCEPT (partition_key) FROM sys_promise WHERE service_key = 'ada' ORDER BY key")
    promise = {"service_name": "Signup", "service_key": "ada"}
    assert rows == [
        promise | {"key": "no", "completed": True, "completion_failure": "[400 Bad request] nope"},
        promise | {"key": "open", "completed": False},
        promise
        | {
            "key": "yes",
            "completed": True,
            "completion_success_value": b'"it is"'.hex(),
            "completion_success_value_utf8": '"it is"',
        },
    ]


def test_services(world: World) -> None:
    assert world.rows("SELECT * FROM sys_service WHERE name IN ('Signup', 'Counter') ORDER BY name") == [
        {"name": "Counter", "revision": 1, "public": True, "ty": "virtual_object", "deployment_id": IN_PROCESS},
        {"name": "Signup", "revision": 1, "public": True, "ty": "workflow", "deployment_id": IN_PROCESS},
    ]
    assert world.rows("SELECT * FROM sys_deployment") == []


# Schemas


@pytest.mark.parametrize("table", SCHEMAS)
def test_columns_are_in_order(world: World, table: str) -> None:
    result = execute(f"SELECT * FROM {table}", world.files, world.facts, MEMORY)
    assert result.schema.equals(SCHEMAS[table])
    for batch in result.batches:
        assert batch.schema.equals(SCHEMAS[table])
    if table in ALWAYS_EMPTY:
        assert world.rows(f"SELECT * FROM {table}") == []
    listed = world.rows(
        f"SELECT column_name AS c FROM information_schema.columns WHERE table_name = '{table}' "
        "ORDER BY ordinal_position"
    )
    assert [row["c"] for row in listed] == SCHEMAS[table].names


@pytest.mark.parametrize("table", [name for name in SCHEMAS if name not in ALWAYS_EMPTY])
def test_every_column_alone(world: World, table: str) -> None:
    """What a column needs is read whether or not others are asked for."""
    names = [name for name in SCHEMAS[table].names if name != "last_start_at"]
    whole = world.rows(f"SELECT * FROM {table}")
    for name in names:
        alone = [row.get(name) for row in world.rows(f"SELECT {name} FROM {table}")]
        assert sorted(map(str, alone)) == sorted(str(row.get(name)) for row in whole)


def test_views(world: World) -> None:
    kinds = {
        row["table_name"]: row["table_type"] for row in world.rows("SHOW TABLES") if row["table_schema"] == "public"
    }
    assert kinds.keys() == SCHEMAS.keys()
    assert [name for name, kind in kinds.items() if kind == "VIEW"] == ["sys_invocation"]


# Refusals


@pytest.mark.parametrize(
    ("sql", "status", "says"),
    [
        ("selec 1", 400, "SQL error: ParserError"),
        ("", 400, "No SQL statements"),
        ("INSERT INTO state SELECT * FROM state", 400, "DML not supported"),
        ("UPDATE state SET key = 'x'", 400, "DML not supported"),
        ("DELETE FROM state", 400, "DML not supported"),
        ("CREATE TABLE mine AS SELECT 1", 400, "DDL not supported"),
        ("CREATE VIEW mine AS SELECT 1", 400, "DDL not supported"),
        ("CREATE EXTERNAL TABLE mine STORED AS CSV LOCATION '/etc/passwd'", 400, "DDL not supported"),
        ("DROP TABLE state", 400, "DDL not supported"),
        ("COPY (SELECT 1) TO '/tmp/never.csv'", 400, "DML not supported"),
        ("SET datafusion.execution.batch_size = 1", 400, "Statement not supported"),
        ("SELECT * FROM nothing", 500, "not found"),
        ("SELECT * FROM '/etc/passwd'", 500, "not found"),
        ("SELECT nothing FROM state", 500, "No field named nothing"),
        ("SELECT 1; SELECT 2", 500, "single SQL statement"),
        ("SELECT 1 / 0", 500, "Divide by zero"),
    ],
)
def test_refused(world: World, sql: str, status: int, says: str) -> None:
    with pytest.raises(QueryError) as refused:
        world.rows(sql)
    assert refused.value.status == status
    assert refused.value.message.startswith("Datafusion error: ")
    assert says in refused.value.message


@pytest.mark.parametrize(
    "sql", ["EXPLAIN SELECT * FROM state", "DESCRIBE state", "SHOW COLUMNS FROM state", "SHOW ALL"]
)
def test_harmless_statements(world: World, sql: str) -> None:
    assert world.rows(sql)


def test_memory_is_limited(world: World) -> None:
    wide = "SELECT value FROM generate_series(1, 3000000) ORDER BY value * -1"
    with pytest.raises(QueryError) as refused:
        list(execute(wide, world.files, world.facts, 4 << 20).batches)
    assert "Resources exhausted" in refused.value.message


def test_rows_that_are_not_text(tmp_path: Path) -> None:
    """State may be any bytes."""
    store = MemoryStorage({t.STATE.name: {("S", "k", "b"): b"\xff\x00", ("S", "k", "a"): b"ok"}})
    copy_to(store.snapshot(), tmp_path / "p.db")
    world = World([str(tmp_path / "p.db")], Facts(), {})
    assert world.rows("SELECT key, value, value_utf8 FROM state ORDER BY key") == [
        {"key": "a", "value": "6f6b", "value_utf8": "ok"},
        {"key": "b", "value": "ff00"},
    ]


def test_the_oldest_of_each_kind(world: World) -> None:
    """Where only these matter, only these are read."""
    columns = "target_service_name AS s, target_handler_name AS h, status AS z"
    oldest = "COUNT(1) AS n, MIN(created_at) AS oldest, FIRST_VALUE(id ORDER BY created_at ASC) AS first"
    for where in ("", "WHERE target_service_name IN ('Plain', 'Counter')", "WHERE created_at > '2001-01-01T00:00:00Z'"):
        for table in ("sys_invocation", "sys_invocation_status"):
            groups = world.rows(f"SELECT {columns}, {oldest} FROM {table} {where} GROUP BY s, h, z ORDER BY s, h, z")
            everything = world.rows(f"SELECT {columns}, id, created_at FROM {table} {where} ORDER BY created_at")
            assert sum(group["n"] for group in groups) == len(everything)
            for group in groups:
                same = [row for row in everything if all(row[name] == group[name] for name in "shz")]
                assert group["n"] == len(same)
                assert group["oldest"] == same[0]["created_at"]
                assert group["first"] in [row["id"] for row in same if row["created_at"] == group["oldest"]]
    both = world.row("SELECT MAX(created_at) AS last, MIN(created_at) AS first FROM sys_invocation")
    assert both["last"] > both["first"]


def test_buckets_over_a_join(world: World) -> None:
    """Ids that only meet those of invoked invocations are not read of others; with `id` above the join they are."""
    bucket = "CASE WHEN ss.status = 'invoked' AND sis.in_flight THEN 'running' ELSE ss.status END"
    join = "FROM sys_invocation_status ss LEFT JOIN sys_invocation_state sis ON sis.id = ss.id"
    counted = world.rows(
        f"SELECT ss.target_service_name AS s, {bucket} AS b, COUNT(1) AS n {join} "
        f"GROUP BY ss.target_service_name, {bucket} ORDER BY 1, 2"
    )
    rows = world.rows(f"SELECT ss.id, ss.target_service_name AS s, {bucket} AS b {join} ORDER BY 2, 3")
    assert [row["id"] for row in rows if "id" in row] and all("id" in row for row in rows)
    assert {"s": "Plain", "b": "running", "n": 1} in counted
    for each in counted:
        assert each["n"] == sum(row["s"] == each["s"] and row["b"] == each["b"] for row in rows)
    assert sum(each["n"] for each in counted) == len(rows)


@pytest.mark.parametrize("limit", [2, 1_000_000])
def test_a_sample_of_the_table(world: World, limit: int) -> None:
    """A limit below a condition is one of the table's rows, not of those that meet it."""
    sample = f"(SELECT id, status, created_at FROM sys_invocation_status LIMIT {limit}) ss"
    rows = world.rows(
        f"SELECT ss.id FROM {sample} WHERE ss.status != 'completed' ORDER BY ss.created_at DESC LIMIT 100"
    )
    every = world.rows("SELECT id FROM sys_invocation_status WHERE status != 'completed'")
    assert len(rows) <= limit
    assert all(row in every for row in rows)
    if limit > 2:
        assert len(rows) == len(every)
