"""Streams: many at once, each read over HTTP by a reader of its own, and how late the chunks come.

`perdure serve` runs the handlers, which write a chunk with the time every 20 ms; the readers are in another process
(`python -m bench.streams`, a JSON job on stdin), so on two cores they take one of them. Latency is from `write` to the
bytes being there in the reader's process, on the same clock.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from bench.figures import Settings, failure, scratch
from bench.jobs import answer
from bench.processes import python_job
from bench.report import Figure, Sample, Target
from bench.servers import perdure_server

STREAMS = 500
CHUNKS_PER_S = 50
FIRST_S = 2.0  # for all of them to be connected
WARMUP_S = 1.0
MARGIN_S = 60.0
TARGET = Target("streams.latency", "ms p99", "lower", 20.0)


@dataclass(frozen=True)
class Job:
    """So many streams, each of so many seconds."""

    port: int
    streams: int
    seconds: float


class Reader(asyncio.Protocol):
    """Starts an invocation and reads its stream: the delay, in ms, of each chunk behind the warm-up."""

    def __init__(self, body: bytes, over: "asyncio.Future[None]", delays: list[float]) -> None:
        self._body = body
        self._over = over
        self._delays = delays
        self._rest = b""
        self.chunks = 0

    def connection_made(self, transport: Any) -> None:
        head = "POST /restate/stream/Streams/talk?stream=answer HTTP/1.1\r\nhost: bench\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(self._body)}\r\n\r\n"
        transport.write(head.encode() + self._body)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ["):
                number, written = json.loads(line[6:])
                self.chunks += 1
                if number >= WARMUP_S * CHUNKS_PER_S:
                    self._delays.append((now - written) * 1000)
            elif line == b"event: end" and not self._over.done():
                self._over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(RuntimeError(f"a stream broke off: {error}, {self._rest[:200]!r}"))


async def measure(job: Job) -> dict[str, object]:
    """All streams at once; the quantiles of their chunks' delays, ms."""
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    count = round(job.seconds * CHUNKS_PER_S)
    readers: list[Reader] = []
    overs: list[asyncio.Future[None]] = []
    for number in range(job.streams):
        offset = FIRST_S + number / job.streams / CHUNKS_PER_S  # spread, as independent streams are
        body = json.dumps({"chunks": count, "every": 1 / CHUNKS_PER_S, "first": offset}).encode()
        over = loop.create_future()
        reader = Reader(body, over, delays)
        await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", job.port)  # type: ignore[misc]
        readers.append(reader)
        overs.append(over)
    await asyncio.gather(*overs)
    wanted, got = job.streams * count, sum(reader.chunks for reader in readers)
    if got != wanted:
        raise RuntimeError(f"{got} of {wanted} chunks came")
    delays.sort()
    return {f"p{part}": delays[min(len(delays) - 1, len(delays) * part // 100)] for part in (50, 90, 99)}


def work(job: dict[str, Any]) -> dict[str, object]:
    return uvloop.run(measure(Job(**job)))


def streams(settings: Settings) -> Iterator[Figure]:
    """500 streams of 50 chunks a second each, on one process: the 99th percentile of the delay."""
    quick = settings.plan.windows < 5
    count, seconds, runs = (50, 3.0, 1) if quick else (STREAMS, 10.0, 3)
    try:
        with scratch() as where, perdure_server(where) as server:
            found = []
            for _ in range(runs):
                job = asdict(Job(server.ingress, count, seconds))
                found.append(python_job("bench.streams", job, seconds + FIRST_S + MARGIN_S))
    except Exception as error:
        yield Figure(TARGET, failure(error))
        return
    last = found[-1]
    details = {"p50_ms": last["p50"], "p90_ms": last["p90"], "streams": count, "chunks_per_s": count * CHUNKS_PER_S}
    yield Figure(TARGET, Sample([each["p99"] for each in found], details), scaled=f"{count} streams" if quick else "")


if __name__ == "__main__":
    answer(work)
