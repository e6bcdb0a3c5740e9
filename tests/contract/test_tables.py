"""The contract, asked of perdure and of restate-server: a row's expectation is proven by the other server."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from perdure.web.service_openapi import service_openapi
from tests.conformance.deployed import Deployed
from tests.conformance.endpoints import Options, PerdureEndpoint
from tests.conformance.install import restate_server
from tests.conformance.processes import Answer
from tests.conformance.servers import SERVERS
from tests.conformance.services_perdure.basic import echo_service
from tests.conformance.services_perdure.keyed import approval, counter
from tests.contract import admin_table, ingress_table
from tests.contract.cases import Case, answer_to, fresh

TABLES = {"admin": admin_table.TABLE, "ingress": ingress_table.TABLE}
ROWS = [(port, case) for port, table in TABLES.items() for case in table]
ADMIN_ERROR = {"message", "restate_code"}
INGRESS_ERROR = {"code", "message", "source"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PerdureEndpoint]:
    directory = tmp_path_factory.mktemp("contract-endpoint")
    witness = directory / "witness"
    witness.mkdir()
    made = PerdureEndpoint(directory, witness, Options())
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module", params=["perdure", "restate"])
def on(
    request: pytest.FixtureRequest, endpoint: PerdureEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Deployed, dict[str, str]]]:
    name: str = request.param
    if name == "restate":
        restate_server()
    with ExitStack() as cleanup:
        server = SERVERS[name](tmp_path_factory.mktemp(f"contract-{name}"))
        cleanup.callback(server.kill)
        server.start()
        deployed = Deployed(server, endpoint)
        id = deployed.register()["id"]
        yield name, deployed, {"dp": id, "uri": endpoint.uri}


@pytest.mark.parametrize(("port", "case"), ROWS, ids=[f"{port}: {case}" for port, case in ROWS])
def test_row(on: tuple[str, Deployed, dict[str, str]], port: str, case: Case) -> None:
    name, deployed, places = on
    expected = case.status if name == "perdure" or case.restate is None else case.restate
    if not expected:
        return  # perdure's own, and it would change the other server
    answer = answer_to(deployed, case, port, {**places, "key": fresh("key")})
    assert answer.status == expected, (answer.status, answer.body[:500])
    if expected != case.status:
        assert case.why, "a difference without a reason"
        return
    check_shape(answer, case, port)
    if name == "perdure" and answer.status >= 400 and case.method != "HEAD":
        check_explained(answer, port)


def check_shape(answer: Answer, case: Case, port: str) -> None:
    content_type = answer.headers.get("content-type", "")
    if case.shape == "any":
        return
    if case.shape == "":
        assert case.method == "HEAD" or answer.body in (b"", b"[]")
    elif case.shape == "text":
        assert content_type == "text/plain; charset=utf-8" and answer.body
    elif case.shape == "html":
        assert content_type.startswith("text/html") and answer.body
    else:
        assert content_type == "application/json"
        wanted = (ADMIN_ERROR if port == "admin" else INGRESS_ERROR) if case.shape == "error" else case.shape.split()
        assert set(wanted) <= set(answer.json()), answer.body[:500]


def check_explained(answer: Answer, port: str) -> None:
    """Whose fault it is, whether anything was accepted, whether it may be sent again: in the body, or in headers."""
    source = answer.headers["x-restate-error-source"]
    assert source in ({"request", "server", "deployment"} if port == "admin" else {"ingress", "invocation"})
    facts: dict[str, Any] = {}
    if answer.headers.get("content-type") == "application/json":
        facts = answer.json()
    if "accepted" in facts:
        assert facts["source"] == source and isinstance(facts["retryable"], bool)
        assert facts["accepted"] in (True, False, None)
    else:
        assert answer.headers["x-perdure-accepted"] in ("true", "false", "unknown")
        assert answer.headers["x-perdure-retryable"] in ("true", "false")


@pytest.mark.parametrize("service", [echo_service, counter, approval], ids=lambda service: str(service.name))
def test_the_document_of_a_service(on: tuple[str, Deployed, dict[str, str]], service: Any) -> None:
    """Both servers describe the same paths, operations, parameters and bodies."""
    expected = service_openapi(service.info, 1, None)
    answer = on[1].admin("GET", f"/services/{service.name}/openapi")
    assert answer.status == 200
    found = answer.json()
    assert operations(found) == operations(expected)
    assert set(found["components"]["parameters"]) == set(expected["components"]["parameters"])
    assert set(found["components"]["responses"]) == set(expected["components"]["responses"])


def operations(document: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{method} {path}": (
            operation["operationId"],
            operation["summary"],
            operation.get("deprecated", False),
            sorted(each["$ref"] for each in operation.get("parameters", [])),
            {kind: "schema" in body for kind, body in operation.get("requestBody", {}).get("content", {}).items()},
            sorted(set(operation["responses"]) - {"200"}),
        )
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
