"""Requests of the operator's commands, and how they end: the exit codes of docs/cli.md.

What goes wrong is one line on stderr; with `--json` it is `{"error": {"code", "message"}}`. Nothing here retries: an
operator does.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec
import typer

from perdure.cli.access import access, credentials

if TYPE_CHECKING:
    import pyqwest

__all__ = [
    "FAILED_INVOCATION",
    "MISUSED",
    "NOT_ALLOWED",
    "NOT_FOUND",
    "NO_SERVER",
    "REFUSED",
    "Reply",
    "ask",
    "confirm",
    "end",
    "one_line",
    "query",
    "quoted",
    "reason",
    "refusal",
    "request",
    "request_or_none",
    "request_quietly",
    "segment",
    "tell",
    "wants_json",
]

REFUSED = 1
MISUSED = 2
NOT_FOUND = 3
NOT_ALLOWED = 4
FAILED_INVOCATION = 5
NO_SERVER = 6
CODES = {
    REFUSED: "failed",
    MISUSED: "misused",
    NOT_FOUND: "not_found",
    NOT_ALLOWED: "not_allowed",
    FAILED_INVOCATION: "invocation_failed",
    NO_SERVER: "no_server",
}
TIMEOUT_SECONDS = 90.0  # a query may take 60


class Reply(NamedTuple):
    """An answer of the server, whatever its status. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes


def end(message: str, code: int = REFUSED, **details: Any) -> NoReturn:
    """Say in one line what went wrong, and exit; `details` are for scripts."""
    tell(message, code, **details)
    raise typer.Exit(code)


def tell(message: str, code: int = REFUSED, **details: Any) -> None:
    """Say in one line what went wrong; with `--json`, as JSON."""
    text = one_line(message)
    if wants_json():
        error = {"error": {"code": CODES[code], "message": text, **details}}
        typer.echo(msgspec.json.encode(error), err=True)
    else:
        typer.echo(f"perdure: {text}", err=True)


def wants_json() -> bool:
    """Whether `--json` is among the options, wherever: also if the others are wrong."""
    given = sys.argv[1:]
    return "--json" in (given[: given.index("--")] if "--" in given else given)


def refusal(status: int) -> int:
    """The exit code for an answer with this status."""
    return {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND}.get(status, REFUSED)


def one_line(text: str) -> str:
    """The same text with nothing in it that moves the cursor."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def confirm(question: str) -> None:
    """Ask on stderr, so that stdout has nothing but what is asked for; exits unless the answer is yes."""
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        if not answer.endswith("\n"):
            typer.echo("", err=True)
        end("nothing was done" if answer else "nobody answered, and nothing was done; --yes does not ask")


def segment(text: str) -> str:
    """A text as one segment of a path."""
    from urllib.parse import quote

    return quote(text, safe="")


def request(
    url: str,
    method: str,
    path: str,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float | None = TIMEOUT_SECONDS,
    option: str = "--admin-url",
    quiet: bool = False,
) -> Reply:
    """One request. Exits if no answer comes, `quiet` without a word; `option` is what says where the server is."""
    import pyqwest

    where = url.rstrip("/")
    if not where.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{option} {url!r}: it has to begin with http:// or https://")
    fields = {**credentials(), **(headers or {})}
    try:
        answer = _client(where).execute(method, where + path, fields, content, timeout=timeout)
    except TimeoutError:
        if quiet:
            raise typer.Exit(NO_SERVER) from None
        end(f"no answer from {where} within {timeout:.0f} s", NO_SERVER)
    except (OSError, pyqwest.RemoteProtocolError, pyqwest.ReadError, pyqwest.WriteError) as error:
        if quiet:
            raise typer.Exit(NO_SERVER) from None
        cause = str(error).rpartition(": ")[2]
        if "peer certificate" in str(error):
            end(f"the certificate of {where} is not trusted ({cause}); --ca-file says whose are", NO_SERVER)
        end(f"no server at {where} ({cause}); is `perdure serve` running? {option} says where", NO_SERVER)
    return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


def _client(url: str) -> "pyqwest.SyncClient":
    """It trusts what --ca-file names, else the system's authorities; those are read only where they are needed."""
    import pyqwest

    authorities = access().authorities
    if authorities is not None:
        return pyqwest.SyncClient(pyqwest.SyncHTTPTransport(tls_ca_cert=authorities, enable_otel=False))
    if url.startswith("https://"):
        return pyqwest.SyncClient(pyqwest.SyncHTTPTransport(tls_include_system_certs=True, enable_otel=False))
    return pyqwest.SyncClient()


def request_or_none(url: str, path: str) -> Reply | None:
    """A GET, or None if nobody answers."""
    try:
        return request(url, "GET", path, quiet=True)
    except typer.Exit:
        return None


def request_quietly(url: str, method: str, path: str, content: bytes | None, *, timeout: float) -> Any:
    """The JSON of an answer, or None if there is none, or no good one."""
    fields = {"accept": "application/json"} | ({} if content is None else {"content-type": "application/json"})
    try:
        answer = request(url, method, path, content, fields, timeout=timeout, quiet=True)
        return msgspec.json.decode(answer.content) if answer.status == 200 else None
    except (typer.Exit, typer.BadParameter, msgspec.DecodeError):
        return None


def ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """One request of the admin port: its JSON, None for an empty answer. Exits with what it refuses."""
    content = None if body is None else msgspec.json.encode(body)
    answer = request(url, method, path, content, {} if body is None else {"content-type": "application/json"})
    if answer.status >= 400:
        end(reason(answer), refusal(answer.status))
    return msgspec.json.decode(answer.content) if answer.content else None


def quoted(text: str) -> str:
    """A text as a literal in SQL."""
    return "'" + text.replace("'", "''") + "'"


def query(url: str, sql: str) -> list[dict[str, Any]]:
    """The rows that SQL selects."""
    headers = {"content-type": "application/json", "accept": "application/json"}
    answer = request(url, "POST", "/query", msgspec.json.encode({"query": sql}), headers)
    if answer.status != 200:
        end(reason(answer), refusal(answer.status))
    try:
        rows: list[dict[str, Any]] = msgspec.json.decode(answer.content)["rows"]
    except msgspec.DecodeError:
        end("the answer was cut off: the query failed or took too long; the server's log says more")
    return rows


def reason(answer: Reply) -> str:
    """Why a request was refused."""
    try:
        facts = msgspec.json.decode(answer.content)
        code, message = facts.get("restate_code"), facts["message"]
    except (msgspec.DecodeError, KeyError, AttributeError, TypeError):
        text = answer.content[:300].decode(errors="replace")
        if answer.headers.get("content-type", "").startswith("text/plain") and answer.status in (400, 415, 422):
            return one_line(text)  # refused before it was understood what is asked for
        return f"the server answered with status {answer.status} {text}".rstrip()
    if answer.status == 401:
        return f"{message} (a command's key is in PERDURE_API_KEY, or in the file of --api-key-file)"
    return f"[{code}] {message}" if code else str(message)
