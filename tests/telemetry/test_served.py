"""A server of its own process with everything on: killed in the middle, and what a collector, Prometheus and the log
have then seen of the whole."""

import gzip
import http.server
import json
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.processes import perdure, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
EVERYTHING = ("--log-format", "json", "--log-level", "info")


class Collector(http.server.ThreadingHTTPServer):
    """Takes what is exported to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Exported)
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def names(self) -> Counter[str]:
        return Counter(span.name for span in self.spans if span.name != "attempt")


class _Exported(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resources.append({pair.key: pair.value.string_value for pair in each.resource.attributes})
            self.server.spans += [span for scope in each.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    stop = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < stop, "it never came true"
        time.sleep(0.02)


def ask(url: str, body: bytes | None = None, **headers: str) -> bytes:
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def shown(admin: str) -> dict[tuple[str, str], float]:
    """Of what Prometheus is shown: samples by name and status."""
    families = text_string_to_metric_families(ask(f"{admin}/metrics").decode())
    return {(each.name, each.labels.get("status", "")): each.value for family in families for each in family.samples}


def test_killed_in_the_middle(tmp_path: Path, collector: Collector) -> None:
    app, arguments = "tests.telemetry.served:app", ("--tracing-endpoint", collector.url, *EVERYTHING)
    suspended = ("perdure_invocations", "suspended")
    lines: list[str] = []
    with serving(tmp_path, *arguments, app=app) as server:
        id = json.loads(ask(f"{server.ingress}/Journey/go/send", b"", **HEADERS))["invocationId"]
        until(lambda: shown(server.admin).get(suspended) == 1 and collector.names["there"])
        server.process.kill()
        lines += list(server.process.stderr or [])
    with serving(tmp_path, *arguments, app=app) as server:
        until(lambda: shown(server.admin).get(suspended) == 1)  # counted from what is stored
        ask(f"{server.ingress}/restate/signals/{id}/enough", b"null", content_type="application/json")
        assert json.loads(ask(f"{server.ingress}/restate/invocation/{id}/attach")) == ["there", "back"]
        numbers = shown(server.admin)
        assert numbers[suspended] == 0 and numbers["perdure_ingress_responses_total", "200"] == 1
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        lines += list(server.process.stderr or [])
    _check_spans(collector)
    _check_log(lines, id)


def _check_spans(collector: Collector) -> None:
    once = {"Journey/go": 1, "the whole way": 1, "there": 1, "back": 1, "ticket": 2}
    assert collector.names == once
    assert {resource["service.name"] for resource in collector.resources} == {"perdure"}
    ids = {span.span_id: span for span in collector.spans}
    assert len(ids) == len(collector.spans)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    orphans = [span.name for span in collector.spans if span.parent_span_id not in ids]
    assert orphans == ["Journey/go"]
    above = {span.name: ids[span.parent_span_id].name for span in collector.spans if span.name != "Journey/go"}
    assert above["the whole way"] == above["there"] == above["attempt"] == "Journey/go"
    assert above["ticket"] in ("there", "back")
    whole = next(span for span in collector.spans if span.name == "the whole way")
    there = next(span for span in collector.spans if span.name == "there")
    assert whole.start_time_unix_nano <= there.start_time_unix_nano  # though it was another process that began it


def _check_log(lines: list[str], id: str) -> None:
    records = [json.loads(line) for line in lines]
    told = [record for record in records if record["logger"] == "journey"]
    assert [record["message"] for record in told] == [
        "sets out",
        "travels there",
        "is there",
        "turns round",
        "travels back",
    ]
    assert {record["invocation_id"] for record in told} == {id}
    assert [record.get("step") for record in told] == [None, "there", None, None, "back"]
    assert [record["attempt"] for record in told] == [1, 1, 1, 2, 2]
    assert {record["trace_id"] for record in told} == {TRACE}


def test_a_collector_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    with serving(tmp_path, "--tracing-endpoint", "http://127.0.0.1:9") as server:
        ask(f"{server.ingress}/Greeter/noop", b"")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--tracing-endpoint", "collector"), "tracing_endpoint 'collector' is no URL"),
        (("--log-format", "xml"), "log_format"),
        (("--log-level", "loud"), "log_level"),
    ],
)
def test_what_cannot_be_set(tmp_path: Path, arguments: tuple[str, ...], problem: str) -> None:
    done = perdure("serve", "tests.cli.served:app", "--data-dir", str(tmp_path), *arguments)
    assert done.returncode != 0 and problem in done.stderr
