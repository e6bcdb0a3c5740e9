"""The admin port: what people and tools do to invocations, state, services and deployments. See docs/http-api.md.

Every route exists unversioned and below `/v2`, `/v3` and `/v4`. Paths, verbs, statuses and bodies are those of
restate-server 1.7; each group of routes is a file of its own beside this one. What goes for all of them is here: the
versions, who may ask (docs/security.md), the limits, compression, and what an error says. Beside restate-server's
`message` and `restate_code`, errors say whose fault it is (`source`), whether anything was `accepted`, and whether the
request may be sent again (`retryable`); where a body is empty or text, as restate-server has it, three headers do.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from perdure.errors import Forbidden, RequestError
from perdure.model.keys import Role
from perdure.runtime.deployments import DeploymentError, Deployments
from perdure.telemetry.history import History
from perdure.web.approvals import ApprovalRoutes
from perdure.web.compression import compressed
from perdure.web.deployments import DeploymentRoutes
from perdure.web.features import FEATURES, FeatureRoutes
from perdure.web.forwarding import Application, ForwardingRoutes
from perdure.web.http import (
    ERROR_SOURCE,
    JSON,
    TEXT,
    CallerGone,
    MethodNotAllowed,
    Receive,
    Rejection,
    Request,
    Response,
    Route,
    Router,
    Scope,
    Send,
    error_headers,
    explained,
    json_response,
    logger,
    respond,
    serve_lifespan,
)
from perdure.web.invocations import InvocationRefused, InvocationRoutes
from perdure.web.keys import KeyRoutes
from perdure.web.metrics import MetricsRoute
from perdure.web.openapi import AdminError, Source, admin_openapi
from perdure.web.operations import Operation
from perdure.web.overview import OverviewRoute
from perdure.web.security import Guard, Sources
from perdure.web.serdes import SerdeRoutes
from perdure.web.services import ServiceRoutes
from perdure.web.sessions import SessionRoutes
from perdure.web.sql import QueryRoutes
from perdure.web.state import StateRoutes
from perdure.web.ui import UiRoutes

if TYPE_CHECKING:
    from perdure.runtime.node import Node
    from perdure.sql.pool import Queries

__all__ = ["Admin"]

_VERSIONS: Final = ("v2", "v3", "v4")
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PASSING: Final = frozenset({425, 429, 503})  # what may be otherwise a moment later


class VersionInformation(msgspec.Struct):
    version: str
    min_admin_api_version: int
    max_admin_api_version: int
    ingress_endpoint: str | None
    features: dict[str, bool]


class ClusterHealth(msgspec.Struct):
    """One node is no cluster: its metadata is in its own store."""

    cluster_name: str
    metadata_cluster_health: None = None


class Admin:
    """The ASGI application of the admin port.

    `concurrency_limit` is how many requests at once are served; more are answered 429. `/health` always answers.
    `ingress` is the application of the other port, for the console to call handlers by.
    """

    def __init__(
        self,
        node: "Node",
        *,
        version: str,
        ingress_endpoint: Callable[[], str | None] = lambda: None,
        request_size_limit: int = 32 * 1024 * 1024,
        concurrency_limit: int | None = None,
        queries: "Queries | None" = None,
        guard: Guard | None = None,
        sources: Sources | None = None,
        history: History | None = None,
        ingress: Application | None = None,
    ) -> None:
        self._node = node
        self._history = history or History()
        self._ingress = ingress
        self._guard = guard
        self._sources = sources
        self._queries = queries
        self._version = version
        self._ingress_endpoint = ingress_endpoint
        self._size_limit = request_size_limit
        self._concurrency_limit = concurrency_limit
        self._active = 0
        self._document: bytes | None = None
        self._router = self._routes()

    def routes(self) -> list[Route]:
        """Every route, unversioned."""
        return self._router.routes()

    def _routes(self) -> Router:
        router = Router()
        node, limit = self._node, self._size_limit
        operation = Operation("health", "200 when requests are served", {200: None})
        router.add("GET", "/health", self._health, role=None, operation=operation)
        operation = Operation("version", "What this server is", {200: VersionInformation})
        router.add("GET", "/version", self._show_version, role=Role.READ, operation=operation)
        operation = Operation("cluster_health", "For clients that ask", {200: ClusterHealth}, deprecated=True)
        router.add("GET", "/cluster-health", self._cluster_health, role=Role.READ, operation=operation)
        operation = Operation("openapi", "This document", {200: dict[str, Any]})
        router.add("GET", "/openapi", self._openapi, role=Role.READ, operation=operation)
        InvocationRoutes(node, limit).add_to(router)
        deployments = Deployments(node)
        DeploymentRoutes(deployments, limit).add_to(router)
        ServiceRoutes(deployments, node.registry, limit, self._ingress_endpoint).add_to(router)
        StateRoutes(node, limit).add_to(router)
        ApprovalRoutes(node, limit).add_to(router)
        SessionRoutes(node, limit).add_to(router)
        if self._queries is not None:
            QueryRoutes(self._queries, limit).add_to(router)
        MetricsRoute(node, self._version, self._queries).add_to(router)
        OverviewRoute(node, self._version, self._history).add_to(router)
        if self._ingress is not None:
            ForwardingRoutes(node, self._ingress).add_to(router)
        KeyRoutes(node, limit).add_to(router)
        FeatureRoutes(node.registry, limit).add_to(router)
        SerdeRoutes(node, limit).add_to(router)
        UiRoutes().add_to(router)
        return router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await serve_lifespan(scope, receive, send)
        request = Request(scope, receive)
        self._active += 1
        try:
            response = await self._answer(request)
            if request.method == "HEAD":
                response = response._replace(body=b"")
            await respond(send, await compressed(request, response))
        except (CallerGone, asyncio.CancelledError):
            return  # its caller has left
        except RequestError as error:  # too late for an answer: what was sent is cut off
            logger.warning("%s %s was cut off: %s", request.method, request.path, error.message)
        finally:
            self._active -= 1

    async def _answer(self, request: Request) -> Response:
        """The response, whatever happens. Raises `CallerGone` if nobody is there to read it."""
        try:
            response = await self._route(request)
        except CallerGone:
            raise
        except RequestError as error:
            return self._refusal(request, error)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return self._refusal(request, RequestError("internal error; the server's log says more"))
        if response.status >= 400 and not any(name == ERROR_SOURCE for name, _ in response.headers):
            return explained(response, *self._explanation(request, response.status))
        return response

    async def _route(self, request: Request) -> Response:
        segments = request.parse_path().split("/")[1:]
        if segments != ["health"] and self._concurrency_limit is not None and self._active > self._concurrency_limit:
            return Response(429, [])
        if segments[0] in _VERSIONS:
            segments = segments[1:] or [""]
            if segments == [""] and request.path.endswith("/"):
                return Response(404, [])
        elif segments[0] == "v1" and segments[1:] != [""]:
            text = f"admin API version 1 is not supported, use {', '.join(_VERSIONS)}"
            return Response(400, [TEXT], text.encode())
        found = self._router.find(request.method, segments)
        if found is None:
            return Response(404, [])
        return await self._serve(request, *found)

    # Who may ask

    async def _serve(self, request: Request, route: Route, values: dict[str, str]) -> Response:
        """The answer, if who asks may have it. What changes something goes to the audit log, whatever comes of it."""
        if route.role is None:
            return await route.handler(request, **values)
        self._check_source(request)
        if self._guard is None:
            return await route.handler(request, **values)
        key = self._guard.admit(request, route.role)
        if route.role is Role.READ or request.method in _READING:
            return await route.handler(request, **values)
        status: int | None = None
        try:
            response = await route.handler(request, **values)
            status = response.status
            return response
        except RequestError as error:
            status = error.status
            raise
        except Exception:
            status = 500
            raise
        finally:
            self._guard.audit.acted(request, key, values, status)

    def _check_source(self, request: Request) -> None:
        if self._sources is None:
            return
        try:
            self._sources.check(request)
        except Forbidden as error:
            if self._guard is not None:
                self._guard.refuse(request, error)
            raise

    # Errors

    def _refusal(self, request: Request, error: RequestError) -> Response:
        source, accepted, retryable = self._explanation(request, error.status, error)
        if isinstance(error, Rejection):
            response = Response(error.status, [TEXT], error.message.encode())
        else:
            code = getattr(error, "restate_code", None)
            body = AdminError(error.message, code, source, accepted, retryable)
            if isinstance(error, InvocationRefused):
                body.invocation_id = error.invocation_id
            response = json_response(error.status, body)
        response.headers.extend(error_headers(error))
        if isinstance(error, MethodNotAllowed):
            response.headers.append((b"allow", ",".join(error.allowed).encode()))
        return explained(response, source, accepted, retryable)

    def _explanation(
        self, request: Request, status: int, error: RequestError | None = None
    ) -> tuple[Source, bool | None, bool]:
        """Whose fault it is, whether anything was accepted, whether the request may be sent again."""
        reading = request.method in _READING
        again = reading or not request.path.endswith("restart-as-new")  # whatever else is done twice is done once
        if isinstance(error, DeploymentError) and status >= 500:
            return "deployment", False, True
        if status in _PASSING:
            unknown = not reading and status == 503 and self._node.failure is not None
            return ("request" if status == 425 else "server"), (None if unknown else False), again
        if status >= 500 and status != 501:
            return "server", (False if reading else None), again
        return "request", False, False

    # What is here

    async def _health(self, request: Request) -> Response:
        if self._node.ready:
            return Response(200, [])
        body = AdminError("not ready: recovering or stopping", None, "server", False, True)
        return json_response(503, body)

    async def _show_version(self, request: Request) -> Response:
        features = dict.fromkeys(FEATURES, False)
        return json_response(200, VersionInformation(self._version, 2, 4, self._ingress_endpoint(), features))

    async def _cluster_health(self, request: Request) -> Response:
        return json_response(200, ClusterHealth("localcluster"))

    async def _openapi(self, request: Request) -> Response:
        if self._document is None:
            self._document = msgspec.json.encode(admin_openapi(self.routes(), self._version))
        return Response(200, [JSON], self._document)
