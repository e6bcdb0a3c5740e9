"""The admin port: health, version, and what people do to invocations and state. See docs/http-api.md.

Every route exists unversioned and below `/v2`, `/v3` and `/v4`. Errors are `{"message", "restate_code"}`. Paths,
verbs and statuses are those of restate-server 1.7, except what is ours:

* `GET /invocations/{id}`: everything known of an invocation, its journal included (`describe`);
* `GET /services/{service}/state/{key}`: `{"state": {name: base64}}`, an object's or workflow's whole state;
* `PATCH` of the same with `{"changes": {name: base64 or null}, "replace": false}`: sets, and clears what is null;
  with `replace`, also everything that is not named. It takes its turn among the exclusive handlers of that key:
  200 when it is done, 202 when it is stored and waits.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec

from perdure.errors import Invalid, NotFound, RequestError
from perdure.model import invocation as states
from perdure.model.actions import Description, Done, Refused
from perdure.model.entries import Entry
from perdure.model.ids import InvocationId, format_invocation_id, parse_invocation_id
from perdure.runtime.deployments import Deployments
from perdure.web.approvals import ApprovalRoutes
from perdure.web.deployments import DeploymentRoutes
from perdure.web.http import (
    CallerGone,
    Receive,
    Request,
    Response,
    Router,
    Scope,
    Send,
    format_time_ns,
    json_response,
    logger,
    read_json,
    respond,
    serve_lifespan,
)
from perdure.web.sessions import SessionRoutes
from perdure.web.sql import QueryRoutes

if TYPE_CHECKING:
    from perdure.runtime.node import Node
    from perdure.sql.pool import Queries

__all__ = ["Admin", "description_to_json"]

_VERSIONS = ("v2", "v3", "v4")
_FEATURES = (
    "vqueues",
    "protocol_v7",
    "invoker_yield",
    "unique_random_seeds",
    "scoped_virtual_objects",
    "kafka_scope",
    "vqueues_migration_skip_completed",
    "vqueues_async_refill",
    "vqueue_obsolete_cleanup",
    "scoped_state_table_migration",
    "scoped_promise_table_migration",
    "preflight_invocation_termination_retention",
)


class Admin:
    """The ASGI application of the admin port."""

    def __init__(
        self,
        node: "Node",
        *,
        version: str,
        ingress_endpoint: Callable[[], str | None] = lambda: None,
        request_size_limit: int = 32 * 1024 * 1024,
        queries: "Queries | None" = None,
    ) -> None:
        self._node = node
        self._queries = queries
        self._deployments = Deployments(node)
        self._version = version
        self._ingress_endpoint = ingress_endpoint
        self._size_limit = request_size_limit
        self._router = self._routes()

    def _routes(self) -> Router:
        router = Router()
        node = self._node
        router.add("GET", "/health", self._health)
        router.add("GET", "/version", self._show_version)
        router.add("GET", "/invocations/{id}", self._describe)
        verbs: dict[str, Callable[[InvocationId, Request], Awaitable[Done | Refused]]] = {
            "cancel": lambda id, _: node.cancel(id),
            "kill": lambda id, _: node.kill(id),
            "pause": lambda id, _: node.pause(id),
            "resume": lambda id, request: node.resume(id, self._repinned(request, "keep")),
            "purge": lambda id, _: node.purge(id),
            "purge-journal": lambda id, _: node.purge(id, journal_only=True),
            "restart-as-new": lambda id, request: node.restart(
                id, keep=_first_entry(request) + 1, deployment=self._repinned(request, "latest")
            ),
        }
        for verb, act in verbs.items():
            router.add("PATCH", f"/invocations/{{id}}/{verb}", self._controlling(act))
        DeploymentRoutes(self._deployments, node.registry, self._size_limit).add_to(router)
        router.add("DELETE", "/invocations/{id}", self._delete)
        for verb, act in verbs.items():
            router.add("POST", f"/internal/invocations_batch_operations/{verb}", self._batch(act))
        router.add("POST", "/services/{service}/state", self._replace_state)
        ApprovalRoutes(node, self._size_limit).add_to(router)
        SessionRoutes(node, self._size_limit).add_to(router)
        if self._queries is not None:
            QueryRoutes(self._queries, self._size_limit).add_to(router)
        router.add("GET", "/services/{service}/state/{key}", self._state)
        router.add("PATCH", "/services/{service}/state/{key}", self._change_state)
        return router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await serve_lifespan(scope, receive, send)
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except RequestError as error:
            code = getattr(error, "restate_code", None)
            response = json_response(error.status, {"message": error.message, "restate_code": code})
        except (CallerGone, asyncio.CancelledError):
            return
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            message = "internal error; the server's log says more"
            response = json_response(500, {"message": message, "restate_code": None})
        try:
            await respond(send, response)
        except asyncio.CancelledError:
            return  # its caller has left
        except RequestError as error:  # too late for an answer: what was sent is cut off
            logger.warning("%s %s was cut off: %s", request.method, request.path, error.message)

    async def _answer(self, request: Request) -> Response:
        segments = request.parse_path().split("/")[1:]
        if segments[0] in _VERSIONS:
            segments = segments[1:]
        elif segments[0] == "v1":
            text = f"admin API version 1 is not supported, use {', '.join(_VERSIONS)}"
            return Response(400, [(b"content-type", b"text/plain; charset=utf-8")], text.encode())
        found = self._router.find(request.method, segments)
        if found is None:
            return Response(404, [])
        handler, values = found
        return await handler(request, **values)

    async def _health(self, request: Request) -> Response:
        if self._node.ready:
            return Response(200, [])
        return json_response(503, {"message": "not ready: recovering or stopping", "restate_code": None})

    async def _show_version(self, request: Request) -> Response:
        version = {
            "version": self._version,
            "min_admin_api_version": 2,
            "max_admin_api_version": 4,
            "ingress_endpoint": self._ingress_endpoint(),
            "features": dict.fromkeys(_FEATURES, False),
        }
        return json_response(200, version)

    def _controlling(
        self, act: Callable[[InvocationId, Request], Awaitable[Done | Refused]]
    ) -> Callable[..., Awaitable[Response]]:
        async def control(request: Request, id: str) -> Response:
            outcome = await act(_invocation_id(id), request)
            if isinstance(outcome, Refused):
                return _refusal(outcome)
            if outcome.new_id is not None:
                return json_response(200, {"new_invocation_id": format_invocation_id(outcome.new_id)})
            return Response(202 if outcome.pending else 200, [])

        return control

    async def _delete(self, request: Request, id: str) -> Response:
        """The older way to end an invocation: the answer is 202 whatever comes of it."""
        identity, mode = _invocation_id(id), request.parameters().get("mode", "cancel").lower()
        acts = {"cancel": self._node.cancel, "kill": self._node.kill, "purge": self._node.purge}
        if mode not in acts:
            raise Invalid(f"mode={mode!r}: it has to be one of {', '.join(acts)}")
        await acts[mode](identity)
        return Response(202, [])

    def _batch(
        self, act: Callable[[InvocationId, Request], Awaitable[Done | Refused]]
    ) -> Callable[..., Awaitable[Response]]:
        """The same for many invocations, one after the other."""

        async def control(request: Request) -> Response:
            body = await read_json(request, _Batch, self._size_limit)
            if len(body.invocation_ids) > BATCH_LIMIT:
                raise Invalid(f"invocation_ids: at most {BATCH_LIMIT} at once, not {len(body.invocation_ids)}")
            if body.deployment is not None:
                request.query = b"deployment=" + quote(body.deployment).encode()
            succeeded: list[Any] = []
            failed: list[dict[str, str]] = []
            for id in body.invocation_ids:
                try:
                    outcome = await act(_invocation_id(id), request)
                except RequestError as error:
                    failed.append({"invocation_id": id, "error": error.message})
                    continue
                if isinstance(outcome, Refused):
                    failed.append({"invocation_id": id, "error": outcome.message})
                elif outcome.new_id is not None:
                    new_id = format_invocation_id(outcome.new_id)
                    succeeded.append({"old_invocation_id": id, "new_invocation_id": new_id})
                else:
                    succeeded.append(id)
            return json_response(200, {"succeeded": succeeded, "failed": failed})

        return control

    def _repinned(self, request: Request, default: str) -> str | None:
        """The query's `deployment`, as the node takes it. Raises `Invalid` for one that is not there."""
        wanted = request.parameters().get("deployment", default)
        if wanted.lower() == "keep":
            return None
        if wanted.lower() == "latest":
            return ""
        if self._node.registry.deployment(wanted) is None:
            raise Invalid(f"deployment {wanted!r} not found")
        return wanted

    async def _describe(self, request: Request, id: str) -> Response:
        outcome = await self._node.describe(_invocation_id(id))
        if isinstance(outcome, Refused):
            return _refusal(outcome)
        return json_response(200, description_to_json(outcome))

    async def _state(self, request: Request, service: str, key: str) -> Response:
        self._check_object(service)
        return json_response(200, {"state": await self._node.state(service, key)})

    async def _replace_state(self, request: Request, service: str) -> Response:
        """An object's whole state becomes `new_state`, whose values are lists of bytes; `version` is of the old one."""
        body = await read_json(request, _NewState, self._size_limit)
        if self._node.registry.service(service) is not None or body.new_state:
            self._check_object(service)
        if body.version is not None:
            current = await self._node.state(service, body.object_key)
            if state_version(current) != body.version:
                return Response(202, [])  # the answer is the same: the change is dropped
        changes: dict[str, bytes | None] = {name: bytes(value) for name, value in body.new_state.items()}
        await self._node.change_state(service, body.object_key, changes, replace=True)
        return Response(202, [])

    async def _change_state(self, request: Request, service: str, key: str) -> Response:
        self._check_object(service)
        change = await read_json(request, _StateChange, self._size_limit)
        done = await self._node.change_state(service, key, change.changes, change.replace)
        return Response(202 if done.pending else 200, [])

    def _check_object(self, name: str) -> None:
        service = self._node.registry.service(name)
        if service is None:
            raise NotFound(f"service {name!r} not found")
        if not service.keyed:
            raise Invalid(f"{name} is a service: only virtual objects and workflows have state")


BATCH_LIMIT = 1000
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Batch(msgspec.Struct):
    invocation_ids: list[str]
    deployment: str | None = None


class _NewState(msgspec.Struct):
    object_key: str
    new_state: dict[str, list[_Byte]]
    version: str | None = None


def state_version(state: Mapping[str, bytes]) -> str:
    """What names the content of an object's state: a digest of its sorted pairs, as restate-server makes it."""
    digest = hashlib.sha256()
    for index, (name, value) in enumerate(sorted(state.items())):
        digest.update(index.to_bytes(8, "big") + b"\1" + name.encode() + b"\2" + value + b"\3")
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


class _StateChange(msgspec.Struct):
    changes: dict[str, bytes | None]
    replace: bool = False


def _refusal(refused: Refused) -> Response:
    return json_response(refused.status, {"message": refused.message, "restate_code": None})


def _invocation_id(text: str) -> InvocationId:
    try:
        return parse_invocation_id(text)
    except Invalid as error:
        raise Invalid(f"invocation_id: {error.message}") from None


def _first_entry(request: Request) -> int:
    text = request.parameters().get("from", "0")
    if not text.isdecimal() or len(text) > 9:
        raise Invalid(f"from={text!r}: it has to be the index of an entry of the journal")
    return int(text)


# ---- an invocation as JSON

_STATUS = {
    states.Scheduled: "scheduled",
    states.Inboxed: "inboxed",
    states.Invoked: "running",
    states.Suspended: "suspended",
    states.Paused: "paused",
    states.Completed: "completed",
}


def description_to_json(description: Description) -> dict[str, Any]:
    """What `GET /invocations/{id}` shows. Bytes are bytes here, and base64 in JSON; times are RFC 3339."""
    it = description.invocation
    target = it.target
    return {
        "id": format_invocation_id(it.id),
        "target": str(target),
        "service": target.service,
        "handler": target.handler,
        "key": target.key,
        "handler_kind": target.kind.value,
        **_standing(it.status),
        "created_at": format_time_ns(it.created_at),
        "started_at": _time(it.started_at),
        "attempts": it.attempts,
        "idempotency_key": it.idempotency_key,
        "caller": None if it.caller is None else format_invocation_id(it.caller),
        "restarted_from": None if it.restarted_from is None else format_invocation_id(it.restarted_from),
        "ahead": description.ahead,
        "journal": [
            {"index": index, "appended_at": format_time_ns(at), **_entry(entry)}
            for index, (at, entry) in enumerate(description.entries)
        ],
    }


def _standing(status: states.Status) -> dict[str, Any]:
    """The status, and what belongs to that status only."""
    facts: dict[str, Any] = {"status": _STATUS[type(status)], "last_failure": None}
    if isinstance(status, states.Scheduled):
        facts["scheduled_for"] = format_time_ns(status.at)
    elif isinstance(status, states.Invoked):
        if status.retry_at is not None:
            facts["status"] = "backing-off"
            facts["retry_at"] = format_time_ns(status.retry_at)
        facts["failures"] = status.failures
        facts["last_failure"] = _attempt_failure(status.failure)
    elif isinstance(status, states.Suspended):
        facts["waiting_for"] = msgspec.to_builtins(status.waiting)
    elif isinstance(status, states.Paused):
        facts["last_failure"] = _attempt_failure(status.failure)
    elif isinstance(status, states.Completed):
        facts["completed_at"] = format_time_ns(status.at)
        facts["result"] = _plain(status.result)
    return facts


def _attempt_failure(failure: states.AttemptFailure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    facts: dict[str, Any] = msgspec.to_builtins(failure)
    facts["at"] = format_time_ns(failure.at)
    return facts


def _time(at: int | None) -> str | None:
    return None if at is None else format_time_ns(at)


def _entry(entry: Entry) -> dict[str, Any]:
    return {"kind": type(entry).__name__, **_plain(entry)}


def _plain(value: Any) -> dict[str, Any]:
    """A struct's fields; nested structs say what they are under `kind`."""
    return {name: _part(getattr(value, name)) for name in value.__struct_fields__}


def _part(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {"kind": type(value).__name__, **_plain(value)}
    if isinstance(value, tuple):
        return [_part(each) for each in value]
    return value
