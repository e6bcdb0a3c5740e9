"""The `perdure` command and its subcommands."""

import sys
from typing import Annotated

import typer

import perdure
from perdure.cli import approvals, deployments, identity, invocations, services, state
from perdure.cli.call import call
from perdure.cli.serve import serve
from perdure.cli.sql import sql
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
) -> None:
    pass


app.command("serve")(serve)
app.command("call")(call)
app.command("why")(why)
app.command("watch")(watch)
app.command("sql")(sql)
app.add_typer(invocations.app)
app.add_typer(services.app)
app.add_typer(state.app)
app.add_typer(approvals.app)
app.add_typer(deployments.app)
app.add_typer(identity.app)


def main() -> None:
    """The entry point of `perdure`."""
    try:
        app()
    except PerdureError as error:
        typer.echo(f"perdure: {error}", err=True)
        sys.exit(1)
