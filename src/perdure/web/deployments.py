"""The admin port's routes of deployments, and their JSON: restate-server's, to the field.

Unversioned and from `/v3` on a registration does not force by default, and one of a known address answers 200; below
`/v2` it forces by default, and one of a known address answers 409 unless forced.
"""

import re
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from perdure.errors import Invalid
from perdure.model.deployments import (
    Deployment,
    HttpEndpoint,
    LambdaEndpoint,
    ProtocolMode,
    parse_function_arn,
)
from perdure.model.headers import MASK, is_secret, masked
from perdure.model.ids import parse_deployment_id
from perdure.model.keys import Role
from perdure.runtime.deployments import DeploymentError, Deployments, Registration, Update
from perdure.web.http import (
    Malformed,
    MethodNotAllowed,
    Request,
    Response,
    Router,
    Unreadable,
    format_time_ns,
    json_response,
    read_json,
)
from perdure.web.operations import BODY_ERRORS, Operation, Parameter
from perdure.web.services import ServiceMetadata, service_metadata

__all__ = ["DeploymentRoutes"]

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class DeploymentRegistration(msgspec.Struct):
    """An endpoint: `uri` (absolute, http or https), or `arn` of a version or an alias of a Lambda function."""

    uri: str | None = None
    arn: str | None = None
    assume_role_arn: str | None = None
    additional_headers: dict[str, str] | None = None
    metadata: dict[str, str] | None = None
    use_http_11: bool = False
    breaking: bool = False
    force: bool | None = None
    dry_run: bool = False
    auth: dict[str, Any] | None = None


class DeploymentUpdate(msgspec.Struct):
    """What of a deployment is to change; null stays. `overwrite` reads its services anew."""

    uri: str | None = None
    arn: str | None = None
    assume_role_arn: str | None = None
    additional_headers: dict[str, str] | None = None
    use_http_11: bool = False
    overwrite: bool = False
    dry_run: bool = False


class RegistrationAnswer(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    services: list[ServiceMetadata]
    min_protocol_version: int
    max_protocol_version: int
    sdk_version: str | None = None


class ServiceRevision(msgspec.Struct):
    name: str
    revision: int


class _DeploymentFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    uri: str | None = None
    protocol_type: str | None = None
    http_version: str | None = None
    arn: str | None = None
    assume_role_arn: str | None = None
    compression: str | None = None
    additional_headers: dict[str, str] | None = None
    metadata: dict[str, str] | None = None
    created_at: str
    min_protocol_version: int
    max_protocol_version: int
    sdk_version: str | None = None


class DeploymentSummary(_DeploymentFacts, omit_defaults=True, kw_only=True):
    """An HTTP endpoint, which has a `uri`, or a Lambda function, which has an `arn`, and what it serves."""

    services: list[ServiceRevision]


class DeploymentDetails(_DeploymentFacts, omit_defaults=True, kw_only=True):
    """A deployment with its services as it has them."""

    services: list[ServiceMetadata]


class DeploymentList(msgspec.Struct):
    deployments: list[DeploymentSummary]


class DeploymentRoutes:
    """`size_limit` is of a request's body, in bytes."""

    def __init__(self, deployments: Deployments, size_limit: int) -> None:
        self._deployments = deployments
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        tag = "deployment"
        operation = Operation(tag, "The deployments", {200: DeploymentList})
        router.add("GET", "/deployments", self._list, role=Role.READ, operation=operation)
        operation = Operation(
            tag,
            "Register an endpoint and what it serves: 201 new, 200 known",
            {200: RegistrationAnswer, 201: RegistrationAnswer},
            (409, *BODY_ERRORS),
            DeploymentRegistration,
        )
        router.add("POST", "/deployments", self._register, role=Role.ADMIN, operation=operation)
        operation = Operation(tag, "A deployment", {200: DeploymentDetails}, (404,))
        router.add("GET", "/deployments/{deployment}", self._show, role=Role.READ, operation=operation)
        refusals = (404, *BODY_ERRORS)
        operation = Operation(
            tag, "Change where a deployment is, or read it anew", {200: DeploymentDetails}, refusals, DeploymentUpdate
        )
        router.add("PATCH", "/deployments/{deployment}", self._update, role=Role.ADMIN, operation=operation)
        operation = operation._replace(summary="The older way to change one, below /v2 only", public=False)
        router.add("PUT", "/deployments/{deployment}", self._replace, role=Role.ADMIN, operation=operation)
        force = Parameter("force", "Without it nothing is done.", {"type": "boolean", "default": False})
        operation = Operation(tag, "Forget a deployment", {202: None}, (404, 501), parameters=(force,))
        router.add("DELETE", "/deployments/{deployment}", self._remove, role=Role.ADMIN, operation=operation)

    async def _list(self, request: Request) -> Response:
        return json_response(200, DeploymentList([_summary(each) for each in self._deployments.shown()]))

    async def _register(self, request: Request) -> Response:
        body = await read_json(request, DeploymentRegistration, self._size_limit)
        old_rules = request.path.startswith("/v2/")
        endpoint = _endpoint(body.uri, body.arn, body.assume_role_arn, body.use_http_11)
        if endpoint is None:
            raise Malformed("body: either uri or arn is needed: where the services are served")
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
        answer = RegistrationAnswer(
            id=deployment.id,
            services=_services(deployment),
            min_protocol_version=deployment.oldest,
            max_protocol_version=deployment.newest,
            sdk_version=deployment.sdk,
        )
        return json_response(status, answer, (b"location", f"deployments/{deployment.id}".encode()))

    async def _show(self, request: Request, deployment: str) -> Response:
        id = _parsed(deployment)
        found = next((each for each in self._deployments.shown() if each.id == id), None) or self._deployments.get(id)
        return json_response(200, _details(found))

    async def _update(self, request: Request, deployment: str) -> Response:
        id = _parsed(deployment)
        known = self._deployments.get(id)
        body = await read_json(request, DeploymentUpdate, self._size_limit)
        endpoint = _endpoint(body.uri, body.arn, body.assume_role_arn, body.use_http_11)
        if endpoint is None and body.use_http_11 and isinstance(known.endpoint, HttpEndpoint):
            endpoint = HttpEndpoint(known.endpoint.uri, "1.1")
        headers = None if body.additional_headers is None else _checked_headers(body.additional_headers, known.headers)
        changed = await self._deployments.update(id, Update(endpoint, headers, body.overwrite, body.dry_run))
        return json_response(200, _details(changed))

    async def _replace(self, request: Request, deployment: str) -> Response:
        id = _parsed(deployment)
        if not request.path.startswith("/v2/"):
            raise MethodNotAllowed(
                "PUT is for /v2 only: PATCH changes a deployment", ["DELETE", "GET", "HEAD", "PATCH"]
            )
        self._deployments.get(id)
        body = await read_json(request, DeploymentUpdate, self._size_limit)
        endpoint = _endpoint(body.uri, body.arn, body.assume_role_arn, body.use_http_11)
        headers = _checked_headers(body.additional_headers or {}, self._deployments.get(id).headers)
        changed = await self._deployments.update(id, Update(endpoint, headers, True, body.dry_run))
        return json_response(200, _details(changed))

    async def _remove(self, request: Request, deployment: str) -> Response:
        id = _parsed(deployment)
        if not request.flag("force"):
            return Response(501, [])
        await self._deployments.remove(id)
        return Response(202, [])


def _parsed(id: str) -> str:
    try:
        parse_deployment_id(id)
    except Invalid as error:
        raise Unreadable(f"path: {error.message}") from None
    return id


# ---- from JSON


def _endpoint(
    uri: str | None, arn: str | None, role: str | None, http_11: bool
) -> HttpEndpoint | LambdaEndpoint | None:
    if uri is not None and arn is not None:
        raise Invalid("uri and arn can't both be given")
    if arn is not None:
        try:
            parse_function_arn(arn)
        except Invalid as error:
            raise Invalid(f"arn: {error.message}") from None
        return LambdaEndpoint(arn, role)
    if uri is None:
        return None
    if not (uri.isascii() and uri.isprintable()) or " " in uri:  # the parser passes over some of them
        raise Malformed(f"body: uri: {uri!r} has characters that have to be percent-encoded")
    if uri and "://" not in uri[1:]:
        raise Invalid(f"uri: {uri!r} has to be absolute, http:// or https://")
    try:
        parsed = urlsplit(uri)
        valid = parsed.scheme in ("http", "https") and parsed.hostname and (parsed.port is None or parsed.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise Malformed(f"body: uri: {uri!r} has to be absolute, http:// or https://, with a host")
    if parsed.query or parsed.fragment or parsed.username or parsed.password:
        raise Invalid("uri: no query, fragment, user or password may be in it; put secrets into additional_headers")
    return HttpEndpoint(uri.rstrip("/"), "1.1" if http_11 else "2")


def _checked_headers(headers: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    """Names in lower case. A secret that is given as it is shown stays what is `known`."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise Malformed(f"body: additional_headers: {name!r} is no name of a header")
        if not value.isprintable() or not value.isascii():
            raise Malformed(f"body: additional_headers: the value of {name} has characters that no header can hold")
        lower = name.lower()
        if value == MASK and is_secret(lower):
            if lower not in known:
                raise Invalid(f"additional_headers: {MASK} stands for the value of {name}, which is not known; give it")
            value = known[lower]
        checked[lower] = value
    return checked


# ---- to JSON


def _summary(deployment: Deployment) -> DeploymentSummary:
    services = [ServiceRevision(name, each.number) for name, each in deployment.revisions.items()]
    return DeploymentSummary(**_facts(deployment), services=services)


def _details(deployment: Deployment) -> DeploymentDetails:
    return DeploymentDetails(**_facts(deployment), services=_services(deployment))


def _services(deployment: Deployment) -> list[ServiceMetadata]:
    return [service_metadata(each.info, deployment.id, each.number) for each in deployment.revisions.values()]


def _facts(deployment: Deployment) -> dict[str, Any]:
    endpoint = deployment.endpoint
    facts: dict[str, Any] = {
        "id": deployment.id,
        "additional_headers": {name: masked(name, value) for name, value in deployment.headers.items()} or None,
        "metadata": deployment.metadata or None,
        "created_at": format_time_ns(deployment.created_at),
        "min_protocol_version": deployment.oldest,
        "max_protocol_version": deployment.newest,
        "sdk_version": deployment.sdk,
    }
    if isinstance(endpoint, LambdaEndpoint):
        return facts | {
            "arn": endpoint.arn,
            "assume_role_arn": endpoint.assume_role_arn,
            "compression": "Zstd" if endpoint.compression == "zstd" else None,
        }
    assert isinstance(endpoint, HttpEndpoint)
    return facts | {
        "uri": f"{endpoint.uri}/",
        "protocol_type": "BidiStream" if deployment.mode is ProtocolMode.BIDI_STREAM else "RequestResponse",
        "http_version": "HTTP/1.1" if endpoint.http_version == "1.1" else "HTTP/2.0",
    }
