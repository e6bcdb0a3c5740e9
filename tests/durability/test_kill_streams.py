"""Readers of streams of a server that is killed with SIGKILL again and again; they end with what is stored."""

import pathlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from perdure import SyncClient
from tests.durability.test_kill import Server

INVOCATIONS = 4
ROUNDS = 20
KILLS = 6


class StreamingServer(Server):
    app = "tests.durability.streaming:app"


@pytest.mark.timeout(200)
def test_killed_while_it_streams(tmp_path: pathlib.Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    server = StreamingServer(tmp_path, 2)
    server.start()
    try:
        with SyncClient(f"http://127.0.0.1:{server.ingress}", retries=60) as client, ThreadPoolExecutor(8) as pool:
            sent = [client.send("Talk/say", ROUNDS, idempotency_key=f"{n}") for n in range(INVOCATIONS)]
            readers = [client.stream(invocation.id, "answer") for invocation in sent for _ in range(2)]
            reading = [pool.submit(reader.values) for reader in readers]
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.1, 0.5))
                server.kill()
                server.start()
            for index, invocation in enumerate(sent):
                expected: list[Any] = invocation.attach(timeout=100)
                late = client.stream(invocation.id, "answer").values()
                assert sorted(late) == sorted(expected)
                assert reading[2 * index].result(60) == late
                assert reading[2 * index + 1].result(60) == late
    finally:
        server.kill()
