"""A real server process, killed with SIGKILL at random moments under load.

Nothing inside the engine is trusted here: what was accepted is known from the answers, what ran from a file that
steps write, and the counters are read over HTTP at the end.
"""

import collections
import http.client
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.durability.services import expected
from tests.ports import free_ports

ROOT = pathlib.Path(__file__).parent.parent.parent
READY_SECONDS = 20.0


class Server:
    """`perdure serve` on fixed ports, over one data directory, started again after each kill."""

    app = "tests.durability.services:app"

    def __init__(self, directory: pathlib.Path, partitions: int) -> None:
        self.directory = directory
        self.partitions = partitions
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.ingress, self.admin = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "perdure", "serve", self.app]
        command += ["--data-dir", str(self.directory / "data"), "--host", "127.0.0.1"]
        command += ["--ingress-port", str(self.ingress), "--admin-port", str(self.admin)]
        command += ["--partitions", str(self.partitions)]
        environment = {**os.environ, "PERDURE_TEST_LEDGER": str(self.ledger)}
        log = (self.directory / "server.log").open("ab")
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + READY_SECONDS
        while self.get(self.admin, "/health")[0] != 200:
            assert self.process.poll() is None, (self.directory / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def request(self, port: int, method: str, path: str, body: bytes | None, **headers: str) -> tuple[int, bytes]:
        """(status, body); status 0 if there was no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def get(self, port: int, path: str) -> tuple[int, bytes]:
        return self.request(port, "GET", path, None)


def accept(server: Server, n: int, stop: float) -> str:
    """Have invocation `n` accepted, however often it takes; its id."""
    while time.monotonic() < stop:
        status, body = server.request(
            server.ingress,
            "POST",
            "/Load/mix/send",
            str(n).encode(),
            content_type="application/json",
            idempotency_key=f"mix-{n}",
        )
        if status == 202:
            return str(json.loads(body)["invocationId"])
        assert status in (0, 503), (status, body)
        time.sleep(0.02)
    raise AssertionError(f"invocation {n} was not accepted in time")


def result(server: Server, invocation: str, stop: float) -> int:
    status, body = result_of(server, invocation, stop)
    assert status == 200, f"{invocation}: {status} {body!r}"
    return int(body)


def result_of(server: Server, invocation: str, stop: float) -> tuple[int, bytes]:
    """Status and body of the result, however often the server has to be asked."""
    while time.monotonic() < stop:
        status, body = server.get(server.ingress, f"/restate/invocation/{invocation}/attach")
        if status not in (0, 503):
            return status, body
        time.sleep(0.05)
    raise AssertionError(f"{invocation} has no result: it is lost or stuck")


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("partitions", "kills"), [(1, 20), (4, 10)])
def test_killed_under_load(tmp_path: pathlib.Path, partitions: int, kills: int, request: pytest.FixtureRequest) -> None:
    """30 kills in all; counters exact, every result right, nothing lost, nothing stuck, no finished step run again."""
    if request.config.getoption("--soak"):
        kills *= 20
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = Server(tmp_path, partitions)
    server.start()
    stop = time.monotonic() + 240 * (20 if kills > 100 else 1)
    over = threading.Event()
    numbers = iter(range(1_000_000))
    accepted: dict[int, str] = {}

    def client() -> None:
        while not over.is_set():
            n = next(numbers)
            accepted[n] = accept(server, n, stop)
            time.sleep(0.004)

    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(client) for _ in range(8)]
        try:
            for _ in range(kills):
                time.sleep(chance.uniform(0.05, 0.6))
                server.kill()
                server.start()
        finally:
            over.set()
        for future in running:
            future.result()
    try:
        check(server, accepted, stop)
    finally:
        server.kill()


def check(server: Server, accepted: dict[int, str], stop: float) -> None:
    assert len(accepted) > 100, "there was no load to speak of"
    with ThreadPoolExecutor(8) as clients:
        results = dict(
            zip(accepted, clients.map(lambda known: result(server, known, stop), accepted.values()), strict=True)
        )
    assert results == {n: expected(n) for n in accepted}
    for kind in ("called", "sent"):
        wanted = collections.Counter(n % 4 for n in accepted)
        for shard in range(4):
            assert counter(server, f"{kind}-{shard}", wanted[shard], stop) == wanted[shard], f"{kind}-{shard}"
    check_ledger(server.ledger, len(accepted))


def counter(server: Server, key: str, wanted: int, stop: float) -> int:
    """A counter's total; sends may still be on their way, so it is asked until it is right or time is up."""
    value = -1
    until = min(stop, time.monotonic() + 30)
    while time.monotonic() < until:
        status, body = server.request(server.ingress, "POST", f"/Counter/{key}/total", b"")
        if status == 200:
            value = int(body)
            if value >= wanted:
                return value
        time.sleep(0.05)
    return value


def check_ledger(ledger: pathlib.Path, invocations: int) -> None:
    """Every step ran to its end, and none ran again once its result was recorded.

    That a result was recorded shows in what the handler did next: it begins a later step only when every earlier
    one is in the journal. So a step that begins after a later one of the same invocation has begun is a violation;
    one that was cut before its record, and begins again, is not.
    """
    ended: set[str] = set()
    order: dict[int, int] = {}  # completion id -> place of the step in the handler; the first three run side by side
    reached: dict[str, int] = {}
    lines = [line.split() for line in ledger.read_text().splitlines()]
    for place, identity in enumerate(sorted({int(token.rpartition("-")[2]) for _, token in lines})):
        order[identity] = max(0, place - 2)
    assert len(order) == 5, order
    for kind, token in lines:
        invocation, _, completion_id = token.rpartition("-")
        if kind == "end":
            ended.add(token)
            continue
        place = order[int(completion_id)]
        assert place >= reached.get(invocation, 0), f"step {token} ran again though its result was recorded"
        reached[invocation] = place
    assert len(ended) == invocations * 5, "a step never ran to its end"
