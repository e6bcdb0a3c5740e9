"""`perdure sql`: a query over all that is stored and running."""

import sys
from typing import Annotated

import typer

from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import query
from perdure.cli.tables import columns_of, show_table

__all__ = ["sql"]


def sql(
    text: Annotated[str, typer.Argument(metavar="SQL", help="A query; - reads it from stdin.")],
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Ask anything, read-only. docs/sql.md lists the tables; `perdure sql "SHOW TABLES"` does too."""
    if text == "-":
        text = sys.stdin.read()
    if not text.strip():
        raise typer.BadParameter("no SQL was given")
    rows = query(admin_url, text)
    if as_json:
        show_json(rows)
    elif not rows:
        typer.echo("no rows")
    else:
        columns = columns_of(rows)
        show_table(columns, [[row.get(name) for name in columns] for row in rows])
