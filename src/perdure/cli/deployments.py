"""`perdure deployments`: endpoints in other processes, and what they serve."""

from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.cli import completion
from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import ask, end, segment
from perdure.cli.tables import moment, show_table

__all__ = ["app"]

DeploymentIdArgument = Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.deployments)]

app = typer.Typer(name="deployments", help="Handlers in other processes: register where they are served.")


@app.callback()
def _group() -> None:
    pass


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {text!r}: write NAME=VALUE")
        pairs[name] = value
    return pairs


def _read(files: dict[str, str]) -> dict[str, str]:
    """The files' text in place of their names. A command line can be read by whoever lists processes, a file cannot."""
    try:
        return {name: Path(file).read_text("utf-8").strip() for name, file in files.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--header-file: {error}") from None


@app.command("register")
def register(
    address: Annotated[
        str, typer.Argument(metavar="URL|ARN", help="Where the endpoint is: http(s)://..., or a Lambda.")
    ],
    header: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, sent with every request to it. May be given again.")
    ] = None,
    header_file: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: a header whose value is in a file, for secrets.")
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, kept with it. May be given again.")] = None,
    use_http_11: Annotated[
        bool, typer.Option("--use-http1.1", help="The endpoint speaks HTTP/1.1 only: request and response.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Ask an address that is known again, and overwrite it.")] = False,
    breaking: Annotated[bool, typer.Option(help="Let a service change its type.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be registered.")] = False,
    assume_role_arn: Annotated[str | None, typer.Option(help="The role in which to call the Lambda.")] = None,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Find out what an endpoint serves, and send its services' new invocations there from now on."""
    body: dict[str, Any] = {"arn": address} if address.startswith("arn:") else {"uri": address}
    if assume_role_arn is not None:
        body["assume_role_arn"] = assume_role_arn
    headers = _pairs(header, "--header") | _read(_pairs(header_file, "--header-file"))
    body |= {"additional_headers": headers, "metadata": _pairs(metadata, "--metadata")}
    body |= {"use_http_11": use_http_11, "force": force, "breaking": breaking, "dry_run": dry_run}
    answer = ask(admin_url, "POST", "/deployments", body)
    if as_json:
        show_json(answer)
        return
    typer.echo(f"{'would be registered' if dry_run else 'registered'} as {answer['id']}: {address}")
    for service in answer["services"]:
        handlers = ", ".join(handler["name"] for handler in service["handlers"])
        typer.echo(f"  {service['ty']} {service['name']} (revision {service['revision']}): {handlers}")


@app.command("list")
def list_(admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """All deployments, oldest first."""
    found = ask(admin_url, "GET", "/deployments")["deployments"]
    if as_json:
        show_json(found)
        return
    if not found:
        typer.echo("no deployments; register one: perdure deployments register URL")
        return
    columns = ("ID", "ADDRESS", "PROTOCOL", "SDK", "CREATED", "SERVICES")
    show_table(
        columns,
        [
            (
                each["id"],
                _address(each),
                f"{each.get('protocol_type', 'Lambda')} {each['min_protocol_version']}-{each['max_protocol_version']}",
                each.get("sdk_version", ""),
                moment(each["created_at"]),
                ", ".join(f"{service['name']} ({service['revision']})" for service in each["services"]),
            )
            for each in sorted(found, key=lambda each: str(each["created_at"]))
        ],
    )


def _address(deployment: dict[str, Any]) -> str:
    return str(deployment.get("uri") or deployment.get("arn"))


@app.command("describe")
def describe(id: DeploymentIdArgument, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """One deployment, with its services and their handlers."""
    found = ask(admin_url, "GET", f"/deployments/{segment(id)}")
    if as_json:
        show_json(found)
        return
    services = found.pop("services")
    for name, value in found.items():
        typer.echo(f"{name}: {value}")
    for service in services:
        typer.echo(f"{service['ty']} {service['name']} (revision {service['revision']})")
        for handler in service["handlers"]:
            typer.echo(f"  {handler['name']}  {handler.get('ty', '')}".rstrip())


@app.command("remove")
def remove(
    id: DeploymentIdArgument,
    force: Annotated[bool, typer.Option(help="Do not ask whether anything still runs there.")] = False,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Forget a deployment. Invocations that began there fail, and are retried, until it is registered again."""
    found = ask(admin_url, "GET", f"/deployments/{segment(id)}")
    if not force:
        latest = [
            service["name"]
            for service in ask(admin_url, "GET", "/services")["services"]
            if service["deployment_id"] == id
        ]
        if latest:
            end(
                f"{_address(found)} is the latest deployment of {', '.join(latest)}: new invocations go there. "
                "Register a newer one first, or say --force"
            )
    ask(admin_url, "DELETE", f"/deployments/{segment(id)}?force=true")
    if as_json:
        show_json({"removed": id})
    else:
        typer.echo(f"removed {id}: {_address(found)}")
