"""`perdure services`: what can be called."""

from typing import Annotated, Any

import typer

from perdure.cli import completion
from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import ask, segment
from perdure.cli.tables import show_table

__all__ = ["app"]

ServiceName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.services)]

app = typer.Typer(name="services", help="The services there are, and their handlers.", no_args_is_help=True)


@app.command("list")
def list_(admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """All services, as new invocations find them."""
    found = ask(admin_url, "GET", "/services")["services"]
    if as_json:
        show_json(found)
        return
    if not found:
        typer.echo("no services; serve an App, or register one: perdure deployments register URL")
        return
    columns = ("NAME", "TYPE", "REVISION", "DEPLOYMENT", "HANDLERS")
    show_table(
        columns,
        [
            (each["name"], each["ty"], each["revision"], each["deployment_id"], _names(each))
            for each in sorted(found, key=lambda each: str(each["name"]))
        ],
    )


def _names(service: dict[str, Any]) -> str:
    return ", ".join(handler["name"] for handler in service["handlers"])


@app.command("describe")
def describe(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.services)],
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """One service: its options, its handlers and what they take."""
    found = ask(admin_url, "GET", f"/services/{segment(name)}")
    if as_json:
        show_json(found)
        return
    handlers = found.pop("handlers")
    for option, value in found.items():
        if not isinstance(value, dict | list):
            typer.echo(f"{option}: {value}")
    for option, value in found.get("retry_policy", {}).items():
        typer.echo(f"retry_policy.{option}: {value}")
    typer.echo("")
    columns = ("HANDLER", "TYPE", "PUBLIC", "INPUT", "OUTPUT")
    rows = [
        (
            each["name"],
            each.get("ty") or "",
            "yes" if each.get("public", True) else "no",
            each.get("input_description"),
            each.get("output_description"),
        )
        for each in handlers
    ]
    show_table(columns, rows)


Duration = Annotated[str | None, typer.Option(metavar="DURATION", help="10s, 1h 30m, 7 days.")]


@app.command("configure")
def configure(
    name: ServiceName,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="Whether the ingress lets it be called.")
    ] = None,
    inactivity_timeout: Duration = None,
    abort_timeout: Duration = None,
    journal_retention: Duration = None,
    idempotency_retention: Duration = None,
    workflow_retention: Duration = None,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Change options of a service that is served elsewhere, until its deployment is registered again."""
    changes = {
        "public": public,
        "inactivity_timeout": inactivity_timeout,
        "abort_timeout": abort_timeout,
        "journal_retention": journal_retention,
        "idempotency_retention": idempotency_retention,
        "workflow_completion_retention": workflow_retention,
    }
    given = {option: value for option, value in changes.items() if value is not None}
    if not given:
        raise typer.BadParameter("say what is to change, such as --inactivity-timeout 10s")
    found = ask(admin_url, "PATCH", f"/services/{segment(name)}", given)
    if as_json:
        show_json(found)
        return
    for option in given:
        typer.echo(f"{name}: {option} is {found[option]}")
