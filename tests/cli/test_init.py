"""`perdure init`: what it makes is checked, tested, served and called, as a newcomer would."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cli.init import SUFFIX
from perdure.sdk.client import SyncClient
from tests.cli.operating import Operator
from tests.cli.processes import ROOT, perdure, serving

ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
FILES = {".gitignore", "README.md", "agent.py", "perdure.toml", "pyproject.toml", "tests/test_agent.py"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("somewhere")
    made = perdure("init", "my-agent", cwd=folder, env=ENV)
    assert made.returncode == 0, made.stderr
    assert "cd my-agent" in made.stdout and "perdure serve agent:app" in made.stdout
    yield folder / "my-agent"


def run(project: Path, module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=project, env=ENV, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_all_its_files_and_its_name(project: Path) -> None:
    assert {str(each.relative_to(project)) for each in project.rglob("*") if each.is_file()} >= FILES
    templates = {str(each) for each in (ROOT / "src/perdure/cli/project").rglob("*") if each.is_file()}
    assert len(templates) == len(FILES) and all(each.endswith(SUFFIX) for each in templates)
    assert 'name = "my-agent"' in (project / "pyproject.toml").read_text()
    assert all("__NAME__" not in (project / each).read_text() for each in FILES)
    assert perdure("config", "check", "perdure.toml", cwd=project, env=ENV).returncode == 0


def test_its_code_is_as_it_should_be(project: Path) -> None:
    run(project, "ruff", "format", "--check", "--no-cache", ".")
    run(project, "ruff", "check", "--no-cache", ".")
    run(project, "mypy", "--cache-dir", os.devnull)


def test_its_tests_pass(project: Path) -> None:
    assert "4 passed" in run(project, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")


def test_it_runs_and_survives_a_kill(project: Path, tmp_path: Path) -> None:
    with serving(tmp_path, app="agent:app", cwd=project) as server:
        operator = Operator(server)
        id = operator.send("Agent/research", '{"topic": "durable execution"}')
        operator.waits_for(id, "the awakeable")
        server.process.kill()
        server.process.wait()
    with serving(tmp_path, app="agent:app", cwd=project) as server:
        operator = Operator(server)
        awakeable = operator.waits_for(id, "the awakeable").split()[2]
        operator.ok("awakeables", "resolve", awakeable, "true")
        with SyncClient(server.ingress) as client:
            report = client.invocation(id, dict[str, str]).attach(timeout=30)
        assert report["text"] == "(write a report from)" and report["link"].startswith("https://example.com/")
        kinds = [each["kind"] for each in operator.describe(id)["journal"]]
        assert kinds.count("Run") == 7, "no step was begun twice"


def test_nothing_is_overwritten(project: Path, tmp_path: Path) -> None:
    before = (project / "agent.py").read_text()
    again = perdure("init", str(project), env=ENV)
    assert (again.returncode, again.stdout) == (1, "") and "not empty; nothing was written" in again.stderr
    assert (project / "agent.py").read_text() == before
    (tmp_path / "file").write_text("")
    assert perdure("init", str(tmp_path / "file"), env=ENV).returncode == 1
    assert perdure("init", str(tmp_path / "a b"), env=ENV).returncode == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    told = json.loads(perdure("init", ".", "--json", cwd=empty, env=ENV).stdout)
    assert told == {"name": "empty", "directory": str(empty), "files": sorted(FILES)}
