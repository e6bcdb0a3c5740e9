"""`perdure keys`: who may ask what of a server, that runs or (by its data directory) does not."""

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, show_json
from perdure.cli.asking import NOT_FOUND, REFUSED, ask, end, reason, request, segment
from perdure.cli.tables import moment, show_table
from perdure.errors import PerdureError, StorageError

if TYPE_CHECKING:
    from perdure.core.tables import Tables
    from perdure.model.actions import Action
    from perdure.model.commands import PartitionCommand
    from perdure.storage.base import Storage

__all__ = ["app"]

app = typer.Typer(name="keys", help="API keys: who may ask what of a server.", no_args_is_help=True)

DataDir = Annotated[
    str | None, typer.Option(help="The data directory of a server that does not run, in place of --admin-url.")
]


@app.command("create")
def create(
    role: Annotated[str, typer.Option(help="ingress-only, read-only, operator or admin.")],
    name: Annotated[str, typer.Option(help="Whose it is, for lists and the audit log.")],
    expires_in: Annotated[str | None, typer.Option(help="How long it is good (30d, 12h). [default: for ever]")] = None,
    data_dir: DataDir = None,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it: this once, for nothing but a digest of it is kept."""
    if data_dir is None:
        wanted = {"name": name, "role": role, "expires_in": expires_in}
        made = ask(admin_url, "POST", "/keys", {field: value for field, value in wanted.items() if value is not None})
    else:
        made = _create_stored(data_dir, name, role, expires_in)
    if as_json:
        show_json(made)
        return
    until = f", until {moment(made['expires_at'])}" if made["expires_at"] else ""
    typer.echo(f"{made['role']} key {made['id']} ({made['name']}){until}; it is not shown again:", err=True)
    typer.echo(made["key"])


@app.command("list")
def list_(data_dir: DataDir = None, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """All keys, oldest first, and for 90 days those that open nothing any more."""
    found = ask(admin_url, "GET", "/keys")["keys"] if data_dir is None else _list_stored(data_dir)
    if as_json:
        show_json(found)
    elif not found:
        typer.echo("no keys; make one: perdure keys create --role admin --name NAME")
    else:
        rows = [
            (
                each["id"],
                each["name"],
                each["role"],
                each["status"],
                moment(each["created_at"]),
                moment(each["expires_at"]),
            )
            for each in found
        ]
        show_table(("ID", "NAME", "ROLE", "STATUS", "CREATED", "EXPIRES"), rows)


@app.command("revoke")
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Which; `perdure keys list` shows them.")],
    data_dir: DataDir = None,
    admin_url: AdminUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Let keys open nothing any more, at once."""
    failures = _revoke_stored(data_dir, ids) if data_dir is not None else _revoke(admin_url, ids)
    revoked = [id for id in ids if id not in failures]
    if as_json:
        show_json({"revoked": revoked, "failed": {id: why for id, (_, why) in failures.items()}})
    else:
        for id in revoked:
            typer.echo(f"{id} revoked")
    for _, why in failures.values():
        typer.echo(f"perdure: {why}", err=True)
    if failures:
        raise typer.Exit(NOT_FOUND if {status for status, _ in failures.values()} == {404} else REFUSED)


def _revoke(admin_url: str, ids: list[str]) -> dict[str, tuple[int, str]]:
    """What did not work: status and reason by id."""
    answers = {id: request(admin_url, "DELETE", f"/keys/{segment(id)}") for id in ids}
    return {id: (answer.status, reason(answer)) for id, answer in answers.items() if answer.status >= 400}


# ---- in a data directory, whose server does not run


class _Stored:
    """Partition 0 of a data directory, which nobody else has open meanwhile."""

    def __init__(self, data_dir: str, *, make: bool) -> None:
        from perdure.config import Config
        from perdure.embedded import open_data_dir
        from perdure.storage.overlay import Overlay

        if not make and not Path(data_dir, "layout.json").exists():
            end(f"{data_dir} is no data directory", NOT_FOUND)
        try:
            self._stores: list[Storage] = open_data_dir(Path(data_dir), Config.load({"data_dir": data_dir}).partitions)
        except StorageError as error:
            if "in use" not in str(error):
                raise
            raise StorageError(f"{error}; ask that server: --admin-url in place of --data-dir") from None
        self._overlay = Overlay(self._stores[0], 0, len(self._stores))

    def __enter__(self) -> "_Stored":
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._stores:
            store.close()

    @property
    def tables(self) -> "Tables":
        return self._overlay

    def apply(self, command: "PartitionCommand") -> "list[Action]":
        """Make it happen; it is on disk when this returns. Raises `StorageError`."""
        from perdure.core.partition import apply

        actions = apply(self._overlay, command)
        committed = threading.Event()
        errors: list[BaseException] = []

        def done(error: BaseException | None) -> None:
            if error is not None:
                errors.append(error)
            committed.set()

        self._stores[0].commit(self._overlay.take(), done)
        committed.wait()
        self._overlay.settled()
        if errors:
            raise errors[0]
        return actions


def _create_stored(data_dir: str, name: str, role: str, expires_in: str | None) -> dict[str, Any]:
    from perdure.model.actions import Refused, Reply
    from perdure.model.commands import CreateKey
    from perdure.model.keys import ENTROPY_BYTES, Role, make_key
    from perdure.runtime.clock import wall_clock_ms
    from perdure.web.keys import key_to_json, lasts_ms

    if role not in list(Role):
        raise typer.BadParameter(f"--role {role!r}: it has to be one of {', '.join(Role)}")
    now, lasts = wall_clock_ms(), lasts_ms(expires_in)
    key, text = make_key(os.urandom(ENTROPY_BYTES), name, Role(role), now, None if lasts is None else now + lasts)
    with _Stored(data_dir, make=True) as stored:
        for action in stored.apply(CreateKey(now, key, 0)):
            if isinstance(action, Reply) and isinstance(action.outcome, Refused):
                raise PerdureError(action.outcome.message)
    return {**key_to_json(key, now), "key": text}


def _list_stored(data_dir: str) -> list[dict[str, Any]]:
    from perdure.core.tables import API_KEY
    from perdure.runtime.clock import wall_clock_ms
    from perdure.runtime.keys import Keyring
    from perdure.web.keys import key_to_json

    with _Stored(data_dir, make=False) as stored:
        keys = Keyring(key for _, key in stored.tables.scan(API_KEY, ())).all()
    now = wall_clock_ms()
    return [key_to_json(key, now) for key in keys]


def _revoke_stored(data_dir: str, ids: list[str]) -> dict[str, tuple[int, str]]:
    from perdure.model.actions import Refused, Reply
    from perdure.model.commands import RevokeKey
    from perdure.runtime.clock import wall_clock_ms

    failures: dict[str, tuple[int, str]] = {}
    with _Stored(data_dir, make=False) as stored:
        for id in ids:
            for action in stored.apply(RevokeKey(wall_clock_ms(), id, 0)):
                if isinstance(action, Reply) and isinstance(action.outcome, Refused):
                    failures[id] = (action.outcome.status, action.outcome.message)
    return failures
