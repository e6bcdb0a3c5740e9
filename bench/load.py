"""The HTTP load generator: HTTP/1.1, kept-alive connections, one request in flight on each.

A process of its own (`python -m bench.load`, a JSON job on stdin, a JSON answer on stdout), the same for perdure and
for restate-server. It does no more per request than find the end of the response and compare the body, so that on a
small machine the server is what is measured; its share of a core is reported beside every figure.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import uvloop

from bench.jobs import answer
from bench.windows import Loop, Plan, closed_loop

REQUEST_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Request:
    """One POST (or a GET, where there is no body) and, where it is known, the body that must come back."""

    path: str
    body: str | None = None
    expect: str | None = None

    def encode(self, port: int) -> bytes:
        """The bytes on the wire, made once per request of a job and not once per exchange."""
        head = f"{'GET' if self.body is None else 'POST'} {self.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        if self.body is None:
            return f"{head}\r\n".encode()
        body = self.body.encode()
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Timed:
    """A closed loop over `requests`, picked at random with a fixed seed, for as long as `plan` says.

    With `counting` each answer is a counter that its request raised by one: at the end every counter must stand at the
    number of requests that raised it, none lost and none doubled.
    """

    port: int
    plan: Plan
    requests: list[Request]
    counting: bool = False


@dataclass(frozen=True)
class Listed:
    """Every chain of requests once, `concurrency` chains at a time, the requests of a chain one after the other."""

    port: int
    concurrency: int
    chains: list[list[Request]]


@dataclass(frozen=True)
class ListedResult:
    """Wall seconds for all chains, and the last body of each, in order."""

    seconds: float
    bodies: list[str]


class LoadError(Exception):
    """A response that was not 2xx, or not the expected one: the figure would be worthless."""


class Connection(asyncio.Protocol):
    """One kept-alive connection. `exchange` sends a request and gives the response's status and body."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def usable(self) -> bool:
        """Whether the server has left the connection open."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadError("the server closed the connection before it answered"))

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        response = parse(self._buffer)
        if response is not None:
            self._buffer = b""
            assert self._answer is not None
            self._answer.set_result(response)

    def exchange(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def parse(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of a complete response; None while bytes are missing."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    status, head, body = int(data[9:12]), data[:end].lower(), data[end + 4 :]
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        stop = head.find(b"\r\n", at + 2)
        length = int(head[at + 17 : stop if stop >= 0 else len(head)])
        return (status, body) if len(body) >= length else None
    if b"\r\ntransfer-encoding: chunked" in head:
        joined = dechunk(body)
        return None if joined is None else (status, joined)
    return status, body


def dechunk(data: bytes) -> bytes | None:
    """The body inside a chunked one; None while chunks are missing."""
    parts: list[bytes] = []
    while True:
        line = data.find(b"\r\n")
        if line < 0:
            return None
        size = int(data[:line].split(b";")[0], 16)
        if len(data) < line + 2 + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(data[line + 2 : line + 2 + size])
        data = data[line + 2 + size + 2 :]


class Connections:
    """One connection per worker, opened when first used and again whenever the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: dict[int, Connection] = {}

    async def exchange(self, worker: int, request: Request, wire: bytes) -> bytes:
        """The body of a 2xx response; anything else is a LoadError."""
        connection = self._open.get(worker)
        if connection is None or not connection.usable:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
            self._open[worker] = connection
        status, body = await connection.exchange(wire)
        if not 200 <= status < 300:
            raise LoadError(f"{request.path} answered {status}: {body[:200]!r}")
        if request.expect is not None and body != request.expect.encode():
            raise LoadError(f"{request.path} answered {body[:200]!r}, expected {request.expect!r}")
        return body

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()


async def timed(job: Timed) -> Loop:
    """Run a closed loop of requests; see `Timed`."""
    picks = random.Random(7).choices([(request, request.encode(job.port)) for request in job.requests], k=10_000)
    turn = itertools.cycle(picks)
    connections = Connections(job.port)
    raised: Counter[str] = Counter()
    highest: Counter[str] = Counter()

    async def operation(worker: int) -> None:
        request, wire = next(turn)
        body = await connections.exchange(worker, request, wire)
        if job.counting:
            raised[request.path] += 1
            highest[request.path] = max(highest[request.path], int(body))

    result = await closed_loop(operation, job.plan)
    connections.close()
    wrong = [path for path, count in raised.items() if highest[path] != count]
    if wrong:
        raise LoadError(
            f"{len(wrong)} counters are wrong: {wrong[0]} is {highest[wrong[0]]}, raised {raised[wrong[0]]} times"
        )
    return result


async def listed(job: Listed) -> ListedResult:
    """Send every chain once; see `Listed`."""
    bodies = [""] * len(job.chains)
    chains: Iterator[tuple[int, list[Request]]] = iter(enumerate(job.chains))
    connections = Connections(job.port)

    async def work(worker: int) -> None:
        for index, chain in chains:
            for request in chain:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    body = await connections.exchange(worker, request, request.encode(job.port))
            bodies[index] = body.decode()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for worker in range(job.concurrency):
            group.create_task(work(worker))
    seconds = time.perf_counter() - began
    connections.close()
    return ListedResult(seconds, bodies)


def work(job: dict[str, Any]) -> dict[str, object]:
    """A `Timed` job has a plan, a `Listed` one has chains."""
    if "plan" in job:
        requests = [Request(**request) for request in job["requests"]]
        return uvloop.run(timed(Timed(job["port"], Plan(**job["plan"]), requests, job["counting"]))).to_dict()
    chains = [[Request(**request) for request in chain] for chain in job["chains"]]
    return asdict(uvloop.run(listed(Listed(job["port"], job["concurrency"], chains))))


if __name__ == "__main__":
    answer(work)
