"""`perdure usage`, and the prices that a server is told."""

import pathlib
import re

import pytest

from tests.cli.operating import operating

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "usage.md"


def test_usage(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prices.toml").write_text('version = "t"\nonly = true\n[models.big]\ninput = 2\noutput = 10\n')
    monkeypatch.setenv("PERDURE_PRICES", str(tmp_path / "prices.toml"))
    with operating(tmp_path / "data", app="tests.cli.used:app") as operator:
        assert operator.ok("usage") == "no model calls\n"
        id = operator.ok("call", "Agent/think", '"big"', "--send").strip()
        operator.until(id, "completed")
        operator.ok("call", "Agent/think", '"big-2025-01-01"')
        operator.ok("call", "Agent/think", '"it\'s new"')
        sums = {"calls": 3, "input": 3000, "cached": 0, "output": 300, "usd": 0.006, "unpriced": 1}
        assert operator.json("usage") == [{"service": "Agent", **sums}]
        by_model = operator.ok("usage", "--by", "model", "--service", "Agent", "--since", "1").splitlines()
        assert [re.split(r"\s{2,}", line) for line in by_model] == [
            ["MODEL", "CALLS", "INPUT", "CACHED", "OUTPUT", "USD", "UNPRICED"],
            *[[name, "1", "1000", "0", "100", "0.003000", "0"] for name in by_name(by_model[1:3])],
            ["it's new", "1", "1000", "0", "100", "1"],
        ]
        assert len(operator.json("usage", "--by", "day")) == 1
        (row,) = operator.json("usage", id)
        tokens = {"input": 1000, "cached": 0, "output": 100}
        assert row == {"index": 1, "name": "model big", "model": "big", **tokens, "usd": 0.003, "attempt": 1}
        assert operator.ok("usage", "--service", "it's") == "no model calls\n"
        for query in re.findall(r"^```sql\n(.*?)^```", DOCS.read_text(), re.M | re.S)[0].split(";\n"):
            if query.strip():
                assert operator.type(query, "sql", "-").returncode == 0, query


def by_name(lines: list[str]) -> list[str]:
    return [line.split("  ")[0] for line in lines]


def test_a_file_of_prices_that_is_wrong_stops_the_server_at_once(tmp_path: pathlib.Path) -> None:
    from tests.cli.processes import perdure

    done = perdure("serve", "tests.cli.used:app", "--prices", str(tmp_path / "none.toml"))
    assert done.returncode != 0 and "none.toml" in done.stderr and "Traceback" not in done.stderr
