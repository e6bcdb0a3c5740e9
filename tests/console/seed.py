"""`python -m tests.console.seed`: a server with agents that do everything the console shows; see `agents`.

    python -m tests.console.seed --rows 100000          # and so many invocations that have ended
    python -m tests.console.seed --live                 # goes on calling things, so that numbers move
    python -m tests.console.seed --keys                 # asks for API keys; they are printed

When all is as it should be, a line of JSON says where it is, and which invocations are of which kind. It ends with
SIGTERM, with Ctrl-C, or when its standard input is closed (`--until-eof`).
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.sql import fill
from perdure.testing.model_server import ModelServer
from tests.console.agents import LONG, think
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


class Server:
    """`perdure serve` and what is asked of it."""

    def __init__(self, ingress: int, admin: int, key: str | None = None) -> None:
        self.ingress = f"http://127.0.0.1:{ingress}"
        self.admin = f"http://127.0.0.1:{admin}"
        self._key = key

    def ask(self, url: str, body: Any = None, *, method: str | None = None) -> Any:
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            text = response.read()
        return json.loads(text) if text else None

    def send(self, target: str, body: Any = None, delay: str | None = None) -> str:
        """Send; the id of what was made."""
        query = "" if delay is None else f"?delay={delay}"
        return str(self.ask(f"{self.ingress}/{target}/send{query}", body)["invocationId"])

    def call(self, target: str, body: Any = None) -> Any:
        return self.ask(f"{self.ingress}/{target}", body)

    def sql(self, query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.ask(f"{self.admin}/query", {"query": query})["rows"]
        return rows

    def wait(self, id: str, *statuses: str) -> None:
        """Until an invocation has one of these statuses."""
        _until(lambda: self.sql(f"SELECT status FROM sys_invocation WHERE id = '{id}'")[0]["status"] in statuses)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("the server never came to be as it should")
        time.sleep(0.02)


def populate(server: Server) -> dict[str, str]:
    """Have the agents do everything once. The invocations' ids, by what they show."""
    send = server.send
    made = {
        "research": send("ResearchAgent/research", {"question": "The history of durable execution"}),
        "sleeping": send("ResearchAgent/research", {"question": "How rivers meander", "pause_seconds": 3600}),
        "chat": send("Chat/reply", {"text": "Tell me of the sea", "tokens": 80, "delay_ms": 2}),
        "approval": send("Support/handle", {"order": "A-17", "complaint": "it came broken, in three pieces"}),
        "yes_or_no": send("Support/deploy", "2026.11"),
        "step_fails": send("Billing/charge", "A-17"),
        "backing_off": send("Billing/invoice", "B-3"),
        "paused": send("Billing/export", "C-99"),
        "failed": send("Billing/validate", "D-1"),
        "holder": send("Inventory/warehouse-1/recount", 3600),
        "signup": send("Signup/ann/run", "ann@shop.example"),
        "tree": send("Planner/plan", {"goal": "launch", "branches": 5}),
        "scheduled": send("Planner/digest", "tomorrow", delay="20h"),
        "long": send(
            f"{LONG}/{'key%20of%20an%20object%20' * 6}/do_everything_that_has_to_be_done_before_the_end_of_the_quarter",
            "done",
        ),
        "translating": send("Translator/translate", "Guten Tag"),
    }
    for number in range(4):
        made[f"queued_{number}"] = send("Inventory/warehouse-1/recount", 1)
    for number in range(6):
        send(f"Inventory/shelf-{number}/recount", 0)
    decided = send("Support/handle", {"order": "A-4", "complaint": "too late"})
    cancelled = send("Signup/bob/run", "bob@shop.example")
    for name in ("research", "chat", "failed", "tree", "long"):
        server.wait(made[name], "completed")
    server.wait(made["paused"], "paused")
    server.wait(made["backing_off"], "backing-off")
    for name in ("sleeping", "approval", "yes_or_no", "signup", "holder", "translating"):
        server.wait(made[name], "suspended")
    server.wait(cancelled, "suspended")
    _decide(server, decided)
    server.ask(f"{server.admin}/invocations/{cancelled}/cancel", method="PATCH")
    server.wait(cancelled, "completed")
    return made | {"decided": decided, "cancelled": cancelled}


def _decide(server: Server, invocation: str) -> None:
    query = f"SELECT id FROM sys_approval WHERE invocation_id = '{invocation}'"
    _until(lambda: bool(server.sql(query)))
    (found,) = server.sql(query)
    answer = {"value": {"amount": 20, "channel": "email"}, "comment": "fair enough", "by": "ann"}
    server.ask(f"{server.admin}/approvals/{found['id']}/approve", answer)


@contextlib.contextmanager
def _process(*command: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, stdout=sys.stderr)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def seeded(
    *, rows: int = 0, ports: tuple[int, int] | None = None, keys: bool = False
) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server where all of it has happened, and what `main` prints of it."""
    ingress, admin = ports or (free_port(), free_port())
    with contextlib.ExitStack() as stack:
        data = Path(tempfile.mkdtemp(prefix="perdure-console-"))
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        if rows:
            fill(data / "partition-0.db", rows)
        model = stack.enter_context(ModelServer(think, latency=(0.05, 0.25)))
        env = {**os.environ, "OPENAI_BASE_URL": f"{model.url}/v1"}
        key = _new_key(data, "admin", env) if keys else None
        told = {each: _new_key(data, each, env) for each in ("read-only", "operator")} if keys else {}
        serve = ("-m", "perdure", "serve", "tests.console.agents:app", "--data-dir", str(data), "--partitions", "1")
        stack.enter_context(_process(*serve, "--ingress-port", str(ingress), "--admin-port", str(admin), env=env))
        server = Server(ingress, admin, key)
        _until(lambda: _up(f"{server.admin}/health"))
        made = {}
        for version in (1, 2):
            port = free_port()
            app = f"tests.console.agents:version_{version}"
            stack.enter_context(_process("-m", "hypercorn", app, "--bind", f"127.0.0.1:{port}", env=env))
            _until(lambda port=port: _up(f"http://127.0.0.1:{port}/health"))  # type: ignore[misc]
            server.ask(f"{server.admin}/deployments", {"uri": f"http://127.0.0.1:{port}"})
            if version == 1:
                made = populate(server)
        keys_told = {} if key is None else {"admin": key, **told}
        yield server, {"admin": server.admin, "ingress": server.ingress, "invocations": made, "keys": keys_told}


def _new_key(data: Path, role: str, env: dict[str, str]) -> str:
    command = [
        sys.executable,
        "-m",
        "perdure",
        "keys",
        "create",
        "--data-dir",
        str(data),
        "--role",
        role,
        "--name",
        role,
    ]
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout.strip()


def _traffic(server: Server, over: threading.Event) -> None:
    """Something happens all the time."""
    number = 0
    while not over.wait(0.1):
        number += 1
        with contextlib.suppress(OSError):
            server.send("Ping/pong", number)
            if number % 10 == 0:
                server.send("Billing/validate", f"L-{number}")
            if number % 20 == 0:
                server.send("ResearchAgent/research", {"question": f"Question {number}", "pause_seconds": 0.5})
            if number % 50 == 0:
                server.send("Planner/plan", {"goal": f"goal {number}", "branches": 3})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=0, help="how many invocations have ended before")
    parser.add_argument("--live", action="store_true", help="go on calling things")
    parser.add_argument("--keys", action="store_true", help="ask for API keys")
    parser.add_argument("--ports", type=int, nargs=2, metavar=("INGRESS", "ADMIN"))
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    chosen = parser.parse_args()
    over = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: over.set())
    with seeded(rows=chosen.rows, ports=chosen.ports and tuple(chosen.ports), keys=chosen.keys) as (server, told):
        print(json.dumps(told), flush=True)
        if chosen.live:
            threading.Thread(target=_traffic, args=(server, over), daemon=True).start()
        if chosen.until_eof:
            threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        over.wait()


if __name__ == "__main__":
    main()
