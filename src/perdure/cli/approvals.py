"""`perdure approvals`: what waits for a person, and a person's answer."""

import getpass
import sys
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer

from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import ask, confirm, end, one_line, segment
from perdure.cli.tables import moment, show_table

__all__ = ["app"]

app = typer.Typer(name="approvals", help="What waits for a person, and the person's answer.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The approval: apr_...")]
Comment = Annotated[str | None, typer.Option("--comment", "-m", help="What to tell who asked.")]
By = Annotated[str | None, typer.Option(help="Who answers. [default: your login name]")]


@app.command("list")
def list_(
    status: Annotated[str, typer.Option(help="open, approved, rejected, expired, withdrawn, closed or all.")] = "open",
    service: Annotated[str | None, typer.Option(help="Asked by this service.")] = None,
    to: Annotated[str | None, typer.Option(help="Asked of this person.")] = None,
    tag: Annotated[str | None, typer.Option(help="With this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Approvals, the newest first."""
    given = {"status": status, "service": service, "to": to, "tag": tag, "limit": str(limit)}
    query = "&".join(f"{name}={segment(value)}" for name, value in given.items() if value is not None)
    found = ask(admin_url, "GET", f"/approvals?{query}")["approvals"]
    if as_json:
        show_json(found)
    elif not found:
        typer.echo("nothing waits for an answer" if status == "open" else "none")
    else:
        columns = ("ID", "STATUS", "TITLE", "ASKED BY", "OF", "CREATED", "EXPIRES")
        show_table(columns, [_row(each) for each in found])


def _row(it: dict[str, Any]) -> tuple[Any, ...]:
    created, expires = moment(it["created_at"]), moment(it.get("expires_at"))
    return it["id"], it["status"], it["title"], _asker(it), ", ".join(it["to"]), created, expires


def _asker(it: dict[str, Any]) -> str:
    requester = it["requester"]
    return "/".join(requester[each] for each in ("service", "key", "handler") if requester[each])


@app.command("show")
def show(id: Id, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """One approval: what is asked, by whom, and what was answered."""
    it = ask(admin_url, "GET", f"/approvals/{segment(id)}")
    if as_json:
        show_json(it)
    else:
        _show(it, err=False)


def _show(it: dict[str, Any], *, err: bool) -> None:
    def say(text: str) -> None:
        typer.echo(text, err=err)

    say(f"{it['id']} {it['status']}: {one_line(it['title'])}")
    say(f"asked by {_asker(it)} ({it['requester']['invocation_id']}), {moment(it['created_at'])}")
    for name, value in (("of", ", ".join(it["to"])), ("tags", ", ".join(it["tags"]))):
        if value:
            say(f"{name}: {one_line(value)}")
    if it["expires_at"] is not None:
        say(f"answer before {moment(it['expires_at'])}")
    for name in ("context", "schema", "value"):
        if it[name] is not None:
            say(f"{name}: {msgspec.json.format(msgspec.json.encode(it[name]), indent=2).decode()}")
    for name in ("problem", "comment", "by"):
        if it[name] is not None:
            say(f"{name}: {one_line(it[name])}")
    if it["closed_at"] is not None:
        say(f"closed {moment(it['closed_at'])}")


@app.command("approve")
def approve(
    id: Id,
    value: Annotated[
        str | None, typer.Option(metavar="JSON", help="What is approved. On a terminal it is asked for otherwise.")
    ] = None,
    comment: Comment = None,
    by: By = None,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Say yes. The value is checked against the schema of what is asked."""
    body: dict[str, Any] = {}
    if value is not None:
        try:
            body["value"] = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError):
            raise typer.BadParameter(f"--value {value!r} is no JSON; text is written with quotes: '\"blue\"'") from None
    elif sys.stdin.isatty():
        it = ask(admin_url, "GET", f"/approvals/{segment(id)}")
        if it["status"] == "open":
            _show(it, err=True)
            if it["schema"] is None:
                confirm("Approve?")
            else:
                body["value"] = _filled(it["schema"], _prompt)
    _answer(admin_url, id, "approve", body, comment, by, as_json)


@app.command("reject")
def reject(
    id: Id, comment: Comment = None, by: By = None, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Say no."""
    _answer(admin_url, id, "reject", {}, comment, by, as_json)


def _answer(
    admin_url: str, id: str, verb: str, body: dict[str, Any], comment: str | None, by: str | None, as_json: bool
) -> None:
    body |= {"comment": comment, "by": _login() if by is None else by}
    it = ask(admin_url, "POST", f"/approvals/{segment(id)}/{verb}", body)
    if as_json:
        show_json(it)
    else:
        typer.echo(f"{it['id']} {it['status']}")


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return None


def _prompt(text: str) -> str:
    typer.echo(f"{text}: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        end("nobody answered, and nothing was done; --value JSON does not ask")
    return answer.rstrip("\r\n")


def _filled(schema: dict[str, Any], prompt: Callable[[str], str]) -> Any:
    """The value, field by field; what can't be is asked for again."""
    from perdure.errors import Invalid
    from perdure.web.forms import fields_of, read_fields

    fields = fields_of(schema)
    filled: dict[str, str] = {}
    for field in fields:
        hint = ", ".join([*(map(str, field.choices) or ()), *([] if field.required else ["may be empty"])])
        kind = {"json": "JSON", "boolean": "yes or no", "text": "", "long": "", "choice": ""}.get(
            field.kind, field.kind
        )
        told = ", ".join(each for each in (field.description, kind, hint) if each)
        question = one_line(field.title + (f" ({told})" if told else ""))
        while True:
            filled[field.name] = prompt(question)
            try:
                read_fields([field], filled)
                break
            except Invalid as error:
                typer.echo(one_line(error.message), err=True)
    return read_fields(fields, filled)
