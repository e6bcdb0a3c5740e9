"""`perdure watch`: an invocation's journal as it grows."""

import asyncio
from typing import Any

import msgspec
import typer

from perdure.cli.admin import DEFAULT_URL, AdminUrl, AsJson, InvocationIdArgument
from perdure.cli.asking import FAILED_INVOCATION, end, one_line, reason, refusal, request, segment
from perdure.cli.journal import entry_in_words, result_in_words
from perdure.cli.tables import parse_time

__all__ = ["watch"]

INTERVAL_MS = 300


def watch(id: InvocationIdArgument, admin_url: AdminUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Print the journal's entries as they come, until it has succeeded (0), or failed or been paused (5)."""
    asyncio.run(_follow(_Watched(id, admin_url, as_json)))


async def _follow(watched: "_Watched") -> None:
    from perdure.runtime.clock import SystemClock

    clock = SystemClock(asyncio.get_running_loop())
    while not watched.look():
        due = asyncio.Event()
        clock.call_at(clock.now_ms() + INTERVAL_MS, due.set)
        await due.wait()


class _Watched:
    """An invocation, and how much of it has been shown."""

    def __init__(self, id: str, admin_url: str, as_json: bool) -> None:
        self._id = id
        self._admin_url = admin_url
        self._as_json = as_json
        self._shown = 0
        self._status = ""

    def look(self) -> bool:
        """Show what is new. True once it has ended well; exits if it failed, is paused, or is not there."""
        answer = request(self._admin_url, "GET", f"/invocations/{segment(self._id)}")
        if answer.status == 404 and self._status:
            typer.echo(f"{self._id} has ended, and is not kept", err=True)
            return True
        if answer.status != 200:
            end(reason(answer), refusal(answer.status))
        found = msgspec.json.decode(answer.content)
        for entry in found["journal"][self._shown :]:
            _show_entry(entry, found["journal"], self._as_json)
        self._shown = max(self._shown, len(found["journal"]))
        if found["status"] != self._status:
            self._status = found["status"]
            _show_status(found, self._as_json)
        if self._status == "paused":
            raise typer.Exit(FAILED_INVOCATION)
        if self._status == "completed" and "message" in found["result"]:
            raise typer.Exit(FAILED_INVOCATION)
        return self._status == "completed"


def _show_entry(entry: dict[str, Any], journal: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(entry))
        return
    at = parse_time(entry["appended_at"]).strftime("%H:%M:%S.%f")[:-3]
    typer.echo(f"{at}  {entry['index']:>4}  {entry['kind']:<18} {entry_in_words(entry, journal)}".rstrip())


def _show_status(found: dict[str, Any], as_json: bool) -> None:
    status, failure = found["status"], found["last_failure"]
    if as_json:
        typer.echo(msgspec.json.encode({"status": status, "last_failure": failure, "result": found.get("result")}))
        return
    text = f"-- {status}"
    if status == "completed":
        text += f" {result_in_words(found['result'])}"
    elif failure:
        text += f": {one_line(failure['message'])}"
    typer.echo(text)
