"""Options that all commands about a server have: where its admin port is, and JSON for scripts.

The server is `--admin-url`, else PERDURE_ADMIN_URL, else the default port on this machine.
"""

import sys
from typing import Annotated, Any

import msgspec
import typer

from perdure.cli import completion
from perdure.cli.completion import DEFAULT_URL

__all__ = ["DEFAULT_URL", "AdminUrl", "AsJson", "InvocationIdArgument", "show_json"]

AdminUrl = Annotated[
    str, typer.Option("--admin-url", envvar="PERDURE_ADMIN_URL", help="Where the server's admin port is.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
InvocationIdArgument = Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.invocations)]


def show_json(value: Any) -> None:
    """Print a value as JSON, indented where a person reads it."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    typer.echo(text.decode())
