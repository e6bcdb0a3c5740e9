"""How commands end and what scripts get: exit codes, JSON, `status`, `whoami`, completion, no colours in a pipe."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.cli import asking
from tests.cli.operating import Operator, operating
from tests.cli.processes import COMMAND, ROOT, perdure
from tests.cli.test_deployments import endpoint

NOBODY = ("--admin-url", "http://127.0.0.1:1")
UNKNOWN = "inv_1kfVZEQ4VPBe2fuIPSPnlKAHOuhrwt8uUF"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with operating(tmp_path_factory.mktemp("data")) as it:
        yield it


def error_of(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.stdout == "" and done.stderr.count("\n") == 1, done
    return json.loads(done.stderr)["error"]


def test_each_exit_code_in_words_and_in_json(operator: Operator) -> None:
    cases: list[tuple[int, str, tuple[str, ...]]] = [
        (1, "failed", ("sql", "SELEKT")),
        (2, "misused", ("invocations", "list", "--status", "odd")),
        (2, "misused", ("services", "list", "--nonsense")),
        (3, "not_found", ("why", UNKNOWN)),
        (3, "not_found", ("call", "Ops/nothing")),
        (5, "invocation_failed", ("call", "Ops/fail", "409")),
    ]
    for code, word, arguments in cases:
        error = error_of(operator.run(*arguments, "--json"))
        assert error["code"] == word and error["message"]
        assert operator.run(*arguments).returncode == code, arguments
    failed = error_of(operator.run("call", "Ops/fail", "409", "--json"))
    assert failed["failure"]["message"] == "card declined" and failed["invocationId"].startswith("inv_1")
    away = perdure("services", "list", *NOBODY, "--json")
    assert away.returncode == 6 and error_of(away)["code"] == "no_server"
    assert "Connection refused" in away.stderr and away.stderr.count("http://127.0.0.1:1") == 1
    assert [asking.refusal(each) for each in (400, 401, 403, 404, 409, 500)] == [1, 4, 4, 3, 1, 1]
    document = (ROOT / "docs" / "cli.md").read_text()
    for code, word in asking.CODES.items():
        assert re.search(rf"\| {code} \| `{word}` \|", document)


def test_watching_one_that_fails(operator: Operator) -> None:
    id = operator.send("Ops/fail", "409")
    assert operator.run("watch", id).returncode == 5
    assert operator.run("watch", operator.send("Ops/echo", "1")).returncode == 0


def test_status(operator: Operator) -> None:
    asleep = operator.send("Ops/nap", "300", until="suspended")
    later = operator.ok("call", "Ops/echo", "--delay", "1h").strip()
    calm = operator.ok("status")
    assert re.search(r"^perdure \S+ at http://\S+ is ready$", calm, re.MULTILINE) and "stuck" not in calm
    # scheduled, pending, ready, running, backing off, suspended, paused
    assert re.search(r"^Ops +1 +- +- +- +- +1 +-$", calm, re.MULTILINE) and re.search(
        r"^Desk( +-){7}$", calm, re.MULTILINE
    )
    paused = operator.send("Ops/broken", until="paused")
    text = operator.ok("status")
    assert "the oldest that is stuck:" in text and f"  {paused} Ops/broken is paused" in text
    assert "RuntimeError: boom" in text and f"perdure invocations resume {paused}" in text
    facts = operator.json("status")
    assert facts["ready"] and facts["services"]["Ops"] == {"suspended": 1, "scheduled": 1, "paused": 1}
    assert facts["stuck"]["id"] == paused and facts["draining"] == [] and facts["sql"] is None
    operator.ok("invocations", "kill", asleep, later, paused)
    assert perdure("status", *NOBODY).returncode == 6


def test_status_of_deployments_that_drain(tmp_path: Path) -> None:
    with operating(tmp_path, app="") as it, endpoint("tests.cli.operated:app") as old:
        assert "no services" in it.ok("status")
        it.ok("deployments", "register", old)
        nap = it.send("Ops/nap", "300", until="suspended")
        with endpoint("tests.cli.operated:app") as new:
            it.ok("deployments", "register", new)
            (draining,) = it.json("status")["draining"]
            assert (draining["address"].rstrip("/"), draining["open"]) == (old, 1)
            assert f"{draining['id']} {draining['address']} is replaced by newer ones; 1 invocation still" in it.ok(
                "status"
            )
            it.ok("invocations", "kill", nap)
            assert f"perdure deployments remove {draining['id']}" in it.ok("status")
            listed = it.ok("deployments", "list")
            assert draining["id"] in listed and "Ops (2)" in listed and "…" not in listed, "nothing is cut in a pipe"


def test_whoami(operator: Operator) -> None:
    server = operator.server
    text = operator.ok("whoami", "--ingress-url", server.ingress)
    assert f"admin port   {server.admin} (ready)" in text and f"ingress      {server.ingress}" in text
    assert f"its ingress is {server.ingress}: set PERDURE_INGRESS_URL" in operator.ok("whoami")
    facts = operator.json("whoami")
    assert facts["server"]["reached"] and facts["server"]["ready"] and facts["api_key"] is None
    away = perdure("whoami", *NOBODY, env={**os.environ, "PERDURE_API_KEY": "secret"})
    assert away.returncode == 6 and "no answer" in away.stdout and "secret" not in away.stdout + away.stderr


def completed(operator: Operator, words: str, url: str | None = None) -> list[str]:
    env = {**os.environ, "_PERDURE_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    env |= {"_TYPER_COMPLETE_ARGS": words, "PERDURE_ADMIN_URL": url or operator.server.admin}
    script = "import sys; sys.argv = ['perdure']; from perdure.cli.application import app; app(prog_name='perdure')"
    done = subprocess.run([COMMAND[0], "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    assert done.stderr == "", done.stderr
    return [line.split("\t")[0] for line in done.stdout.splitlines() if line]


def test_completion(operator: Operator) -> None:
    assert completed(operator, "perdure services describe ") == ["Ops", "Desk", "Room", "Hire"]
    assert completed(operator, "perdure state get R") == ["Room"]
    assert completed(operator, "perdure call Room/") == ["Room/occupy", "Room/name"]
    id = operator.send("Ops/echo", "1", until="completed")
    assert id in completed(operator, f"perdure why {id[:8]}")
    assert completed(operator, "perdure why inv_x'") == []
    assert completed(operator, "perdure services describe ", "http://127.0.0.1:1") == [], "silence, not an error"
    for shell in ("bash", "zsh", "fish"):
        env = {**os.environ, "_PERDURE_COMPLETE": f"source_{shell}"}
        assert f"_PERDURE_COMPLETE=complete_{shell}" in completion_script(env)


def completion_script(env: dict[str, str]) -> str:
    script = "from perdure.cli.application import app; app(prog_name='perdure')"
    done = subprocess.run([COMMAND[0], "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    return done.stdout


def test_a_pipe_has_no_colours(operator: Operator) -> None:
    env = {**os.environ, "PERDURE_ADMIN_URL": operator.server.admin, "TERM": "xterm-256color"}
    for arguments in (("services", "list"), ("status",), ("--help",), ("serve", "--help")):
        assert "\x1b" not in perdure(*arguments, env=env).stdout, arguments


def test_help_needs_little() -> None:
    """Time is what the machine makes of it; what is imported is ours."""
    script = (
        "import sys; sys.argv = ['perdure', '--help']\n"
        "from perdure.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([each for each in sys.modules if each.split('.')[0] in "
        "('pyqwest', 'datafusion', 'pyarrow', 'google', 'h2', 'cryptography', 'uvloop', 'sqlite3', 'granian')])"
    )
    done = subprocess.run([COMMAND[0], "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "[]"
