"""Requests of the operator's commands, and how they end: 1 refused or failed, 2 misused, 3 not found.

What goes wrong is one line on stderr. Nothing here retries: an operator does.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import msgspec
import typer

__all__ = [
    "NOT_FOUND",
    "REFUSED",
    "Reply",
    "ask",
    "confirm",
    "end",
    "one_line",
    "query",
    "reason",
    "request",
    "segment",
]

REFUSED = 1
NOT_FOUND = 3
TIMEOUT_SECONDS = 90.0  # a query may take 60


class Reply(NamedTuple):
    """An answer of the server, whatever its status. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes


def end(message: str, code: int = REFUSED) -> NoReturn:
    """Say in one line what went wrong, and exit."""
    typer.echo(f"perdure: {one_line(message)}", err=True)
    raise typer.Exit(code)


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
) -> Reply:
    """One request. Exits if no answer comes; `option` is what says where the server is."""
    import pyqwest

    where = url.rstrip("/")
    if not where.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{option} {url!r}: it has to begin with http:// or https://")
    try:
        answer = pyqwest.SyncClient().execute(method, where + path, dict(headers or {}), content, timeout=timeout)
    except TimeoutError:
        end(f"no answer from {where} within {timeout:.0f} s")
    except (OSError, pyqwest.RemoteProtocolError, pyqwest.ReadError, pyqwest.WriteError) as error:
        end(f"no server at {where} ({error}); is `perdure serve` running? {option} says where")
    return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


def ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """One request of the admin port: its JSON, None for an empty answer. Exits with what it refuses."""
    content = None if body is None else msgspec.json.encode(body)
    answer = request(url, method, path, content, {} if body is None else {"content-type": "application/json"})
    if answer.status >= 400:
        end(reason(answer), NOT_FOUND if answer.status == 404 else REFUSED)
    return msgspec.json.decode(answer.content) if answer.content else None


def query(url: str, sql: str) -> list[dict[str, Any]]:
    """The rows that SQL selects."""
    headers = {"content-type": "application/json", "accept": "application/json"}
    answer = request(url, "POST", "/query", msgspec.json.encode({"query": sql}), headers)
    if answer.status != 200:
        end(reason(answer))
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
    return f"[{code}] {message}" if code else str(message)
