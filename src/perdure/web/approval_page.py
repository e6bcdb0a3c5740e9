"""The page behind a signed link: what is to be approved, a form for the value, two buttons.

`GET /restate/approvals/{id}?token=...` shows it and changes nothing, since whoever scans mail opens links. Only the
form's POST answers. It is one document without scripts or anything from elsewhere; its policy allows nothing else.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import msgspec

from perdure.errors import Conflict, Invalid, RequestError
from perdure.protocol.approvals import Action, Answer, Approval, Links
from perdure.runtime import approvals
from perdure.web.forms import Field, fields_of, read_fields
from perdure.web.http import Header, MethodNotAllowed, Request, Response

if TYPE_CHECKING:
    from perdure.runtime.node import Node

__all__ = ["ApprovalPages"]

_FORM_LIMIT: Final = 1 << 20
_FIELDS_LIMIT: Final = 1000
_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .9rem; }
label { display: block; font-weight: 600; margin-top: 1rem; }
input, select, textarea { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; }
input[type=checkbox] { width: 1.4rem; height: 1.4rem; }
.hint { font-size: .9rem; opacity: .8; margin: .2rem 0; }
.problem { border-left: .3rem solid #c0392b; padding-left: .8rem; }
.buttons { display: flex; gap: 1rem; margin-top: 1.5rem; }
button { font: inherit; font-weight: 600; flex: 1; padding: .8rem; border: 0; border-radius: .4rem; color: #fff; }
.approve { background: #1e7e34; }
.reject { background: #b02a37; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'".encode(),
    ),
    (b"referrer-policy", b"no-referrer"),  # the token is in the address
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-robots-tag", b"noindex"),
)


class ApprovalPages:
    """Shows approvals to, and takes answers from, whoever has a link."""

    def __init__(self, node: "Node", links: Links) -> None:
        self._node = node
        self._links = links

    async def serve(self, request: Request, id: str) -> Response:
        """The page, or why there is none, as HTML."""
        try:
            return await self._serve(request, id)
        except RequestError as error:
            return _document(error.status, "This link does not work", _paragraph(error.message, "problem"))

    async def _serve(self, request: Request, id: str) -> Response:
        if request.method not in ("GET", "HEAD", "POST"):
            raise MethodNotAllowed(f"{request.method} is not allowed here: GET, POST")
        token = request.parameters().get("token", "")
        allowed = self._links.allowed(id, token, self._node.clock.now_ms())
        approval = await approvals.find(self._node, id)
        if request.method != "POST":
            page = _page(approval, allowed, {}, None)
            return page._replace(body=b"") if request.method == "HEAD" else page
        body = await request.body(_FORM_LIMIT)
        try:
            said = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_LIMIT))
        except ValueError:
            raise Invalid("this is not what the form sends") from None
        return await self._answer(approval, allowed, said)

    async def _answer(self, approval: Approval, allowed: Action, said: Mapping[str, str]) -> Response:
        decision = said.get("decision")
        if decision not in ("approve", "reject") or allowed not in ("answer", decision):
            raise Invalid(f"this link does not allow to {decision}" if decision else "neither approved nor rejected")
        name = " ".join(said.get("by", "").split())[:200]
        answer = Answer(
            approved=decision == "approve",
            comment=said.get("comment", "").strip()[:10_000] or None,
            by=f"{name} (by link)" if name else "link",
        )
        try:
            if answer.approved and (fields := fields_of(approval.schema)):
                filled = {key.removeprefix("value."): text for key, text in said.items() if key.startswith("value.")}
                answer.value = read_fields(fields, filled)
            approval = await approvals.answer(self._node, approval.id, answer)
        except Invalid as error:
            return _page(approval, allowed, said, error.message)
        except Conflict:  # somebody was first: the page says who and what
            return _page(await approvals.find(self._node, approval.id), allowed, {}, None, 409)
        return _page(approval, allowed, {}, None)


# ---- HTML


def _document(status: int, title: str, *parts: str) -> Response:
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{''.join(parts)}</main></body></html>\n"
    )
    return Response(status, list(_HEADERS), text.encode())


def _paragraph(text: str, kind: str = "") -> str:
    role = ' role="alert"' if kind == "problem" else ""
    return f'<p class="{kind}"{role}>{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def _page(
    approval: Approval, allowed: Action, said: Mapping[str, str], problem: str | None, status: int = 200
) -> Response:
    parts = [_facts(approval)]
    if approval.status != "open":
        parts.append(_outcome(approval))
        return _document(status, approval.title, *parts)
    if problem or approval.problem:
        parts.append(_paragraph(problem or f"asked once more: {approval.problem}", "problem"))
    parts.append(_form(approval, allowed, said))
    return _document(400 if problem else status, approval.title, *parts)


def _outcome(approval: Approval) -> str:
    if approval.status in ("approved", "rejected"):
        by = f" by {approval.by}" if approval.by else ""
        comment = _paragraph(f"“{approval.comment}”") if approval.comment else ""
        value = "" if approval.value is None else f"<dl>{_pairs({'value': approval.value})}</dl>"
        said = f"{approval.status.capitalize()}{by}, {_moment(approval.closed_at)}. There is nothing more to do."
        return _paragraph(said) + comment + value
    if approval.status == "expired":
        return _paragraph("The time to answer is over.")
    return _paragraph("Nobody waits for an answer any more.")


def _facts(approval: Approval) -> str:
    facts = {"Asked by": approval.service + (f" {approval.key}" if approval.key else "")} if approval.service else {}
    facts["Asked"] = _moment(approval.created_at)
    if approval.expires_at is not None:
        facts["Answer before"] = _moment(approval.expires_at)
    context = approval.context
    shown = _pairs(context) if isinstance(context, Mapping) else _pairs({"": context} if context is not None else {})
    return f"<dl>{shown}{_pairs(facts)}</dl>"


def _pairs(pairs: Mapping[Any, Any]) -> str:
    return "".join(
        f"{f'<dt>{escape(str(name))}</dt>' if name else ''}<dd>{_shown(value)}</dd>" for name, value in pairs.items()
    )


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"<pre>{escape(value)}</pre>" if "\n" in value else escape(value)
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return f"<pre>{escape(text)}</pre>" if isinstance(value, list | dict) else escape(text)


def _moment(at: int | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _form(approval: Approval, allowed: Action, said: Mapping[str, str]) -> str:
    fields = fields_of(approval.schema) if allowed != "reject" else []
    inputs = "".join(_input(field, said) for field in fields)
    inputs += _labelled(
        "comment", "Comment", "", f'<textarea id="comment" name="comment" rows="2">{_of(said)}</textarea>'
    )
    by = escape(said.get("by", ""), quote=True)
    inputs += _labelled("by", "Your name", "", f'<input id="by" name="by" autocomplete="name" value="{by}">')
    buttons = "<button disabled hidden></button>"  # the default one: the enter key in a field decides nothing
    if allowed in ("answer", "approve"):
        buttons += '<button class="approve" name="decision" value="approve">Approve</button>'
    if allowed in ("answer", "reject"):
        buttons += '<button class="reject" name="decision" value="reject" formnovalidate>Reject</button>'
    return f'<form method="post" accept-charset="utf-8">{inputs}<div class="buttons">{buttons}</div></form>'


def _of(said: Mapping[str, str]) -> str:
    return "\n" + escape(said["comment"]) if said.get("comment") else ""


def _labelled(id: str, title: str, hint: str, control: str) -> str:
    told = f'<p class="hint" id="{id}-hint">{escape(hint)}</p>' if hint else ""
    return f'<label for="{id}">{escape(title)}</label>{told}{control}'


def _input(field: Field, said: Mapping[str, str]) -> str:
    name = escape(f"value.{field.name}", quote=True)
    before = said.get(f"value.{field.name}", _default(field))
    needed = field.required and not field.nullable
    common = f'id="{name}" name="{name}"' + (f' aria-describedby="{name}-hint"' if field.description else "")
    common += " required" if needed and field.kind not in ("boolean", "text", "long") else ""
    if field.kind == "choice" or (field.kind == "boolean" and not needed):
        control = _select(common, _options(field), before, empty=not needed)
    elif field.kind == "boolean":
        checked = " checked" if before in ("true", "on") else ""
        control = f'<input type="checkbox" value="true" {common}{checked}>'
    elif field.kind in ("long", "json"):
        control = f'<textarea rows="4" {common}>\n{escape(before)}</textarea>'
    else:
        kind = {"number": 'number" step="any', "integer": 'number" step="1', "date": "date"}.get(field.kind, "text")
        control = f'<input type="{kind}" {common}{_limits(field)} value="{escape(before, quote=True)}">'
    hint = field.description + ("" if field.kind != "json" else " (JSON)")
    return _labelled(name, field.title + ("" if needed else " (optional)"), hint.strip(), control)


def _options(field: Field) -> list[str]:
    if field.kind == "boolean":
        return ["true", "false"]
    return [each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in field.choices]


def _select(common: str, options: Sequence[str], before: str, *, empty: bool) -> str:
    shown = ['<option value=""></option>'] if empty else []
    shown += [
        f'<option value="{escape(each, quote=True)}"{" selected" if each == before else ""}>{escape(each)}</option>'
        for each in options
    ]
    return f"<select {common}>{''.join(shown)}</select>"


def _limits(field: Field) -> str:
    """What of the schema a browser checks by itself."""
    known = {"minimum": "min", "maximum": "max", "minLength": "minlength", "maxLength": "maxlength"}
    given = [
        f' {attribute}="{field.schema[word]}"'
        for word, attribute in known.items()
        if isinstance(field.schema.get(word), int | float)
    ]
    return "".join(given)


def _default(field: Field) -> str:
    default = field.schema.get("default")
    if default is None:
        return ""
    return default if isinstance(default, str) else msgspec.json.encode(default).decode()
