"""The admin port's routes of deployments and services, and their JSON: restate-server's, to the field.

Unversioned and from `/v3` on a registration does not force by default, and one of a known address answers 200; below
`/v2` it forces by default, and one of a known address answers 409 unless forced.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from perdure.errors import Invalid, NotFound
from perdure.model.deployments import Deployment, HttpEndpoint, LambdaEndpoint, ProtocolMode
from perdure.model.headers import MASK, is_secret, masked
from perdure.model.keys import Role
from perdure.model.services import HandlerInfo, HandlerKind, RetryPolicy, ServiceInfo, ServiceKind
from perdure.runtime.deployments import DeploymentError, Deployments, Registration, Update
from perdure.runtime.registry import Registry
from perdure.web.durations import format_duration, parse_duration_ms
from perdure.web.http import (
    Malformed,
    MethodNotAllowed,
    Request,
    Response,
    Router,
    format_time_ns,
    json_response,
    read_json,
)

__all__ = ["DeploymentRoutes"]

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
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class _RegisterBody(msgspec.Struct):
    uri: str | None = None
    arn: str | None = None
    assume_role_arn: str | None = None
    additional_headers: dict[str, str] | None = None
    metadata: dict[str, str] | None = None
    use_http_11: bool = False
    breaking: bool = False
    force: bool | None = None
    dry_run: bool = False
    auth: dict[str, object] | None = None


class _UpdateBody(msgspec.Struct):
    uri: str | None = None
    arn: str | None = None
    assume_role_arn: str | None = None
    additional_headers: dict[str, str] | None = None
    use_http_11: bool = False
    overwrite: bool = False
    dry_run: bool = False


class _ServiceBody(msgspec.Struct):
    public: bool | None = None
    idempotency_retention: str | None = None
    workflow_completion_retention: str | None = None
    journal_retention: str | None = None
    inactivity_timeout: str | None = None
    abort_timeout: str | None = None


class DeploymentRoutes:
    """What of the admin port is about deployments and services. `size_limit` is of a request's body, in bytes."""

    def __init__(self, deployments: Deployments, registry: Registry, size_limit: int) -> None:
        self._deployments = deployments
        self._registry = registry
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        router.add("GET", "/deployments", self._list, role=Role.READ)
        router.add("POST", "/deployments", self._register, role=Role.ADMIN)
        router.add("GET", "/deployments/{id}", self._show, role=Role.READ)
        router.add("PATCH", "/deployments/{id}", self._update, role=Role.ADMIN)
        router.add("PUT", "/deployments/{id}", self._replace, role=Role.ADMIN)
        router.add("DELETE", "/deployments/{id}", self._remove, role=Role.ADMIN)
        router.add("GET", "/services", self._services, role=Role.READ)
        router.add("GET", "/services/{service}", self._service, role=Role.READ)
        router.add("PATCH", "/services/{service}", self._change_service, role=Role.ADMIN)
        router.add("GET", "/services/{service}/handlers", self._handlers, role=Role.READ)
        router.add("GET", "/services/{service}/handlers/{handler}", self._handler, role=Role.READ)

    # Deployments

    async def _list(self, request: Request) -> Response:
        listed = [_deployment(each, detailed=False) for each in self._deployments.shown()]
        return json_response(200, {"deployments": listed})

    async def _register(self, request: Request) -> Response:
        body = await read_json(request, _RegisterBody, self._size_limit)
        old_rules = request.path.startswith("/v2/")
        endpoint = _endpoint(body.uri, body.arn, body.assume_role_arn, body.use_http_11)
        if endpoint is None:
            raise Malformed("either uri or arn is needed: where the services are served")
        if body.auth is not None:
            raise Invalid("auth: Google ID tokens are not supported; additional_headers may hold a token")
        wanted = Registration(
            endpoint,
            _checked_headers(body.additional_headers or {}, {}),
            body.metadata or {},
            old_rules if body.force is None else body.force,
            body.breaking,
            body.dry_run,
        )
        deployment, fresh = await self._deployments.register(wanted)
        request.affected = {"id": deployment.id, "address": deployment.endpoint.address}
        status = 201 if fresh or (old_rules and wanted.force) else 200
        if old_rules and not fresh and not wanted.force:
            raise DeploymentError(f"{endpoint.address} is registered as {deployment.id}", "META0004", 409)
        answer = {
            "id": deployment.id,
            "services": [_service(each.info, deployment.id, each.number) for each in deployment.revisions.values()],
            "min_protocol_version": deployment.oldest,
            "max_protocol_version": deployment.newest,
            "sdk_version": deployment.sdk,
        }
        return json_response(status, answer, (b"location", f"deployments/{deployment.id}".encode()))

    async def _show(self, request: Request, id: str) -> Response:
        found = next((each for each in self._deployments.shown() if each.id == id), None) or self._deployments.get(id)
        return json_response(200, _deployment(found, detailed=True))

    async def _update(self, request: Request, id: str) -> Response:
        body = await read_json(request, _UpdateBody, self._size_limit)
        endpoint = _endpoint(body.uri, body.arn, body.assume_role_arn, body.use_http_11)
        known = self._deployments.get(id)
        if endpoint is None and body.use_http_11 and isinstance(known.endpoint, HttpEndpoint):
            endpoint = HttpEndpoint(known.endpoint.uri, "1.1")
        headers = None if body.additional_headers is None else _checked_headers(body.additional_headers, known.headers)
        changed = await self._deployments.update(id, Update(endpoint, headers, body.overwrite, body.dry_run))
        return json_response(200, _deployment(changed, detailed=True))

    async def _replace(self, request: Request, id: str) -> Response:
        if not request.path.startswith("/v2/"):
            raise MethodNotAllowed("PUT is for /v2 only: PATCH changes a deployment")
        body = await read_json(request, _UpdateBody, self._size_limit)
        endpoint = _endpoint(body.uri, body.arn, body.assume_role_arn, body.use_http_11)
        headers = _checked_headers(body.additional_headers or {}, self._deployments.get(id).headers)
        changed = await self._deployments.update(id, Update(endpoint, headers, True, body.dry_run))
        return json_response(200, _deployment(changed, detailed=True))

    async def _remove(self, request: Request, id: str) -> Response:
        if request.parameters().get("force") != "true":
            return Response(501, [])
        await self._deployments.remove(id)
        return Response(202, [])

    # Services

    async def _services(self, request: Request) -> Response:
        return json_response(200, {"services": [self._described(each) for each in self._registry.services()]})

    async def _service(self, request: Request, service: str) -> Response:
        return json_response(200, self._described(self._known(service)))

    async def _handlers(self, request: Request, service: str) -> Response:
        known = self._known(service)
        return json_response(200, {"handlers": [_handler(each) for each in known.handlers.values()]})

    async def _handler(self, request: Request, service: str, handler: str) -> Response:
        found = self._known(service).handlers.get(handler)
        if found is None:
            raise NotFound(f"service {service!r} has no handler {handler!r}")
        return json_response(200, _handler(found))

    async def _change_service(self, request: Request, service: str) -> Response:
        body = await read_json(request, _ServiceBody, self._size_limit)
        known = self._known(service)
        if self._registry.latest(service) is None:
            raise Invalid(f"{service} is served by this process: its options are in its code")
        changes: dict[str, object] = {} if body.public is None else {"private": not body.public}
        for name, field in _DURATIONS.items():
            text = getattr(body, name)
            if text is not None:
                changes[field] = parse_duration_ms(text)
        if "workflow_retention_ms" in changes and known.kind is not ServiceKind.WORKFLOW:
            raise Invalid(f"workflow_completion_retention: {service} is no workflow")
        await self._deployments.change_service(service, changes)
        return json_response(200, self._described(self._known(service)))

    def _known(self, name: str) -> ServiceInfo:
        found = self._registry.service(name)
        if found is None:
            raise NotFound(f"service {name!r} not found")
        return found

    def _described(self, info: ServiceInfo) -> dict[str, Any]:
        return _service(info, *self._registry.whereabouts(info.name))


_DURATIONS: Final = {
    "idempotency_retention": "idempotency_retention_ms",
    "workflow_completion_retention": "workflow_retention_ms",
    "journal_retention": "journal_retention_ms",
    "inactivity_timeout": "inactivity_timeout_ms",
    "abort_timeout": "abort_timeout_ms",
}


# ---- from JSON


def _endpoint(
    uri: str | None, arn: str | None, role: str | None, http_11: bool
) -> HttpEndpoint | LambdaEndpoint | None:
    if uri is not None and arn is not None:
        raise Invalid("uri and arn can't both be given")
    if arn is not None:
        parts = arn.split(":")
        known = [parts[0], *parts[2:3], *parts[5:6]]
        if len(parts) != 8 or known != ["arn", "lambda", "function"] or not all(parts):
            raise Invalid(
                f"arn: {arn!r} has to name a version or an alias: arn:aws:lambda:REGION:ACCOUNT:function:NAME:VERSION"
            )
        return LambdaEndpoint(arn, role)
    if uri is None:
        return None
    try:
        parsed = urlsplit(uri)
        valid = parsed.scheme in ("http", "https") and parsed.hostname and (parsed.port is None or parsed.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise Malformed(f"uri: {uri!r} has to be absolute, http:// or https://, with a host")
    if not (uri.isascii() and uri.isprintable()) or " " in uri:  # the parser passes over some of them
        raise Malformed(f"uri: {uri!r} has characters that have to be percent-encoded")
    if parsed.query or parsed.fragment or parsed.username or parsed.password:
        raise Invalid("uri: no query, fragment, user or password may be in it; put secrets into additional_headers")
    return HttpEndpoint(uri.rstrip("/"), "1.1" if http_11 else "2")


def _checked_headers(headers: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    """Names in lower case. A secret that is given as it is shown stays what is `known`."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise Invalid(f"additional_headers: {name!r} is no name of a header")
        if not value.isprintable() or not value.isascii():
            raise Invalid(f"additional_headers: the value of {name} has characters that no header can hold")
        lower = name.lower()
        if value == MASK and is_secret(lower):
            if lower not in known:
                raise Invalid(f"additional_headers: {MASK} stands for the value of {name}, which is not known; give it")
            value = known[lower]
        checked[lower] = value
    return checked


# ---- to JSON


def _without_none(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _deployment(deployment: Deployment, *, detailed: bool) -> dict[str, Any]:
    endpoint = deployment.endpoint
    services: list[Any] = [{"name": name, "revision": each.number} for name, each in deployment.revisions.items()]
    if detailed:
        services = [_service(each.info, deployment.id, each.number) for each in deployment.revisions.values()]
    if isinstance(endpoint, LambdaEndpoint):
        where = {
            "arn": endpoint.arn,
            "assume_role_arn": endpoint.assume_role_arn,
            "compression": "Zstd" if endpoint.compression == "zstd" else None,
        }
    else:
        assert isinstance(endpoint, HttpEndpoint)
        where = {
            "uri": f"{endpoint.uri}/",
            "protocol_type": "BidiStream" if deployment.mode is ProtocolMode.BIDI_STREAM else "RequestResponse",
            "http_version": "HTTP/1.1" if endpoint.http_version == "1.1" else "HTTP/2.0",
        }
    return _without_none(
        {
            "id": deployment.id,
            **where,
            "additional_headers": {name: masked(name, value) for name, value in deployment.headers.items()} or None,
            "metadata": deployment.metadata or None,
            "created_at": format_time_ns(deployment.created_at),
            "min_protocol_version": deployment.oldest,
            "max_protocol_version": deployment.newest,
            "sdk_version": deployment.sdk,
            "services": services,
        }
    )


def _service(info: ServiceInfo, deployment_id: str, revision: int) -> dict[str, Any]:
    handlers = list(info.handlers.values())
    some = handlers[0] if handlers else HandlerInfo(info.name, "", HandlerKind.PLAIN)
    workflow = next((each for each in handlers if each.kind is HandlerKind.WORKFLOW), None)
    return _without_none(
        {
            "name": info.name,
            "ty": _KIND[info.kind],
            "handlers": [_handler(each) for each in handlers],
            "deployment_id": deployment_id,
            "revision": revision,
            "public": any(not each.private for each in handlers),
            "idempotency_retention": format_duration(some.idempotency_retention_ms),
            "workflow_completion_retention": None
            if workflow is None
            else format_duration(workflow.workflow_retention_ms),
            "journal_retention": format_duration(some.journal_retention_ms),
            "inactivity_timeout": format_duration(some.inactivity_timeout_ms),
            "abort_timeout": format_duration(some.abort_timeout_ms),
            "enable_lazy_state": some.lazy_state,
            "retry_policy": _retry_policy(some.retry_policy),
            "documentation": info.description,
            "metadata": info.metadata or None,
        }
    )


def _retry_policy(policy: RetryPolicy) -> dict[str, Any]:
    return {
        "initial_interval": format_duration(int(policy.initial_interval * 1000)),
        "exponentiation_factor": policy.factor,
        "max_attempts": policy.max_attempts,
        "max_interval": format_duration(int(policy.max_interval * 1000)),
        "on_max_attempts": "Pause" if policy.on_exhausted == "pause" else "Kill",
    }


def _handler(info: HandlerInfo) -> dict[str, Any]:
    return _without_none(
        {
            "name": info.name,
            "ty": _HANDLER_KIND.get(info.kind),
            "public": not info.private,
            "input_description": info.input_content_type or ("none" if not info.input_required else "one of [any]"),
            "output_description": info.output_content_type or "none",
            "input_json_schema": info.input_schema,
            "output_json_schema": info.output_schema,
            "retry_policy": _retry_policy(info.retry_policy),
            "documentation": info.description,
            "metadata": info.metadata or None,
            "idempotency_retention": format_duration(info.idempotency_retention_ms),
            "journal_retention": format_duration(info.journal_retention_ms),
            "workflow_completion_retention": format_duration(info.workflow_retention_ms)
            if info.kind is HandlerKind.WORKFLOW
            else None,
            "inactivity_timeout": format_duration(info.inactivity_timeout_ms),
            "abort_timeout": format_duration(info.abort_timeout_ms),
            "enable_lazy_state": info.lazy_state,
        }
    )
