"""What SQLite is asked for must change nothing but the time: random queries, with that and without."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.core import tables as t
from perdure.model import entries as e
from perdure.model import ids
from perdure.model import invocation as i
from perdure.model.services import HandlerKind
from perdure.sql import session
from perdure.sql.facts import Attempt, Facts, ServiceFacts
from perdure.storage.memory import MemoryStorage, Snapshot
from perdure.storage.sqlite import copy_to
from tests.web.sql_world import World

ROWS = 150
FIRST = 1_700_000_000_000
KINDS = {"Plain": "service", "Counter": "virtual_object", "Signup": "workflow"}
TARGETS = (
    i.Target("Plain", "good", HandlerKind.PLAIN),
    i.Target("Plain", "b_d", HandlerKind.PLAIN),
    i.Target("Counter", "add", HandlerKind.EXCLUSIVE, "a"),
    i.Target("Counter", "total", HandlerKind.SHARED, "a/b"),
    i.Target("Signup", "run", HandlerKind.WORKFLOW, "é%"),
    i.Target("Signup", "click", HandlerKind.SHARED, "_"),
)


def status(dice: random.Random, at: int) -> i.Status:
    failure = i.AttemptFailure("boom", 500, at + 5, restate_code=dice.choice([None, "RT0007"]))
    each: list[i.Status] = [
        i.Scheduled(at + 1000),
        i.Inboxed(dice.randrange(9)),
        i.Invoked(),
        i.Invoked(2, at + 500, failure),
        i.Suspended(at + 7, i.Waiting((1,), (1,))),
        i.Paused(at + 8, dice.choice([None, failure])),
        i.Completed(at + dice.randrange(50), e.Value(b"1")),
        i.Completed(at + dice.randrange(50), e.Failure(409, "no")),
    ]
    return dice.choice(each)


def partition(dice: random.Random, attempts: list[Attempt], names: list[str]) -> Snapshot:
    rows: Snapshot = {table.name: {} for table in t.TABLES}
    for number in range(1, ROWS + 1):
        at = FIRST + dice.randrange(100)
        target = dice.choice(TARGETS)
        id = ids.invocation_id(dice.randbytes(8), dice.randbytes(16))
        invocation = i.Invocation(
            number,
            id,
            target,
            status(dice, at),
            at,
            started_at=dice.choice([None, at + 1]),
            idempotency_key=dice.choice([None, "once", "twice"]),
            deployment=dice.choice([None, "dp_1a", "dp_1b"]),
        )
        rows["invocation"][(number,)] = invocation
        rows["invocation_id"][(id[8:] + id[:8],)] = number
        for index in range(dice.randrange(3)):
            rows["journal"][(number, index)] = (at + index * dice.randrange(30), e.Run(index + 1, "step"))
        if isinstance(invocation.status, i.Invoked):
            rows["active"][(number,)] = True
            if invocation.status.retry_at is None and dice.random() < 0.5:
                attempts.append(Attempt(id, at + 3, dice.choice([None, "dp_1a"])))
        names.append(ids.format_invocation_id(id))
    return rows


@pytest.fixture(scope="module", params=[1, 3])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder: Path = tmp_path_factory.mktemp("sql")
    dice = random.Random(request.param)
    attempts: list[Attempt] = []
    names: list[str] = []
    files = [folder / f"{index}.db" for index in range(request.param)]
    for file in files:
        copy_to(MemoryStorage(partition(dice, attempts, names)).snapshot(), file)
    services = [ServiceFacts(name, kind, 1, True) for name, kind in KINDS.items()]
    return World([str(file) for file in files], Facts(attempts, services), {str(n): id for n, id in enumerate(names)})


def condition(dice: random.Random, world: World, depth: int = 0) -> str:
    shape = dice.random()
    if depth < 3 and shape < 0.45:
        word = dice.choice([" AND ", " OR "])
        return "(" + word.join(condition(dice, world, depth + 1) for _ in range(dice.randrange(2, 4))) + ")"
    if depth < 3 and shape < 0.55:
        return f"NOT ({condition(dice, world, depth + 1)})"
    return simple(dice, world)


def simple(dice: random.Random, world: World) -> str:
    texts = {
        "status": [
            "completed",
            "invoked",
            "running",
            "ready",
            "pending",
            "inboxed",
            "paused",
            "backing-off",
            "nothing",
        ],
        "completion_result": ["success", "failure", "x"],
        "target_service_name": ["Plain", "Counter", "Signup", "counter"],
        "target_service_key": ["a", "a/b", "é%", "_", ""],
        "target_handler_name": ["good", "b_d", "add", "total", "run"],
        "target_service_ty": [*KINDS.values(), "x"],
        "target": ["Plain/good", "Counter/a/add", "Counter/a/b/total", "Plain", "Signup/_/click"],
        "idempotency_key": ["once", "x"],
        "pinned_deployment_id": ["dp_1a", "dp_1c"],
        "id": [*dice.sample(list(world.ids.values()), 5), "inv_nonsense"],
    }
    if dice.random() < 0.25:
        column = dice.choice(["created_at", "modified_at", "completed_at"])
        moment = f"arrow_cast({FIRST + dice.randrange(120)}, 'Timestamp(Millisecond, Some(\"+00:00\"))')"
        return f"{column} {dice.choice(['<', '<=', '>', '>=', '=', '!='])} {moment}"
    column, values = dice.choice(list(texts.items()))
    some = dice.sample(values, dice.randrange(1, len(values)))
    listed = ", ".join(f"'{value}'" for value in some)
    pattern = dice.choice([f"{some[0][:3]}%", f"%{some[0][-2:]}", f"{some[0][:-2]}_%", some[0]])
    return dice.choice(
        [
            f"{column} = '{some[0]}'",
            f"'{some[0]}' {dice.choice(['<', '>=', '!='])} {column}",
            f"{column} IN ({listed})",
            f"{column} NOT IN ({listed})",
            f"{column} {dice.choice(['', 'NOT '])}LIKE '{pattern}'",
            f"{column} ILIKE '{pattern}'",
            f"{column} IS {dice.choice(['', 'NOT '])}NULL",
        ]
    )


def query(dice: random.Random, world: World) -> str:
    table = dice.choice(["sys_invocation", "sys_invocation_status"])
    where = f"WHERE {condition(dice, world)}" if dice.random() < 0.9 else ""
    coarse = ["target_service_name", "target_handler_name", "target_service_ty", "status", "completion_result"]
    shape = dice.randrange(5)
    if shape == 0:
        some = ", ".join(dice.sample(coarse, dice.randrange(1, 5)))
        oldest = dice.choice(["", ", MIN(created_at)"])
        return f"SELECT {some}, COUNT(*) AS n{oldest} FROM {table} {where} GROUP BY {some}"
    if shape == 1:
        time = dice.choice(["created_at", "modified_at", "completed_at"])
        way = f"{dice.choice(['ASC', 'DESC'])} NULLS {dice.choice(['FIRST', 'LAST'])}"
        limit = dice.choice([1, 5, 40])
        return f"SELECT {time} AS sorted FROM {table} AS i {where} ORDER BY i.{time} {way} LIMIT {limit}"
    if shape == 2:
        return f"SELECT COUNT(*) AS n FROM {table} {where}"
    if shape == 3:
        bucket = "CASE WHEN sis.in_flight THEN 'running' WHEN sis.retry_count > 0 THEN 'failing' ELSE ss.status END"
        inner = f"(SELECT * FROM sys_invocation_status {where} LIMIT {dice.choice([3, 100000])})"
        below = dice.choice([inner, "sys_invocation_status"]) if where == "" else "sys_invocation_status"
        return (
            f"SELECT ss.target_service_name, {bucket} AS b, COUNT(1) AS n FROM {below} ss LEFT JOIN "
            f"sys_invocation_state sis ON sis.id = ss.id GROUP BY 1, 2"
        )
    return f"SELECT * FROM {table} {where}"


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def ask(world: World, sql: str) -> list[dict[str, Any]]:
        with monkeypatch.context() as patch:
            patch.setattr(session, "_hand_on", lambda plan, datasets: None)
            return world.rows(sql)

    yield ask


@pytest.mark.parametrize("seed", range(12))
def test_the_rows_are_the_same(world: World, plainly: Any, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(25):
        sql = query(dice, world)
        if "LIMIT 3)" in sql:
            continue  # any three rows
        expected, found = plainly(world, sql), world.rows(sql)
        if "sorted" not in sql:
            expected, found = sorted(expected, key=str), sorted(found, key=str)
        assert found == expected, sql
