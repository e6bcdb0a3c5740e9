"""The queries that restate's command line and web console send, as they send them. They have to run, and say the truth.

Those of the command line were recorded from release 1.7.12; the console's are of its catalogue, with values filled in.
"""

from typing import Any

import msgspec
import pytest

from perdure.sql.facts import DeploymentFacts, Facts, ServiceFacts
from tests.web.sql_world import World, build


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    built = build(tmp_path_factory.mktemp("sql"))
    facts = msgspec.structs.replace(
        built.facts,
        services=[*built.facts.services, ServiceFacts("Elsewhere", "service", 2, True, "dp_1new")],
        deployments=[
            DeploymentFacts("dp_1new", "http", "http://new/", 1_700_000_000_000, 5, 7, ["Elsewhere"], "sdk/1"),
            DeploymentFacts("dp_1old", "http", "http://old/", 1_600_000_000_000, 5, 7, ["Elsewhere"], "sdk/0"),
        ],
    )
    assert isinstance(facts, Facts)
    return World(built.files, facts, built.ids)


# The command line

SUMMARY = (
    "COUNT(1) as num_invocations, MIN(created_at) as oldest_at, "
    "FIRST_VALUE(id ORDER BY created_at ASC) as oldest_invocation"
)
LISTED = (
    "WITH invocations as (SELECT inv.id, inv.target, inv.target_service_ty, inv.target_service_name, idempotency_key, "
    "inv.status, inv.created_at, inv.modified_at as state_modified_at, inv.pinned_deployment_id, "
    "inv.retry_count as num_retries, inv.last_failure as last_failure_message, "
    "inv.last_failure_related_entry_index as last_failure_entry_index, "
    "inv.last_failure_related_entry_name as last_failure_entry_name, "
    "inv.last_failure_related_entry_type as last_failure_entry_ty, inv.last_attempt_deployment_id, "
    "inv.last_attempt_server, inv.next_retry_at, inv.last_start_at, inv.invoked_by_id, inv.invoked_by_target, "
    "inv.trace_id, inv.completion_result, inv.completion_failure FROM sys_invocation inv WHERE {where} "
    "ORDER BY inv.created_at DESC, inv.id LIMIT {limit}) SELECT inv.*, dp.id IS NOT NULL as pinned_deployment_exists "
    "FROM sys_deployment dp RIGHT JOIN invocations inv ON dp.id = inv.pinned_deployment_id "
    "ORDER BY inv.created_at DESC, inv.id"
)
FOUND = "SELECT id, target FROM sys_invocation_status WHERE {where} LIMIT 500"
COUNTED = "SELECT COUNT(1) FROM (SELECT * FROM sys_invocation inv LIMIT 50000 ) WHERE {where}"
ZOMBIES = "(inv.pinned_deployment_id IS NOT NULL AND inv.pinned_deployment_id NOT IN (select id from sys_deployment))"
OPEN = {"flaky", "hopeless", "busy", "later", "sent", "sleeps", "holds", "waits", "signup"}


def of(world: World, *names: str) -> set[str]:
    return {world.ids[name] for name in names}


def test_services_status(world: World) -> None:
    pending = world.row(
        f"SELECT target_service_name, target_handler_name, 'pending' as status, {SUMMARY} FROM sys_invocation_status "
        "WHERE status == 'inboxed' AND target_service_name IN ('Plain','Counter') "
        "GROUP BY target_service_name, target_handler_name"
    )
    assert (pending["num_invocations"], pending["oldest_invocation"]) == (1, world.ids["waits"])
    rows = world.rows(
        f"SELECT target_service_name, target_handler_name, status, {SUMMARY} FROM sys_invocation "
        "WHERE target_service_name IN ('Plain','Counter') "
        "GROUP BY target_service_name, target_handler_name, status ORDER BY target_handler_name"
    )
    assert {"holds", "waits", "busy"} == {
        name for name in ("holds", "waits", "busy") if world.ids[name] in {row["oldest_invocation"] for row in rows}
    }
    assert world.row(
        "SELECT service_name, service_key, COUNT(1) as num_pending FROM sys_inbox WHERE service_name IN ('Counter') "
        "GROUP BY service_name, service_key ORDER BY num_pending DESC"
    ) == {"service_name": "Counter", "service_key": "a", "num_pending": 1}
    keys = world.rows(
        "SELECT target_service_name as service_name, target_service_key as service_key, status as invocation_status, "
        "first_value(id) as invocation_holding_lock, first_value(target_handler_name) as "
        "invocation_method_holding_lock, first_value(created_at) as invocation_created_at, "
        "first_value(modified_at) as modified_at, first_value(pinned_deployment_id) as pinned_deployment_id, "
        "first_value(last_attempt_deployment_id) as last_attempt_deployment_id, "
        "first_value(last_failure) as last_failure_message, first_value(next_retry_at) as next_retry_at, "
        "first_value(last_start_at) as last_start_at, 0 as num_pending, sum(retry_count) as num_retries "
        "FROM sys_invocation WHERE status != 'pending' AND target_service_name IN ('Counter') "
        "GROUP BY target_service_name, target_service_key, status"
    )
    (running,) = (row for row in keys if row["invocation_status"] == "running")
    assert running["invocation_holding_lock"] == world.ids["holds"]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("status != 'completed'", OPEN),
        ("inv.target_service_name = 'Plain' AND status != 'completed'", {"flaky", "hopeless", "busy", "later", "sent"}),
        (f"{ZOMBIES} AND status != 'completed'", set()),
        (
            (
                "inv.target_service_name IN (select name from sys_service where ty = 'virtual_object') "
                "AND status != 'completed'"
            ),
            {"holds", "waits"},
        ),
        (
            (
                "(inv.pinned_deployment_id IN ('dp_1new') OR inv.last_attempt_deployment_id IN ('dp_1new')) "
                "AND status != 'completed'"
            ),
            set(),
        ),
        ("inv.target_service_key IN ('a') AND status != 'completed'", {"holds", "waits"}),
        ("inv.target_handler_name IN ('add') AND status IN ('running','pending')", {"holds", "waits"}),
    ],
)
def test_invocations_list(world: World, where: str, names: set[str]) -> None:
    rows = world.rows(LISTED.format(where=where, limit=100))
    assert {row["id"] for row in rows} == of(world, *names)
    assert [row["created_at"] for row in rows] == sorted((row["created_at"] for row in rows), reverse=True)
    assert all(row["pinned_deployment_exists"] is False for row in rows)
    counted = world.row(COUNTED.format(where=where))
    assert [*counted.values()] == [len(names)]


def test_invocations_describe(world: World) -> None:
    (row,) = world.rows(LISTED.format(where=f"inv.id = '{world.ids['flaky']}'", limit=1))
    assert row["num_retries"] == 1
    for table, columns, count in (
        ("sys_invocation", "'idempotency_key'", 1),
        ("sys_journal", "'promise_name'", 1),
        ("sys_journal", "'version', 'entry_json', 'appended_at'", 3),
    ):
        query = "SELECT COUNT(*) FROM information_schema.columns "
        query += f"WHERE table_name = '{table}' AND column_name IN ({columns})"
        assert [*world.row(query).values()] == [count]
    journal = world.rows(
        "SELECT sj.index, sj.entry_type, sj.completed, sj.invoked_id, sj.invoked_target, sj.sleep_wakeup_at, sj.name, "
        "sj.promise_name, sj.version, sj.entry_json, sj.appended_at FROM sys_journal sj "
        f"WHERE sj.id = '{world.ids['good']}' ORDER BY index DESC LIMIT 100"
    )
    assert [row["index"] for row in journal] == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("id = '{holds}' AND status != 'completed'", {"holds"}),
        ("target LIKE 'Plain/%' AND status IN ('paused', 'invoked', 'suspended')", {"flaky", "hopeless", "busy"}),
        ("target LIKE 'Plain/%' AND status IN ('invoked', 'suspended')", {"flaky", "busy"}),
        (
            (
                "((target = 'Plain/good' AND target_service_ty = 'service') OR "
                "(target LIKE 'Plain/good/%' AND target_service_ty != 'service')) AND status = 'completed'"
            ),
            {"good"},
        ),
        (
            (
                "((target = 'Counter/a' AND target_service_ty = 'service') OR "
                "(target LIKE 'Counter/a/%' AND target_service_ty != 'service')) AND status != 'completed'"
            ),
            {"holds", "waits"},
        ),
        ("target = 'Counter/a/add' AND status != 'completed'", {"holds", "waits"}),
    ],
)
def test_invocations_cancel_and_the_like(world: World, where: str, names: set[str]) -> None:
    rows = world.rows(FOUND.format(where=where.format(**world.ids)))
    assert {row["id"] for row in rows} == of(world, *names)


def test_deployments_state_rules_and_queues(world: World) -> None:
    pinned = "FROM sys_invocation_status WHERE pinned_deployment_id = 'dp_1new' AND status != 'completed'"
    assert [*world.row(f"SELECT COUNT(id) AS inv_count {pinned}").values()] == [0]
    assert world.rows(f"SELECT target_service_name, target_handler_name, COUNT(id) AS n {pinned} GROUP BY 1, 2") == []
    assert world.row("select key, value from state where service_name = 'Counter' and service_key = 'a' ;") == {
        "key": "total",
        "value": b'{"sum":5}'.hex(),
    }
    for query in (
        "SELECT pattern, concurrency, description, disabled, version, last_modified FROM sys_rules ORDER BY pattern",
        (
            "SELECT id, is_active, queue_is_paused, service_name, scope, limit_key, lock_name, created_at, "
            "last_enqueued_at, last_start_at, last_attempt_at, last_finish_at, num_inbox, num_running, num_suspended, "
            "num_paused, num_finished FROM sys_vqueue_meta LIMIT 100"
        ),
    ):
        assert world.rows(query) == []


# The console

STATE = "(SELECT id AS state_id, in_flight, retry_count FROM sys_invocation_state) sis ON sis.state_id = ss.id"


def test_deployments_without_work(world: World) -> None:
    rows = world.rows(
        "WITH active_deployments AS ( SELECT DISTINCT deployment_id AS id FROM sys_service WHERE deployment_id IS NOT "
        "NULL UNION SELECT DISTINCT pinned_deployment_id AS id FROM sys_invocation_status WHERE pinned_deployment_id "
        "IS NOT NULL AND status != 'completed' ) SELECT d.id AS id FROM sys_deployment d EXCEPT "
        "SELECT id FROM active_deployments"
    )
    assert rows == [{"id": "dp_1old"}]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (
            (
                f"SELECT ss.id AS id FROM sys_invocation_status ss LEFT JOIN {STATE} WHERE ss.status = 'invoked' AND "
                "sis.in_flight IS NOT TRUE AND sis.retry_count > 0 ORDER BY ss.modified_at DESC NULLS LAST LIMIT 100"
            ),
            {"flaky"},
        ),
        (
            (
                f"SELECT ss.id AS id FROM (SELECT id, status, created_at, modified_at FROM sys_invocation_status "
                f"LIMIT 1000000) ss LEFT JOIN {STATE} WHERE ss.status = 'invoked' AND sis.in_flight "
                "ORDER BY ss.created_at DESC NULLS LAST, ss.id LIMIT 100"
            ),
            {"busy", "holds", "signup"},
        ),
        (
            (
                "SELECT si.id FROM sys_invocation_status si WHERE si.target_service_ty = 'virtual_object' AND "
                "si.target_service_name = 'Counter' AND si.target_service_key = 'a' AND si.status <> 'completed' "
                "ORDER BY si.created_at DESC NULLS LAST LIMIT 20"
            ),
            {"holds", "waits"},
        ),
        (
            (
                "SELECT id FROM sys_invocation WHERE target_service_key = 'a' AND target_service_name = 'Counter' AND "
                "status NOT IN ('completed', 'pending', 'scheduled') AND target_handler_name IN ('add', 'sub')"
            ),
            {"holds"},
        ),
        (
            (
                "SELECT id FROM sys_invocation_status WHERE target_service_name = 'Signup' AND target_service_ty = "
                "'workflow' AND target_handler_name = 'run' ORDER BY created_at DESC NULLS LAST LIMIT 51"
            ),
            {"signup"},
        ),
        (
            (
                "SELECT id, target_service_name, created_at FROM sys_invocation WHERE status = 'pending' "
                "ORDER BY created_at ASC LIMIT 20;"
            ),
            {"waits"},
        ),
        ("SELECT id FROM sys_inbox WHERE service_name = 'Counter' AND service_key = 'a' LIMIT 20", {"waits"}),
        (
            (
                "SELECT id, COALESCE(completed_at, now()) - COALESCE(scheduled_start_at, created_at) AS duration "
                "FROM sys_invocation WHERE status = 'suspended'"
            ),
            {"sleeps"},
        ),
    ],
)
def test_lists(world: World, query: str, names: set[str]) -> None:
    assert {row["id"] for row in world.rows(query)} == of(world, *names)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (
            (
                "SELECT SUM(CASE WHEN status = 'inboxed' THEN 1 ELSE 0 END) AS inboxed, "
                "SUM(CASE WHEN status = 'scheduled' "
                "THEN 1 ELSE 0 END) AS scheduled, SUM(CASE WHEN status = 'invoked' THEN 1 ELSE 0 END) AS invoked "
                "FROM sys_invocation_status WHERE status IN ('inboxed', 'scheduled', 'invoked') AND "
                "target_service_name = 'Plain'"
            ),
            {"inboxed": 0, "scheduled": 2, "invoked": 2},
        ),
        (
            (
                "SELECT SUM(CASE WHEN in_flight THEN 1 ELSE 0 END) AS running, SUM(CASE WHEN in_flight IS NOT TRUE AND "
                "retry_count > 0 THEN 1 ELSE 0 END) AS backing_off FROM sys_invocation_state"
            ),
            {"running": 3, "backing_off": 1},
        ),
        (
            (
                "SELECT COUNT(1) AS running FROM sys_invocation_state sis "
                "JOIN sys_invocation_status ss ON ss.id = sis.id "
                "WHERE sis.in_flight AND ss.status = 'invoked' AND ss.target_service_name = 'Counter'"
            ),
            {"running": 1},
        ),
        ("SELECT COUNT(1) FROM sys_invocation_status;", {"count(Int64(1))": 13}),
        ("SELECT COUNT(*) AS size FROM sys_inbox WHERE service_key = 'a' AND service_name = 'Counter'", {"size": 1}),
        (
            (
                "SELECT COUNT(*) AS num_keys, COALESCE(SUM(value_length), 0) AS total_size FROM state "
                "WHERE service_name = 'Counter' AND service_key = 'a'"
            ),
            {"num_keys": 1, "total_size": 9},
        ),
        (
            (
                "SELECT service_name, COALESCE(SUM(value_length), 0) AS size FROM state GROUP BY service_name "
                "ORDER BY service_name"
            ),
            {"service_name": "Counter", "size": 9},
        ),
        (
            (
                "SELECT key, value_length, CASE WHEN value_length <= 2048 THEN value END AS value FROM state WHERE "
                "service_name = 'Counter' AND service_key = 'a' AND key > 'a' ORDER BY key LIMIT 101"
            ),
            {"key": "total", "value_length": 9, "value": b'{"sum":5}'.hex()},
        ),
        ("SELECT DISTINCT service_key FROM state WHERE service_name = 'Counter' LIMIT 51", {"service_key": "a"}),
        (
            (
                "SELECT service_key AS object_key, COUNT(*) AS backlog FROM sys_inbox WHERE service_name = 'Counter' "
                "GROUP BY service_key ORDER BY backlog DESC, object_key ASC LIMIT 100"
            ),
            {"object_key": "a", "backlog": 1},
        ),
        (
            (
                "SELECT COUNT(*) AS pending_promise_count FROM sys_promise WHERE service_name = 'Signup' AND "
                "service_key = 'ada' AND completed = false"
            ),
            {"pending_promise_count": 1},
        ),
        (
            (
                "SELECT inv.target_service_name AS service_name, COUNT(*) AS n, MAX(j.raw_length) AS longest FROM "
                "sys_journal j JOIN sys_invocation inv ON j.id = inv.id WHERE j.raw_length > 1000000 GROUP BY 1"
            ),
            None,
        ),
    ],
)
def test_figures(world: World, query: str, answer: dict[str, Any] | None) -> None:
    rows = world.rows(query)
    if answer is None:
        assert rows == []
    elif "count(Int64(1))" in answer:
        assert [list(row.values()) for row in rows] == [[13]]
    else:
        assert rows == [answer]


def test_history(world: World) -> None:
    rows = world.rows(
        "SELECT to_unixtime( date_bin( INTERVAL '60 seconds', completed_at, TIMESTAMP '1970-01-01T00:00:00' ) ) AS "
        "bucket, COUNT(1) FILTER (WHERE completion_result = 'success') AS succeeded, COUNT(1) FILTER (WHERE "
        "completion_result = 'failure') AS failed FROM sys_invocation_status WHERE status = 'completed' AND "
        "completed_at >= '2020-01-01T00:00:00.000Z' AND completed_at < '2100-01-01T00:00:00.000Z' GROUP BY bucket"
    )
    assert sum(row["succeeded"] for row in rows) == 3
    assert sum(row["failed"] for row in rows) == 1
    assert all(row["bucket"] % 60 == 0 for row in rows)


def test_journal_and_events(world: World) -> None:
    rows = world.rows(
        "SELECT id, index, appended_at, entry_type, name, entry_lite_json, raw_length, version, completed, "
        f"sleep_wakeup_at, invoked_id, invoked_target, promise_name FROM sys_journal WHERE id = '{world.ids['good']}' "
        "ORDER BY index"
    )
    assert len(rows) == 4
    event = world.row(
        "SELECT id, appended_at, event_type, event_json FROM sys_journal_events WHERE "
        f"id = '{world.ids['hopeless']}' AND event_type = 'TransientError' ORDER BY appended_at DESC LIMIT 1"
    )
    assert "bang" in event["event_json"]
    messages = world.rows(
        "SELECT COUNT(*) AS n, inv.target_service_name AS service_name, e.event_json ->> 'error_message' AS msg "
        "FROM sys_journal_events e LEFT JOIN sys_invocation inv ON inv.id = e.id WHERE e.event_type = "
        "'TransientError' AND e.appended_at > now() - INTERVAL '1 hour' GROUP BY service_name, msg ORDER BY msg "
        "LIMIT 50;"
    )
    assert [row["msg"] for row in messages] == ["ValueError: bang", "ValueError: boom"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("""'{"a":{"b":[1,"x"]}}' -> 'a' ->> 'b'""", '[1,"x"]'),
        ("""('{"a":{"b":[1,"x"]}}') -> 'a' -> 'b' ->> 1""", "x"),
        ("""'{"a":1}' ->> 'a' = '1'""", True),
        ("""json_get_int('{"a":3}', 'a') + 1""", 4),
        ("""'{"a":null}' ->> 'a'""", None),
        ("""'{"a":null}' -> 'a'""", "null"),
        ("""'no json' ->> 'a'""", None),
        ("'it''s ->> text'", "it's ->> text"),
        ("""concat('{"a":"', 'z"}') ->> 'a' -- ->> 'b'""", "z"),
    ],
)
def test_json_operators(world: World, expression: str, value: Any) -> None:
    assert world.row(f"SELECT {expression}\n AS v").get("v") == value
