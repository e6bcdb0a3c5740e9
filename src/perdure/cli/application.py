"""The `perdure` command and its subcommands."""

import sys
from typing import Annotated

import typer

import perdure
from perdure.cli import (
    approvals,
    awakeables,
    configuration,
    deployments,
    identity,
    invocations,
    keys,
    services,
    state,
)
from perdure.cli.access import read_access, use
from perdure.cli.asking import MISUSED, REFUSED, tell, wants_json
from perdure.cli.call import call
from perdure.cli.init import init
from perdure.cli.mcp import mcp
from perdure.cli.serve import serve
from perdure.cli.sql import sql
from perdure.cli.status import status, whoami
from perdure.cli.usage import usage
from perdure.cli.watch import watch
from perdure.cli.why import why
from perdure.errors import PerdureError

__all__ = ["main"]

app = typer.Typer(
    name="perdure",
    help="A durable execution engine for AI agents.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perdure {perdure.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            envvar="PERDURE_API_KEY_FILE",
            help="The file with the API key to show to the server. Or the key itself is in PERDURE_API_KEY.",
        ),
    ] = None,
    ca_file: Annotated[
        str | None,
        typer.Option(
            envvar="PERDURE_CA_FILE",
            help="The certificates (PEM) of whom to trust with https, in place of the system's.",
        ),
    ] = None,
) -> None:
    use(read_access(api_key_file, ca_file))


app.command("serve")(serve)
app.command("init")(init)
app.command("status")(status)
app.command("call")(call)
app.command("why")(why)
app.command("watch")(watch)
app.command("sql")(sql)
app.command("usage")(usage)
app.command("mcp")(mcp)
app.command("whoami")(whoami)
app.add_typer(invocations.app)
app.add_typer(awakeables.app)
app.add_typer(services.app)
app.add_typer(state.app)
app.add_typer(approvals.app)
app.add_typer(deployments.app)
app.add_typer(identity.app)
app.add_typer(configuration.app)
app.add_typer(keys.app)


def main() -> None:
    """The entry point of `perdure`."""
    try:
        code = app(standalone_mode=not wants_json())
    except PerdureError as error:
        tell(str(error))
        code = REFUSED
    except Exception as error:  # with --json, misuse is told as JSON too
        if not hasattr(error, "format_message"):
            raise
        tell(error.format_message(), MISUSED)
        code = MISUSED
    sys.exit(code or 0)
