"""`perdure sql`."""

from collections.abc import Iterator

import pytest

from tests.cli.operating import Operator, operating


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with operating(tmp_path_factory.mktemp("data")) as it:
        yield it


def test_rows_are_a_table_or_json(operator: Operator) -> None:
    assert operator.ok("sql", "SELECT 1 AS a, 'x' || chr(10) || 'y' AS b") == "a  b\n1  x y\n"
    assert operator.json("sql", "SELECT 1 AS a, NULL AS b") == [{"a": 1}]
    assert operator.ok("sql", "SELECT id FROM sys_invocation WHERE id = 'x'") == "no rows\n"
    assert operator.type("SELECT 2 AS n\n", "sql", "-").stdout == "n\n2\n"


def test_columns_keep_their_order_where_nulls_are_left_out(operator: Operator) -> None:
    table = operator.ok("sql", "SELECT * FROM (VALUES (1, NULL, 3), (4, 5, 6)) AS t(a, b, c) ORDER BY a")
    assert table == "a  b  c\n1     3\n4  5  6\n"


def test_what_is_wrong_with_a_query_is_one_line(operator: Operator) -> None:
    assert "SELEKT" in operator.refused(1, "sql", "SELEKT 1")
    assert "nothing" in operator.refused(1, "sql", "SELECT * FROM nothing")
    assert operator.type("", "sql", "-").returncode == 2
