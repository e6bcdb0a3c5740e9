"""What the shell offers for an argument: services, handlers, invocations and deployments of the server that is asked.

Whoever presses the tab key does not want to wait, nor to read an error: without an answer soon there is no offer.
"""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import typer

__all__ = ["DEFAULT_URL", "deployments", "invocations", "services", "targets"]

DEFAULT_URL = "http://127.0.0.1:9070"
PATIENCE_SECONDS = 1.0
MOST = 50

Offers = list[tuple[str, str]]


def _answer(context: typer.Context, method: str, path: str, body: Any = None) -> Any:
    from perdure.cli.asking import request_quietly

    url = context.params.get("admin_url") or os.environ.get("PERDURE_ADMIN_URL") or DEFAULT_URL
    content = None if body is None else msgspec.json.encode(body)
    return request_quietly(url, method, path, content, timeout=PATIENCE_SECONDS)


def services(context: typer.Context, incomplete: str) -> Offers:
    """Names of services, with their types."""
    found = _answer(context, "GET", "/services") or {"services": []}
    return [(each["name"], each["ty"]) for each in found["services"] if each["name"].startswith(incomplete)]


def targets(context: typer.Context, incomplete: str) -> Offers:
    """`Service/handler`."""
    found = _answer(context, "GET", "/services") or {"services": []}
    return [each for each in _targets(found["services"]) if each[0].startswith(incomplete)]


def _targets(services: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for service in services:
        for handler in service["handlers"]:
            yield f"{service['name']}/{handler['name']}", handler.get("documentation") or service["ty"]


def invocations(context: typer.Context, incomplete: str) -> Offers:
    """Ids, newest first, with what they are and how they stand."""
    if not incomplete.replace("_", "").isalnum() and incomplete:
        return []
    where = f"WHERE id LIKE '{incomplete}%'"
    query = f"SELECT id, target, status FROM sys_invocation {where} ORDER BY created_at DESC LIMIT {MOST}"
    found = _answer(context, "POST", "/query", {"query": query}) or {"rows": []}
    return [(each["id"], f"{each['target']} {each['status']}") for each in found["rows"]]


def deployments(context: typer.Context, incomplete: str) -> Offers:
    """Ids, with addresses."""
    found = _answer(context, "GET", "/deployments") or {"deployments": []}
    return [
        (each["id"], str(each.get("uri") or each.get("arn")))
        for each in found["deployments"]
        if each["id"].startswith(incomplete)
    ]
