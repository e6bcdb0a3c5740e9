"""The OpenAPI document of the admin port, made of its routes and of the types that they read and write."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from perdure.web.http import Route
from perdure.web.operations import Operation

__all__ = ["AdminError", "Source", "admin_openapi"]

_REFERENCE: Final = "#/components/schemas/{name}"
_EVERYWHERE: Final = (400, 429, 500, 503)
_CLOSED: Final = (401, 403)  # where a key may be asked for
_IN_TEXT: Final = frozenset({400, 415, 422})  # refused before it was understood what is asked for
_EMPTY: Final = frozenset({429, 501})
_ABOUT: Final = {
    400: "Something of the request cannot be; the message says what",
    401: "A key is needed, and none that is good was shown",
    403: "The key is not for this; or the address, or the page, from which it is asked is not known here",
    404: "It is not there",
    409: "It is in a state in which this cannot be done",
    410: "What is needed is no longer kept",
    413: "The body is too large",
    415: "The body has to be JSON, and its content-type has to say so",
    422: "The body is JSON, but not what is wanted; or this cannot be done to such an invocation",
    425: "The invocation has not begun",
    429: "Too many requests at once",
    500: "The server, or the endpoint it asked, failed",
    501: "Not without force",
    503: "The server is starting or stopping, or its store has failed",
}
_INTRODUCTION: Final = (
    "What people and tools do to invocations, state, services and deployments. Every path exists below /v2, /v3 and "
    "/v4 too. Handlers are called at the ingress, which has an OpenAPI document per service: "
    "/services/{service}/openapi."
)
_KEYS: Final = "An API key, where they are asked for: always off loopback, on loopback once there is one."
_HEADERS: Final = {
    "x-restate-error-source": {
        "description": "Whose fault it is.",
        "schema": {"type": "string", "enum": ["request", "server", "deployment"]},
    },
    "x-perdure-accepted": {
        "description": "Whether anything was accepted.",
        "schema": {"type": "string", "enum": ["true", "false", "unknown"]},
    },
    "x-perdure-retryable": {
        "description": "Whether the same request may be sent again.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}

Source: TypeAlias = Literal["request", "server", "deployment"]
"""Whose fault it is: of what was asked, of this server, or of the endpoint it asked."""


class AdminError(msgspec.Struct, omit_defaults=True):
    """Why a request was refused, whose fault it is, whether anything was accepted (null: not known), and whether the
    same request may be sent again. `restate_code` is explained in restate-server's documentation."""

    message: str
    restate_code: str | None
    source: Source
    accepted: bool | None
    retryable: bool
    invocation_id: str | None = None


def admin_openapi(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The document of those routes that are public."""
    public = [(route, route.operation) for route in routes if route.operation is not None and route.operation.public]
    types = [AdminError]
    for _, operation in public:
        types += [each for each in (operation.body, *operation.answers.values()) if each is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = {id(type): schema for type, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in public:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, operation, schema_of)
    used = sorted({status for _, operation in public for status in (*_EVERYWHERE, *_CLOSED, *operation.refusals)})
    return {
        "openapi": "3.1.0",
        "info": {"title": "perdure admin API", "version": version, "description": _INTRODUCTION},
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for _, operation in public)],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "securitySchemes": {"ApiKey": {"type": "http", "scheme": "bearer", "description": _KEYS}},
            "responses": {f"Error{status}": _error(status) for status in used},
        },
    }


def _operation(route: Route, operation: Operation, schema_of: Mapping[int, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": _name(route),
        "responses": _responses(route, operation, schema_of),
    }
    if route.role is not None:
        enough = f"one with the role {route.role.value}, or one that may do more"
        found["description"] = f"Where keys are asked for: {enough}."
        found["security"] = [{"ApiKey": []}, {}]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": each.name, "in": "query", "description": each.about, "schema": dict(each.schema)}
        for each in operation.parameters
    ]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        content = {operation.body_type: {"schema": schema_of[id(operation.body)]}}
        found["requestBody"] = {"required": True, "content": content}
    if operation.deprecated:
        found["deprecated"] = True
    return found


def _responses(route: Route, operation: Operation, schema_of: Mapping[int, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, body in operation.answers.items():
        responses[str(status)] = {"description": "Accepted" if status == 202 else "Done"}
        if body is not None:
            responses[str(status)]["content"] = {operation.answer_type: {"schema": schema_of[id(body)]}}
    for status in sorted({*_EVERYWHERE, *(() if route.role is None else _CLOSED), *operation.refusals}):
        responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
    return responses


def _error(status: int) -> dict[str, Any]:
    error: dict[str, Any] = {
        "description": _ABOUT[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS},
    }
    if status not in _EMPTY:
        error["content"] = {"application/json": {"schema": {"$ref": _REFERENCE.format(name="AdminError")}}}
        if status in _IN_TEXT:
            error["content"]["text/plain"] = {"schema": {"type": "string"}}
    return error


def _name(route: Route) -> str:
    """`PATCH /invocations/{invocation_id}/purge-journal` -> `patch_invocations_purge_journal`."""
    words = [part for part in re.split(r"[/-]", route.path) if part and part[0] != "{"]
    return "_".join([route.method.lower(), *words, *(["by_id"] if route.path.endswith("}") else [])])
