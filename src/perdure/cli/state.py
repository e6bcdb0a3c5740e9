"""`perdure state`: what virtual objects and workflows remember."""

import base64
from typing import Annotated, Any

import msgspec
import typer

from perdure.cli import completion
from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import NOT_FOUND, ask, confirm, end, reason, refusal, request, segment
from perdure.cli.tables import show_table, shown_bytes

__all__ = ["app"]

app = typer.Typer(name="state", help="What virtual objects and workflows remember.", no_args_is_help=True)

ServiceName = Annotated[
    str, typer.Argument(metavar="SERVICE", help="The virtual object or workflow.", autocompletion=completion.services)
]
ObjectKey = Annotated[str, typer.Argument(metavar="KEY", help="Which one of them.")]


def _path(service: str, key: str) -> str:
    return f"/services/{segment(service)}/state/{segment(key)}"


def _value(content: bytes) -> Any:
    """JSON as it is; other bytes under `base64`."""
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return {"base64": base64.b64encode(content).decode()}


@app.command("get")
def get(
    service: ServiceName,
    key: ObjectKey,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this value, as it is stored.")] = None,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Print an object's state, or one value of it."""
    found = ask(admin_url, "GET", _path(service, key))["state"]
    state = {each: base64.b64decode(value) for each, value in sorted(found.items())}
    if name is not None:
        if name not in state:
            end(f"{service}/{key} has no state {name!r}; it has {', '.join(state) or 'none'}", NOT_FOUND)
        if as_json:
            show_json(_value(state[name]))
        else:
            typer.echo(state[name])
    elif as_json:
        show_json({each: _value(value) for each, value in state.items()})
    elif not state:
        typer.echo(f"{service}/{key} has no state")
    else:
        show_table(("NAME", "VALUE"), [(each, shown_bytes(value, 1000)) for each, value in state.items()])


@app.command("set")
def set_(
    service: ServiceName,
    key: ObjectKey,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    value: Annotated[str, typer.Argument(metavar="JSON", help="""The new value. Text has quotes: '"blue"'.""")],
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Set one value, in turn with the object's handlers."""
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError):
        raise typer.BadParameter(f"{value!r} is no JSON; text is written with quotes: '\"blue\"'") from None
    _change(admin_url, service, key, {name: base64.b64encode(value.encode()).decode()}, False, as_json, f"{name} set")


@app.command("clear")
def clear(
    service: ServiceName,
    key: ObjectKey,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="What to clear; else all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Clear values, or all of an object's state, in turn with its handlers."""
    if not names and not yes:
        found = ask(admin_url, "GET", _path(service, key))["state"]
        if found:
            typer.echo(f"{service}/{key} has {', '.join(sorted(found))}", err=True)
        confirm(f"Clear all state of {service}/{key}?")
    cleared = f"{', '.join(names)} cleared" if names else "all state cleared"
    _change(admin_url, service, key, dict.fromkeys(names or ()), not names, as_json, cleared)


def _change(
    admin_url: str, service: str, key: str, changes: dict[str, Any], replace: bool, as_json: bool, done: str
) -> None:
    body = msgspec.json.encode({"changes": changes, "replace": replace})
    answer = request(admin_url, "PATCH", _path(service, key), body, {"content-type": "application/json"})
    if answer.status >= 400:
        end(reason(answer), refusal(answer.status))
    waits = answer.status == 202
    if as_json:
        show_json({"done": not waits, "stored": True})
    elif waits:
        typer.echo(f"{service}/{key}: stored; it takes its turn when the handler that runs for this key has ended")
    else:
        typer.echo(f"{service}/{key}: {done}")
