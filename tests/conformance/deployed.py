"""A server with an endpoint registered: what tests talk to."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conformance.endpoints import REQUEST_RESPONSE, SDKS, Endpoint, Options
from tests.conformance.processes import NOTHING, Answer, ask, ask_if_up, until
from tests.conformance.servers import SERVERS, Server

Headers = Mapping[str, str] | None


class Deployed:
    """Paths are relative to the endpoint: `Echo/echo` is its service, whatever the prefix of its names."""

    def __init__(self, server: Server, endpoint: Endpoint) -> None:
        self.server = server
        self.endpoint = endpoint

    def name(self, service: str) -> str:
        return self.endpoint.options.prefix + service

    def register(self) -> dict[str, Any]:
        """Register the endpoint, and wait until its services answer."""
        answer = self.admin("POST", "/deployments", self.endpoint.registration())
        assert answer.status in (200, 201), (answer.status, answer.body)
        self.wait_ready()
        made: dict[str, Any] = answer.json()
        return made

    def wait_ready(self) -> None:
        """Healthy is not always ready: partitions may come later. Every endpoint has `Versioned`."""
        path = f"/{self.name('Versioned')}/version"
        until(lambda: ask_if_up(self.server.ingress, "POST", path).status == 200, path, 30.0)

    def ingress(self, method: str, path: str, body: object = NOTHING, headers: Headers = None) -> Answer:
        """A path as it is."""
        return ask(self.server.ingress, method, path, body, headers)

    def admin(self, method: str, path: str, body: object = NOTHING, headers: Headers = None) -> Answer:
        return ask(self.server.admin, method, path, body, headers)

    def call(self, path: str, body: object = NOTHING, headers: Headers = None) -> Answer:
        return self.ingress("POST", f"/{self.name(path)}", body, headers)

    def value(self, path: str, body: object = NOTHING, headers: Headers = None) -> Any:
        """The JSON result of a call that succeeds."""
        answer = self.call(path, body, headers)
        assert answer.status == 200, (path, answer.status, answer.body[:500])
        return answer.json()

    def values(self, calls: Sequence[tuple[str, object]], at_once: int = 20) -> list[Any]:
        """The results of calls that are made concurrently."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda call: self.value(*call), calls))

    def send(self, path: str, body: object = NOTHING, query: str = "", headers: Headers = None) -> str:
        """The id of an invocation that is accepted."""
        answer = self.call(f"{path}/send{query}", body, headers)
        assert answer.status == 202, (path, answer.status, answer.body[:500])
        return str(answer.json()["invocationId"])

    def attach(self, invocation: str) -> Answer:
        return self.ingress("GET", f"/restate/invocation/{invocation}/attach")

    def attached(self, invocation: str) -> Any:
        """The JSON result of an invocation that succeeds."""
        answer = self.attach(invocation)
        assert answer.status == 200, (invocation, answer.status, answer.body[:500])
        return answer.json()

    def output(self, invocation: str) -> Answer:
        return self.ingress("GET", f"/restate/invocation/{invocation}/output")

    def cancel(self, invocation: str) -> int:
        return self.admin("PATCH", f"/invocations/{invocation}/cancel").status

    def query(self, sql: str) -> list[dict[str, Any]]:
        answer = self.admin("POST", "/query", {"query": sql}, {"accept": "application/json"})
        assert answer.status == 200, (sql, answer.status, answer.body[:500])
        rows: list[dict[str, Any]] = answer.json()["rows"]
        return rows

    def status(self, invocation: str) -> str | None:
        rows = self.query(f"SELECT status FROM sys_invocation WHERE id = '{invocation}'")
        return rows[0]["status"] if rows else None

    def until_status(self, invocation: str, status: str) -> None:
        until(lambda: self.status(invocation) == status, f"{invocation} is {status}", poll_s=0.05)

    def eventually(self, path: str, wanted: object) -> None:
        """Ask until the result is the wanted one: for what was set going and not waited for."""
        until(lambda: bool(self.value(path) == wanted), f"{path} gives {wanted}")


class Stack:
    """One server and the endpoints of one SDK, started when first needed."""

    def __init__(self, engine: str, sdk: str, directory: Path, witness: Path) -> None:
        self.engine, self.sdk = engine, sdk
        self.directory = directory
        self._witness = witness
        self._exit = ExitStack()
        self._server: Server | None = None
        self._deployed: dict[str, Deployed] = {}
        self._endpoints = 0

    def close(self) -> None:
        self._exit.close()

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = SERVERS[self.engine](self.directory / "server")
            self._exit.callback(self._server.kill)
            self._server.start()
        return self._server

    def deployed(self, mode: str) -> Deployed:
        """The endpoint that most tests share. Names tell modes apart, so that one server can have both."""
        if mode not in self._deployed:
            prefix = "Rr" if mode == REQUEST_RESPONSE else ""
            self._deployed[mode] = self._exit.enter_context(self.endpoint(Options(mode=mode, prefix=prefix)))
        return self._deployed[mode]

    def start_endpoint(self, options: Options) -> Endpoint:
        """A process that is registered nowhere; the caller kills it."""
        self._endpoints += 1
        made = SDKS[self.sdk](self.directory / f"endpoint-{self._endpoints}", self._witness, options)
        made.start()
        return made

    @contextmanager
    def endpoint(self, options: Options) -> Iterator[Deployed]:
        """A registered endpoint for the length of a block."""
        made = self.start_endpoint(options)
        try:
            deployed = Deployed(self.server, made)
            deployed.register()
            yield deployed
        finally:
            made.kill()

    def own_options(self, **changes: Any) -> Options:
        """Options with names that nobody else has on this server."""
        return replace(Options(prefix=f"Own{self._endpoints}"), **changes)
