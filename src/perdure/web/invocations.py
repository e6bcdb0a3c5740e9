"""The admin port's routes of invocations: what people do to one, or to many at once, and what is known of one.

Paths, verbs and statuses are restate-server's. `GET /invocations/{invocation_id}` is ours: everything known of an
invocation, its journal included.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from perdure.errors import Invalid, RequestError
from perdure.model import invocation as states
from perdure.model.actions import Description, Done, Refused
from perdure.model.entries import Entry
from perdure.model.headers import masked
from perdure.model.ids import InvocationId, format_invocation_id, parse_invocation_id
from perdure.model.keys import Role
from perdure.web.http import Malformed, Request, Response, Router, Unreadable, format_time_ns, json_response, read_json
from perdure.web.operations import BODY_ERRORS, Operation, Parameter

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["BATCH_LIMIT", "InvocationRefused", "InvocationRoutes", "description_to_json"]

BATCH_LIMIT: Final = 1000

Act: TypeAlias = Callable[[InvocationId, str | None, int], Awaitable[Done | Refused]]
"""What a verb does to an invocation; it is given the deployment to go on at, and how many entries to keep."""


class InvocationRefused(RequestError):
    """The invocation exists, or not, and what was asked cannot be done to it."""

    def __init__(self, refused: Refused, id: str) -> None:
        super().__init__(refused.message)
        self.status = refused.status
        self.invocation_id = id


class RestartAnswer(msgspec.Struct):
    new_invocation_id: str


class BatchRequest(msgspec.Struct):
    invocation_ids: list[str]
    deployment: str | None = None


class BatchFailure(msgspec.Struct):
    invocation_id: str
    error: str


class Restarted(msgspec.Struct):
    old_invocation_id: str
    new_invocation_id: str


class BatchAnswer(msgspec.Struct):
    succeeded: list[str | Restarted]
    failed: list[BatchFailure]


class JournalEntry(msgspec.Struct):
    """An entry of a journal; what else it holds depends on its kind."""

    index: int
    appended_at: str
    kind: str


class InvocationDescription(msgspec.Struct):
    """Everything known of an invocation. Each status has facts of its own, too."""

    id: str
    target: str
    service: str
    handler: str
    key: str | None
    handler_kind: str
    status: str
    last_failure: dict[str, Any] | None
    created_at: str
    started_at: str | None
    attempts: int
    idempotency_key: str | None
    caller: str | None
    restarted_from: str | None
    deployment: str | None
    ahead: int | None
    holder: str | None
    journal: list[JournalEntry]


_FROM: Final = Parameter(
    "from",
    "The index of the last entry of the journal that is kept. By default the input only.",
    {"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 0},
)
_AT: Final = "The deployment to go on at: `keep` the one it is pinned to, the `latest`, or an id."
_DEPLOYMENT_ID: Final = {
    "anyOf": [{"enum": ["latest", "Latest", "keep", "Keep"]}, {"pattern": "^dp_1[0-9A-Za-z]{22}$"}]
}
_MODE: Final = Parameter(
    "mode",
    "What is done to the invocation.",
    {"enum": ["cancel", "Cancel", "kill", "Kill", "purge", "Purge"], "default": "cancel"},
)


class _Verb(msgspec.Struct):
    """`deployment` is where it goes on unless the request says otherwise; None: the verb goes on nowhere."""

    act: Act
    summary: str
    answers: dict[int, Any]
    refusals: tuple[int, ...] = (404, 409)
    deployment: str | None = None
    restarts: bool = False

    def parameters(self) -> tuple[Parameter, ...]:
        if self.deployment is None:
            return ()
        chosen = Parameter("deployment", _AT, {"type": "string", "default": self.deployment, **_DEPLOYMENT_ID})
        return (_FROM, chosen) if self.restarts else (chosen,)


class InvocationRoutes:
    """`size_limit` is of a request's body, in bytes."""

    def __init__(self, node: "Node", size_limit: int) -> None:
        self._node = node
        self._size_limit = size_limit

    def _verbs(self) -> dict[str, _Verb]:
        node = self._node
        done: dict[int, Any] = {200: None}
        return {
            "cancel": _Verb(
                lambda id, *_: node.cancel(id),
                "Cancel: 200 if it had not begun, 202 if its handler is told and may clean up",
                {200: None, 202: None},
            ),
            "kill": _Verb(lambda id, *_: node.kill(id), "End at once, whatever its handler does", done),
            "pause": _Verb(lambda id, *_: node.pause(id), "Pause; 200 if it was paused before", {200: None, 202: None}),
            "resume": _Verb(
                lambda id, deployment, _: node.resume(id, deployment),
                "Go on with one that is paused, backing off or suspended, also at another deployment",
                done,
                (404, 409, 425),
                "keep",
            ),
            "purge": _Verb(lambda id, *_: node.purge(id), "Forget a completed one", done),
            "purge-journal": _Verb(
                lambda id, *_: node.purge(id, journal_only=True), "Forget the journal of a completed one", done
            ),
            "restart-as-new": _Verb(
                lambda id, deployment, keep: node.restart(id, keep=keep, deployment=deployment),
                "Run a completed one again under a new id, from an entry of its journal on",
                {200: RestartAnswer},
                (404, 409, 410, 422, 425),
                "latest",
                True,
            ),
        }

    def add_to(self, router: Router) -> None:
        """Make the routes known."""
        tag = "invocation"
        for name, verb in self._verbs().items():
            operation = Operation(tag, verb.summary, verb.answers, verb.refusals, parameters=verb.parameters())
            router.add(
                "PATCH",
                f"/invocations/{{invocation_id}}/{name}",
                self._controlling(verb),
                role=Role.OPERATOR,
                operation=operation,
            )
            operation = Operation(
                tag,
                f"{name}, for up to {BATCH_LIMIT} invocations",
                {200: BatchAnswer},
                BODY_ERRORS,
                BatchRequest,
                public=False,
            )
            router.add(
                "POST",
                f"/internal/invocations_batch_operations/{name}",
                self._batch(verb),
                role=Role.OPERATOR,
                operation=operation,
            )
        operation = Operation(tag, "Everything known of an invocation", {200: InvocationDescription}, (404,))
        router.add("GET", "/invocations/{invocation_id}", self._describe, role=Role.READ, operation=operation)
        operation = Operation(
            tag,
            "End an invocation, the older way: the answer is 202 whatever comes of it",
            {202: None},
            parameters=(_MODE,),
            deprecated=True,
        )
        router.add("DELETE", "/invocations/{invocation_id}", self._delete, role=Role.OPERATOR, operation=operation)

    def _controlling(self, verb: _Verb) -> Callable[..., Awaitable[Response]]:
        async def control(request: Request, invocation_id: str) -> Response:
            id = _parsed(invocation_id)
            keep = _first_entry(request) + 1 if verb.restarts else 1
            deployment = None
            if verb.deployment is not None:
                deployment = self._repinned(request.parameter("deployment") or verb.deployment)
            outcome = await verb.act(id, deployment, keep)
            if isinstance(outcome, Refused):
                raise InvocationRefused(outcome, invocation_id)
            if outcome.new_id is not None:
                new_id = format_invocation_id(outcome.new_id)
                request.affected = {"new_invocation_id": new_id}
                return json_response(200, RestartAnswer(new_id))
            return Response(202 if outcome.pending else 200, [])

        return control

    async def _delete(self, request: Request, invocation_id: str) -> Response:
        id, mode = _parsed(invocation_id), request.parameter("mode") or "cancel"
        acts = {"cancel": self._node.cancel, "kill": self._node.kill, "purge": self._node.purge}
        if mode not in _MODE.schema["enum"]:
            raise Unreadable(f"query: mode={mode!r}: it has to be one of {', '.join(acts)}")
        await acts[mode.lower()](id)
        return Response(202, [])

    def _batch(self, verb: _Verb) -> Callable[..., Awaitable[Response]]:
        """The same for many invocations, one after the other; the query may say what it says for one."""

        async def control(request: Request) -> Response:
            body = await read_json(request, BatchRequest, self._size_limit)
            request.affected = {"invocations": body.invocation_ids}
            ids = [_parsed_in_batch(index, text) for index, text in enumerate(body.invocation_ids)]
            if len(ids) > BATCH_LIMIT:
                raise Invalid(f"invocation_ids: at most {BATCH_LIMIT} at once, not {len(ids)}")
            deployment = None
            if verb.deployment is not None:
                deployment = self._repinned(body.deployment or request.parameter("deployment") or verb.deployment)
            keep = _first_entry(request) + 1 if verb.restarts else 1
            answer = BatchAnswer([], [])
            for id, text in zip(ids, body.invocation_ids, strict=True):
                try:
                    outcome = await verb.act(id, deployment, keep)
                except RequestError as error:  # what is done to the others stays done
                    outcome = Refused(error.status, error.message)
                if isinstance(outcome, Refused):
                    answer.failed.append(BatchFailure(text, outcome.message))
                elif outcome.new_id is not None:
                    answer.succeeded.append(Restarted(text, format_invocation_id(outcome.new_id)))
                else:
                    answer.succeeded.append(text)
            return json_response(200, answer)

        return control

    def _repinned(self, wanted: str) -> str | None:
        """A choice of deployment, as the node takes it. Raises `Invalid` for one that is not there."""
        if wanted.lower() == "keep":
            return None
        if wanted.lower() == "latest":
            return ""
        if self._node.registry.deployment(wanted) is None:
            raise Invalid(f"deployment {wanted!r} not found: it has to be keep, latest, or the id of one")
        return wanted

    async def _describe(self, request: Request, invocation_id: str) -> Response:
        outcome = await self._node.describe(_parsed(invocation_id))
        if isinstance(outcome, Refused):
            raise InvocationRefused(outcome, invocation_id)
        return json_response(200, description_to_json(outcome))


def _parsed(text: str) -> InvocationId:
    try:
        return parse_invocation_id(text)
    except Invalid as error:
        raise Invalid(f"invocation_id: {error.message}") from None


def _parsed_in_batch(index: int, text: str) -> InvocationId:
    try:
        return parse_invocation_id(text)
    except Invalid as error:
        raise Malformed(f"body: invocation_ids[{index}]: {error.message}") from None


def _first_entry(request: Request) -> int:
    text = request.parameter("from") or "0"
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise Unreadable(f"query: from={text!r}: it has to be the index of an entry of the journal")
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
    waiting = {} if description.waiting is None else {"waiting_for": msgspec.to_builtins(description.waiting)}
    return {
        "id": format_invocation_id(it.id),
        "target": str(target),
        "service": target.service,
        "handler": target.handler,
        "key": target.key,
        "handler_kind": target.kind.value,
        **_standing(it.status),
        **waiting,
        "created_at": format_time_ns(it.created_at),
        "started_at": _time(it.started_at),
        "attempts": it.attempts,
        "idempotency_key": it.idempotency_key,
        "caller": None if it.caller is None else format_invocation_id(it.caller),
        "restarted_from": None if it.restarted_from is None else format_invocation_id(it.restarted_from),
        "deployment": it.deployment,
        "ahead": description.ahead,
        "holder": None if description.holder is None else format_invocation_id(description.holder),
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
        facts["paused_at"] = format_time_ns(status.since)
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
    shown = {"kind": type(entry).__name__, **_plain(entry)}
    if headers := getattr(entry, "headers", None):
        shown["headers"] = [[name, masked(name, value)] for name, value in headers]
    return shown


def _plain(value: Any) -> dict[str, Any]:
    """A struct's fields; nested structs say what they are under `kind`."""
    return {name: _part(getattr(value, name)) for name in value.__struct_fields__}


def _part(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {"kind": type(value).__name__, **_plain(value)}
    if isinstance(value, tuple):
        return [_part(each) for each in value]
    return value
