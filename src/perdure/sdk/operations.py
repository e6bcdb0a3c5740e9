"""What a client can ask of an engine, and what each of that is as an HTTP request and response. Nothing here waits.

An `Operation` is a frozen value. `to_http` says how it is asked over HTTP and `from_http` what the answer means: a
value, or one of the errors of `perdure.errors`. Whoever carries operations out (`client` over HTTP, `Engine` in the
same process) is a shell around them, so asynchronous and synchronous clients do the same by construction.
"""

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from perdure.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    TerminalError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from perdure.model.entries import Failure, Value

__all__ = [
    "Attach",
    "ChangeState",
    "CompleteAwakeable",
    "Control",
    "Describe",
    "HttpReply",
    "HttpRequest",
    "Invoke",
    "Operation",
    "Output",
    "ReadState",
    "Receipt",
    "Retries",
    "Send",
    "SendSignal",
    "WorkflowResult",
    "refusal",
    "reply_value",
]

R = TypeVar("R")
Headers = tuple[tuple[str, str], ...]


class HttpRequest(NamedTuple):
    """`path` is percent-encoded; `admin` says to which of the two ports it goes."""

    method: str
    path: str
    headers: Headers = ()
    body: bytes = b""
    admin: bool = False


class HttpReply(NamedTuple):
    """Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Receipt(NamedTuple):
    """What was sent is durable as invocation `id`; `fresh` unless it had been sent before."""

    id: str
    fresh: bool


class Operation(msgspec.Struct, Generic[R], frozen=True):
    """Something to ask of an engine, answered by an R. `repeatable`: doing it twice is doing it once."""

    repeatable: ClassVar[bool] = True

    def to_http(self) -> HttpRequest:
        raise NotImplementedError

    def from_http(self, reply: HttpReply) -> R:
        """The answer. Raises what a reply that is none stands for."""
        raise NotImplementedError

    def may_repeat(self) -> bool:
        return self.repeatable


# ---- invocations


class Invoke(Operation[bytes], frozen=True):
    """Call a handler and wait for its result."""

    service: str
    handler: str
    key: str | None
    body: bytes = b""
    content_type: str | None = None
    headers: Headers = ()
    idempotency_key: str | None = None

    def may_repeat(self) -> bool:
        return self.idempotency_key is not None

    def to_http(self) -> HttpRequest:
        return HttpRequest("POST", self._path(), self._fields(), self.body)

    def from_http(self, reply: HttpReply) -> bytes:
        return _result(reply)

    def _path(self) -> str:
        if self.key is None:
            return f"/{self.service}/{self.handler}"
        return f"/{self.service}/{_segment(self.key)}/{self.handler}"

    def _fields(self) -> Headers:
        fields = self.headers
        if self.body and self.content_type is not None:
            fields += (("content-type", self.content_type),)
        if self.idempotency_key is not None:
            fields += (("idempotency-key", self.idempotency_key),)
        return fields


class Send(Operation[Receipt], frozen=True):
    """Have a handler called, maybe `delay_ms` from now, and wait only until that is durable."""

    call: Invoke
    delay_ms: int | None = None

    def may_repeat(self) -> bool:
        return self.call.may_repeat()

    def to_http(self) -> HttpRequest:
        request = self.call.to_http()
        delay = f"?delay={self.delay_ms}ms" if self.delay_ms else ""
        return request._replace(path=f"{request.path}/send{delay}")

    def from_http(self, reply: HttpReply) -> Receipt:
        receipt = _json(reply)
        return Receipt(str(receipt["invocationId"]), receipt.get("status") != "PreviouslyAccepted")


class Attach(Operation[bytes], frozen=True):
    """Wait for the result of an invocation."""

    id: str

    def to_http(self) -> HttpRequest:
        return HttpRequest("GET", f"/restate/invocation/{_segment(self.id)}/attach")

    def from_http(self, reply: HttpReply) -> bytes:
        return _result(reply)


class Output(Operation[bytes], frozen=True):
    """The result of an invocation if there is one; `NotReady` if not."""

    id: str

    def to_http(self) -> HttpRequest:
        return HttpRequest("GET", f"/restate/invocation/{_segment(self.id)}/output")

    def from_http(self, reply: HttpReply) -> bytes:
        return _result(reply)


class WorkflowResult(Operation[bytes], frozen=True):
    """The result of a workflow's main; without `wait`, `NotReady` if there is none yet."""

    service: str
    key: str
    wait: bool

    def to_http(self) -> HttpRequest:
        verb = "attach" if self.wait else "output"
        return HttpRequest("GET", f"/restate/workflow/{self.service}/{_segment(self.key)}/{verb}")

    def from_http(self, reply: HttpReply) -> bytes:
        return _result(reply)


class SendSignal(Operation[None], frozen=True):
    """Send an invocation a named signal."""

    repeatable = False
    id: str
    name: str
    body: bytes

    def to_http(self) -> HttpRequest:
        return HttpRequest("POST", f"/restate/signals/{_segment(self.id)}/{_segment(self.name)}", body=self.body)

    def from_http(self, reply: HttpReply) -> None:
        _checked(reply)


class CompleteAwakeable(Operation[None], frozen=True):
    """Complete an awakeable. The first completion counts."""

    id: str
    result: Value | Failure

    def to_http(self) -> HttpRequest:
        path = f"/restate/awakeables/{_segment(self.id)}"
        if isinstance(self.result, Value):
            return HttpRequest("POST", f"{path}/resolve", body=self.result.content)
        code = "" if self.result.code == 500 else f"?code={self.result.code}"
        return HttpRequest("POST", f"{path}/reject{code}", body=self.result.message.encode())

    def from_http(self, reply: HttpReply) -> None:
        _checked(reply)


class Control(Operation[str | None], frozen=True):
    """Cancel, kill, pause, resume, purge, purge-journal, or restart-as-new, which answers with a new id."""

    repeatable = False
    id: str
    verb: str
    keep: int = 1

    def to_http(self) -> HttpRequest:
        query = f"?from={self.keep - 1}" if self.verb == "restart-as-new" else ""
        return HttpRequest("PATCH", f"/invocations/{_segment(self.id)}/{self.verb}{query}", admin=True)

    def from_http(self, reply: HttpReply) -> str | None:
        _checked(reply)
        return str(_json(reply)["new_invocation_id"]) if self.verb == "restart-as-new" else None


class Describe(Operation[dict[str, Any]], frozen=True):
    """Everything known of an invocation."""

    id: str

    def to_http(self) -> HttpRequest:
        return HttpRequest("GET", f"/invocations/{_segment(self.id)}", admin=True)

    def from_http(self, reply: HttpReply) -> dict[str, Any]:
        return _json(reply)


# ---- state


class ReadState(Operation[dict[str, bytes]], frozen=True):
    """The whole state of an object or workflow."""

    service: str
    key: str

    def to_http(self) -> HttpRequest:
        return HttpRequest("GET", f"/services/{self.service}/state/{_segment(self.key)}", admin=True)

    def from_http(self, reply: HttpReply) -> dict[str, bytes]:
        return msgspec.convert(_json(reply)["state"], dict[str, bytes])


class ChangeState(Operation[None], frozen=True):
    """Set (bytes) or clear (None) keys of a state; with `replace`, clear all that are not named."""

    service: str
    key: str
    changes: dict[str, bytes | None]
    replace: bool = False

    def to_http(self) -> HttpRequest:
        body = msgspec.json.encode({"changes": self.changes, "replace": self.replace})
        path = f"/services/{self.service}/state/{_segment(self.key)}"
        return HttpRequest("PATCH", path, (("content-type", "application/json"),), body, admin=True)

    def from_http(self, reply: HttpReply) -> None:
        _checked(reply)


# ---- what replies mean

_ERRORS: Final[dict[int, type[RequestError]]] = {
    error.status: error
    for error in (Invalid, Unauthorized, Forbidden, NotFound, Conflict, TooLarge, Overloaded, Unavailable)
}


def refusal(status: int, message: str) -> Exception:
    """The error that a status stands for."""
    if status == 470:
        return NotReady(message)
    error = _ERRORS.get(status, RequestError)(message)
    if error.status != status:
        error.status = status
    return error


class _Error(msgspec.Struct):
    """An error's body, of ingress or admin."""

    message: str = ""
    code: int = 500
    source: str = "ingress"
    metadata: dict[str, str] | None = None
    accepted: bool | None = None
    retryable: bool | None = None


def _error(reply: HttpReply) -> _Error:
    try:
        return msgspec.json.decode(reply.body, type=_Error)
    except msgspec.MsgspecError:
        text = reply.body[:500].decode(errors="replace").strip()
        return _Error(text or f"HTTP status {reply.status}", reply.status)


def reply_value(reply: HttpReply) -> bytes:
    """The body of a reply that is no error. Raises the error that it is."""
    return _checked(reply)


def _checked(reply: HttpReply) -> bytes:
    if 200 <= reply.status < 300 and "x-restate-error-source" not in reply.headers:
        return reply.body
    error = _error(reply)
    if error.source == "invocation" and error.accepted is not False:
        raise TerminalError(error.message, error.code, error.metadata)
    message = error.message
    if error.accepted and reply.status != 470 and (id := reply.headers.get("x-restate-id")):
        message = f"{message} (it was accepted as {id} and goes on; attach to it)"
    raise refusal(reply.status, message)


def _result(reply: HttpReply) -> bytes:
    return _checked(reply)


def _json(reply: HttpReply) -> dict[str, Any]:
    return msgspec.json.decode(_checked(reply), type=dict[str, Any])


def _segment(text: str) -> str:
    """Text as one segment of a path."""
    if text in (".", ".."):
        raise Invalid(f"{text!r} cannot be sent by HTTP as a key or a name: URLs give it a meaning of its own")
    return quote(text, safe="")


# ---- once more?


class Retries:
    """Whether, and after how many seconds, an operation may be sent once more; one object per operation.

    What is safe: nothing reached the server; the server says that it accepted nothing; or the operation may be
    done twice.
    """

    def __init__(self, operation: Operation[Any], limit: int) -> None:
        self._repeatable = operation.may_repeat()
        self._left = limit
        self._delay = 0.1

    def after_reply(self, reply: HttpReply) -> float | None:
        if reply.status not in (429, 502, 503, 504) and not (reply.status >= 500 and self._repeatable):
            return None
        error = _error(reply)
        if error.source == "invocation":
            return None
        refused = reply.status == 429 if error.retryable is None else error.retryable
        return self._next() if refused or self._repeatable else None

    def after_failure(self, *, sent: bool) -> float | None:
        """The connection failed, before the request was `sent` or at any time after."""
        return self._next() if self._repeatable or not sent else None

    def _next(self) -> float | None:
        if self._left <= 0:
            return None
        self._left -= 1
        delay = self._delay
        self._delay = min(delay * 2, 2.0)
        return delay * (0.75 + random.random() / 2)
