"""Tokens and cost: recorded with each model call, told to the handler, held to a budget, added up by SQL."""

import asyncio
import pathlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from perdure import App, Context, Engine, Invalid, ObjectContext, RetryableError, Service, TerminalError, VirtualObject
from perdure.ai import BudgetExceeded, Usage, budget, usage_session, usage_so_far
from perdure.ai.base import model_call, model_call_sync, tool_call
from perdure.ai.records import Record, RecordSerde
from perdure.prices import Price, Prices, current, load, use
from perdure.sdk.serde import serde_for
from perdure.sql.facts import Facts
from perdure.sql.render import json_rows
from perdure.sql.session import execute
from perdure.storage.sqlite import SqliteStorage
from tests.ai.harness import run

TABLE = Prices("test", {"big": Price(input=2.0, output=10.0, cached_input=0.5, cache_write=3.0)})


@pytest.fixture(autouse=True)
def prices() -> Iterator[None]:
    use(TABLE)
    yield
    use(None)


def used(model: str = "big") -> Usage:
    return Usage("acme", model, input_tokens=1000, output_tokens=100, cached_tokens=400, cache_write_tokens=100)


COST = (500 * 2.0 + 400 * 0.5 + 100 * 3.0 + 100 * 10.0) / 1e6


async def ask(model: str = "big") -> Any:
    return await model_call(model, lambda: "answer", usage=lambda _: used(model))


# ---- prices


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("big", True),
        ("acme/Big", True),
        *((f"big{suffix}", True) for suffix in ("-2025-04-14", "-20250929", "@20250929", "-latest", "-001", "-v1:0")),
        ("big-preview-09-2025", True),
        ("bigger", False),
        ("big-audio", False),
        ("big-mini-2025-04-14", False),
        ("", False),
    ],
)
def test_a_model_is_known_by_its_name_and_what_may_follow_it(model: str, known: bool) -> None:
    assert (TABLE.of(model) is not None) is known


def test_the_packaged_table_says_its_version_and_a_file_adds_to_it_or_replaces_it(tmp_path: pathlib.Path) -> None:
    use(None)
    packaged = current()
    assert packaged.version and packaged.of("gpt-4.1-mini-2025-04-14") == packaged.models["gpt-4.1-mini"]
    assert all(price.output >= price.input or not price.output for price in packaged.models.values())
    file = tmp_path / "prices.toml"
    file.write_text('version = "mine"\n[models."GPT-4o"]\ninput = 1\noutput = 2\n[models.own]\ninput = 0\noutput = 0\n')
    mine = load(file)
    assert mine.version == f"{packaged.version}+mine"
    assert mine.of("gpt-4o") == Price(1, 2) and mine.of("own") == Price(0, 0) and mine.of("gpt-4.1") is not None
    file.write_text('version = "alone"\nonly = true\n[models.own]\ninput = 0\noutput = 0\n')
    assert load(file) == Prices("alone", {"own": Price(0, 0)}, only=True)
    file.write_text('version = "bad"\n[models.own]\ninput = -1\noutput = 0\n')
    with pytest.raises(Invalid, match=r"prices .*prices\.toml.*models.*input"):
        load(file)
    with pytest.raises(Invalid, match="No such file"):
        load(tmp_path / "none.toml")


def test_a_variable_names_the_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('version = "mine"\nonly = true\n')
    monkeypatch.setenv("PERDURE_PRICES", str(file))
    use(None)
    assert current() == Prices("mine", {}, only=True)


# ---- in the handler


@pytest.mark.parametrize("crash", [False, True])
def test_the_handler_knows_what_it_used_and_a_replay_counts_the_same(crash: bool) -> None:
    async def handler(ctx: Context) -> Any:
        before = usage_so_far()
        await asyncio.gather(ask(), ask(), tool_call("t", lambda: 1))
        await ask("unheard of")
        spent = usage_so_far()
        return [before.calls, spent.calls, spent.tokens, round(spent.cost, 9), spent.unpriced]

    assert run(handler, crash=crash) == [0, 3, 3300, round(2 * COST, 9), 1]
    assert usage_so_far().calls == 0


def test_in_a_plain_handler_too() -> None:
    def handler(ctx: Any) -> Any:
        with budget(tokens=1000) as spent:
            model_call_sync("big", lambda: "answer", usage=lambda _: used())
            with pytest.raises(BudgetExceeded):
                model_call_sync("big", lambda: "answer", usage=lambda _: used())
        return [usage_so_far().calls, spent.calls]

    assert run(handler) == [1, 1]


@pytest.mark.parametrize(("limits", "calls"), [({"tokens": 2500}, 3), ({"usd": COST * 1.5}, 2), ({"usd": COST}, 1)])
def test_a_budget_stops_the_call_behind_the_one_that_used_it_up(limits: dict[str, Any], calls: int) -> None:
    async def handler(ctx: Context) -> Any:
        done = 0
        with budget(tokens=10**9), budget(**limits) as spent:
            try:
                while True:
                    await asyncio.create_task(ask())
                    done += 1
            except BudgetExceeded as error:
                assert spent.calls == done
                await ctx.run("log", lambda: None)
                return [done, error.code]

    assert run(handler, crash=True) == [calls, 402]


def test_a_model_without_a_price_is_not_asked_on_a_budget_in_dollars() -> None:
    async def handler(ctx: Context) -> Any:
        with budget(usd=1):
            await ask("unheard of")
            await ask("big")

    with pytest.raises(TerminalError, match="no known cost"):
        run(handler)
    with pytest.raises(ValueError, match="usd must be more than 0"), budget(usd=0):
        pass


@pytest.mark.parametrize("limit", [{"usd": 1}, {"tokens": 10_000}])
@pytest.mark.parametrize("told", [None, Usage("acme", "big")])
def test_a_call_whose_tokens_were_not_told_is_not_free_and_ends_a_budget(told: Usage | None, limit: Any) -> None:
    async def handler(ctx: Context) -> Any:
        with budget(**limit) as spent:
            await model_call("big", lambda: "answer", usage=lambda _: told)
            with pytest.raises(BudgetExceeded, match="did not tell the tokens"):
                await ask()
        return [spent.calls, spent.unpriced, spent.uncounted]

    assert run(handler, crash=True) == [1, 1, 1]


def test_prices_that_cannot_be_read_are_found_before_a_model_is_paid(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("no prices")
    monkeypatch.setenv("PERDURE_PRICES", str(file))
    use(None)
    attempts: list[int] = []
    paid: list[int] = []

    def pay() -> str:
        paid.append(1)
        return "answer"

    async def handler(ctx: Context) -> Any:
        attempts.append(len(paid))
        if len(attempts) == 2:
            use(TABLE)
        await model_call("big", pay, usage=lambda _: used())
        return usage_so_far().cost

    assert run(handler) == COST
    assert attempts[:2] == [0, 0] and paid == [1]


def test_a_record_from_before_there_were_prices_is_read() -> None:
    serde = RecordSerde(serde_for(None))
    old = b'{"usage":{"provider":"acme","model":"big","input_tokens":3},"value":"hi"}'
    assert serde.deserialize(old) == Record("hi", usage=Usage("acme", "big", input_tokens=3))


# ---- SQL


def test_sql(tmp_path: pathlib.Path) -> None:
    desk, chat = Service("Desk"), VirtualObject("Chat")

    @desk.handler()
    async def work(ctx: Context) -> Any:
        failed: list[int] = []

        def flaky() -> str:
            if not failed:
                failed.append(1)
                raise RetryableError("busy", 0.001)
            return "late"

        await ctx.run("own", lambda: {"usage": "of another kind"})
        await ctx.run("another", lambda: {"usage": {"input_tokens": 3}, "id": "a response of the user's own"})
        await model_call("big", flaky, usage=lambda _: used())
        with usage_session("s1"):
            await ask("unheard of")
        await tool_call("t", lambda: 1)

    @desk.handler()
    async def quiet(ctx: Context) -> None:
        with usage_session('of "Ada"'):
            await model_call("big", lambda: "answer", provider="acme")

    @chat.handler()
    async def turn(ctx: ObjectContext) -> Any:
        await asyncio.gather(ask(), ask())

    file = tmp_path / "a.db"

    async def main() -> tuple[str, str]:
        async with Engine(App(desk, chat), path=file) as engine:
            await engine.call(quiet)
            first, second = await engine.send(work), await engine.send(turn, key="ada")
            await first.attach()
            await second.attach()
            return first.id, second.id

    first, second = asyncio.run(main())

    def rows(sql: str) -> list[dict[str, Any]]:
        result = execute(sql, [str(file)], Facts(), 256 << 20)
        return list(msgspec.json.decode(b"".join(json_rows(result)))["rows"])

    one, other = rows(f"SELECT * FROM sys_usage WHERE id = '{first}' ORDER BY index")
    assert one.pop("at").startswith("20")
    assert one == {
        "id": first,
        "target_service_name": "Desk",
        "target_handler_name": "work",
        "index": 5,
        "name": "model big",
        "provider": "acme",
        "model": "big",
        "input_tokens": 1000,
        "output_tokens": 100,
        "cached_tokens": 400,
        "cache_write_tokens": 100,
        "reasoning_tokens": 0,
        "cost": COST,
        "prices": "test",
        "attempt": 2,
    }
    assert (other["model"], other["session"]) == ("unheard of", "s1") and "cost" not in other and "prices" not in other
    by_session = "SELECT session, COUNT(*) AS n, SUM(input_tokens) AS i, SUM(cost) AS c FROM sys_usage"
    assert rows(f"{by_session} WHERE target_service_name = 'Chat' GROUP BY session") == [
        {"session": "ada", "n": 2, "i": 2000, "c": 2 * COST}
    ]
    assert rows("SELECT COUNT(*) AS n FROM sys_usage") == [{"n": 5}]
    told_nothing = "name, provider, input_tokens, output_tokens, cached_tokens, cost, prices"
    assert rows(f"SELECT {told_nothing} FROM sys_usage WHERE session = 'of \"Ada\"'") == [
        {"name": "model big", "provider": "acme"}
    ]
    wanted = "session = 'ada' OR session = 's1' OR model = 'none' OR provider = 'nobody'"
    assert rows(f"SELECT COUNT(*) AS n, COUNT(DISTINCT model) AS m FROM sys_usage WHERE {wanted}") == [{"n": 3, "m": 2}]
    of_steps = "SELECT u.model FROM sys_usage u JOIN sys_journal j ON u.id = j.id AND u.index = j.index"
    assert rows(f"{of_steps} WHERE j.name = 'model big' AND u.id = '{second}'") == [{"model": "big"}] * 2


def test_a_file_of_an_earlier_version_gets_the_index(tmp_path: pathlib.Path) -> None:
    import sqlite3

    file = tmp_path / "a.db"
    SqliteStorage(file).close()
    with sqlite3.connect(file) as connection:
        connection.executescript("DROP INDEX journal_usage; PRAGMA user_version = 2;")
    connection.close()
    SqliteStorage(file).close()
    with sqlite3.connect(file) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM journal INDEXED BY journal_usage "
            "WHERE type = 32785 AND instr(substr(payload, 1, 40), X'7B227573616765223A')"
        ).fetchall()
    connection.close()
    assert "journal_usage" in plan[0][3]
