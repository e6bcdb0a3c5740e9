"""The OpenAPI documents: complete, valid, and true of what is answered."""

import asyncio
import re
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import msgspec
import pytest

from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind
from perdure.runtime.node import Node
from perdure.sql.pool import Queries
from perdure.web.admin import Admin
from perdure.web.openapi import admin_openapi
from perdure.web.service_openapi import service_openapi
from tests.web.fakes import SERVICES, FakeNode, Web

DOCS = Path(__file__).parents[2] / "docs" / "http-api.md"
RESTATE_PUBLIC = Path(__file__).with_name("restate_operations.txt")


def admin() -> Admin:
    """With every route; nothing is asked of what is behind it."""
    return Admin(cast(Node, FakeNode()), version="1.2.3", queries=cast(Queries, object()))


def document() -> dict[str, Any]:
    return admin_openapi(admin().routes(), "1.2.3")


def references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for each in part for found in references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for each in part.values() for found in references(each)]


def resolved(document: dict[str, Any], reference: str) -> Any:
    part: Any = document
    for name in reference.removeprefix("#/").split("/"):
        part = part[name]
    return part


@pytest.mark.parametrize(
    "made",
    [document(), *(service_openapi(info, 3, "http://127.0.0.1:8080") for info in SERVICES)],
    ids=["admin", *(info.name for info in SERVICES)],
)
def test_documents_hold_together(made: dict[str, Any]) -> None:
    assert made["openapi"] == "3.1.0"
    for reference in references(made):
        assert resolved(made, reference) is not None
    operations = [operation for methods in made["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            parameters = [
                resolved(made, each["$ref"]) if "$ref" in each else each for each in operation.get("parameters", [])
            ]
            named = {each["name"] for each in parameters if each["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path)), path
    for schema in made["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_every_route_is_described_or_known_to_be_internal() -> None:
    made = document()
    for route in admin().routes():
        operation = route.operation
        if operation is not None and operation.public:
            assert route.method.lower() in made["paths"][route.path]
        else:
            assert route.path.startswith(("/internal/", "/ui")) or route.path == "/" or route.method == "PUT", route


def test_what_restate_server_documents_is_documented() -> None:
    ours = {f"{method.upper()} {path}" for path, methods in document()["paths"].items() for method in methods}
    theirs = set(RESTATE_PUBLIC.read_text().splitlines())
    assert theirs and not theirs - ours


def test_the_manual_names_every_route() -> None:
    manual = DOCS.read_text()
    for route in admin().routes():
        assert re.search(rf"\| [A-Z, ]*\b{route.method}\b[A-Z, ]* \|[^|]*`{re.escape(route.path)}`", manual), route[:2]


def test_the_document_is_served() -> None:
    reply = asyncio.run(Web(admin()).get("/v4/openapi"))
    assert (reply.status, reply.json["info"]["version"]) == (200, "1.2.3")
    assert reply.json == msgspec.json.decode(msgspec.json.encode(document()))


def test_a_service_is_described_as_restate_server_does() -> None:
    schema: dict[str, object] = {"type": "object", "$defs": {"X": {}}, "properties": {"x": {"$ref": "#/$defs/X"}}}
    info = ServiceInfo(
        "Object",
        ServiceKind.VIRTUAL_OBJECT,
        {
            "add": HandlerInfo(
                "Object",
                "add",
                HandlerKind.EXCLUSIVE,
                input_content_type="application/json",
                input_schema=schema,
                input_required=True,
                description="Adds",
            ),
            "hidden": HandlerInfo("Object", "hidden", HandlerKind.SHARED, private=True),
            "quiet": HandlerInfo("Object", "quiet", HandlerKind.SHARED, output_content_type=None),
        },
        "An object",
        {"team": "a"},
    )
    made = service_openapi(info, 7, None)
    assert made["info"] == {
        "title": "Object",
        "version": "7",
        "description": "An object",
        "x-restate-extensions": {"team": "a"},
    }
    assert list(made["paths"]) == [
        "/restate/call/Object/{key}/add",
        "/restate/call/Object/{key}/quiet",
        *(
            f"/restate/invocation/Object/{{key}}/{name}/{{idempotencyKey}}/{verb}"
            for name in ("add", "quiet")
            for verb in ("attach", "output")
        ),
        "/restate/send/Object/{key}/add",
        "/restate/send/Object/{key}/quiet",
    ]
    call = made["paths"]["/restate/call/Object/{key}/add"]["post"]
    assert (call["operationId"], call["summary"], call["description"]) == ("add", "add", "Adds")
    assert call["requestBody"]["required"] is True
    assert made["components"]["schemas"]["addRequest"]["properties"] == {
        "x": {"$ref": "#/components/schemas/addRequest/$defs/X"}
    }
    quiet = made["paths"]["/restate/call/Object/{key}/quiet"]["post"]
    assert "requestBody" not in quiet and quiet["responses"]["200"] == {"description": "Empty"}
    send = made["paths"]["/restate/send/Object/{key}/add"]["post"]
    assert (send["operationId"], [each["$ref"].split("/")[-1] for each in send["parameters"]]) == (
        "addSend",
        ["key", "idempotencyKeyHeader", "delay"],
    )
