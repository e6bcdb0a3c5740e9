"""The admin API as commands ask it: one request, its JSON, and errors that say what to do.

The server is `--admin-url`, else PERDURE_ADMIN_URL, else the default port on this machine.
"""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from perdure.errors import PerdureError

__all__ = ["AdminUrl", "AsJson", "ask", "show_json"]

AdminUrl = Annotated[
    str, typer.Option("--admin-url", envvar="PERDURE_ADMIN_URL", help="Where the server's admin port is.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DEFAULT_URL = "http://127.0.0.1:9070"
TIMEOUT_SECONDS = 30.0


class AdminError(PerdureError):
    """The server could not be reached, or refused."""


def ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """One request; its JSON, or None where the answer is empty. Raises `AdminError`."""
    import pyqwest

    headers = {} if body is None else {"content-type": "application/json"}
    content = None if body is None else msgspec.json.encode(body)
    try:
        answer = pyqwest.SyncClient().execute(
            method, f"{url.rstrip('/')}{path}", headers, content, timeout=TIMEOUT_SECONDS
        )
    except (OSError, pyqwest.RemoteProtocolError, pyqwest.ReadError, pyqwest.WriteError) as error:
        raise AdminError(f"no server at {url} ({error}); is `perdure serve` running? --admin-url says where") from None
    if answer.status >= 400:
        raise AdminError(_reason(answer.status, answer.content))
    return msgspec.json.decode(answer.content) if answer.content else None


def _reason(status: int, content: bytes) -> str:
    try:
        facts = msgspec.json.decode(content)
        code, message = facts.get("restate_code"), facts["message"]
    except (msgspec.DecodeError, KeyError, AttributeError, TypeError):
        return f"the server answered with status {status} {content[:300].decode(errors='replace')}".rstrip()
    return f"[{code}] {message}" if code else str(message)


def show_json(value: Any) -> None:
    """Print a value as JSON, indented where a person reads it."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    typer.echo(text.decode())
