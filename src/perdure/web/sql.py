"""`POST /query`: SQL over what is stored, as restate-server answers it. See docs/sql.md.

`{"query": "SELECT ..."}` is answered with `{"rows": [...]}` if `accept` is exactly `application/json`, otherwise with
an Arrow IPC stream. What is wrong with a query is found before the answer begins, and is `{"message"}` with a status;
what goes wrong later cuts the answer off.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from perdure.model.deployments import LambdaEndpoint
from perdure.model.keys import Role
from perdure.sql.facts import Attempt, DeploymentFacts, Facts, ServiceFacts
from perdure.sql.pool import Queries, QueryRefused
from perdure.web.http import JSON, Departures, Header, Request, Response, Router, json_response, read_json
from perdure.web.operations import BODY_ERRORS, Operation

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["QueryRoutes", "facts_of"]

_ARROW: Final = (b"content-type", b"application/vnd.apache.arrow.stream")


class Query(msgspec.Struct):
    query: str


class Rows(msgspec.Struct):
    """If `accept` is exactly `application/json`; otherwise an Arrow IPC stream."""

    rows: list[dict[str, Any]]


class QueryRoutes:
    """The route of the admin port that answers SQL. `size_limit` is of a request's body, in bytes."""

    def __init__(self, queries: Queries, size_limit: int) -> None:
        self._queries = queries
        self._size_limit = size_limit
        self._departures = Departures(patience=1.0)

    def add_to(self, router: Router) -> None:
        """Make the route known."""
        operation = Operation("introspection", "SQL over what is stored", {200: Rows}, BODY_ERRORS, Query)
        router.add("POST", "/query", self._query, role=Role.READ, operation=operation)

    async def _query(self, request: Request) -> Response:
        asked = await read_json(request, Query, self._size_limit)
        format: Literal["json", "arrow"] = "arrow"
        content_type: Header = _ARROW
        if request.fields.get(b"accept") == JSON[1]:
            format, content_type = "json", JSON
        pieces = self._pieces(request, self._queries.answer(asked.query, format))
        try:
            first = await anext(pieces)  # until it has come, an error can still be an answer
        except QueryRefused as error:
            return json_response(error.status, {"message": error.message})
        except StopAsyncIteration:
            first = b""
        return Response(200, [content_type], _after(first, pieces))

    async def _pieces(self, request: Request, answer: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The answer, until it ends or its caller has left, which ends the query too."""
        caller = self._departures.wait(request.receive)
        try:
            async with contextlib.aclosing(answer):
                async for piece in answer:
                    yield piece
        finally:
            self._departures.done(caller)


async def _after(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece


def facts_of(node: "Node") -> Facts:
    """What a query is told of a node beside what is stored: its attempts, services and deployments."""
    registry = node.registry
    services: list[ServiceFacts] = []
    for info in registry.services():
        deployment, revision = registry.whereabouts(info.name)
        public = any(not handler.private for handler in info.handlers.values())
        services.append(ServiceFacts(info.name, info.kind.value.lower(), revision, public, deployment))
    deployments = [
        DeploymentFacts(
            each.id,
            "lambda" if isinstance(each.endpoint, LambdaEndpoint) else "http",
            each.endpoint.address if isinstance(each.endpoint, LambdaEndpoint) else f"{each.endpoint.address}/",
            each.created_at,
            each.oldest,
            each.newest,
            list(each.revisions),
            each.sdk,
        )
        for each in registry.deployments()
    ]
    attempts = [Attempt(each.invocation, each.since, each.deployment) for each in node.invoker.running()]
    return Facts(attempts, services, deployments)
