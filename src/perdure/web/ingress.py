"""The ingress: how the world outside calls handlers over HTTP. See docs/http-api.md for the routes.

The paths, statuses, headers and bodies are those of restate-server 1.7, so its clients work here. What is ours:

* every error also says whether the request was `accepted` (true: it is durable and goes on; false: nothing was
  kept; null: not known) and whether it is safe to send it again as it is (`retryable`);
* `POST /restate/signals/{invocationId}/{name}` sends a named signal, with the raw body as its value: 202;
* streams (`web.streams`): `GET /restate/streams/{invocationId}/{name}`, `GET /restate/workflow/{name}/{key}/streams/
  {stream}`, and `POST /restate/stream/{service}[/{key}]/{handler}?stream={name}`, which starts what it reads;
* `POST /restate/awakeables/{id}/reject?code=409` chooses the failure's code;
* API keys (docs/security.md): where they are needed, all but `/restate/health` is 401 or 403 without the right one.
* `/restate/approvals/{id}?token=...` is the page behind a signed link to an approval (`web.approval_page`).

Errors have one of two sources. `ingress`: the request could not be served, and the status is HTTP's own.
`invocation`: the invocation ended with a failure, and the status is the code that its author chose.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from perdure.errors import Invalid, NotFound, Overloaded, RequestError, TooLarge, Unavailable
from perdure.model.actions import Accepted, Answer
from perdure.model.entries import Failure, Signal, Value
from perdure.model.ids import InvocationId, format_invocation_id, parse_awakeable_id, parse_invocation_id
from perdure.model.invocation import Target
from perdure.model.keys import Role
from perdure.model.services import HandlerInfo, HandlerKind, ServiceInfo, ServiceKind
from perdure.model.streams import check_stream_name
from perdure.protocol.approvals import Links
from perdure.runtime.keys import shows_key
from perdure.telemetry.metrics import Metrics
from perdure.web.approval_page import ApprovalPages
from perdure.web.durations import parse_duration_ms
from perdure.web.http import (
    TEXT,
    CallerGone,
    Departures,
    Header,
    MethodNotAllowed,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_headers,
    explained,
    format_time_ms,
    format_time_ns,
    json_response,
    logger,
    percent_decoded,
    respond,
    serve_lifespan,
)
from perdure.web.security import Guard
from perdure.web.streams import Renderings, read_stream

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["REQUEST_SIZE_LIMIT", "Ingress"]

REQUEST_SIZE_LIMIT: Final = 32 * 1024 * 1024
HEALTH: Final = "/restate/health"
APPROVALS: Final = "/restate/approvals/"  # a page for people; the token in its address says who may

_CREDENTIALS: Final = (b"access-control-allow-credentials", b"true")
_VARY: Final = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
_FROM_INGRESS: Final = (b"x-restate-error-source", b"ingress")
_FROM_INVOCATION: Final = (b"x-restate-error-source", b"invocation")
_NOT_FORWARDED: Final = frozenset({b"connection", b"host", b"idempotency-key", b"idempotency-expires"})
_NO_SCOPES: Final = "scopes and limit keys need flow control by vqueues, which this server does not have"


class _Exchange:
    """What is known of a request, for the error that may come of it."""

    __slots__ = ("accepted", "asked", "id", "repeatable")

    def __init__(self) -> None:
        self.accepted: bool | None = False
        self.asked = False  # the engine was asked to do something
        self.id: InvocationId | None = None
        self.repeatable = False  # sending it twice has the effect of sending it once

    def on_accepted(self, id: InvocationId) -> None:
        self.accepted = self.asked = True
        self.id = id


class Ingress:
    """The ASGI application of the ingress port."""

    def __init__(
        self,
        node: "Node",
        *,
        request_size_limit: int = REQUEST_SIZE_LIMIT,
        concurrency_limit: int | None = None,
        patience: float = 5.0,
        guard: Guard | None = None,
        metrics: Metrics | None = None,
        renderings: Renderings | None = None,
        links: Links | None = None,
    ) -> None:
        self._node = node
        self._guard = guard
        self._size_limit = request_size_limit
        self._concurrency_limit = concurrency_limit
        self._departures = Departures(patience)
        self._renderings = renderings or {}
        self._active = 0
        self._approvals = None if links is None else ApprovalPages(node, links)
        self._closed = False
        metrics = metrics or Metrics()
        metrics.open_requests = lambda: self._active
        self._responses = metrics.responses

    def close(self) -> None:
        """From here on every request is refused with 503; those that are open go on."""
        self._closed = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await serve_lifespan(scope, receive, send)
        request = Request(scope, receive)
        origin = request.fields.get(b"origin")
        if request.method == "OPTIONS":
            response = _preflight(request)
        else:
            self._active += 1
            try:
                answer = await self._answer(request)
            finally:
                self._active -= 1
            if answer is None:
                return
            response = answer
            self._responses[response.status] = self._responses.get(response.status, 0) + 1
        response.headers.extend((_CREDENTIALS, _VARY))
        if origin is not None:
            response.headers.append((b"access-control-allow-origin", origin))
        try:
            await respond(send, response)
        except asyncio.CancelledError:  # found gone while it read a stream
            return

    async def _answer(self, request: Request) -> Response | None:
        """The response, whatever happens; None if nobody is there to read it."""
        exchange = _Exchange()
        try:
            return await self._route(request, exchange)
        except RequestError as error:
            if isinstance(error, TooLarge) and b"content-length" in request.fields:
                return explained(Response(413, [TEXT], b"length limit exceeded"), "ingress", False, False)
            if isinstance(error, _Unreadable):
                exchange.repeatable = False
            if exchange.asked and self._node.failure is not None:
                exchange.accepted = None  # the store failed; the last batch may be on disk, or not
            response = _error(exchange, error.status, error.message)
            response.headers.extend(error_headers(error))
            return response
        except CallerGone:
            return None
        except asyncio.CancelledError:
            return None
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            if exchange.accepted is False:
                exchange.accepted = None
            return _error(exchange, 500, "internal error; the server's log says more")

    async def _route(self, request: Request, exchange: _Exchange) -> Response:
        path = request.parse_path()
        if self._guard is not None and path != HEALTH and not path.startswith(APPROVALS):
            self._guard.admit(request, Role.INGRESS)
        if (authorization := request.fields.get(b"authorization")) is not None and self._is_ours(authorization):
            del request.fields[b"authorization"]  # before the handler sees it, and its journal
        segments = path.split("/")[1:]
        if not 2 <= len(segments) <= 7:
            raise Invalid(f"bad path {path!r}: it has {len(segments)} segments, not 2 to 7")
        if not segments[-1]:
            segments.pop()
            if len(segments) < 2:
                raise Invalid(f"bad path {path!r}: it has one segment, not 2 to 7")
        head = segments[0]
        if head == "restate":
            return await self._reserved(request, exchange, segments)
        self._admit()
        if head == "openapi":
            raise NotFound("no OpenAPI document here; the admin port has one per service")
        service, key, tail = self._addressed(segments)
        if len(tail) == 1:
            return await self._call(request, exchange, service, key, tail[0])
        if len(tail) == 2 and tail[1] == "send":
            return await self._send(request, exchange, service, key, tail[0])
        raise _bad_path(service)

    def _is_ours(self, authorization: bytes) -> bool:
        return (self._guard is not None and self._guard.asks) or shows_key(authorization)

    def _admit(self) -> None:
        if self._closed:
            raise Unavailable("stopping: nothing was accepted, try again")
        if self._concurrency_limit is not None and self._active > self._concurrency_limit:
            raise Overloaded("too many requests at once; try again later")

    # ---- targets

    def _addressed(self, segments: list[str]) -> tuple[ServiceInfo, str | None, list[str]]:
        """The service, the key if it has keys, and what follows them."""
        service = self._service(segments[0])
        if service.kind is ServiceKind.SERVICE:
            return service, None, segments[1:]
        if len(segments) < 2:
            raise _bad_path(service)
        return service, _key(service, percent_decoded(segments[1])), segments[2:]

    def _service(self, name: str) -> ServiceInfo:
        service = self._node.registry.service(name)
        if service is None:
            if not self._node.ready:
                raise Unavailable("not ready: recovering or stopping; nothing was accepted, try again")
            raise NotFound(f"service {name!r} not found: no deployment serves it")
        return service

    def _run_of_workflow(self, name: str, key: str) -> tuple[InvocationId, HandlerInfo | None]:
        """The id is computed, whether or not there is such a workflow; its handler, if there is."""
        if not key:
            raise Invalid(f"an empty key for the workflow {name}")
        service = self._node.registry.service(name)
        handlers = () if service is None else service.handlers.values()
        main = next((each for each in handlers if each.kind is HandlerKind.WORKFLOW), None)
        return self._node.invocation_id(Target(name, "run", HandlerKind.WORKFLOW, key), None), main

    def _run_of_idempotency_key(
        self, service: str, key: str | None, handler: str, idempotency_key: str
    ) -> tuple[InvocationId, HandlerInfo | None]:
        """The id is computed, whether or not there is such a handler; the handler, if there is."""
        info = self._node.registry.handler(service, handler)
        if info is not None and info.kind is HandlerKind.WORKFLOW:
            raise Invalid("a workflow's run is found by the workflow's key, not by an idempotency key")
        target = Target(service, handler, HandlerKind.PLAIN if key is None else HandlerKind.SHARED, key)
        return self._node.invocation_id(target, idempotency_key), info

    # ---- call and send

    async def _call(
        self, request: Request, exchange: _Exchange, service: ServiceInfo, key: str | None, name: str
    ) -> Response:
        handler, idempotency_key, body, query = await self._read(request, exchange, service, name)
        if query and "delay" in query:
            raise Invalid("a call cannot be delayed, for it waits for the result; use send")
        target = Target(service.name, name, handler.kind, key)
        headers = _forwarded(request)
        waiting = self._departures.wait(request.receive)
        try:
            outcome = await self._node.call(
                target, body, headers=headers, idempotency_key=idempotency_key, on_accepted=exchange.on_accepted
            )
        finally:
            self._departures.done(waiting)
        if type(outcome) is Answer:
            return _result(outcome, handler, tell_expiry=idempotency_key is not None)
        return _failure(409, "the workflow was started before, and a workflow runs once", (), outcome.id)

    async def _send(
        self, request: Request, exchange: _Exchange, service: ServiceInfo, key: str | None, name: str
    ) -> Response:
        handler, idempotency_key, body, query = await self._read(request, exchange, service, name)
        delay = query.get("delay") if query else None
        delay_ms = None if delay is None else parse_duration_ms(delay)
        target = Target(service.name, name, handler.kind, key)
        headers = _forwarded(request)
        exchange.asked = True
        accepted = await self._node.send(
            target, body, headers=headers, idempotency_key=idempotency_key, delay_ms=delay_ms
        )
        return _receipt(accepted)

    async def _read(
        self, request: Request, exchange: _Exchange, service: ServiceInfo, name: str
    ) -> tuple[HandlerInfo, str | None, bytes, dict[str, str] | None]:
        """What a call and a send have in common, checked in the order in which restate-server checks it."""
        handler = _handler(service, name)
        if handler.private:
            raise Invalid(f"{service.name}/{name} is private: only other handlers can call it")
        idempotency_key = None
        if (raw := request.fields.get(b"idempotency-key")) is not None:
            idempotency_key = _ascii(b"idempotency-key", raw)
            if handler.kind is HandlerKind.WORKFLOW:
                raise Invalid("no idempotency key for a workflow's run: it runs once per workflow key as it is")
            if not idempotency_key:
                raise Invalid("the idempotency key is empty")
        exchange.repeatable = idempotency_key is not None or handler.kind is HandlerKind.WORKFLOW
        if request.method != "POST" and request.method != "GET":
            raise MethodNotAllowed(f"{request.method} is not allowed here: GET or POST")
        body = await request.body(self._size_limit)
        _check_input(handler, request.fields.get(b"content-type"), body)
        query = request.parameters() if request.query else None
        if b"x-restate-limit-key" in request.fields or (query and "limit-key" in query):
            raise Invalid(f"a limit key without a scope: {_NO_SCOPES}")
        return handler, idempotency_key, body, query

    # ---- /restate/...

    async def _reserved(self, request: Request, exchange: _Exchange, segments: list[str]) -> Response:
        verb, tail = segments[1], segments[2:]
        if verb == "health":
            _only("GET", request)
            asks = self._guard is not None and self._guard.asks  # who only wants to know whether it lives has no key
            names = [] if asks else [service.name for service in self._node.registry.services()]
            return json_response(200, {"services": names})
        self._admit()
        if verb == "call" or verb == "send":
            if len(tail) < 2:
                raise Invalid(f"bad path: /restate/{verb}/Service/handler or /restate/{verb}/Object/key/handler")
            service, key, tail = self._addressed(tail)
            if len(tail) != 1:
                raise _bad_path(service)
            act = self._call if verb == "call" else self._send
            return await act(request, exchange, service, key, tail[0])
        if verb == "stream":
            return await self._send_and_stream(request, exchange, tail)
        if verb == "scope":
            raise Invalid(_NO_SCOPES)
        serve = _RESERVED.get(verb)
        if serve is None:
            raise NotFound(f"unknown path /restate/{verb}")
        return await serve(self, request, exchange, tail)

    async def _workflow(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        if len(tail) == 4 and tail[2] == "streams":
            id, _ = self._run_of_workflow(tail[0], percent_decoded(tail[1]))
            return await self._stream(request, exchange, [format_invocation_id(id), tail[3]])
        if len(tail) != 3:
            raise Invalid("bad path: /restate/workflow/Name/key/attach, output or streams/{name}")
        id, handler = self._run_of_workflow(tail[0], percent_decoded(tail[1]))
        return await self._look_up(request, exchange, id, tail[2], handler)

    async def _invocation(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        if len(tail) == 2:
            return await self._look_up(request, exchange, parse_invocation_id(tail[0]), tail[1])
        if len(tail) < 4:
            raise Invalid("bad path: /restate/invocation/{id}/attach or output")
        service, key, rest = self._addressed(tail)
        if len(rest) != 3:
            raise _bad_path(service)
        id, handler = self._run_of_idempotency_key(service.name, key, rest[0], rest[1])
        return await self._look_up(request, exchange, id, rest[2], handler)

    async def _attach(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        return await self._look_up_by_body(request, exchange, tail, "attach")

    async def _output(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        return await self._look_up_by_body(request, exchange, tail, "output")

    async def _look_up_by_body(self, request: Request, exchange: _Exchange, tail: list[str], verb: str) -> Response:
        if len(tail) == 1:
            return await self._look_up(request, exchange, parse_invocation_id(tail[0]), verb)
        if tail:
            raise Invalid(f"bad path: /restate/{verb}/{{id}}")
        exchange.repeatable = True
        _only("POST", request)
        id, handler = await self._named_by_body(request)
        return await self._result_of(request, exchange, id, verb, handler)

    async def _look_up(
        self, request: Request, exchange: _Exchange, id: InvocationId, verb: str, handler: HandlerInfo | None = None
    ) -> Response:
        if verb not in ("attach", "output"):
            raise NotFound(f"unknown path: 'attach' or 'output' has to come last, not {verb!r}")
        exchange.repeatable = True
        _only("GET", request)
        return await self._result_of(request, exchange, id, verb, handler)

    async def _result_of(
        self, request: Request, exchange: _Exchange, id: InvocationId, verb: str, handler: HandlerInfo | None
    ) -> Response:
        exchange.id, exchange.accepted = id, None  # whether there is such an invocation is not known yet
        if verb == "output":
            outcome = await self._node.output(id)
        else:
            waiting = self._departures.wait(request.receive)
            try:
                outcome = await self._node.attach(id)
            finally:
                self._departures.done(waiting)
        if isinstance(outcome, Answer):
            return _result(outcome, handler)
        if verb == "attach" and outcome.status == 404:
            return _failure(404, "not found", (), id, accepted=False)
        exchange.accepted = outcome.status == 470
        return _error(exchange, outcome.status, outcome.message)

    async def _lookup(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        if tail:
            raise Invalid("bad path: /restate/lookup")
        exchange.repeatable = True
        _only("POST", request)
        id, _ = await self._named_by_body(request)
        return json_response(200, {"invocationId": format_invocation_id(id)})

    async def _named_by_body(self, request: Request) -> tuple[InvocationId, HandlerInfo | None]:
        body = await request.body(self._size_limit)
        try:
            named = _decode_reference(body)
        except msgspec.MsgspecError as error:
            raise _Unreadable(f"cannot read body: {error}") from None
        if isinstance(named, _ById):
            return parse_invocation_id(named.invocation_id), None
        if named.scope is not None:
            raise Invalid(_NO_SCOPES)
        if isinstance(named, _ByWorkflow):
            return self._run_of_workflow(named.workflow_name, named.workflow_key)
        return self._run_of_idempotency_key(named.service, named.key, named.handler, named.idempotency_key)

    async def _awakeable(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        if len(tail) != 2:
            raise Invalid("bad path: /restate/awakeables/{id}/resolve or reject")
        if tail[1] not in ("resolve", "reject"):
            raise NotFound(f"unknown path: 'resolve' or 'reject' has to come last, not {tail[1]!r}")
        exchange.repeatable = True  # the first one wins
        _only("POST", request)
        parse_awakeable_id(tail[0])
        body = await request.body(self._size_limit)
        resolved = tail[1] == "resolve"
        result = Value(body) if resolved else Failure(_failure_code(request), body.decode(errors="replace"))
        exchange.asked = True
        await self._node.complete_awakeable(tail[0], result)
        return Response(202, [])

    async def _signal(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        if len(tail) != 2 or not tail[1]:
            raise Invalid("bad path: /restate/signals/{invocationId}/{name}")
        _only("POST", request)
        id = parse_invocation_id(tail[0])
        name = percent_decoded(tail[1])
        body = await request.body(self._size_limit)
        exchange.asked = True
        exchange.id = id
        await self._node.signal(id, Signal(name, Value(body)))
        return Response(202, [])

    # ---- streams

    async def _stream(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        if len(tail) != 2 or not tail[1]:
            raise Invalid("bad path: /restate/streams/{invocationId}/{name}")
        exchange.repeatable = True
        _only("GET", request)
        id, name = parse_invocation_id(tail[0]), percent_decoded(tail[1])
        return await read_stream(self._node, request, id, name, self._renderings, self._departures)

    async def _send_and_stream(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        """Start an invocation, or find it by its idempotency key, and stream what it shows."""
        if len(tail) < 2:
            raise Invalid("bad path: /restate/stream/Service/handler or /restate/stream/Object/key/handler")
        service, key, tail = self._addressed(tail)
        if len(tail) != 1:
            raise _bad_path(service)
        handler, idempotency_key, body, query = await self._read(request, exchange, service, tail[0])
        name = (query or {}).get("stream", "")
        check_stream_name(name)
        target = Target(service.name, handler.name, handler.kind, key)
        exchange.asked = True
        accepted = await self._node.send(target, body, headers=_forwarded(request), idempotency_key=idempotency_key)
        id = InvocationId(accepted.id)
        exchange.on_accepted(id)
        return await read_stream(self._node, request, id, name, self._renderings, self._departures, created=True)

    # ---- approvals

    async def _approval(self, request: Request, exchange: _Exchange, tail: list[str]) -> Response:
        if self._approvals is None or len(tail) != 1:
            raise Invalid("bad path: /restate/approvals/{id}")
        return await self._approvals.serve(request, percent_decoded(tail[0]))


_RESERVED: Final[dict[str, Callable[[Ingress, Request, _Exchange, list[str]], Awaitable[Response]]]] = {
    "workflow": Ingress._workflow,
    "invocation": Ingress._invocation,
    "attach": Ingress._attach,
    "output": Ingress._output,
    "lookup": Ingress._lookup,
    "awakeables": Ingress._awakeable,
    "a": Ingress._awakeable,
    "signals": Ingress._signal,
    "streams": Ingress._stream,
    "approvals": Ingress._approval,
}


# ---- what a request says


class _Unreadable(RequestError):
    """A by-target body that is none. 500, as restate-server answers; 400 would be kinder."""

    status = 500


class _ByWorkflow(msgspec.Struct, tag_field="target", tag="workflow", rename="camel"):
    workflow_name: str
    workflow_key: str
    scope: str | None = None


class _ByIdempotencyKey(msgspec.Struct, tag_field="target", tag="idempotentInvocation", rename="camel"):
    service: str
    handler: str
    idempotency_key: str
    key: str | None = None
    scope: str | None = None


class _ById(msgspec.Struct, tag_field="target", tag="invocation", rename="camel"):
    invocation_id: str


_decode_reference = msgspec.json.Decoder(_ByWorkflow | _ByIdempotencyKey | _ById).decode


def _handler(service: ServiceInfo, name: str) -> HandlerInfo:
    handler = service.handlers.get(name)
    if handler is None:
        raise NotFound(f"service {service.name} has no handler {name!r}")
    return handler


def _key(service: ServiceInfo, key: str) -> str:
    if not key:
        raise Invalid(f"bad path: an empty key for {service.name}")
    return key


def _bad_path(service: ServiceInfo) -> Invalid:
    form = f"{service.name}/{'{key}/' if service.keyed else ''}{{handler}}"
    return Invalid(f"bad path: {service.name} is a {service.kind.value}, its paths are /{form} and /{form}/send")


def _only(method: str, request: Request) -> None:
    if request.method != method:
        raise MethodNotAllowed(f"{request.method} is not allowed here: {method}")


def _ascii(name: bytes, value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise Invalid(f"header {name.decode('ascii', 'replace')}: its value is not visible ASCII") from None


def _forwarded(request: Request) -> tuple[tuple[str, str], ...]:
    """The headers that the handler sees."""
    path = request.path if not request.query else f"{request.path}?{request.query.decode('latin-1')}"
    headers = [("x-restate-ingress-path", path)]
    for name, value in request.fields.items():
        if name not in _NOT_FORWARDED:
            try:
                headers.append((name.decode("ascii"), value.decode("ascii")))
            except UnicodeDecodeError:
                _ascii(name, value)
    return tuple(headers)


def _failure_code(request: Request) -> int:
    text = request.parameters().get("code", "500")
    if not text.isdecimal() or not 400 <= int(text) <= 999:
        raise Invalid(f"code {text!r}: a number from 400 to 999")
    return int(text)


def _check_input(handler: HandlerInfo, content_type: bytes | None, body: bytes) -> None:
    """Passes if the content type and the presence of a body are what the handler declared; JSON is not parsed."""
    if not body and content_type is None and not handler.input_required:
        return
    wanted = handler.input_content_type
    if wanted is None:
        if body:
            raise Invalid(f"input validation error: {handler.name} takes no input, but a body was sent")
        return
    if content_type is None:
        raise Invalid(f"input validation error: a content-type is needed: {wanted}")
    if not _matches(content_type, wanted):
        raise Invalid(
            f"input validation error: content-type {content_type.decode('latin-1')!r} does not match {wanted!r}"
        )
    if handler.input_schema is not None and not body:
        raise Invalid("input validation error: the body is empty, and the handler needs one")


def _matches(content_type: bytes, wanted: str) -> bool:
    if wanted == "*/*":
        return True
    given = content_type.decode("latin-1").partition(";")[0].strip().lower()
    wanted = wanted.lower()
    return given.startswith(wanted[:-1]) if wanted.endswith("/*") else given == wanted


# ---- what it is answered


def _preflight(request: Request) -> Response:
    headers: list[Header] = []
    for asked, allowed in (
        (b"access-control-request-method", b"access-control-allow-methods"),
        (b"access-control-request-headers", b"access-control-allow-headers"),
    ):
        if (value := request.fields.get(asked)) is not None:
            headers.append((allowed, value))
    return Response(200, headers)


def _result(answer: Answer, handler: HandlerInfo | None, tell_expiry: bool = True) -> Response:
    """An invocation's result. Without its handler (asked for by id) the content type is not known: JSON."""
    result = answer.result
    expires_at = answer.expires_at if tell_expiry else None
    if type(result) is not Value:
        assert type(result) is Failure
        return _failure(result.code, result.message, result.metadata, answer.id, expires_at)
    headers = [(b"x-restate-id", format_invocation_id(answer.id).encode())]
    if result.content or (handler is not None and handler.output_content_type_if_empty):
        content_type = "application/json" if handler is None else handler.output_content_type
        if content_type is not None:
            headers.append((b"content-type", content_type.encode("latin-1")))
    if expires_at is not None:
        headers.append((b"idempotency-expires", format_time_ms(expires_at).encode()))
    return Response(200, headers, result.content)


def _receipt(accepted: Accepted) -> Response:
    id = format_invocation_id(accepted.id)
    receipt = {"invocationId": id, "status": "Accepted" if accepted.fresh else "PreviouslyAccepted"}
    if accepted.execute_at is not None:
        receipt["executionTime"] = format_time_ns(accepted.execute_at)
    return json_response(202, receipt, (b"x-restate-id", id.encode()))


def _failure(
    code: int,
    message: str,
    metadata: tuple[tuple[str, str], ...],
    id: bytes,
    expires_at: int | None = None,
    accepted: bool = True,
) -> Response:
    """The invocation's own failure: its code is the status, if HTTP has such a status for a response with a body."""
    error: dict[str, Any] = {"code": code, "message": message, "source": "invocation"}
    if metadata:
        error["metadata"] = dict(metadata)
    error |= {"accepted": accepted, "retryable": False}
    headers = [_FROM_INVOCATION, (b"x-restate-id", format_invocation_id(id).encode())]
    if expires_at is not None:
        headers.append((b"idempotency-expires", format_time_ms(expires_at).encode()))
    status = code if 200 <= code <= 999 and code not in (204, 205, 304) else 500
    return json_response(status, error, *headers)


def _error(exchange: _Exchange, status: int, message: str) -> Response:
    """The ingress's own error. What was not accepted may be sent again if the reason may pass."""
    passing = status in (429, 503) and exchange.accepted is False
    retryable = passing or (exchange.repeatable and (status >= 500 or status == 429 or status == 470))
    error = {
        "code": status,
        "message": message,
        "source": "ingress",
        "accepted": exchange.accepted,
        "retryable": retryable,
    }
    headers = [_FROM_INGRESS]
    if exchange.id is not None:
        headers.append((b"x-restate-id", format_invocation_id(exchange.id).encode()))
    return json_response(status, error, *headers)
