"""`perdure invocations`, `perdure services` and `perdure watch`."""

from collections.abc import Iterator

import pytest
import typer

from perdure.cli import control
from tests.cli.operating import Operator, operating
from tests.cli.processes import perdure


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with operating(tmp_path_factory.mktemp("data")) as it:
        yield it


def test_they_are_listed_by_what_they_are(operator: Operator) -> None:
    assert operator.ok("invocations", "list", "--service", "Nobody") == "no such invocations\n"
    broken = operator.send("Ops/broken", until="paused")
    napping = operator.send("Ops/nap", "300", until="suspended")
    room = operator.send("Room/occupy", "300", "--key", "it's", until="suspended")
    table = operator.ok("invocations", "list", "--status", "paused", "--status", "suspended").splitlines()
    assert table[0].split() == ["ID", "TARGET", "STATUS", "CREATED", "CHANGED", "FAILURE"]
    assert [line.split()[0] for line in table[1:]] == [room, napping, broken]
    assert "RuntimeError: boom" in table[3] and "Traceback" not in table[3]
    (only,) = operator.json("invocations", "list", "--key", "it's", "--service", "Room", "--handler", "occupy")
    assert (only["id"], only["target"]) == (room, "Room/it's/occupy")
    assert operator.json("invocations", "list", "--older-than", "1h") == []
    short = operator.run("invocations", "list", "--limit", "1")
    assert len(short.stdout.splitlines()) == 2 and short.stderr == "there are more than 1; --limit shows more\n"
    for arguments in (("--status", "lost"), ("--older-than", "soon"), ("--limit", "0")):
        assert operator.run("invocations", "list", *arguments).returncode == 2


def test_one_is_described_with_its_journal(operator: Operator) -> None:
    id = operator.send("Ops/boss", "300", until="suspended")
    told = operator.ok("invocations", "describe", id)
    assert f"id:               {id}\n" in told and "attempts:         1\n" in told
    assert "  its call of Ops/nap, since" in told and "    inv_" in told
    journal = told[told.index("INDEX") :].splitlines()
    assert [line.split()[2] for line in journal[1:]] == ["Input", "Call", "Completion"]
    assert journal[2].endswith("Ops/nap 300.0") and "of 1 Call is inv_" in journal[3]
    assert operator.json("invocations", "describe", id)["status"] == "suspended"
    ended = operator.send("Ops/fail", "409", until="completed")
    assert "result:           failed: card declined (code 409)\n" in operator.ok("invocations", "describe", ended)
    assert "not found" in operator.refused(3, "invocations", "describe", "inv_1kfVZEQ4VPBe2fuIPSPnlKAHOuhrwt8uUF")
    assert "invocation_id" in operator.refused(1, "invocations", "describe", "nonsense")


def test_verbs_act_on_ids(operator: Operator) -> None:
    id = operator.send("Ops/nap", "300", until="suspended")
    assert operator.ok("invocations", "pause", id) == f"{id} paused (under way)\n"
    operator.until(id, "paused")
    assert operator.ok("invocations", "resume", id, "--deployment", "keep") == f"{id} resumed\n"
    assert "not found" in operator.refused(1, "invocations", "resume", id, "--deployment", "dp_nothing")
    operator.until(id, "suspended")
    assert operator.ok("invocations", "cancel", id) == f"{id} cancelled (under way)\n"
    operator.until(id, "completed")
    new_id = operator.json("invocations", "restart", id, "--from", "0")["succeeded"][0]["new_invocation_id"]
    assert operator.describe(new_id)["restarted_from"] == id
    other = operator.send("Ops/nap", "300")
    assert operator.ok("invocations", "kill", new_id, other) == f"{new_id} killed\n{other} killed\n"
    assert operator.ok("invocations", "purge-journal", new_id) == f"{new_id} journal purged\n"
    assert "its journal is not kept" in operator.ok("invocations", "describe", new_id)
    assert operator.ok("invocations", "purge", new_id) == f"{new_id} purged\n"
    assert "not found" in operator.refused(3, "invocations", "purge", new_id)
    both = operator.run("invocations", "purge", new_id, other)
    assert (both.returncode, both.stdout) == (3, f"{other} purged\n")
    assert operator.run("invocations", "kill").returncode == 2
    assert operator.run("invocations", "kill", other, "--where", "true").returncode == 2


def test_verbs_act_on_all_of_which_a_condition_is_true(operator: Operator) -> None:
    ids = {operator.send("Room/occupy", "300", "--key", f"bulk{n}") for n in range(3)}
    where = ("--where", "target_service_key LIKE 'bulk%' -- and a comment")
    asked = operator.type("n\n", "invocations", "kill", *where)
    assert asked.returncode == 1 and "kill: 3 invocations" in asked.stderr and all(id in asked.stderr for id in ids)
    assert {operator.describe(id)["status"] for id in ids} <= {"running", "suspended"}
    silent = operator.type("", "invocations", "kill", *where, "--json")
    assert (silent.returncode, silent.stdout) == (1, "") and "--yes does not ask" in silent.stderr
    assert operator.type("y\n", "invocations", "kill", *where).stdout == "3 killed, 0 failed\n"
    again = operator.run("invocations", "kill", *where, "--yes")
    assert again.returncode == 0 or "completed" in again.stderr
    assert set(operator.json("invocations", "purge", *where, "--yes")["succeeded"]) == ids
    assert operator.ok("invocations", "purge", *where) == "0 purged, 0 failed\n"
    refused = operator.run("invocations", "purge", "--where", "status = 'suspended' or status = 'paused'", "--yes")
    assert refused.returncode == 1 and refused.stdout.startswith("0 purged, ") and "perdure: inv_" in refused.stderr
    assert "nonsense" in operator.refused(1, "invocations", "kill", "--where", "nonsense = 1")


def test_an_invocation_is_watched_until_it_stops(operator: Operator) -> None:
    told = operator.ok("watch", operator.send("Ops/nap", "0.7")).splitlines()
    entries = [line.split()[2] for line in told if not line.startswith("--")]
    assert entries == ["Input", "Sleep", "Completion", "Output"] and told[-1] == '-- completed -> "rested"'
    paused = operator.run("watch", operator.send("Ops/broken"))
    assert paused.returncode == 5 and paused.stdout.endswith("-- paused: RuntimeError: boom\n")
    operator.refused(3, "watch", "inv_1kfVZEQ4VPBe2fuIPSPnlKAHOuhrwt8uUF")


def test_services_are_listed_and_described(operator: Operator) -> None:
    listed = operator.ok("services", "list").splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "Desk", "Hire", "Ops", "Room"]
    described = operator.ok("services", "describe", "Room")
    assert "ty: VirtualObject\n" in described and "occupy   Exclusive  yes     JSON number" in described
    assert operator.json("services", "describe", "Hire")["ty"] == "Workflow"
    assert "not found" in operator.refused(3, "services", "describe", "Nobody")
    away = perdure("services", "list", "--admin-url", "http://127.0.0.1:9")
    assert away.returncode == 6 and "is `perdure serve` running?" in away.stderr and away.stderr.count("\n") == 1
    assert perdure("services", "list", "--admin-url", "nonsense").returncode == 2


def test_many_are_acted_on_in_chunks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes: list[int] = []

    def batch(url: str, method: str, path: str, body: dict[str, list[str]]) -> dict[str, list[object]]:
        assert path == "/internal/invocations_batch_operations/restart-as-new?from=2&deployment=keep"
        sizes.append(len(body["invocation_ids"]))
        first, *others = body["invocation_ids"]
        return {"succeeded": list(others), "failed": [{"invocation_id": first, "error": "no"}]}

    monkeypatch.setattr(control, "query", lambda url, sql: [{"id": f"inv_{n}"} for n in range(12_500)])
    monkeypatch.setattr(control, "ask", batch)
    with pytest.raises(typer.Exit) as ended:
        control.restart(from_=2, deployment="keep", where="true", yes=True)
    told = capsys.readouterr()
    assert ended.value.exit_code == 1 and sizes == [1000] * 12 + [500]
    assert told.out == "12487 restarted, 13 failed\n" and told.err.startswith("perdure: inv_0: no\n")
    assert told.err.endswith("perdure: and 3 more that failed; --json lists them all\n")
