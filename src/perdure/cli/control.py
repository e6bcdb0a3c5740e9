"""What an operator does to invocations: by their ids, or to all of which a condition in SQL is true."""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from perdure.cli import completion
from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import (
    REFUSED,
    ask,
    confirm,
    end,
    one_line,
    query,
    reason,
    refusal,
    request,
    segment,
    tell,
)
from perdure.cli.tables import moment, show_table

__all__ = ["add_to"]

BATCH = 1000
PREVIEWED = 10

_IDS = "Which; or say --where."
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="Which; or say --where.", autocompletion=completion.invocations),
]
Where = Annotated[
    str | None, typer.Option(help="All of which this is true, a condition on sys_invocation: \"status = 'paused'\".")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="With --where: do not ask.")]
Deployment = Annotated[
    str | None, typer.Option(help="Where it goes on: keep (where it began), latest, or a deployment's id.")
]


class _Verb(NamedTuple):
    """One verb: its name in paths, what it is called when done, and its query."""

    path: str
    done: str
    parameters: str = ""


class _Outcome(NamedTuple):
    succeeded: list[Any]
    failed: list[dict[str, str]]


def add_to(app: typer.Typer) -> None:
    """Make the verbs known."""
    for command in (cancel, kill, pause, resume, purge, purge_journal, restart):
        app.command(command.__name__.replace("_", "-"))(command)


def cancel(
    ids: Ids = None, where: Where = None, yes: Yes = False, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Let them end: their code sees a cancellation, and can undo what it did."""
    _act(_Verb("cancel", "cancelled"), ids, where, yes, admin_url, as_json)


def kill(
    ids: Ids = None, where: Where = None, yes: Yes = False, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """End them at once: their code does not run again, and undoes nothing."""
    _act(_Verb("kill", "killed"), ids, where, yes, admin_url, as_json)


def pause(
    ids: Ids = None, where: Where = None, yes: Yes = False, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Stop them until somebody resumes them."""
    _act(_Verb("pause", "paused"), ids, where, yes, admin_url, as_json)


def resume(
    ids: Ids = None,
    deployment: Deployment = None,
    where: Where = None,
    yes: Yes = False,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Let what is paused, or backs off, go on now."""
    _act(_Verb("resume", "resumed", _parameters(deployment)), ids, where, yes, admin_url, as_json)


def purge(
    ids: Ids = None, where: Where = None, yes: Yes = False, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Forget completed invocations, with their results."""
    _act(_Verb("purge", "purged"), ids, where, yes, admin_url, as_json)


def purge_journal(
    ids: Ids = None, where: Where = None, yes: Yes = False, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """Forget the journals of completed invocations, and keep their results."""
    _act(_Verb("purge-journal", "journal purged"), ids, where, yes, admin_url, as_json)


def restart(
    ids: Ids = None,
    from_: Annotated[int | None, typer.Option("--from", min=0, help="Keep the journal up to this entry.")] = None,
    deployment: Deployment = None,
    where: Where = None,
    yes: Yes = False,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Run completed invocations again, as new ones with the same input."""
    _act(_Verb("restart-as-new", "restarted", _parameters(deployment, from_)), ids, where, yes, admin_url, as_json)


def _parameters(deployment: str | None, keep: int | None = None) -> str:
    given = [] if keep is None else [f"from={keep}"]
    if deployment is not None:
        given.append(f"deployment={segment(deployment)}")
    return f"?{'&'.join(given)}" if given else ""


def _act(verb: _Verb, ids: list[str] | None, where: str | None, yes: bool, admin_url: str, as_json: bool) -> None:
    if (where is None) == (not ids):
        raise typer.BadParameter("name invocations by id, or say --where; not both")
    if where is None:
        _act_on_ids(verb, list(dict.fromkeys(ids or ())), admin_url, as_json)
    else:
        _act_on_all(verb, where, yes, admin_url, as_json)


def _act_on_ids(verb: _Verb, ids: list[str], admin_url: str, as_json: bool) -> None:
    """One after the other. If all failed for one reason, such as not to be there, the exit code is that reason's."""
    outcome, codes = _Outcome([], []), set()
    for id in ids:
        answer = request(admin_url, "PATCH", f"/invocations/{segment(id)}/{verb.path}{verb.parameters}")
        if answer.status >= 400:
            codes.add(refusal(answer.status))
            outcome.failed.append({"invocation_id": id, "error": reason(answer)})
            tell(f"{one_line(id)}: {reason(answer)}", refusal(answer.status), invocation_id=id)
            continue
        facts = msgspec.json.decode(answer.content) if answer.content else {}
        new_id = facts.get("new_invocation_id")
        outcome.succeeded.append(id if new_id is None else {"old_invocation_id": id, "new_invocation_id": new_id})
        if not as_json:
            later = " (under way)" if answer.status == 202 else ""
            typer.echo(f"{id} {verb.done}{later}" if new_id is None else f"{id} {verb.done} as {new_id}")
    if as_json:
        show_json(outcome._asdict())
    if outcome.failed:
        raise typer.Exit(codes.pop() if len(codes) == 1 else REFUSED)


def _act_on_all(verb: _Verb, where: str, yes: bool, admin_url: str, as_json: bool) -> None:
    """Exactly those that were counted when it was asked are acted on, whatever becomes of them meanwhile."""
    rows = query(admin_url, f"SELECT id FROM sys_invocation WHERE ({where}\n)")
    ids = [str(row["id"]) for row in rows]
    if ids and not yes:
        _preview(verb, ids, admin_url)
        confirm("Go on?")
    outcome = _Outcome([], [])
    for chunk in _chunks(ids):
        path = f"/internal/invocations_batch_operations/{verb.path}{verb.parameters}"
        done = ask(admin_url, "POST", path, {"invocation_ids": chunk})
        outcome.succeeded.extend(done["succeeded"])
        outcome.failed.extend(done["failed"])
    if as_json:
        show_json(outcome._asdict())
    else:
        typer.echo(f"{len(outcome.succeeded)} {verb.done}, {len(outcome.failed)} failed")
    for each in outcome.failed[:PREVIEWED]:
        tell(f"{each['invocation_id']}: {each['error']}", invocation_id=each["invocation_id"])
    if outcome.failed:
        left = len(outcome.failed) - PREVIEWED
        if left > 0:
            end(f"and {left} more that failed; --json lists them all")
        raise typer.Exit(REFUSED)


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


def _preview(verb: _Verb, ids: list[str], admin_url: str) -> None:
    first = ", ".join(f"'{id}'" for id in ids[:PREVIEWED])
    rows = query(admin_url, f"SELECT id, target, status, created_at FROM sys_invocation WHERE id IN ({first})")
    shown = [(row["id"], row["target"], row["status"], moment(row.get("created_at"))) for row in rows]
    show_table(("ID", "TARGET", "STATUS", "CREATED"), shown, err=True)
    if len(ids) > PREVIEWED:
        typer.echo(f"... and {len(ids) - PREVIEWED} more", err=True)
    plural = "invocation" if len(ids) == 1 else "invocations"
    typer.echo(f"{verb.path}: {len(ids)} {plural}", err=True)
