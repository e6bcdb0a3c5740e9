"""The admin port's routes by which a console shows payloads: the endpoint converts them, if its SDK can."""

from typing import TYPE_CHECKING
from urllib.parse import quote

from perdure.errors import Invalid
from perdure.model.ids import parse_deployment_id
from perdure.model.keys import Role
from perdure.runtime.serdes import convert
from perdure.web.http import Request, Response, Router, Unreadable

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["SerdeRoutes"]


class SerdeRoutes:
    """`size_limit` is of a request's body, in bytes."""

    def __init__(self, node: "Node", size_limit: int) -> None:
        self._node = node
        self._size_limit = size_limit

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        for direction in ("decode", "encode"):
            path = f"/internal/services/{{service}}/serdes/{direction}/{{*serde}}"
            router.add("POST", path, getattr(self, f"_{direction}"), role=Role.READ)

    async def _decode(self, request: Request, service: str, serde: str) -> Response:
        return await self._convert(request, service, "decode", serde)

    async def _encode(self, request: Request, service: str, serde: str) -> Response:
        return await self._convert(request, service, "encode", serde)

    async def _convert(self, request: Request, service: str, direction: str, serde: str) -> Response:
        if not serde:
            return Response(404, [])
        deployment = request.parameter("deployment")
        if deployment is not None:
            try:
                parse_deployment_id(deployment)
            except Invalid as error:
                raise Unreadable(f"query: {error.message}") from None
        body = await request.body(self._size_limit)
        answer = await convert(self._node, service, direction, quote(serde), body, deployment)
        content_type = answer.headers.get("content-type", "application/octet-stream")
        return Response(200, [(b"content-type", content_type.encode("latin-1"))], answer.body)
