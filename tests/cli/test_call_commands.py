"""`perdure call`."""

import os
from collections.abc import Iterator

import pytest

from tests.cli.operating import Operator, operating
from tests.cli.processes import perdure


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with operating(tmp_path_factory.mktemp("data")) as it:
        yield it


def test_a_result_is_printed(operator: Operator) -> None:
    assert operator.ok("call", "Ops/echo", "41") == "42\n"
    assert operator.ok("call", "Ops/echo") == "8\n"
    answer = operator.json("call", "Ops/echo", "1")
    assert answer["result"] == 2 and answer["invocationId"].startswith("inv_1")
    assert operator.type("5", "call", "Ops/echo", "-").stdout == "6\n"
    assert operator.json("call", "Ops/headers", "--header", "X-Team=blue")["result"]["x-team"] == "blue"
    octets = ("call", "Ops/raw", "abc", "--header", "content-type=application/octet-stream")
    assert operator.ok(*octets) == "cba\n"
    assert operator.ok("call", "Room/name", '"x"', "--key", "a/b") == ""
    assert operator.ok("call", "Room/c/name", '"y"') == ""
    assert operator.json("state", "get", "Room", "a/b") == {"name": "x"}


def test_it_does_not_wait_for_what_is_sent(operator: Operator) -> None:
    later = operator.run("call", "Ops/echo", "--delay", "1h 30m")
    assert later.stderr.startswith("begins at ") and operator.describe(later.stdout.strip())["status"] == "scheduled"
    first = operator.json("call", "Ops/echo", "1", "--send", "--idempotency-key", "i")
    assert first["status"] == "Accepted"
    again = operator.run("call", "Ops/echo", "1", "--send", "--idempotency-key", "i")
    assert (again.stdout.strip(), again.stderr) == (first["invocationId"], "it was known already\n")
    assert operator.ok("call", "Ops/echo", "1", "--idempotency-key", "i") == "2\n"


def test_failures(operator: Operator) -> None:
    failed = operator.refused(5, "call", "Ops/fail", "404")
    assert failed.startswith("perdure: card declined (code 404, inv_1")
    assert "no handler" in operator.refused(3, "call", "Ops/nothing")
    away = perdure("call", "Ops/echo", env={**os.environ, "PERDURE_INGRESS_URL": "http://127.0.0.1:9"})
    assert away.returncode == 6 and away.stderr.endswith("--ingress-url says where\n") and away.stderr.count("\n") == 1
    for arguments in (
        ("Ops",),
        ("Ops/echo", "blue"),
        ("Ops/echo", "--delay", "soon"),
        ("Room/a/name", '"x"', "--key", "b"),
        ("Ops/echo", "--header", "nonsense"),
    ):
        assert operator.run("call", *arguments).returncode == 2
