"""`perdure invocations`: find them, look into one, and act on one or many (`perdure.cli.control`)."""

from typing import Annotated, Any

import typer

from perdure.cli import control
from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, InvocationIdArgument, show_json
from perdure.cli.asking import ask, one_line, query, quoted, segment
from perdure.cli.journal import entry_in_words, result_in_words
from perdure.cli.tables import ago, moment, parse_time, show_table, until

__all__ = ["app"]

app = typer.Typer(name="invocations", help="Find, inspect and control invocations.", no_args_is_help=True)
control.add_to(app)

STATUSES = ("scheduled", "pending", "ready", "running", "backing-off", "suspended", "paused", "completed")


def _conditions(
    status: list[str] | None, service: str | None, handler: str | None, key: str | None, older_than: str | None
) -> list[str]:
    conditions = []
    if status:
        for each in status:
            if each not in STATUSES:
                raise typer.BadParameter(f"--status {each!r}: one of {', '.join(STATUSES)}")
        conditions.append(f"status IN ({', '.join(map(quoted, status))})")
    for column, value in (
        ("target_service_name", service),
        ("target_handler_name", handler),
        ("target_service_key", key),
    ):
        if value is not None:
            conditions.append(f"{column} = {quoted(value)}")
    if older_than is not None:
        from perdure.errors import Invalid
        from perdure.web.durations import parse_duration_ms

        try:
            age = parse_duration_ms(older_than)
        except Invalid as error:
            raise typer.BadParameter(f"--older-than: {error.message}") from None
        conditions.append(f"created_at < now() - INTERVAL '{age} milliseconds'")
    return conditions


@app.command("list")
def list_(
    status: Annotated[list[str] | None, typer.Option(help=f"{', '.join(STATUSES)}. May be given again.")] = None,
    service: Annotated[str | None, typer.Option(help="Only of this service.")] = None,
    handler: Annotated[str | None, typer.Option(help="Only of handlers with this name.")] = None,
    key: Annotated[str | None, typer.Option(help="Only of this object or workflow.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Only those made longer ago: 30s, 1h, 2d.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Invocations, newest first."""
    conditions = _conditions(status, service, handler, key, older_than)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = "id, target, status, created_at, modified_at, retry_count, last_failure, completion_failure"
    rows = query(
        admin_url, f"SELECT {columns} FROM sys_invocation{where} ORDER BY created_at DESC LIMIT {limit + (not as_json)}"
    )
    if as_json:
        show_json(rows)
        return
    if not rows:
        typer.echo("no such invocations" if conditions else "no invocations")
        return
    shown = [
        (
            each["id"],
            each["target"],
            each["status"],
            moment(each.get("created_at")),
            moment(each.get("modified_at")),
            (each.get("completion_failure") or each.get("last_failure") or "").partition("\n")[0],
        )
        for each in rows[:limit]
    ]
    show_table(("ID", "TARGET", "STATUS", "CREATED", "CHANGED", "FAILURE"), shown)
    if len(rows) > limit:
        typer.echo(f"there are more than {limit}; --limit shows more", err=True)


@app.command("describe")
def describe(id: InvocationIdArgument, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """One invocation: where it stands, what it waits for, and its journal."""
    found = ask(admin_url, "GET", f"/invocations/{segment(id)}")
    if as_json:
        show_json(found)
        return
    from perdure.cli.why import Server, explain

    for name, value in _facts(found):
        typer.echo(f"{name + ':':<17} {value}")
    typer.echo("why:")
    for line in explain(found, Server(admin_url))[1:]:
        typer.echo(line)
    typer.echo("")
    journal = found["journal"]
    if not journal:
        typer.echo("its journal is not kept")
        return
    rows = [
        (each["index"], parse_time(each["appended_at"]).strftime("%H:%M:%S.%f")[:-3], each["kind"], text)
        for each in journal
        for text in (entry_in_words(each, journal),)
    ]
    show_table(("INDEX", "AT (UTC)", "ENTRY", "SAYS"), rows)


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What of a description is one line each."""
    facts = [("id", found["id"]), ("target", one_line(found["target"])), ("status", found["status"])]
    facts.append(("created", ago(found["created_at"])))
    if found["started_at"]:
        facts.append(("started", ago(found["started_at"])))
    if "scheduled_for" in found:
        facts.append(("scheduled for", until(found["scheduled_for"])))
    if "completed_at" in found:
        facts.append(("completed", ago(found["completed_at"])))
        facts.append(("result", result_in_words(found["result"])))
    facts.append(("attempts", str(found["attempts"])))
    if found.get("retry_at"):
        facts.append(("next attempt", until(found["retry_at"])))
    if found["last_failure"]:
        failure = found["last_failure"]
        facts.append(("last failure", f"{one_line(failure['message'])} (code {failure.get('code', 500)})"))
        if failure.get("at"):
            facts.append(("failed", ago(failure["at"])))
    for name, label in (
        ("idempotency_key", "idempotency key"),
        ("caller", "called by"),
        ("restarted_from", "restarted from"),
    ):
        if found[name]:
            facts.append((label, one_line(found[name])))
    return facts
