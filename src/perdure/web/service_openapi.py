"""The OpenAPI document of one service, for the ingress: how each of its handlers is called, and with what.

The paths, parameters, operation ids and component names are those of restate-server's document, so that clients
generated from one work with the other. Handlers' JSON Schemas are embedded as they are.
"""

from typing import Any, Final

from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind

__all__ = ["service_openapi"]

_ERROR: Final = {
    "title": "RestateError",
    "type": "object",
    "description": "Why a request failed, whether it was accepted (null: not known), and whether it may be sent again.",
    "required": ["message", "source"],
    "additionalProperties": False,
    "properties": {
        "code": {"type": "number", "title": "error code"},
        "message": {"type": "string", "title": "Error message"},
        "stacktrace": {"type": "string", "title": "Stacktrace of the error"},
        "metadata": {
            "type": "object",
            "title": "Additional metadata map",
            "additionalProperties": {"type": "string"},
        },
        "source": {
            "type": "string",
            "title": "Error source",
            "enum": ["ingress", "invocation"],
            "description": "ingress: the request was not served, and the code is HTTP's. invocation: the invocation "
            "failed, and the code is its author's. Also in the header x-restate-error-source.",
        },
        "accepted": {
            "type": ["boolean", "null"],
            "title": "Whether the request is durable and goes on",
        },
        "retryable": {"type": "boolean", "title": "Whether the same request may be sent again"},
    },
}
_RECEIPT: Final = {
    "title": "RestateSendResponse",
    "type": "object",
    "required": ["invocationId", "status"],
    "additionalProperties": False,
    "properties": {
        "invocationId": {"type": "string"},
        "status": {"type": "string", "enum": ["Accepted", "PreviouslyAccepted"]},
        "executionTime": {
            "type": "string",
            "format": "date-time",
            "description": "When the invocation begins, if it is delayed",
        },
    },
}
_PARAMETERS: Final = {
    "key": {"name": "key", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
    "idempotencyKeyHeader": {
        "name": "idempotency-key",
        "in": "header",
        "required": False,
        "description": "Makes requests with the same key one invocation",
        "schema": {"type": "string", "minLength": 1, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    },
    "idempotencyKeyPath": {
        "name": "idempotencyKey",
        "in": "path",
        "required": True,
        "description": "The idempotency key of the original request",
        "schema": {"type": "string", "minLength": 1},
    },
    "delay": {
        "name": "delay",
        "in": "query",
        "required": False,
        "description": "How long to wait before it begins: 10s, 1h 30m, PT1H30M",
        "schema": {"type": "string"},
        "example": "10s",
    },
}


def service_openapi(info: ServiceInfo, revision: int, ingress_url: str | None) -> dict[str, Any]:
    """What is public of a service, at this revision. `ingress_url` is where it can be called, if that is known."""
    about: dict[str, Any] = {"title": info.name, "version": str(revision)}
    if info.description:
        about["description"] = info.description
    if info.metadata:
        about["x-restate-extensions"] = info.metadata
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"RestateError": _ERROR}
    for handler in sorted(info.handlers.values(), key=lambda each: each.name):
        if not handler.private:
            _add_handler(paths, schemas, info, handler)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": about,
        "paths": dict(sorted(paths.items())),
        "components": {"parameters": _PARAMETERS, "responses": _RESPONSES, "schemas": schemas},
    }
    if ingress_url is not None:
        document["servers"] = [{"url": ingress_url}]
    return document


def _add_handler(paths: dict[str, Any], schemas: dict[str, Any], info: ServiceInfo, handler: HandlerInfo) -> None:
    name, key = handler.name, "{key}/" if info.keyed else ""
    target = f"{info.name}/{key}{name}"
    keys = [_parameter("key")] if info.keyed else []
    in_workflow = info.kind is ServiceKind.WORKFLOW
    calling = keys if in_workflow else [*keys, _parameter("idempotencyKeyHeader")]
    request = _request(schemas, handler)
    result = _result(schemas, handler)
    failed = {"default": _response("GenericError")}
    paths[f"/restate/call/{target}"] = {
        "post": {
            "operationId": name,
            "summary": name,
            "description": handler.description or f"Call {info.name}/{name} and wait for its result",
            "parameters": calling,
            **request,
            "responses": {"200": result, **failed},
        }
    }
    paths[f"/restate/send/{target}"] = {
        "post": {
            "operationId": f"{name}Send",
            "summary": name,
            "description": handler.description or f"Send to {info.name}/{name} and do not wait",
            "tags": ["Send"],
            "parameters": [*calling, _parameter("delay")],
            **request,
            "responses": {"202": _response("Send"), **failed},
        }
    }
    if in_workflow and handler.kind is not HandlerKind.WORKFLOW:
        return  # what is found again is the run
    base, looking = f"/restate/invocation/{target}/{{idempotencyKey}}", [*keys, _parameter("idempotencyKeyPath")]
    if in_workflow:
        base, looking = f"/restate/workflow/{info.name}/{{key}}", keys
    for verb, tag in (("attach", "Attach"), ("output", "Get Output")):
        answers = {"200": result, "404": _response("InvocationNotFoundError"), **failed}
        if verb == "output":
            answers["470"] = _response("InvocationNotReadyError")
        paths[f"{base}/{verb}"] = {
            "get": {
                "operationId": f"{name}{verb.capitalize()}",
                "summary": name,
                "description": f"{_INSTEAD[verb]} {handler.description or ''}".strip(),
                "tags": [tag],
                "deprecated": True,
                "parameters": looking,
                "responses": answers,
            }
        }


_INSTEAD: Final = {
    verb: f"Deprecated: POST /restate/lookup computes the invocation's id, GET /restate/{verb}/{{invocationId}} asks."
    for verb in ("attach", "output")
}


def _request(schemas: dict[str, Any], handler: HandlerInfo) -> dict[str, Any]:
    if handler.input_content_type is None:
        return {}
    content = _content(schemas, f"{handler.name}Request", handler.input_content_type, handler.input_schema)
    return {"requestBody": {"required": handler.input_required, "content": content}}


def _result(schemas: dict[str, Any], handler: HandlerInfo) -> dict[str, Any]:
    if handler.output_content_type is None:
        return {"description": "Empty"}
    name = f"{handler.name}Response"
    return {
        "description": "The result",
        "content": _content(schemas, name, handler.output_content_type, handler.output_schema),
    }


def _content(
    schemas: dict[str, Any], name: str, content_type: str, schema: dict[str, object] | bool | None
) -> dict[str, Any]:
    if schema is None:
        return {content_type: {}}
    reference = f"#/components/schemas/{name}"
    schemas[name] = _moved(schema, reference)
    return {content_type: {"schema": {"$ref": reference}}}


def _moved(schema: Any, reference: str) -> Any:
    """A schema whose references to itself lead to where it is now: `#/$defs/X` was relative to its own root."""
    if isinstance(schema, list):
        return [_moved(each, reference) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: f"{reference}{value[1:]}"
        if name == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/"))
        else _moved(value, reference)
        for name, value in schema.items()
    }


def _parameter(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/parameters/{name}"}


def _response(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{name}"}


def _error_response(description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/RestateError"}}}
    return {"description": description, "content": content}


_RESPONSES: Final = {
    "GenericError": _error_response("The request was not served, or the invocation failed"),
    "InvocationNotFoundError": _error_response("There is no such invocation"),
    "InvocationNotReadyError": _error_response("The invocation is not completed"),
    "Send": {"description": "Accepted", "content": {"application/json": {"schema": _RECEIPT}}},
}
