"""What the OpenAPI documents allow, and what they forbid, is asked at random; the answers are held against them."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.in_process import Ports, ports
from tests.web.fakes import Web

# The engine's thread draws from `random` too, which looks to hypothesis as if a strategy did.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

CONFORMANCE = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXAMPLES = settings(
    max_examples=5,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
ALLOWED, FORBIDDEN = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def both() -> Iterator[Ports]:
    with ports() as made:
        yield made


@pytest.fixture(scope="module")
def known(both: Ports) -> dict[str, str]:
    """What paths may name, so that not every request ends at an id that is none."""
    kind = ("content-type", "application/json")
    add = asyncio.run(Web(both.ingress).post("/Counter/k/add", b"1", kind))
    new = asyncio.run(Web(both.admin).post("/deployments", json.dumps({"uri": "http://one:9080"}).encode(), kind))
    assert (add.status, new.status) == (200, 201)
    return {
        "invocation_id": add.headers["x-restate-id"],
        "deployment": new.json["id"],
        "service": "Counter",
        "handler": "add",
        "key": "k",
    }


def check(schema: Any, application: Any, known: Mapping[str, str]) -> Counter[int]:
    """Ask each operation: as it is allowed, as it is forbidden, and of what is there. How often each status came."""
    statuses: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        named = {name: known[name] for name in re.findall(r"{(\w+)}", operation.path) if name in known}
        ways: list[tuple[Any, dict[str, Any]]] = [(ALLOWED, {}), (FORBIDDEN, {})]
        if named and named.keys() == set(re.findall(r"{(\w+)}", operation.path)):
            ways.append((ALLOWED, {"path_parameters": named}))
        for mode, given_parts in ways:

            @EXAMPLES
            @given(case=operation.as_strategy(generation_mode=mode, **given_parts))
            def ask(case: Any) -> None:
                response = case.call(app=application)
                statuses[response.status_code] += 1
                meant = "/deployments" in case.path  # 500 of an endpoint that cannot be reached, 501 without force
                checks = CONFORMANCE if meant else [*CONFORMANCE, not_a_server_error]
                case.validate_response(response, checks=checks)

            try:
                ask()
            except Unsatisfiable:  # without parameters and body, nothing of a request can be wrong
                assert mode is FORBIDDEN
    return statuses


def test_the_admin_port(both: Ports, known: dict[str, str]) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi", both.admin)
    statuses = check(schema, both.admin, known)
    assert {200, 202, 400, 404, 409, 422} <= statuses.keys(), statuses


@pytest.mark.parametrize("service", ["Greeter", "Counter", "Signup"])
def test_a_service_at_the_ingress(both: Ports, service: str) -> None:
    schema = schemathesis.openapi.from_asgi(f"/services/{service}/openapi", both.admin)
    statuses = check(schema, both.ingress, {})
    assert {200, 202, 400, 404} <= statuses.keys(), statuses
