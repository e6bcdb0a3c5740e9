"""The admin port's routes of services and their handlers, and their JSON: restate-server's, to the field."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from perdure.errors import Invalid, NotFound
from perdure.model.keys import Role
from perdure.model.services import HandlerInfo, HandlerKind, RetryPolicy, ServiceInfo, ServiceKind
from perdure.runtime.deployments import Deployments
from perdure.runtime.registry import Registry
from perdure.web.durations import format_duration, parse_duration_ms
from perdure.web.http import Malformed, Request, Response, Router, json_response, read_json
from perdure.web.operations import BODY_ERRORS, Operation
from perdure.web.service_openapi import service_openapi

__all__ = ["ServiceMetadata", "ServiceRoutes", "service_metadata"]

_KIND: Final = {
    ServiceKind.SERVICE: "Service",
    ServiceKind.VIRTUAL_OBJECT: "VirtualObject",
    ServiceKind.WORKFLOW: "Workflow",
}
_HANDLER_KIND: Final = {
    HandlerKind.EXCLUSIVE: "Exclusive",
    HandlerKind.SHARED: "Shared",
    HandlerKind.WORKFLOW: "Workflow",
}


class RetryPolicyMetadata(msgspec.Struct):
    initial_interval: str
    exponentiation_factor: float
    max_attempts: int | None
    max_interval: str
    on_max_attempts: str


class HandlerMetadata(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A handler with the options that hold for it, those of its service included. Durations are like `1d`."""

    name: str
    ty: str | None = None
    public: bool
    input_description: str
    output_description: str
    input_json_schema: Any = None
    output_json_schema: Any = None
    retry_policy: RetryPolicyMetadata
    documentation: str | None = None
    metadata: dict[str, str] | None = None
    idempotency_retention: str
    journal_retention: str
    workflow_completion_retention: str | None = None
    inactivity_timeout: str
    abort_timeout: str
    enable_lazy_state: bool


class ServiceMetadata(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A service as new invocations find it. Durations are like `1d`."""

    name: str
    ty: str
    handlers: list[HandlerMetadata]
    deployment_id: str
    revision: int
    public: bool
    idempotency_retention: str
    workflow_completion_retention: str | None = None
    journal_retention: str
    inactivity_timeout: str
    abort_timeout: str
    enable_lazy_state: bool
    retry_policy: RetryPolicyMetadata
    documentation: str | None = None
    metadata: dict[str, str] | None = None


class ServiceList(msgspec.Struct):
    services: list[ServiceMetadata]


class HandlerList(msgspec.Struct):
    handlers: list[HandlerMetadata]


class ServiceChange(msgspec.Struct):
    """What of a service is to change, until it is discovered again; null stays. Durations: `1d`, `PT24H`."""

    public: bool | None = None
    idempotency_retention: str | None = None
    workflow_completion_retention: str | None = None
    journal_retention: str | None = None
    inactivity_timeout: str | None = None
    abort_timeout: str | None = None


_DURATIONS: Final = {
    "idempotency_retention": "idempotency_retention_ms",
    "workflow_completion_retention": "workflow_retention_ms",
    "journal_retention": "journal_retention_ms",
    "inactivity_timeout": "inactivity_timeout_ms",
    "abort_timeout": "abort_timeout_ms",
}


class ServiceRoutes:
    """`ingress_url` says where the services can be called; `size_limit` is of a request's body, in bytes."""

    def __init__(
        self, deployments: Deployments, registry: Registry, size_limit: int, ingress_url: Callable[[], str | None]
    ) -> None:
        self._deployments = deployments
        self._registry = registry
        self._size_limit = size_limit
        self._ingress_url = ingress_url

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        tag, unknown = "service", (404,)
        operation = Operation(tag, "The services", {200: ServiceList})
        router.add("GET", "/services", self._list, role=Role.READ, operation=operation)
        operation = Operation(tag, "A service", {200: ServiceMetadata}, unknown)
        router.add("GET", "/services/{service}", self._show, role=Role.READ, operation=operation)
        refusals = (*unknown, *BODY_ERRORS)
        operation = Operation(tag, "Change options of a service", {200: ServiceMetadata}, refusals, ServiceChange)
        router.add("PATCH", "/services/{service}", self._change, role=Role.ADMIN, operation=operation)
        operation = Operation(tag, "A service's handlers", {200: HandlerList}, unknown)
        router.add("GET", "/services/{service}/handlers", self._handlers, role=Role.READ, operation=operation)
        operation = Operation(tag, "A handler", {200: HandlerMetadata}, unknown)
        router.add("GET", "/services/{service}/handlers/{handler}", self._handler, role=Role.READ, operation=operation)
        operation = Operation(tag, "The OpenAPI document of a service at the ingress", {200: dict[str, Any]}, unknown)
        router.add("GET", "/services/{service}/openapi", self._openapi, role=Role.READ, operation=operation)

    async def _list(self, request: Request) -> Response:
        return json_response(200, ServiceList([self._described(each) for each in self._registry.services()]))

    async def _show(self, request: Request, service: str) -> Response:
        return json_response(200, self._described(self._known(service)))

    async def _handlers(self, request: Request, service: str) -> Response:
        known = self._known(service)
        return json_response(200, HandlerList([_handler(each) for each in known.handlers.values()]))

    async def _handler(self, request: Request, service: str, handler: str) -> Response:
        found = self._known(service).handlers.get(handler)
        if found is None:
            raise NotFound(f"service {service!r} has no handler {handler!r}")
        return json_response(200, _handler(found))

    async def _openapi(self, request: Request, service: str) -> Response:
        known = self._known(service)
        revision = self._registry.whereabouts(service)[1]
        return json_response(200, service_openapi(known, revision, self._ingress_url()))

    async def _change(self, request: Request, service: str) -> Response:
        body = await read_json(request, ServiceChange, self._size_limit)
        changes: dict[str, object] = {} if body.public is None else {"private": not body.public}
        for name, field in _DURATIONS.items():
            text = getattr(body, name)
            if text is not None:
                try:
                    changes[field] = parse_duration_ms(text)
                except Invalid as error:
                    raise Malformed(f"body: {name}: {error.message}") from None
        known = self._known(service)
        if self._registry.latest(service) is None:
            raise Invalid(f"{service} is served by this process: its options are in its code")
        if "workflow_retention_ms" in changes and known.kind is not ServiceKind.WORKFLOW:
            raise Invalid(f"workflow_completion_retention: {service} is no workflow")
        await self._deployments.change_service(service, changes)
        return json_response(200, self._described(self._known(service)))

    def _known(self, name: str) -> ServiceInfo:
        found = self._registry.service(name)
        if found is None:
            raise NotFound(f"service {name!r} not found")
        return found

    def _described(self, info: ServiceInfo) -> ServiceMetadata:
        return service_metadata(info, *self._registry.whereabouts(info.name))


def service_metadata(info: ServiceInfo, deployment_id: str, revision: int) -> ServiceMetadata:
    """A service as a deployment has it."""
    handlers = list(info.handlers.values())
    some = handlers[0] if handlers else HandlerInfo(info.name, "", HandlerKind.PLAIN)
    workflow = next((each for each in handlers if each.kind is HandlerKind.WORKFLOW), None)
    return ServiceMetadata(
        name=info.name,
        ty=_KIND[info.kind],
        handlers=[_handler(each) for each in handlers],
        deployment_id=deployment_id,
        revision=revision,
        public=any(not each.private for each in handlers),
        idempotency_retention=format_duration(some.idempotency_retention_ms),
        workflow_completion_retention=None if workflow is None else format_duration(workflow.workflow_retention_ms),
        journal_retention=format_duration(some.journal_retention_ms),
        inactivity_timeout=format_duration(some.inactivity_timeout_ms),
        abort_timeout=format_duration(some.abort_timeout_ms),
        enable_lazy_state=some.lazy_state,
        retry_policy=_retry_policy(some.retry_policy),
        documentation=info.description,
        metadata=info.metadata or None,
    )


def _retry_policy(policy: RetryPolicy) -> RetryPolicyMetadata:
    return RetryPolicyMetadata(
        format_duration(int(policy.initial_interval * 1000)),
        policy.factor,
        policy.max_attempts,
        format_duration(int(policy.max_interval * 1000)),
        "Pause" if policy.on_exhausted == "pause" else "Kill",
    )


def _handler(info: HandlerInfo) -> HandlerMetadata:
    is_run = info.kind is HandlerKind.WORKFLOW
    return HandlerMetadata(
        name=info.name,
        ty=_HANDLER_KIND.get(info.kind),
        public=not info.private,
        input_description=_input(info),
        output_description=_output(info),
        input_json_schema=info.input_schema,
        output_json_schema=info.output_schema,
        retry_policy=_retry_policy(info.retry_policy),
        documentation=info.description,
        metadata=info.metadata or None,
        idempotency_retention=format_duration(info.idempotency_retention_ms),
        journal_retention=format_duration(info.journal_retention_ms),
        workflow_completion_retention=format_duration(info.workflow_retention_ms) if is_run else None,
        inactivity_timeout=format_duration(info.inactivity_timeout_ms),
        abort_timeout=format_duration(info.abort_timeout_ms),
        enable_lazy_state=info.lazy_state,
    )


def _input(info: HandlerInfo) -> str:
    if info.input_content_type is None:
        return "one of [any]" if info.input_required else "none"
    return _shape(info.input_schema) or info.input_content_type


def _output(info: HandlerInfo) -> str:
    if info.output_content_type is None:
        return "none"
    shape = _shape(info.output_schema) or info.output_content_type
    return f"optional {shape}" if info.output_content_type_if_empty else shape


def _shape(schema: dict[str, object] | bool | None) -> str | None:
    """A JSON Schema in two words, if it can be said so briefly."""
    if not isinstance(schema, dict):
        return None
    if isinstance(title := schema.get("title"), str):
        return f"JSON '{title}'"
    return f"JSON {schema['type']}" if isinstance(schema.get("type"), str) else None
