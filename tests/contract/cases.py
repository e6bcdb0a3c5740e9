"""What a row of the contract's tables says, and how it is asked of a server."""

import secrets
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tests.conformance.deployed import Deployed
from tests.conformance.processes import NOTHING, Answer, until

JSON: Final = "application/json"
AN_HOUR_MS: Final = 3_600_000


class Case(NamedTuple):
    """A request and its answer.

    `shape` is "" (no body), "text", "html", "error" (the port's own kind of JSON error), "any", or the names of fields
    that the answer's JSON has. `given` makes an invocation first, whose id is put in the place of `{id}`. `restate` is
    the status of restate-server where perdure deliberately answers otherwise, 0 where restate-server is not asked;
    `why` says why.
    """

    method: str
    path: str
    status: int
    shape: str
    body: Any = NOTHING
    content_type: str | None = JSON
    headers: tuple[tuple[str, str], ...] = ()
    given: str | None = None
    restate: int | None = None
    why: str = ""

    def __str__(self) -> str:
        body = "" if self.body is NOTHING else f" {self.body!r:.60}"
        kind = f" as {self.content_type}" if body and self.content_type != JSON else ""
        given = f" of a {self.given} one" if self.given else ""
        return f"{self.method} {self.path}{given}{body}{kind}"


def fresh(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(6)}"


def _echoed(on: Deployed) -> str:
    answer = on.call("Echo/echo", 1, {"idempotency-key": fresh("contract")})
    assert answer.status == 200, answer
    return answer.headers["x-restate-id"]


def _suspended(on: Deployed) -> str:
    id = on.send("Timers/sleep", {"ms": AN_HOUR_MS})
    on.until_status(id, "suspended")
    return id


def _inboxed(on: Deployed) -> str:
    key = fresh("key")
    on.send(f"Counter/{key}/wait", {"witness": fresh("witness")})
    return on.send(f"Counter/{key}/add", 1)


def _paused(on: Deployed) -> str:
    id = on.send("Failing/paused", {"witness": fresh("witness"), "failures": 1000})
    on.until_status(id, "paused")
    return id


def _without_journal(on: Deployed) -> str:
    id = _echoed(on)
    assert on.admin("PATCH", f"/invocations/{id}/purge-journal").status == 200
    until(
        lambda: not on.query(f"SELECT id FROM sys_journal WHERE id = '{id}'"),
        f"the journal of {id} is gone",
        poll_s=0.05,
    )
    return id


def _ended_workflow(on: Deployed) -> str:
    id = on.send(f"Approval/{fresh('key')}/run", {"witness": fresh("witness")})
    until(lambda: on.admin("PATCH", f"/invocations/{id}/kill").status == 200, f"{id} is killed", poll_s=0.05)
    on.until_status(id, "completed")
    return id


GIVEN: Final[dict[str, Callable[[Deployed], str]]] = {
    "completed": _echoed,
    "scheduled": lambda on: on.send("Echo/echo", 1, "?delay=1h"),
    "suspended": _suspended,
    "inboxed": _inboxed,
    "paused": _paused,
    "completed, journal-less": _without_journal,
    "killed workflow's": _ended_workflow,
}


def put(value: Any, places: dict[str, str]) -> Any:
    """A text, or the texts in a body, with what goes into its places."""
    if isinstance(value, str):
        for name, text in places.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, dict):
        return {name: put(each, places) for name, each in value.items()}
    if isinstance(value, list):
        return [put(each, places) for each in value]
    return value


def answer_to(on: Deployed, case: Case, port: str, places: dict[str, str]) -> Answer:
    """Make what the case needs, and ask."""
    if case.given is not None:
        places = {**places, "id": GIVEN[case.given](on)}
    headers = dict(case.headers)
    if case.body is not NOTHING and case.content_type is not None:
        headers.setdefault("content-type", case.content_type)
    elif isinstance(case.body, bytes):
        headers.pop("content-type", None)
    body = put(case.body, places)
    return (on.admin if port == "admin" else on.ingress)(case.method, put(case.path, places), body, headers)
