"""`perdure usage`: the tokens of model calls and what they cost."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import query, quoted
from perdure.cli.tables import show_table

__all__ = ["usage"]

_SUMS = (
    "COUNT(*) AS calls, SUM(input_tokens) AS input, SUM(cached_tokens) AS cached, SUM(output_tokens) AS output, "
    "SUM(cost) AS usd, COUNT(*) - COUNT(cost) AS unpriced"
)


class By(StrEnum):
    """What is added up."""

    service = "service"
    handler = "handler"
    model = "model"
    session = "session"
    invocation = "invocation"
    day = "day"


_COLUMNS = {
    By.service: "target_service_name",
    By.handler: "target_service_name || '/' || target_handler_name",
    By.model: "model",
    By.session: "session",
    By.invocation: "id",
    By.day: "to_char(at, '%Y-%m-%d')",
}


def usage(
    invocation: Annotated[str | None, typer.Argument(metavar="[INVOCATION]", help="inv_...: its model calls.")] = None,
    by: Annotated[By, typer.Option(help="What to add up by.")] = By.service,
    service: Annotated[str | None, typer.Option(help="Of this service only.")] = None,
    since: Annotated[int | None, typer.Option(metavar="DAYS", min=1, help="Of the last so many days only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Tokens and US dollars of model calls: those of an invocation one by one, or added up, the most expensive first.

    A call whose model has no known price has tokens and no cost (docs/usage.md).
    """
    where = [f"target_service_name = {quoted(service)}"] if service is not None else []
    if since is not None:
        where.append(f"at > now() - INTERVAL '{since} days'")
    if invocation is not None:
        where.append(f"id = {quoted(invocation)}")
        columns = "index, name, model, input_tokens AS input, cached_tokens AS cached, output_tokens AS output"
        sql = f"SELECT {columns}, cost AS usd, attempt FROM sys_usage{_all(where)} ORDER BY index LIMIT {limit}"
        names = ["index", "name", "model", "input", "cached", "output", "usd", "attempt"]
    else:
        sql = (
            f"SELECT {_COLUMNS[by]} AS {by.value}, {_SUMS} FROM sys_usage{_all(where)} GROUP BY 1 "
            f"ORDER BY {'1 DESC' if by is By.day else 'usd DESC NULLS LAST, calls DESC'} LIMIT {limit}"
        )
        names = [by.value, "calls", "input", "cached", "output", "usd", "unpriced"]
    rows = query(admin_url, sql)
    if as_json:
        show_json(rows)
    elif not rows:
        typer.echo("no model calls")
    else:
        show_table([name.upper() for name in names], [[_cell(name, row.get(name)) for name in names] for row in rows])


def _all(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _cell(name: str, value: Any) -> Any:
    if name == "usd" and value is not None:
        return f"{value:.6f}"
    return value
