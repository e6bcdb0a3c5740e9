"""`perdure call`: one call of a handler, through the ingress."""

import sys
from typing import Annotated, Any

import msgspec
import typer

from perdure.cli import completion
from perdure.cli.admin import AsJson, show_json
from perdure.cli.asking import FAILED_INVOCATION, Reply, end, refusal, request, segment
from perdure.cli.tables import moment

__all__ = ["DEFAULT_INGRESS", "IngressUrl", "call"]

IngressUrl = Annotated[
    str, typer.Option("--ingress-url", envvar="PERDURE_INGRESS_URL", help="Where the server's ingress is.")
]
Target = Annotated[
    str,
    typer.Argument(metavar="TARGET", help="Service/handler, or Object/key/handler.", autocompletion=completion.targets),
]
DEFAULT_INGRESS = "http://127.0.0.1:8080"


def _path(target: str, key: str | None) -> str:
    service, slash, rest = target.partition("/")
    middle, _, handler = rest.rpartition("/")
    if not slash or not service or not handler:
        raise typer.BadParameter(f"{target!r}: write Service/handler; an object's key follows --key")
    if middle and key is not None:
        raise typer.BadParameter(f"{target!r} has a key already: {middle!r}")
    key = middle or key
    parts = (service, handler) if key is None else (service, key, handler)
    return "/restate/{verb}/" + "/".join(segment(part) for part in parts)


def _fields(given: list[str] | None, idempotency_key: str | None) -> dict[str, str]:
    fields: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--header {text!r}: write NAME=VALUE")
        fields[name.lower()] = value
    if idempotency_key is not None:
        fields["idempotency-key"] = idempotency_key
    return fields


def _body(text: str | None, fields: dict[str, str]) -> bytes | None:
    if text is None:
        return None
    content = sys.stdin.buffer.read() if text == "-" else text.encode()
    if "content-type" not in fields:
        try:
            msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeError):
            raise typer.BadParameter(
                f"{content[:100].decode(errors='replace')!r} is no JSON; text is written with quotes: '\"blue\"'. "
                "Other bytes need --header content-type=..."
            ) from None
        fields["content-type"] = "application/json"
    return content


def _checked(delay: str) -> str:
    from perdure.errors import Invalid
    from perdure.web.durations import parse_duration_ms

    try:
        parse_duration_ms(delay)
    except Invalid as error:
        raise typer.BadParameter(f"--delay: {error.message}") from None
    return segment(delay)


def call(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="Service/handler, or Object/key/handler.", autocompletion=completion.targets
        ),
    ],
    body: Annotated[str | None, typer.Argument(metavar="[JSON]", help="What it is given; - reads stdin.")] = None,
    key: Annotated[str | None, typer.Option(help="Of a virtual object or workflow: which one.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key again is the same invocation.")] = None,
    delay: Annotated[str | None, typer.Option(help="Begin later (10s, 1h 30m, PT10S), and do not wait.")] = None,
    send: Annotated[bool, typer.Option("--send", help="Do not wait for the result.")] = False,
    header: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, for the handler. May be given again.")] = None,
    ingress_url: IngressUrl = DEFAULT_INGRESS,
    as_json: AsJson = False,
) -> None:
    """Call a handler, and print its result. Ctrl-C stops the waiting, not the invocation."""
    import signal

    fields = _fields(header, idempotency_key)
    waits = not send and delay is None
    path = _path(target, key).format(verb="call" if waits else "send")
    if delay is not None:
        path += f"?delay={_checked(delay)}"
    content = _body(body, fields)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the wait is in native code, and has no end of its own
    answer = request(ingress_url, "POST", path, content, fields, timeout=None, option="--ingress-url")
    if answer.status >= 400:
        _failed(answer)
    if not waits:
        _show_receipt(msgspec.json.decode(answer.content), as_json)
    elif as_json:
        show_json({"invocationId": answer.headers.get("x-restate-id"), "result": _result(answer)})
    else:
        typer.echo(answer.content, nl=bool(answer.content))


def _result(answer: Reply) -> Any:
    try:
        return msgspec.json.decode(answer.content) if answer.content else None
    except msgspec.DecodeError:
        return answer.content  # base64, as JSON has bytes


def _show_receipt(receipt: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(receipt)
        return
    typer.echo(receipt["invocationId"])
    if "executionTime" in receipt:
        typer.echo(f"begins at {moment(receipt['executionTime'])}", err=True)
    if receipt["status"] != "Accepted":
        typer.echo("it was known already", err=True)


def _failed(answer: Reply) -> None:
    try:
        facts = msgspec.json.decode(answer.content)
        source, code, message = facts["source"], facts["code"], facts["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        said = answer.content[:300].decode(errors="replace")
        end(f"the server answered with status {answer.status} {said}", refusal(answer.status))
    id = answer.headers.get("x-restate-id")
    if source == "invocation":
        failure = {"failure": facts, "invocationId": id}
        end(f"{message} (code {code}, {id})", FAILED_INVOCATION, **failure)
    end(f"{message} (code {code})", refusal(answer.status))
