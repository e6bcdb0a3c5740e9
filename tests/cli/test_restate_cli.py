"""restate's own command line, as its makers publish it, against perdure: what it shows, and what comes of it."""

import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli.operating import Operator, operating
from tests.cli.test_deployments import endpoint
from tests.conformance.install import restate_cli

pytestmark = pytest.mark.timeout(300)  # the first one installs it


class Restate(NamedTuple):
    """The command line, and an operator of the same server, who brings about what it is to show."""

    program: Path
    home: Path
    operator: Operator
    endpoint: str

    def run(self, *arguments: str, editor: Path | None = None) -> "subprocess.CompletedProcess[str]":
        env = {
            **os.environ,
            "RESTATE_ADMIN_URL": self.operator.server.admin,
            "RESTATE_INGRESS_URL": self.operator.server.ingress,
            "RESTATE_CLI_CONFIG_HOME": str(self.home),
            "EDITOR": str(editor or "false"),
            "NO_COLOR": "1",
        }
        command: list[str | Path] = [self.program, "--yes", *arguments]
        return subprocess.run(command, env=env, cwd=self.home, capture_output=True, text=True, timeout=60)

    def ok(self, *arguments: str, editor: Path | None = None) -> str:
        done = self.run(*arguments, editor=editor)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sql(self, query: str) -> Any:
        return json.loads(self.ok("sql", "--json", query))

    @property
    def deployment(self) -> str:
        return str(self.sql("SELECT id FROM sys_deployment")[0]["id"])


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shows(text: str, *patterns: str) -> None:
    text = "\n".join(line.rstrip() for line in text.splitlines())
    for pattern in patterns:
        assert re.search(pattern, text, re.MULTILINE), f"no {pattern!r} in:\n{text}"


@pytest.fixture(scope="module")
def restate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restate]:
    program, home = restate_cli(), tmp_path_factory.mktemp("home")
    with endpoint("tests.cli.operated:app") as url, operating(tmp_path_factory.mktemp("data"), app="") as operator:
        it = Restate(program, home, operator, url)
        shows(
            it.ok("deployments", "register", url),
            "SERVICES THAT WILL BE ADDED",
            "- Ops",
            r"^Deployment ID: +dp_1\w+",
            r"Room +1",
        )
        yield it


def test_whoami(restate: Restate) -> None:
    server = restate.operator.server
    text = restate.ok("whoami")
    shows(
        text,
        rf"Ingress base URL +{server.ingress}",
        rf"Admin base URL +{server.admin}",
        rf"Advertised ingress address +{server.ingress}",
    )
    assert "is healthy!" in restate.run("whoami").stdout + restate.run("whoami").stderr


def test_deployments(restate: Restate) -> None:
    id = restate.deployment
    shows(restate.ok("deployments", "list"), rf"{restate.endpoint}/? +HTTP +{id}", r"- Ops \[1\]", r"- Hire \[1\]")
    shows(restate.ok("deployments", "list", "--extra"), id)
    text = restate.ok("deployments", "describe", id)
    shows(
        text,
        rf"ID: +{id}",
        rf"Endpoint: +{restate.endpoint}",
        r"Protocol Style: +Bidirectional Stream",
        r"Protocol: +\[5, 7\]",
    )
    shows(text, r"- Room\n +Type: VirtualObject", r"occupy +JSON number +none", r"\[Latest\]")
    again = restate.ok("deployments", "register", restate.endpoint, "--force")
    shows(again, "SERVICES THAT WILL BE UPDATED", r"Ops +2")
    kept = restate.run("deployments", "remove", id)
    assert kept.returncode == 1 and "Active" in kept.stdout + kept.stderr and "--force" in kept.stdout + kept.stderr
    missing = restate.run("deployments", "describe", "dp_10000000000000000000001")
    assert missing.returncode == 1 and "not found" in missing.stdout + missing.stderr


def test_a_deployment_is_registered_and_removed(restate: Restate) -> None:
    with endpoint("tests.cli.served:app") as url:
        id = re.search(r"Deployment ID: +(dp_\w+)", restate.ok("deployments", "register", url))
        assert id is not None
        shows(restate.ok("services", "list"), rf"Greeter +1 +HTTP +{id.group(1)}", r"Signup +1 +workflow")
        restate.ok("deployments", "remove", id.group(1), "--force")
    assert "Greeter" not in restate.ok("services", "list")
    assert url not in restate.ok("deployments", "list")


def test_services(restate: Restate, tmp_path: Path) -> None:
    shows(restate.ok("services", "list"), r"Ops +\d +HTTP +dp_", r"Room +\d +virtual object", r"Hire +\d +workflow")
    text = restate.ok("services", "describe", "Room")
    shows(text, r"Service type: +VirtualObject", rf"Endpoint: +{restate.endpoint}", r"occupy +JSON number +none")
    shows(
        restate.ok("services", "config", "view", "Hire"),
        r"Public: +true",
        r"Workflow retention: +1d|1d",
        r"Max attempts: +70",
    )
    restate.ok("services", "config", "patch", "Hire", "--inactivity-timeout", "5s", "--journal-retention", "PT2H")
    shows(restate.ok("services", "config", "view", "Hire"), r"^ Inactivity timeout: +5s", r"^ Journal retention: +2h")
    editor = edits(tmp_path, "s/.*abort_timeout = .*/abort_timeout = '3m'/")
    restate.ok("services", "config", "edit", "Hire", editor=editor)
    shows(restate.ok("services", "config", "view", "Hire"), r"^ Abort timeout: +3m")
    assert "not found" in restate.run("services", "describe", "Nobody").stderr


def edits(folder: Path, change: str) -> Path:
    """An editor that makes one change, in sed's words, and leaves a copy of what it was given."""
    editor = folder / "editor"
    editor.write_text(f'#!/bin/sh\ncp "$1" "{folder}/given"\nsed -i.bak "{change}" "$1"\n')
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    return editor


def test_services_status(restate: Restate) -> None:
    operator = restate.operator
    asleep = operator.send("Ops/nap", "300", until="suspended")
    paused = operator.send("Ops/broken", until="paused")
    failing = operator.send("Ops/flaky", until="backing-off")
    later = operator.ok("call", "Ops/echo", "--delay", "1h").strip()
    holder = operator.send("Room/occupy", "300", "--key", "status", until="suspended")
    operator.send("Room/name", '"x"', "--key", "status", until="inboxed")

    # columns: pending, scheduled, ready, running, backing off, suspended, the oldest
    text = restate.ok("services", "status")
    shows(
        text,
        r"^ +nap +- +- +- +- +- +1 +- *$",
        rf"^ +broken .* {paused} paused",
        rf"^ +flaky +- +- +- +- +1 +- +{failing} backing-off",
    )
    shows(
        text,
        rf"^ +echo +- +1 +- .*{later} scheduled",
        r"^ +name +1 +- ",
        rf"^ +status +1 +{holder} \(suspended\) +occupy",
    )
    one = restate.ok("services", "status", "Room")
    shows(one, "Recent Invocations:", rf"{holder}\n +Target: +Room/status/occupy\n +Status: +suspended")
    assert "Ops" not in one
    for id in (asleep, paused, failing, later, holder):
        restate.ok("invocations", "kill", id)


def test_invocations_are_listed_and_described(restate: Restate) -> None:
    operator = restate.operator
    boss = operator.send("Ops/boss", "300", until="suspended")
    flaky = operator.send("Ops/flaky", until="backing-off")
    done, failed = (
        operator.send("Ops/echo", "1", until="completed"),
        operator.send("Ops/fail", "409", until="completed"),
    )

    listed = restate.ok("invocations", "list", "--all")
    shows(
        listed,
        boss,
        flaky,
        rf"{done}\n +Target: +Ops/echo\n +Status: +completed with success",
        rf"{failed}\n +Target: +Ops/fail\n +Status: +completed with failure",
        "card declined",
    )
    shows(listed, r"Invoked by: +Ops/boss", r"Status: +backing-off .*Retried 1 time", "RuntimeError: not yet")
    only = restate.ok("invocations", "list", "--status", "suspended", "--handler", "boss")
    assert boss in only and flaky not in only

    text = restate.ok("invocations", "describe", boss)
    shows(text, r"Target: +Ops/boss", r"Status: +suspended", rf"Deployment: +{restate.deployment} \[required\]")
    shows(text, r"#0 \[.*\] Command: Input", r"#1 \[.*\] Command: Call Ops/nap inv_1\w+", ">> suspended")
    shows(restate.ok("invocations", "describe", flaky), r"Status: +backing-off", "RuntimeError: not yet")
    shows(restate.ok("invocations", "describe", failed), r"Status: +completed", "card declined")
    for id in (boss, flaky):
        restate.ok("invocations", "kill", id)


def test_invocations_are_controlled(restate: Restate) -> None:
    operator = restate.operator
    nap = operator.send("Ops/nap", "300", until="suspended")
    shows(restate.ok("invocations", "pause", nap), rf"{nap} +Ops/nap")
    operator.until(nap, "paused")
    restate.ok("invocations", "resume", nap)
    operator.until(nap, "suspended")
    restate.ok("invocations", "cancel", nap)
    operator.until(nap, "completed")
    restate.ok("invocations", "purge", nap)
    assert operator.run("invocations", "describe", nap).returncode == 3

    failed = operator.send("Ops/fail", "409", until="completed")
    new = re.search(rf"{failed} +(inv_\w+)", restate.ok("invocations", "restart-as-new", failed))
    assert new is not None
    operator.until(new.group(1), "completed")

    operator.send("Room/occupy", "300", "--key", "control", until="suspended")
    waiting = [operator.send("Room/name", '"x"', "--key", "control", until="inboxed") for _ in range(2)]
    restate.ok("invocations", "cancel", "Room/control/name")
    asked = ", ".join(f"'{id}'" for id in waiting)
    until(lambda: restate.sql(f"SELECT id FROM sys_invocation WHERE id IN ({asked})") == [])
    restate.ok("invocations", "kill", "Room/control")
    nothing = restate.run("invocations", "kill", nap)
    assert nothing.returncode == 1 and "No invocations found" in nothing.stdout + nothing.stderr


def test_state(restate: Restate, tmp_path: Path) -> None:
    operator = restate.operator
    operator.ok("call", "Room/name", '"blue"', "--key", "s/1")

    def state() -> Any:
        return json.loads(restate.ok("state", "get", "Room", "s/1", "--plain"))

    assert state() == {"name": "blue"}
    shows(restate.ok("state", "get", "Room", "s/1"), r'name +"blue"')
    restate.ok("state", "patch", "Room", "s/1", "--patch", '[{"op": "replace", "path": "/name", "value": "red"}]')
    until(lambda: state() == {"name": "red"})
    restate.ok("state", "edit", "Room", "s/1", editor=edits(tmp_path, "s/red/green/"))
    until(lambda: state() == {"name": "green"})
    shows(restate.ok("state", "clear", "Room"), r"Room/s/1 +\[name\]")
    until(lambda: state() == {})


def test_sql(restate: Restate) -> None:
    operator = restate.operator
    ids = [operator.send("Ops/echo", str(n), until="completed") for n in range(2)]
    query = f"SELECT id, status FROM sys_invocation WHERE id IN ('{ids[0]}', '{ids[1]}') ORDER BY created_at"
    shows(restate.ok("sql", query), r"ID +STATUS", rf"{ids[0]} +completed")
    rows = [{"id": id, "status": "completed"} for id in ids]
    assert restate.sql(query) == rows
    assert [json.loads(line) for line in restate.ok("sql", "--jsonl", query).splitlines()] == rows
    wrong = restate.run("sql", "SELEKT")
    assert wrong.returncode == 1 and "SELEKT" in wrong.stdout + wrong.stderr


def test_flow_control_has_nothing_to_show(restate: Restate) -> None:
    assert "No rules" in restate.ok("rules", "list")
    assert "No virtual queues" in restate.ok("vqueues", "list")
