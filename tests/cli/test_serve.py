"""`perdure serve` as a process: what it prints, how it starts, what it refuses, how it stops."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from perdure import SyncClient, TerminalError, __version__
from tests.cli import served
from tests.cli.processes import COMMAND, ROOT, Served, perdure, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("data")) as it:
        yield it


def send(
    url: str, method: str, path: str, body: bytes | list[bytes] | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, path, iter(body) if isinstance(body, list) else body, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


JSON = {"content-type": "application/json"}


def wait_until_running(url: str, idempotency_key: str) -> None:
    """Returns when the call of `slow` with that key is accepted."""
    deadline = time.monotonic() + 10
    while send(url, "GET", f"/restate/invocation/Greeter/slow/{idempotency_key}/output")[0] != 470:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_version() -> None:
    shown = perdure("--version")
    assert (shown.returncode, shown.stdout) == (0, f"perdure {__version__}\n")


def test_ready_line(server: Served) -> None:
    assert server.ready.startswith(f"perdure {__version__} ready in ")
    assert server.ready.endswith("serving Greeter, Counter, Signup\n")
    seconds = re.search(r"ready in ([\d.]+) s", server.ready)
    assert seconds is not None and float(seconds.group(1)) < 1.5


def test_both_path_forms(server: Served) -> None:
    for path in ("/Greeter/greet", "/restate/call/Greeter/greet", "/restate/call/Greeter/greet/"):
        status, headers, body = send(server.ingress, "POST", path, b'{"name": "ada"}', JSON)
        assert (status, body) == (200, b'["hello ada"]')
        assert headers["x-restate-id"].startswith("inv_1")
        assert headers["content-type"] == "application/json"
    for path in ("/Counter/a%2Fb/add", "/restate/call/Counter/a%2Fb/add"):
        assert send(server.ingress, "POST", path, b"2", JSON)[0] == 200
    assert send(server.ingress, "GET", "/Counter/a%2Fb/total")[2] == b"4"
    for path in ("/Greeter/noop/send", "/restate/send/Greeter/noop"):
        status, _, body = send(server.ingress, "POST", path)
        assert (status, json.loads(body)["status"]) == (202, "Accepted")


def test_duplicates_are_told_until_when_the_result_is_kept(server: Served) -> None:
    keyed = JSON | {"idempotency-key": "serve-1"}
    first = send(server.ingress, "POST", "/Counter/kept/add", b"5", keyed)
    second = send(server.ingress, "POST", "/Counter/kept/add", b"5", keyed)
    assert (first[0], first[2]) == (second[0], second[2]) == (200, b"5")
    assert first[1]["x-restate-id"] == second[1]["x-restate-id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", second[1]["idempotency-expires"])
    id = second[1]["x-restate-id"]
    for path in (
        f"/restate/output/{id}",
        f"/restate/invocation/{id}/attach",
        "/restate/invocation/Counter/kept/add/serve-1/output",
    ):
        status, headers, body = send(server.ingress, "GET", path)
        assert (status, body, headers["x-restate-id"]) == (200, b"5", id)
        assert "idempotency-expires" in headers


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/Nobody/greet", b"", {}, 404),
        ("POST", "/Greeter/nothing", b"", {}, 404),
        ("POST", "/Greeter", b"", {}, 400),
        ("POST", "/Greeter/hidden", b"", {}, 400),
        ("POST", "/Greeter/greet", b"{}", {}, 400),
        ("POST", "/Greeter/greet", b"", JSON, 400),
        ("POST", "/Greeter/greet/send?delay=soon", b"{}", JSON, 400),
        ("DELETE", "/Greeter/greet", b"", {}, 405),
        ("GET", "/restate/output/inv_1" + "0" * 33, b"", {}, 404),
        ("POST", "/restate/attach", b"{", {}, 500),
    ],
)
def test_errors(server: Served, method: str, path: str, body: bytes, headers: dict[str, str], status: int) -> None:
    found, fields, text = send(server.ingress, method, path, body, headers)
    error = json.loads(text)
    assert (found, error["code"], error["source"]) == (status, status, "ingress")
    assert fields["x-restate-error-source"] == "ingress"
    assert (error["accepted"], error["retryable"]) == (False, False)


def test_malformed_json_is_the_handlers_to_refuse(server: Served) -> None:
    status, fields, text = send(server.ingress, "POST", "/Greeter/greet", b"{", JSON)
    assert status >= 400
    assert (fields["x-restate-error-source"], json.loads(text)["source"]) == ("invocation", "invocation")


def test_large_bodies(server: Served) -> None:
    octets = {"content-type": "application/octet-stream"}
    assert send(server.ingress, "POST", "/Greeter/raw", b"ab" * 1_000_000, octets)[2] == b"ba" * 1_000_000
    limit = 32 * 1024 * 1024
    connection = http.client.HTTPConnection(urlsplit(server.ingress).netloc, timeout=20)
    connection.putrequest("POST", "/Greeter/raw")
    connection.putheader("content-length", str(limit + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.getheader("content-type")) == (413, "text/plain; charset=utf-8")
    connection.close()
    chunk = b"x" * 1_000_000
    status, _, text = send(server.ingress, "POST", "/Greeter/raw", [chunk] * 34, octets)
    assert (status, json.loads(text)["code"]) == (413, 413)


def test_cors(server: Served) -> None:
    asked = {"Origin": "https://console.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = send(server.ingress, "OPTIONS", "/Greeter/greet", headers=asked)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://console.example")


def test_admin(server: Served) -> None:
    assert send(server.admin, "GET", "/health")[0] == 200
    version = json.loads(send(server.admin, "GET", "/v4/version")[2])
    assert version["ingress_endpoint"] == server.ingress


def test_callers_may_leave(server: Served) -> None:
    """Whoever hangs up takes nothing back: the invocation goes on."""
    connection = http.client.HTTPConnection(urlsplit(server.ingress).netloc, timeout=20)
    connection.request("POST", "/Greeter/slow", b"0.5", JSON | {"idempotency-key": "left"})
    wait_until_running(server.ingress, "left")
    connection.close()
    status, _, body = send(server.ingress, "GET", "/restate/invocation/Greeter/slow/left/attach")
    assert (status, body) == (200, b'"done"')


# What is refused at the start


def test_a_second_server_on_the_same_data(server: Served, tmp_path: Path) -> None:
    with serving(tmp_path) as first:
        second = perdure(
            "serve", "tests.cli.served:app", "--data-dir", str(tmp_path), "--ingress-port", "0", "--admin-port", "0"
        )
        assert second.returncode == 1
        assert f"in use by another process (pid {first.process.pid})" in second.stderr
        assert "Traceback" not in second.stderr
        assert send(first.ingress, "GET", "/restate/health")[0] == 200


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option, other in (("--ingress-port", "--admin-port"), ("--admin-port", "--ingress-port")):
            refused = perdure(
                "serve", "tests.cli.served:app", "--data-dir", str(tmp_path), option, str(port), other, "0"
            )
            assert refused.returncode == 1
            assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in refused.stderr
            assert "Traceback" not in refused.stderr


def test_another_number_of_partitions(tmp_path: Path) -> None:
    with serving(tmp_path, "--partitions", "3") as it:
        assert send(it.ingress, "POST", "/Counter/k/add", b"5", JSON)[2] == b"5"
    refused = perdure(
        "serve",
        "tests.cli.served:app",
        "--data-dir",
        str(tmp_path),
        "--partitions",
        "2",
        "--ingress-port",
        "0",
        "--admin-port",
        "0",
    )
    assert refused.returncode == 1
    assert "has 3 partitions, not 2" in refused.stderr
    with serving(tmp_path) as it:
        assert send(it.ingress, "GET", "/Counter/k/total")[2] == b"5"


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("nowhere:app", "there is no module 'nowhere'"),
        ("mine.deeper:app", "there is no module 'mine.deeper'"),
        ("mine", "write MODULE:APP. It has the App mine:app"),
        ("mine:", "mine:app"),
        ("mine:nothing", "module mine has no 'nothing'. It has the App mine:app"),
        ("mine:service", "is a Service, not an App; put it into one: app = App(service)"),
        ("mine:number", "is no App but a int: 5"),
        ("mine.py:app", "name the module: mine:app"),
        ("./pack/mine.py:app", "name the module: pack.mine:app"),
        ("broken:app", "module 'broken' fails when it is imported: ZeroDivisionError"),
        ("needy:app", "module 'needy' fails when it is imported: ModuleNotFoundError: No module named 'missing'"),
        ("empty:app", "It has no App"),
    ],
)
def test_apps_that_are_none(tmp_path: Path, app: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(
        "from perdure import App, Service\nservice = Service('S')\napp = App(service)\nnumber = 5\n"
    )
    (tmp_path / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n")
    (tmp_path / "needy.py").write_text("import missing\n")
    (tmp_path / "empty.py").write_text("")
    refused = perdure("serve", app, cwd=tmp_path, env=os.environ | {"COLUMNS": "1000", "TERM": "dumb"})
    assert refused.returncode == 2, refused
    assert says in refused.stderr
    assert ("line 2, in f" in refused.stderr) == (app == "broken:app"), "the traceback of a module that fails"
    assert "importlib" not in refused.stderr


def test_two_apps_and_settings_from_the_environment(tmp_path: Path) -> None:
    for name in ("One", "Two"):
        (tmp_path / f"{name.lower()}.py").write_text(
            f"from perdure import App, Service\ns = Service('{name}')\n@s.handler()\n"
            "async def hi(ctx, body: bytes) -> bytes:\n    return body\napp = App(s)\n"
        )
    environment = os.environ | {
        "PERDURE_INGRESS_PORT": "0",
        "PERDURE_ADMIN_PORT": "0",
        "PERDURE_REQUEST_SIZE_LIMIT": "10",
    }
    with subprocess.Popen(
        [*COMMAND, "serve", "one:app", "two:app"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert "data perdure-data, serving One, Two" in ready
        url = ready.split("ingress ")[1].split(",")[0]
        octets = {"content-type": "application/octet-stream"}
        assert send(url, "POST", "/Two/hi", b"x" * 10, octets)[0] == 200
        assert send(url, "POST", "/One/hi", b"x" * 11, octets)[0] == 413
        process.terminate()
        assert process.wait(10) == 0
    assert (tmp_path / "perdure-data" / "partition-0.db").exists()
    wrong = perdure("serve", "one:app", cwd=tmp_path, env=os.environ | {"PERDURE_ADMIN_PORT": "many"})
    assert (wrong.returncode, "PERDURE_ADMIN_PORT" in wrong.stderr) == (1, True)
    same = perdure("serve", "one:app", "one:app", "--ingress-port", "5", "--admin-port", "5", cwd=tmp_path)
    assert (same.returncode, "must differ" in same.stderr) == (1, True)


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end(tmp_path: Path, number: signal.Signals) -> None:
    """Open requests are answered, what runs goes on at the next start."""
    with serving(tmp_path) as it:
        answers: list[object] = []
        with SyncClient(it.ingress) as client:
            sent = client.send(served.slow, 3)
            call = threading.Thread(target=lambda: answers.append(client.call(served.slow, 1, idempotency_key="open")))
            call.start()
            wait_until_running(it.ingress, "open")
            it.process.send_signal(number)
            call.join(10)
            assert answers == ["done"], "who was there before the end is answered"
        assert it.process.wait(15) == 0
        out, err = it.process.communicate()
        assert out.splitlines()[-1] == "perdure stopped"
        assert "Traceback" not in err
    with serving(tmp_path) as it, SyncClient(it.ingress) as client:
        assert client.invocation(sent.id, str).attach(timeout=10) == "done"


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as it:
        connection = http.client.HTTPConnection(urlsplit(it.ingress).netloc, timeout=20)
        connection.request("POST", "/Greeter/slow", b"60", JSON | {"idempotency-key": "open"})
        wait_until_running(it.ingress, "open")
        it.process.terminate()
        assert it.process.stdout is not None
        assert "stopping" in it.process.stdout.readline()
        it.process.terminate()
        assert it.process.wait(2) == 128 + signal.SIGTERM
        connection.close()


def test_nothing_is_lost_when_it_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path) as it, SyncClient(it.ingress) as client:
        sent = [client.send(served.slow, 0.5) for _ in range(5)]
        failing = client.send(served.fail, 418)
        it.process.kill()
        it.process.wait(5)
    with serving(tmp_path) as it, SyncClient(it.ingress) as client:
        assert [client.invocation(each.id, str).attach(timeout=10) for each in sent] == ["done"] * 5
        with pytest.raises(TerminalError):
            client.invocation(failing.id).attach(timeout=10)


def test_an_idle_server_does_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as it:
        time.sleep(0.3)
        before = _cpu_seconds(it.process.pid)
        time.sleep(2)
        assert _cpu_seconds(it.process.pid) - before <= 0.06


def _cpu_seconds(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_what_importing_perdure_costs() -> None:
    script = "import time; t = time.perf_counter(); import perdure; print(time.perf_counter() - t)"
    seconds = min(
        float(subprocess.run([COMMAND[0], "-c", script], cwd=ROOT, capture_output=True, text=True).stdout)
        for _ in range(5)
    )
    assert seconds < 0.25
