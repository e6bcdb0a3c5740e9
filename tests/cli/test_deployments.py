"""`perdure deployments` and `perdure identity`, with an endpoint and a server of their own processes."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perdure import SyncClient
from tests.cli.processes import ROOT, Served, perdure, serving


@contextmanager
def endpoint(app: str = "tests.cli.served:app", folder: Path = ROOT) -> Iterator[str]:
    """An App, of a module in this folder or in the project, under hypercorn; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "hypercorn",
        app,
        "--bind",
        f"127.0.0.1:{port}",
        "--log-level",
        "error",
        "--workers",
        "0",
    ]
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "src")))
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()  # killed, it would leave the process behind that it serves from
        process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("data"), app="") as it:
        yield it


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with endpoint() as it:
        yield it


def ask(server: Served, *arguments: str) -> str:
    done = perdure(*arguments, "--admin-url", server.admin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_endpoint_is_registered_called_shown_and_removed(server: Served, url: str) -> None:
    assert "no services yet" in server.ready
    assert ask(server, "deployments", "list") == "no deployments; register one: perdure deployments register URL\n"
    dry = ask(server, "deployments", "register", url, "--dry-run")
    assert dry.startswith("would be registered as dp_1") and "no deployments" in ask(server, "deployments", "list")

    told = ask(server, "deployments", "register", url, "--header", "x-team=blue", "--metadata", "owner=ada")
    assert told.startswith("registered as dp_1") and "VirtualObject Counter (revision 1): " in told
    (listed,) = json.loads(ask(server, "deployments", "list", "--json"))
    assert (listed["uri"], listed["protocol_type"]) == (f"{url}/", "BidiStream")
    assert (listed["additional_headers"], listed["metadata"]) == ({"x-team": "blue"}, {"owner": "ada"})
    assert listed["id"] in told

    client = SyncClient(server.ingress, admin_url=server.admin)
    assert client.call("Counter/add", 5, key="k") == 5
    assert client.call("Counter/add", 5, key="k") == 10
    assert "Counter (revision 1)" in ask(server, "deployments", "describe", listed["id"])

    refused = perdure("deployments", "remove", listed["id"], "--admin-url", server.admin)
    assert refused.returncode == 1 and "new invocations go there" in refused.stderr
    assert ask(server, "deployments", "remove", listed["id"], "--force").startswith(f"removed {listed['id']}")
    assert "no deployments" in ask(server, "deployments", "list")


def test_a_header_whose_value_is_in_a_file(server: Served, url: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("Bearer hunter2\n")
    options = ("--header-file", f"authorization={file}", "--header", "x-team=blue")
    ask(server, "deployments", "register", url, *options)
    (listed,) = json.loads(ask(server, "deployments", "list", "--json"))
    assert listed["additional_headers"] == {"authorization": "***", "x-team": "blue"}
    client = SyncClient(server.ingress)
    assert client.call("Greeter/plain", 5) == 6
    shown = ask(server, "deployments", "describe", listed["id"])
    assert "***" in shown and "hunter2" not in shown
    ask(server, "deployments", "remove", listed["id"], "--force")
    done = perdure("deployments", "register", url, "--header-file", f"authorization={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and "--header-file" in done.stderr


def test_what_is_wrong_is_said_in_one_line(server: Served) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for arguments, problem in (
            (("register", dead), "[META0003]"),
            (("register", "nonsense"), "has to be absolute"),
            (("register", "arn:aws:lambda:eu:1:function:f"), "a version or an alias"),
            (("describe", "dp_1" + "1" * 22), "not found"),
        ):
            done = perdure("deployments", *arguments, "--admin-url", server.admin)
            assert (
                done.returncode == (3 if problem == "not found" else 1)
                and problem in done.stderr
                and done.stderr.count("\n") == 1
            ), done.stderr
        away = perdure("deployments", "list", "--admin-url", dead)
        assert away.returncode == 6 and "is `perdure serve` running?" in away.stderr
    assert perdure("deployments", "register", "http://x", "--header", "nonsense").returncode == 2


def test_the_key_is_made_once_and_checked_by_the_endpoint(tmp_path: Path) -> None:
    key = perdure("identity", "show", "--data-dir", str(tmp_path / "data")).stdout.strip()
    assert key.startswith("publickeyv1_")
    assert perdure("identity", "show", "--data-dir", str(tmp_path / "data")).stdout.strip() == key
    module = tmp_path / "guarded.py"
    module.write_text(
        f"from perdure import App\nfrom tests.cli.served import greeter\napp = App(greeter, identity_keys=[{key!r}])\n"
    )
    with endpoint("guarded:app", tmp_path) as url, serving(tmp_path / "data", app="") as server:
        assert "registered as" in ask(server, "deployments", "register", url)
        with serving(tmp_path / "other", app="") as other:
            done = perdure("deployments", "register", url, "--admin-url", other.admin)
            assert done.returncode == 1 and "status 401" in done.stderr and "perdure identity show" in done.stderr


def test_options_of_a_service_elsewhere_are_changed(server: Served, url: str) -> None:
    ask(server, "deployments", "register", url, "--force")
    told = ask(server, "services", "configure", "Counter", "--private", "--inactivity-timeout", "1m 30s")
    assert told == "Counter: public is False\nCounter: inactivity_timeout is 1m 30s\n"
    assert json.loads(ask(server, "services", "describe", "Counter", "--json"))["public"] is False
    assert json.loads(ask(server, "services", "configure", "Counter", "--public", "--json"))["public"] is True
    for code, arguments in ((2, ()), (1, ("--abort-timeout", "soon")), (1, ("--workflow-retention", "1d"))):
        done = perdure("services", "configure", "Counter", *arguments, "--admin-url", server.admin)
        assert done.returncode == code, done.stderr
