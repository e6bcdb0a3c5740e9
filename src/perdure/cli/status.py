"""`perdure status` and `perdure whoami`: how a server stands, and which one it is."""

import os
from typing import Any

import msgspec
import typer

import perdure
from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import NO_SERVER, ask, one_line, reason, request, request_or_none
from perdure.cli.call import DEFAULT_INGRESS, IngressUrl
from perdure.cli.tables import show_table
from perdure.cli.why import Server, explain

__all__ = ["status", "whoami"]

JSON = dict[str, Any]
COLUMNS = ("scheduled", "pending", "ready", "running", "backing-off", "suspended", "paused")
"""The statuses of what is not completed. `pending` waits for its object, `ready` for room to run."""
_COUNTS = (
    "SELECT target_service_name AS service, status, count(1) AS number FROM sys_invocation "
    "WHERE status <> 'completed' GROUP BY target_service_name, status"
)
_STUCK = "SELECT id FROM sys_invocation WHERE status IN ('paused', 'backing-off') ORDER BY created_at LIMIT 1"
_PINNED = (
    "SELECT pinned_deployment_id AS deployment, count(1) AS number FROM sys_invocation_status "
    "WHERE status <> 'completed' AND pinned_deployment_id IS NOT NULL GROUP BY pinned_deployment_id"
)


def status(admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show how the server stands: what is under way of each service, what is stuck, which deployments still drain."""
    facts = _facts(admin_url)
    if as_json:
        show_json(facts)
        return
    healthy = "is ready" if facts["ready"] else "IS NOT READY"
    typer.echo(f"perdure {facts['version']} at {admin_url} {healthy}")
    if not facts["services"]:
        typer.echo("no services; serve an App, or register one: perdure deployments register URL")
    if facts["sql"] is not None:
        typer.echo(f"what is under way is not known: {facts['sql']}")
    elif facts["services"]:
        rows = [(name, *(counts.get(each) or "-" for each in COLUMNS)) for name, counts in facts["services"].items()]
        show_table(("SERVICE", *(each.upper() for each in COLUMNS)), rows)
    for each in facts["draining"]:
        left = f"{each['open']} {'invocation' if each['open'] == 1 else 'invocations'} still to end there"
        hint = left if each["open"] else f"nothing is left there: perdure deployments remove {each['id']}"
        typer.echo(f"deployment {each['id']} {each['address']} is replaced by newer ones; {hint}")
    if facts["stuck"] is not None:
        typer.echo("the oldest that is stuck:")
        for line in facts["stuck"]["why"]:
            typer.echo(f"  {line}")


def _facts(url: str) -> JSON:
    version = ask(url, "GET", "/version")
    services: dict[str, dict[str, int]] = {each["name"]: {} for each in ask(url, "GET", "/services")["services"]}
    counted, refused = _rows(url, _COUNTS)
    for row in counted:
        services.setdefault(row["service"], {})[row["status"]] = row["number"]
    return {
        "server": url,
        "version": version["version"],
        "ready": request(url, "GET", "/health").status == 200,
        "services": dict(sorted(services.items())),
        "stuck": _stuck(url),
        "draining": _draining(url) if refused is None else [],
        "sql": refused,
    }


def _rows(url: str, sql: str) -> tuple[list[JSON], str | None]:
    """The rows, or why there are none: a server without SQL still has the rest to tell."""
    headers = {"content-type": "application/json", "accept": "application/json"}
    answer = request(url, "POST", "/query", msgspec.json.encode({"query": sql}), headers)
    if answer.status != 200:
        return [], one_line(reason(answer))
    rows: list[JSON] = msgspec.json.decode(answer.content)["rows"]
    return rows, None


def _stuck(url: str) -> JSON | None:
    """The oldest that cannot go on as it should, and why."""
    rows, _ = _rows(url, _STUCK)
    lookup = Server(url)
    found = lookup.describe(rows[0]["id"]) if rows else None
    return None if found is None else {"id": found["id"], "status": found["status"], "why": explain(found, lookup)}


def _draining(url: str) -> list[JSON]:
    """Deployments to which no new invocation goes, and how many are still to end there."""
    latest = {each["deployment_id"] for each in ask(url, "GET", "/services")["services"]}
    old = [each for each in ask(url, "GET", "/deployments")["deployments"] if each["id"] not in latest]
    rows = _rows(url, _PINNED)[0] if old else []
    pinned = {row["deployment"]: row["number"] for row in rows}
    return [
        {"id": each["id"], "address": each.get("uri") or each.get("arn"), "open": pinned.get(each["id"], 0)}
        for each in old
    ]


def whoami(
    admin_url: AdminUrl = DEFAULT_URL, ingress_url: IngressUrl = DEFAULT_INGRESS, as_json: AsJson = False
) -> None:
    """Show which server these commands ask, and whether it answers. Exit code 6 if it does not."""
    health = request_or_none(admin_url, "/health")
    version = request_or_none(admin_url, "/version") if health is not None else None
    told = {} if version is None or version.status != 200 else msgspec.json.decode(version.content)
    facts = {
        "command": {"version": perdure.__version__},
        "admin_url": admin_url,
        "ingress_url": ingress_url,
        "api_key": "PERDURE_API_KEY" if os.environ.get("PERDURE_API_KEY") else None,
        "server": {
            "reached": health is not None,
            "ready": health is not None and health.status == 200,
            "version": told.get("version"),
            "ingress_endpoint": told.get("ingress_endpoint"),
        },
    }
    if as_json:
        show_json(facts)
    else:
        _show_whoami(facts)
    if health is None:
        raise typer.Exit(NO_SERVER)


def _show_whoami(facts: JSON) -> None:
    server = facts["server"]
    standing = (
        "ready" if server["ready"] else "not ready" if server["reached"] else "no answer; is `perdure serve` running?"
    )
    typer.echo(f"command      perdure {facts['command']['version']}")
    typer.echo(f"admin port   {facts['admin_url']} ({standing})")
    typer.echo(f"ingress      {facts['ingress_url']}")
    typer.echo(f"API key      {'from PERDURE_API_KEY' if facts['api_key'] else 'none'}")
    if server["version"]:
        typer.echo(f"server       {server['version']}")
    if server["ingress_endpoint"] and server["ingress_endpoint"] != facts["ingress_url"].rstrip("/"):
        typer.echo(f"the server says that its ingress is {server['ingress_endpoint']}: set PERDURE_INGRESS_URL to that")
