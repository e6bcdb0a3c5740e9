"""`perdure awakeables`: complete what an invocation waits for, by its id."""

from typing import Annotated, Any

import msgspec
import typer

from perdure.cli.admin import AsJson, show_json
from perdure.cli.asking import end, reason, refusal, request, segment
from perdure.cli.call import DEFAULT_INGRESS, IngressUrl

__all__ = ["app"]

app = typer.Typer(
    name="awakeables", help="Complete what invocations wait for: approvals, callbacks.", no_args_is_help=True
)

AwakeableId = Annotated[str, typer.Argument(metavar="ID", help="The awakeable; `perdure why` prints it.")]


@app.command("resolve")
def resolve(
    id: AwakeableId,
    value: Annotated[
        str | None, typer.Argument(metavar="[JSON]", help="The value. Text has quotes: '\"yes\"'.")
    ] = None,
    ingress_url: IngressUrl = DEFAULT_INGRESS,
    as_json: AsJson = False,
) -> None:
    """Complete it with a value. The first completion counts."""
    if value is not None:
        try:
            msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError):
            raise typer.BadParameter(f"{value!r} is no JSON; text is written with quotes: '\"yes\"'") from None
    fields = {} if value is None else {"content-type": "application/json"}
    content = None if value is None else value.encode()
    _complete(ingress_url, f"{segment(id)}/resolve", content, fields)
    _say(id, "resolved", as_json)


@app.command("reject")
def reject(
    id: AwakeableId,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="Why: the handler's error says it.")],
    code: Annotated[int, typer.Option(help="Of the failure, as HTTP has them.")] = 500,
    ingress_url: IngressUrl = DEFAULT_INGRESS,
    as_json: AsJson = False,
) -> None:
    """Fail it: the handler that waits gets a terminal error."""
    path = f"{segment(id)}/reject?code={code}"
    _complete(ingress_url, path, message.encode(), {"content-type": "text/plain"})
    _say(id, "rejected", as_json)


def _complete(url: str, path: str, content: bytes | None, fields: dict[str, str]) -> None:
    answer = request(url, "POST", f"/restate/awakeables/{path}", content, fields, option="--ingress-url")
    if answer.status >= 400:
        end(reason(answer), refusal(answer.status))


def _say(id: str, done: str, as_json: bool) -> None:
    facts: dict[str, Any] = {"id": id, "done": done}
    if as_json:
        show_json(facts)
    else:
        typer.echo(f"{id} {done}")
