"""`perdure why`: in plain words what an invocation waits for, since when, and what would wake it.

All of it is in `GET /invocations/{id}`: the journal has the commands, the status says which of them are awaited. When
the latest attempt began is asked for in SQL; where there is none, that is left out.

The last line names the root: where calls, attached results and objects' holders lead to in the end.
"""

import re
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec
import typer

from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, InvocationIdArgument, show_json
from perdure.cli.asking import ask, one_line, quoted, request, segment
from perdure.cli.journal import callee_of, result_in_words, target_of, unanswered
from perdure.cli.tables import ago, until

__all__ = ["Explanation", "Lookup", "Server", "explain", "last_of_stack", "why"]

JSON = dict[str, Any]
DEEPEST = 20
MOST = 10  # of what one invocation waits for, how many are explained
CANCELLATION = 1  # the signal that every wait may end with
_COMBINATORS = {
    1: "the first of:",
    2: "all of:",
    3: "the first of these that succeeds:",
    4: "all of these, or the first that fails:",
}


def why(id: InvocationIdArgument, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Say what an invocation waits for, since when, and what would wake it."""
    found = ask(admin_url, "GET", f"/invocations/{segment(id)}")
    explained = Explanation(found, Server(admin_url))
    if as_json:
        facts = {"id": found["id"], "target": found["target"], "status": found["status"]}
        show_json({**facts, "why": explained.lines, "roots": explained.roots})
        return
    for line in explained.lines:
        typer.echo(line)
    for line in explained.conclusion:
        typer.echo(line)


class Lookup(Protocol):
    """What is asked beside the invocation itself. None: not there, or not known."""

    def describe(self, id: str) -> JSON | None: ...

    def attempt_since(self, id: str) -> str | None: ...


class Server:
    """The same from a server's admin port."""

    def __init__(self, admin_url: str) -> None:
        self._url = admin_url

    def describe(self, id: str) -> JSON | None:
        """The invocation, if there is one."""
        answer = request(self._url, "GET", f"/invocations/{segment(id)}")
        return msgspec.json.decode(answer.content, type=JSON) if answer.status == 200 else None

    def attempt_since(self, id: str) -> str | None:
        """When the attempt that runs began."""
        return self._first(f"SELECT last_start_at AS it FROM sys_invocation WHERE id = {quoted(id)}")

    def _first(self, sql: str) -> str | None:
        headers = {"content-type": "application/json", "accept": "application/json"}
        answer = request(self._url, "POST", "/query", msgspec.json.encode({"query": sql}), headers)
        try:
            return str(msgspec.json.decode(answer.content)["rows"][0]["it"])
        except (msgspec.DecodeError, KeyError, IndexError, TypeError):
            return None  # no such row, or no SQL


def explain(found: JSON, lookup: Lookup) -> list[str]:
    """Lines, of which the first says how it stands and the others, indented by what they belong to, why."""
    return Explanation(found, lookup).lines


class Explanation:
    """Why an invocation waits.

    `roots` are the invocations at the ends of the chains, those that wait for no other one, by id, each with how it
    stands; `conclusion` says it in a line, if there is a chain at all.
    """

    def __init__(self, found: JSON, lookup: Lookup) -> None:
        explainer = _Explainer(lookup)
        self.lines = list(explainer.lines(found))
        ends = [each for each in explainer.roots if each["id"] != found["id"]]
        self.roots = [{"id": each["id"], "target": each["target"], "status": each["status"]} for each in ends]
        self.conclusion: list[str] = []
        if ends:
            named = ", ".join(f"{each['id']} {one_line(each['target'])} {_standing(each)}" for each in ends[:MOST])
            more = f", and {len(ends) - MOST} more" if len(ends) > MOST else ""
            self.conclusion = [f"in the end it waits for {named}{more}"]


class _Explainer:
    """One explanation: each invocation is looked into once."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._seen: set[str] = set()
        self._known: dict[str, JSON | None] = {}
        self._path: list[str] = []
        self._led_on: set[str] = set()
        self.roots: list[JSON] = []

    def lines(self, found: JSON, depth: int = 0) -> Iterator[str]:
        """How it stands, and below it why."""
        self._seen.add(found["id"])
        self._path.append(found["id"])
        yield f"{found['id']} {one_line(found['target'])} {_standing(found)}"
        parts = {
            "running": self._running,
            "backing-off": self._backing_off,
            "suspended": self._suspended,
            "inboxed": self._inboxed,
            "paused": self._paused,
            "scheduled": self._scheduled,
            "completed": self._completed,
        }
        explained = parts.get(found["status"])
        if explained is not None:
            for line in explained(found, depth):
                yield f"  {line}"
        if found["id"] not in self._led_on and found["status"] != "completed":
            self.roots.append(found)
        self._path.pop()

    def _other(self, id: str, depth: int) -> Iterator[str]:
        """Another invocation, and what that one waits for."""
        self._led_on.add(self._path[-1])
        if id in self._path:
            yield f"{id}, see above: they wait for each other, and none of them can go on by itself"
            yield f"to break the circle, cancel one of them: perdure invocations cancel {id}"
            return
        if id in self._seen:
            yield f"{id}, see above"
            return
        other = self._describe(id) if depth < DEEPEST else None
        if other is None:
            yield f"{id}, of which nothing more is known"
            return
        yield from self.lines(other, depth + 1)

    def _describe(self, id: str) -> JSON | None:
        if id not in self._known:
            self._known[id] = self._lookup.describe(id)
        return self._known[id]

    def _running(self, found: JSON, depth: int) -> Iterator[str]:
        since = self._lookup.attempt_since(found["id"])
        begun = f", which began {ago(since)}" if since else ""
        yield f"its code runs: attempt {found['attempts']}{begun}"
        if found["last_failure"]:
            yield f"it failed before: {_failure(found['last_failure'])}"
        if found.get("waiting_for"):
            yield "it has nothing to do until one of these has come:"
            yield from _indented(self._waiting(found["waiting_for"], found, depth))
            return
        commands = unanswered(found["journal"])
        if commands:
            yield "it has asked for, and not got yet:"
            yield from _indented(_first_of([self._command(command, found, depth) for command in commands]))

    def _backing_off(self, found: JSON, depth: int) -> Iterator[str]:
        failure = found["last_failure"]
        if failure:
            yield f"its last attempt failed: {_failure(failure)}"
            yield from _place_of(failure)
        failures = found.get("failures", 0)
        yield f"next attempt {until(found['retry_at'])}; {failures} {'has' if failures == 1 else 'have'} failed"
        yield from _remedy(found)
        yield f"to try now: perdure invocations resume {found['id']}"

    def _suspended(self, found: JSON, depth: int) -> Iterator[str]:
        yield from self._waiting(found["waiting_for"], found, depth)

    def _waiting(self, waiting: JSON, found: JSON, depth: int) -> Iterator[str]:
        journal = found["journal"]
        commands = {each.get("completion_id"): each for each in unanswered(journal)}
        came, parts = 0, list[Iterator[str]]()
        for completion_id in waiting.get("completions", ()):
            command, call = commands.get(completion_id), _call_of_id(journal, completion_id)
            if command is not None:
                parts.append(self._command(command, found, depth))
            elif call is not None and callee_of(call, journal) is None:
                parts.append(iter([f"the id of its call of {target_of(call)}"]))
            else:
                came += 1
        arrived = {each["signal"] for each in journal if each["kind"] == "Signal"}
        for number in waiting.get("signals", ()):
            if number in arrived:
                came += 1
            elif number != CANCELLATION:
                parts.append(_awakeable(found["id"], number))
        parts.extend(_named_signal(found["id"], name) for name in waiting.get("names", ()))
        parts.extend(self._waiting(each, found, depth) for each in waiting.get("nested", ()))
        heading = len(parts) > 1 or came > 0
        if heading:
            yield _COMBINATORS.get(waiting.get("combinator", 0), "any of:")
        if came:
            yield f"  {came} that {'has' if came == 1 else 'have'} come"
        for line in _first_of(parts):
            yield f"  {line}" if heading else line
        if not parts and not came:
            yield "nothing but a cancellation"

    def _command(self, command: JSON, found: JSON, depth: int) -> Iterator[str]:
        """A command that is not answered, and who would answer it."""
        since = f"since {ago(command['appended_at'])}"
        match command["kind"]:
            case "Sleep":
                yield f"its sleep until {until(command['wake_up_time'])}"
            case "Call":
                yield f"its call of {target_of(command)}, {since}"
                callee = callee_of(command, found["journal"])
                if callee is not None:
                    yield from _indented(self._other(callee, depth))
            case "Run":
                yield f"its step {one_line(command.get('name') or '') or 'without a name'}, {since}"
            case "GetPromise":
                yield f"the promise {one_line(command['key'])!r} of {found['service']}/{found['key']}, {since}"
                yield "  a handler of the same workflow has to resolve or reject it"
            case "AttachInvocation" if "invocation_id" in command["target"]:
                yield f"the result of another invocation, {since}"
                yield from _indented(self._other(command["target"]["invocation_id"], depth))
            case "AttachInvocation":
                yield f"the result of another invocation, {one_line(str(command['target']))}, {since}"
            case kind:
                yield f"an answer to {kind} {one_line(str(command.get('key', '')))}, {since}"

    def _inboxed(self, found: JSON, depth: int) -> Iterator[str]:
        place, ahead = f"{found['service']}/{found['key']}", found["ahead"] or 0
        others = "nobody else is ahead of it" if not ahead else f"{ahead} {'is' if ahead == 1 else 'are'} ahead of it"
        yield f"since {ago(found['created_at'])} for its turn: {one_line(place)} runs one at a time; {others}"
        if found.get("holder") is None:
            yield "who holds the object is not known"
            return
        held = self._describe(found["holder"])
        since = f" since {ago(held['started_at'])}" if held is not None and held.get("started_at") else ""
        yield f"the object is held{since} by"
        yield from _indented(self._other(found["holder"], depth))

    def _paused(self, found: JSON, depth: int) -> Iterator[str]:
        since = f", {ago(found['paused_at'])}" if found.get("paused_at") else ""
        failure = found["last_failure"]
        if failure:
            yield f"after {found['attempts']} attempts{since}; the last failed: {_failure(failure)}"
            yield from _place_of(failure)
            yield "it failed too often, or somebody paused it meanwhile"
            yield from _remedy(found)
        else:
            yield f"somebody paused it{since}"
        yield f"nothing wakes it but you; to let it go on: perdure invocations resume {found['id']}"
        if found.get("deployment"):
            yield "  with --deployment latest it goes on with the newest code"
        yield f"to end it: perdure invocations cancel {found['id']}"

    def _scheduled(self, found: JSON, depth: int) -> Iterator[str]:
        yield f"begins {until(found['scheduled_for'])}; it was made {ago(found['created_at'])}"

    def _completed(self, found: JSON, depth: int) -> Iterator[str]:
        yield f"it waits for nothing: it ended {ago(found['completed_at'])}"
        yield result_in_words(found["result"])


def _call_of_id(journal: list[JSON], completion_id: int) -> JSON | None:
    return next((each for each in journal if each.get("invocation_id_completion_id") == completion_id), None)


def _awakeable(id: str, number: int) -> Iterator[str]:
    from perdure.model.ids import FIRST_AWAKEABLE_SIGNAL, awakeable_id, parse_invocation_id

    if number < FIRST_AWAKEABLE_SIGNAL:
        yield f"the built-in signal {number}"
        return
    awakeable = awakeable_id(parse_invocation_id(id), number)
    yield f"the awakeable {awakeable}"
    yield f"  to complete it: perdure awakeables resolve {awakeable} JSON"


def _named_signal(id: str, name: str) -> Iterator[str]:
    yield f"the signal {one_line(name)!r}; it is sent with"
    yield f"  POST /restate/signals/{id}/{segment(name)} at the ingress"


def _first_of(parts: list[Iterator[str]]) -> Iterator[str]:
    """The lines of the first parts: what is not shown is not asked for either."""
    for part in parts[:MOST]:
        yield from part
    if len(parts) > MOST:
        yield f"and {len(parts) - MOST} more"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield f"  {line}"


def _failure(failure: JSON) -> str:
    at = f", {ago(failure['at'])}" if failure.get("at") else ""
    return f"{one_line(failure['message'])} (code {failure.get('code', 500)}{at})"


def _place_of(failure: JSON) -> Iterator[str]:
    """Where it was raised, and during what, as far as that is known."""
    place = last_of_stack(failure.get("stacktrace") or "")
    if place:
        yield f"  raised at {one_line(place)}"
    if failure.get("command_name"):
        yield f"  during {one_line(failure['command_name'])!r}"


def last_of_stack(trace: str) -> str:
    """The innermost place of a stack trace: Python has it last, other languages have it first."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    for number in range(len(lines) - 1, -1, -1):
        found = re.match(r'File "(.+)", line (\d+), in (.+)', lines[number])
        if found:
            code = lines[number + 1] if number + 2 < len(lines) else ""
            return f"{found.group(1)}:{found.group(2)}, in {found.group(3)}{f': {code}' if code else ''}"
    return next((line.removeprefix("at ") for line in lines if line.startswith("at ")), "")


def _remedy(found: JSON) -> Iterator[str]:
    """What would help, where the failure's code says so."""
    match (found["last_failure"] or {}).get("restate_code"):
        case "RT0011" if found.get("deployment"):
            yield "register that deployment again, or let it go on elsewhere:"
            yield f"  perdure invocations resume {found['id']} --deployment latest"
        case "RT0011":
            yield "serve its service again, or register where it is served: perdure deployments register URL"
        case "RT0010":
            where = f": perdure deployments describe {found['deployment']}" if found.get("deployment") else ""
            yield f"its endpoint is down, or not to be reached from the server{where}"
        case "RT0016":
            yield "its code is not what its journal was written by; put the old code back, or restart it as a new one"


def _standing(found: JSON) -> str:
    """The status, and since when as far as that is known."""
    status, journal = found["status"], found["journal"]
    if status == "suspended" and journal:
        return f"is suspended, since {ago(journal[-1]['appended_at'])}"
    words = {"backing-off": "backs off", "inboxed": "waits", "running": "is running"}
    return words.get(status, f"is {status}")
